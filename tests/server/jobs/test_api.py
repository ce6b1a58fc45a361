"""Promise: the stock `openai` client works unchanged; refused requests say why; callers are isolated."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import signal

import av
import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from model.spec import TEST_TINY
from server.config import Settings
from server.errors import PafuError
from server.jobs import request
from server.jobs.connections import database_url
from server.jobs.job import Results
from server.jobs.store import JobStore

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
KEYS = ("key-of-the-first-caller", "key-of-the-second-caller")


@pytest.fixture
async def server(serve, tmp_path):
    server = await serve(data_dir=tmp_path)
    await server.engine.settled()
    return server


@pytest.fixture
async def client(server):
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def http(server):
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as http:
        yield http


def decode(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def alike(one: np.ndarray, two: np.ndarray) -> bool:
    """Equal up to the choices of a fresh encoder; a bar that is off by one step is not."""
    return one.shape == two.shape and all(np.abs(a.astype(int) - b).mean() < 1 for a, b in zip(one, two, strict=True))


async def film(client, video_id: str, variant: str = "video") -> bytes:
    return (await client.videos.download_content(video_id, variant=variant)).read()


async def until(holds) -> None:
    async with asyncio.timeout(120):
        while not await holds():
            await asyncio.sleep(0.02)


async def test_create_and_poll_then_download_everything(client, http) -> None:
    extra = {
        "seed": 7,
        "num_frames": 20,
        "fps": 16,
        "extra_params": {"cache": {"policy": "window", "budget_latents": 9}},
    }
    video = await client.videos.create_and_poll(prompt=" a bar ", size="128x128", extra_body=extra)
    assert (video.status, video.progress, video.seconds, video.size, video.prompt) == (
        "completed",
        100,
        "1.25",
        "128x128",
        "a bar",
    )
    assert video.seed == 7 and video.extra_params["cache"]["policy"] == "window"
    assert video.extra_params["cache"]["budget_latents"] == 9 and video.expires_at > video.completed_at
    pictures = decode(await film(client, video.id))
    assert pictures.shape == (20, 128, 128, 3)
    loop = await http.get(f"/v1/videos/{video.id}/content", params={"variant": "loop"})
    assert loop.headers["content-type"] == "image/webp" and loop.headers["content-disposition"].endswith('.webp"')
    with Image.open(io.BytesIO(loop.content)) as moving:
        assert moving.n_frames == 2 * 10 - 2 and moving.info["loop"] == 0, "every second picture, there and back"
    thumbnail, sheet = await film(client, video.id, "thumbnail"), await film(client, video.id, "spritesheet")
    assert thumbnail[8:12] == b"WEBP" and decode(sheet).shape == (1, 4 * 128, 4 * 128, 3)
    first = decode(thumbnail)[0].astype(int)
    assert np.abs(first - pictures[0]).mean() < 8
    tile = decode(sheet)[0, :128, 128:256].astype(int)
    assert np.abs(tile - pictures[1]).mean() < 8  # 16 of 20: the second is picture 1


async def test_a_finished_video_is_plain_mp4_that_a_player_can_seek_in(client) -> None:
    video = await client.videos.create_and_poll(prompt="a bar", seconds="2")
    data = await film(client, video.id)
    assert data.index(b"moov") < data.index(b"mdat") and b"moof" not in data
    with av.open(io.BytesIO(data)) as container:
        track = container.streams.video[0]
        assert (track.frames, float(track.duration * track.time_base), track.average_rate) == (32, 2.0, 16)
        assert container.metadata["title"] == video.id


async def test_json_and_form_give_the_same_video(client, http) -> None:
    order = {"prompt": "a bar", "num_frames": 13, "seed": 3, "extra_params": {"cache": {"budget_latents": 9}}}
    by_form = await client.videos.create_and_poll(
        prompt="a bar", extra_body={k: order[k] for k in order if k != "prompt"}
    )
    made = (await http.post("/v1/videos", json=order)).json()
    by_json = await client.videos.poll(made["id"])
    assert by_json.extra_params == by_form.extra_params and by_json.num_frames == by_form.num_frames == 13
    one, two = [decode(await film(client, video.id)) for video in (by_form, by_json)]
    assert np.array_equal(one, two)


def change(at: int, prompt: str | None = None, speed: int | None = None) -> dict:
    camera = {} if speed is None else {"multi_modal_data": {"camera": {"speed": speed}}}
    return {"at_chunk": at, "event": {**({} if prompt is None else {"prompt": prompt}), **camera}}


@pytest.mark.parametrize("killed", [False, True])
async def test_a_job_makes_the_same_pictures_as_a_live_scene_with_the_same_changes(server, http, killed) -> None:
    """Also if its worker dies between two of them."""
    words = "a bar that may sleep" if killed else "a bar"  # slow enough to be hit
    changes = [change(0, speed=4), change(2, prompt=f"{words} again"), change(3, speed=-8), change(5, prompt="last")]
    scene = {"prompt": words, "seed": 5, "num_frames": 84, "interactions": changes}
    live = (await server.watch(**scene)).pictures()
    video = (await http.post("/v1/videos", json=scene)).json()
    if killed:

        async def in_the_middle() -> bool:
            return (await http.get(f"/v1/videos/{video['id']}")).json()["progress"] > 50

        await until(in_the_middle)
        os.kill(server.engine.status().workers[0].pid, signal.SIGKILL)

    async def over() -> bool:
        return (await http.get(f"/v1/videos/{video['id']}")).json()["status"] == "completed"

    await until(over)
    made = decode((await http.get(f"/v1/videos/{video['id']}/content")).content)
    assert made.shape == (84, 128, 128, 3)
    assert alike(made, live) if killed else np.array_equal(made, live)


async def test_a_waiting_caller_is_told_when_to_ask_again(http) -> None:
    reply = await http.post("/v1/videos", json={"prompt": "a bar", "seconds": 40})
    assert reply.headers["openai-poll-after-ms"] == "4000" and reply.json()["status"] == "queued"
    await http.delete(f"/v1/videos/{reply.json()['id']}")


async def test_words_that_will_not_be_in_the_video_are_told(http) -> None:
    made = (await http.post("/v1/videos", json={"prompt": "a red huose, no trees", "num_frames": 3})).json()
    assert made["warnings"][0] == "the model does not know 'huose'; did you mean 'house'?"
    assert made["warnings"][1].startswith("'no trees' is ignored") and len(made["warnings"]) == 2
    listed = (await http.get("/v1/videos")).json()["data"]
    assert next(video for video in listed if video["id"] == made["id"])["warnings"] == made["warnings"]


async def test_lists_come_in_pages_both_ways(serve, tmp_path) -> None:
    server = await serve(data_dir=tmp_path, jobs_at_once=0)
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        made = [(await client.videos.create(prompt=f"bar {n}")).id for n in range(5)]
        assert [video.id async for video in await client.videos.list(limit=2)] == made[::-1]
        assert [video.id async for video in await client.videos.list(limit=2, order="asc")] == made
        page = await client.videos.list(limit=2, after=made[1])
        assert [video.id for video in page.data] == [made[0]] and page.has_more is False
        assert all(video.status == "queued" for video in page.data)


async def test_a_deleted_video_is_gone_with_its_files_in_openais_words(client, tmp_path) -> None:
    video = await client.videos.create_and_poll(prompt="a bar", extra_body={"num_frames": 5})
    assert (tmp_path / "videos" / video.id).is_dir()
    gone = await client.videos.delete(video.id)
    assert (gone.id, gone.object, gone.deleted) == (video.id, "video.deleted", True)
    assert not (tmp_path / "videos" / video.id).exists()
    for call in (client.videos.retrieve, client.videos.delete, client.videos.download_content):
        with pytest.raises(openai.NotFoundError):
            await call(video.id)


async def test_delete_stops_a_running_job_at_once_and_the_next_one_works(client, server, tmp_path) -> None:
    video = await client.videos.create(prompt="sleep", seconds="60")  # two and a half minutes of work

    async def runs() -> bool:
        return (await client.videos.retrieve(video.id)).progress > 0

    await until(runs)
    await client.videos.delete(video.id)
    await server.empties()  # the worker has forgotten it
    made = len(list((tmp_path / "videos").rglob("*.m4s")))
    done = await client.videos.create_and_poll(prompt="a bar", extra_body={"num_frames": 5})
    assert done.status == "completed" and made == 0


async def test_remix_keeps_everything_but_the_words(client) -> None:
    extra = {"seed": 5, "num_frames": 7}
    source = await client.videos.create_and_poll(prompt="a bar", extra_body=extra)
    remix = await client.videos.poll((await client.videos.remix(source.id, prompt="another bar")).id)
    assert (remix.status, remix.remixed_from_video_id, remix.prompt) == ("completed", source.id, "another bar")
    assert (remix.seed, remix.num_frames) == (5, 7)
    assert not np.array_equal(decode(await film(client, remix.id)), decode(await film(client, source.id)))


async def test_an_extension_goes_on_where_the_source_ended_and_does_not_need_it_any_more(client, http) -> None:
    """The source's last chunk was cut: the cut pictures are shown now, and nothing is repeated."""
    whole = await client.videos.create_and_poll(prompt="a bar", extra_body={"seed": 5, "num_frames": 36})
    source = await client.videos.create_and_poll(prompt="a bar", extra_body={"seed": 5, "num_frames": 20})
    asked = {"prompt": "a bar", "seconds": "1", "video": {"id": source.id}}
    made = await http.post("/v1/videos/extensions", json=asked)
    await client.videos.delete(source.id)
    longer = await client.videos.poll(made.json()["id"])
    assert (longer.status, longer.seconds, longer.num_frames) == ("completed", "2.25", 36)
    assert alike(decode(await film(client, longer.id)), decode(await film(client, whole.id)))


async def test_the_stock_client_extends_a_downloaded_file_under_new_words(client) -> None:
    source = await client.videos.create_and_poll(prompt="a bar", extra_body={"seed": 5, "num_frames": 24})
    data = await film(client, source.id)
    longer = await client.videos.extend(prompt="other; the camera pans right", seconds="1", video=("a.mp4", data))
    longer = await client.videos.poll(longer.id)
    pictures = decode(await film(client, longer.id))
    assert longer.num_frames == 40 and np.array_equal(pictures[:24], decode(data))
    assert not np.array_equal(pictures[24][0, 0], pictures[23][0, 0]), "the new words show from the next chunk on"


@pytest.mark.parametrize("how", ["the id for a file", "the id beside no file"])
async def test_the_stock_client_extends_by_id_although_it_takes_files_only(client, how) -> None:
    source = await client.videos.create_and_poll(prompt="a bar", extra_body={"num_frames": 12})
    with pytest.raises(RuntimeError, match="Expected entry at `video` to be bytes"):  # the client, not the server
        await client.videos.extend(prompt="a bar", seconds="1", video={"id": source.id})
    if how == "the id for a file":
        longer = await client.videos.extend(prompt="a bar", seconds="1", video=source.id.encode())
    else:
        beside = {"video": {"id": source.id}}
        longer = await client.videos.extend(prompt="a bar", seconds="1", video=b"", extra_body=beside)
    assert longer.num_frames == 28
    with pytest.raises(openai.BadRequestError, match="not a video of this server; give .*downloaded from this server"):
        await client.videos.extend(prompt="a bar", seconds="1", video=b"another film")
    with pytest.raises(openai.BadRequestError, match="needs the field 'video'"):
        await client.videos.extend(prompt="a bar", seconds="1", video=b"")


async def test_an_idempotency_key_makes_one_job(http) -> None:
    headers, order = {"Idempotency-Key": "abc"}, {"prompt": "a bar", "num_frames": 3}
    one, two = [await http.post("/v1/videos", json=order, headers=headers) for _ in range(2)]
    assert one.json()["id"] == two.json()["id"]
    other = await http.post("/v1/videos", json={**order, "num_frames": 4}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


BAD = [
    ({}, "missing_field", "prompt"),
    ({"prompt": "  "}, "invalid_message", "prompt"),
    ({"prompt": "a" * 2001}, "invalid_message", "prompt"),
    ({"prompt": 5}, "invalid_message", "prompt"),
    ({"prompt": "a", "promt": "b"}, "unknown_field", "promt"),
    ({"prompt": "a", "seconds": "many"}, "invalid_message", "seconds"),
    ({"prompt": "a", "seconds": -1}, "invalid_message", "seconds"),
    ({"prompt": "a", "seconds": 601}, "invalid_message", "seconds"),
    ({"prompt": "a", "seconds": 1, "num_frames": 17}, "invalid_message", "num_frames"),
    ({"prompt": "a", "num_frames": 0}, "invalid_message", "num_frames"),
    ({"prompt": "a", "size": "big"}, "invalid_message", "size"),
    ({"prompt": "a", "size": "1280x720"}, "unsupported", "size"),
    ({"prompt": "a", "size": "128x128", "width": 64}, "invalid_message", "size"),
    ({"prompt": "a", "fps": 24}, "unsupported", "fps"),
    ({"prompt": "a", "interactions": [{"at_chunk": 1, "event": {}}]}, "invalid_message", "interaction.event"),
    ({"prompt": "a", "interactions": [change(99, "b")]}, "invalid_message", "interactions.0.at_chunk"),
    ({"prompt": "a", "interactions": [{"at": 1}]}, "missing_field", "interactions.0.event"),
    ({"prompt": "a", "seed": -1}, "invalid_message", "seed"),
    ({"prompt": "a", "seed": 2**63}, "invalid_message", "seed"),
    ({"prompt": "a", "seed": True}, "invalid_message", "seed"),
    ({"prompt": "a", "seconds": True}, "invalid_message", "seconds"),
    ({"prompt": "a", "model": "sora-2"}, "unknown_model", "model"),
    ({"prompt": "a", "negative_prompt": "b"}, "unsupported", "negative_prompt"),
    ({"prompt": "a", "input_reference": {"image_url": "x"}}, "invalid_message", "input_reference"),
    ({"prompt": "a", "num_inference_steps": 50}, "unsupported", "num_inference_steps"),
    ({"prompt": "a", "extra_params": {"cash": {}}}, "unknown_field", "extra_params.cash"),
    ({"prompt": "a", "extra_params": {"cache": {"policy": "none"}}}, "invalid_message", "extra_params.cache"),
    ({"prompt": "a", "extra_params": {"cache": {"budget": 3}}}, "unknown_field", "extra_params.cache.budget"),
    ({"prompt": "a", "extra_params": {"cache": []}}, "invalid_message", "extra_params.cache"),
    ({"prompt": "a", "extra_params": {"cache": {"policy": "asked"}}}, "invalid_message", "extra_params.cache"),
    ({"prompt": "a", "extra_params": {"cache": {"kv_dtype": "bf16"}}}, "invalid_message", "extra_params.cache"),
    (
        {"prompt": "a", "num_frames": 48, "extra_params": {"cache": {"policy": "full", "budget_latents": 4}}},
        "invalid_message",
        "extra_params.cache",
    ),
    ({"prompt": "a", "extra_params": "x"}, "invalid_message", "extra_params"),
    ({"prompt": "a", "extra_body": 5}, "invalid_message", "extra_body"),
]


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({"budget": 3}, "known: budget_latents, budget_tokens, kv_dtype, policy, position_mode"),
        ([], "must be an object with fields of policy, budget_latents, budget_tokens, window_latents, sink_latents"),
        ("pafu", "extra_params.cache must be an object with fields of policy"),
        ({"budget_latents": 0}, "choose 0.0625 (one token) to 256 latent frames"),
    ],
)
def test_a_wrong_cache_is_told_with_the_fields_that_it_has(wish, told) -> None:
    asked = request.parse(request.VideoRequest, {"prompt": "a", "extra_params": {"cache": wish}})
    with pytest.raises(PafuError) as refused:
        request.new_order(asked, TEST_TINY, Settings(model="test-tiny"))
    assert told in refused.value.message


def test_a_longer_video_must_fit_its_cache_too() -> None:
    cache = {"policy": "full", "budget_latents": 4}
    asked = {"prompt": "a", "num_frames": 12, "extra_params": {"cache": cache}}
    settings = Settings(model="test-tiny")
    order = request.new_order(request.parse(request.VideoRequest, asked), TEST_TINY, settings)
    longer = request.ExtendRequest(prompt="b", video=request.SourceVideo(id="x"), seconds=1)
    with pytest.raises(PafuError, match="28 pictures needs 9 latent frames, the budget is 4") as refused:
        request.longer_order(order, longer, 1, TEST_TINY, settings)
    assert refused.value.param == "seconds"


async def test_a_bad_order_is_refused_with_the_field_at_fault(http) -> None:
    for fields, code, param in BAD:
        reply = await http.post("/v1/videos", json=fields)
        error = reply.json()["error"]
        assert error is not None, f"{fields} was taken"
        assert (error["code"], error["param"]) == (code, param), (fields, error)
        assert 400 <= reply.status_code < 500 and error["message"], fields
    for body, kind in ((b"{", "application/json"), (b"[]", "application/json"), (b"x", "multipart/form-data")):
        reply = await http.post("/v1/videos", content=body, headers={"content-type": kind})
        assert reply.status_code == 400, (body, reply.text)
    reply = await http.post("/v1/videos", data={"prompt": "a"}, files={"input_reference": b"\x89PNG"})
    assert reply.json()["error"]["param"] == "input_reference"
    reply = await http.post("/v1/videos", data={"prompt": "a"}, files={"input_reference": ("a.png", b"", "image/png")})
    assert reply.status_code == 400 and "the 0 bytes are not a known picture" in reply.json()["error"]["message"]
    assert (await http.get("/v1/videos")).json()["data"] == []


async def test_bad_questions_are_refused(http) -> None:
    asked = [
        ("GET", "/v1/videos/nothing", 404),
        ("GET", "/v1/videos/nothing/content", 404),
        ("GET", "/v1/videos/..%2f..%2fetc/content", 404),
        ("DELETE", "/v1/videos/nothing", 404),
        ("GET", "/v1/videos?limit=0", 400),
        ("GET", "/v1/videos?limit=101", 400),
        ("GET", "/v1/videos?order=up", 400),
        ("GET", "/v1/videos?after=nothing", 400),
        ("GET", "/v1/videos/nothing/content?variant=sound", 400),
    ]
    for method, path, status in asked:
        reply = await http.request(method, path)
        assert reply.status_code == status and reply.json()["error"]["message"], (path, reply.text)


async def test_a_job_that_fails_says_why_and_the_next_one_works(client) -> None:
    failed = await client.videos.create_and_poll(prompt="explode")
    assert failed.status == "failed" and failed.error.code == "generation_failed"
    assert "the model exploded" in failed.error.message
    with pytest.raises(openai.BadRequestError, match="exploded"):
        await client.videos.download_content(failed.id)
    assert (await client.videos.create_and_poll(prompt="a bar", extra_body={"num_frames": 3})).status == "completed"


async def test_content_of_an_unfinished_video_is_a_conflict(serve, tmp_path) -> None:
    server = await serve(data_dir=tmp_path, jobs_at_once=0)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as http:
        made = (await http.post("/v1/videos", json={"prompt": "a"})).json()
        reply = await http.get(f"/v1/videos/{made['id']}/content")
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "not_completed")


async def test_ranges_are_served(client, http) -> None:
    video = await client.videos.create_and_poll(prompt="a bar", extra_body={"num_frames": 3})
    path = f"/v1/videos/{video.id}/content"
    whole = (await http.get(path)).content
    size = len(whole)
    for asked, part in (("0-9", whole[:10]), ("10-", whole[10:]), ("-7", whole[-7:]), (f"5-{size + 9}", whole[5:])):
        reply = await http.get(path, headers={"range": f"bytes={asked}"})
        assert reply.status_code == 206 and reply.content == part, asked
        assert reply.headers["content-range"].endswith(f"/{size}")
    for asked in (f"{size}-", "-0"):
        assert (await http.get(path, headers={"range": f"bytes={asked}"})).status_code == 416, asked
    assert (await http.get(path, headers={"range": "pictures=1-2"})).content == whole
    for variant, kind in (("video", "video/mp4"), ("thumbnail", "image/webp")):
        told = await http.head(path, params={"variant": variant}, headers={"range": "bytes=0-1"})
        sent = (await http.get(path, params={"variant": variant})).headers
        assert told.status_code == 200 and told.content == b"" and told.headers["accept-ranges"] == "bytes"
        assert told.headers["content-type"] == kind and told.headers["content-length"] == sent["content-length"]
    assert (await http.head("/v1/videos/nothing/content")).status_code == 404


async def test_sync_answers_with_the_video(http) -> None:
    reply = await http.post("/v1/videos/sync", json={"prompt": "a bar", "num_frames": 14})
    assert reply.headers["content-type"] == "video/mp4" and len(decode(reply.content)) == 14
    assert (await http.get(f"/v1/videos/{reply.headers['x-pafu-video-id']}")).json()["status"] == "completed"
    failed = await http.post("/v1/videos/sync", json={"prompt": "explode"})
    assert failed.status_code == 400 and "exploded" in failed.json()["error"]["message"]


async def test_a_caller_of_sync_who_hangs_up_wants_it_no_longer(http, server) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await http.post("/v1/videos/sync", json={"prompt": "sleep", "seconds": 60}, timeout=1.0)

    async def gone() -> bool:
        return (await http.get("/v1/videos")).json()["data"] == []

    await until(gone)
    await server.empties()


async def test_with_an_idempotency_key_a_caller_who_hangs_up_can_request_the_same_video_again(http) -> None:
    headers, order = {"Idempotency-Key": "again"}, {"prompt": "sleep", "num_frames": 70}
    with pytest.raises(httpx.ReadTimeout):
        await http.post("/v1/videos/sync", json=order, headers=headers, timeout=0.5)
    made = (await http.post("/v1/videos", json=order, headers=headers)).json()
    reply = await http.post("/v1/videos/sync", json=order, headers=headers)
    assert reply.headers["x-pafu-video-id"] == made["id"] and len(decode(reply.content)) == 70
    assert [video["id"] for video in (await http.get("/v1/videos")).json()["data"]] == [made["id"]]


async def test_a_full_queue_is_reported_with_a_time_to_retry(serve, tmp_path) -> None:
    server = await serve(data_dir=tmp_path, jobs_at_once=0, max_queued_jobs=2)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as http:
        replies = [await http.post("/v1/videos", json={"prompt": "a"}) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert replies[2].json()["error"]["code"] == "too_many_jobs" and int(replies[2].headers["retry-after"]) > 0


async def test_videos_of_other_models_are_listed_and_cannot_be_remixed(serve, tmp_path, order) -> None:
    """The operator changed the model, or another server on the same store has another one."""
    server = await serve(data_dir=tmp_path, jobs_at_once=0)
    store = JobStore(database_url(None, tmp_path))
    for name, model in (("video_a", "pafu-mini"), ("video_b", "a model of a later Pafu")):
        store.add(name, "anonymous", order(model=model))
        _, lease = store.claim(model)
        store.finish(lease, Results(video="", thumbnail="", spritesheet="", nbytes=0), 60)
    store.close()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as http:
        assert {video["id"] for video in (await http.get("/v1/videos")).json()["data"]} == {"video_a", "video_b"}
        for name in ("video_a", "video_b"):
            remix = await http.post(f"/v1/videos/{name}/remix", json={"prompt": "b"})
            assert remix.json()["error"]["code"] == "unsupported"
            lost = await http.post("/v1/videos/extensions", json={"prompt": "b", "video": {"id": name}})
            assert (lost.status_code, lost.json()["error"]["code"]) == (503, "storage_unavailable"), "it has no file"
        assert len((await http.get("/v1/videos")).json()["data"]) == 2, "no job was queued"


async def test_many_orders_at_once_do_not_get_past_the_limits(serve, tmp_path) -> None:
    server = await serve(data_dir=tmp_path, jobs_at_once=0, api_keys=KEYS, max_jobs_per_key=2, max_queued_jobs=3)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as http:

        async def order(key: str) -> str:
            reply = await http.post("/v1/videos", json={"prompt": "a"}, headers={"authorization": f"Bearer {key}"})
            return reply.json()["error"]["code"] if reply.status_code == 429 else str(reply.status_code)

        codes = sorted(await asyncio.gather(*(order(KEYS[0]) for _ in range(8))))
        assert codes == ["200"] * 2 + ["job_limit"] * 6
        codes = sorted(await asyncio.gather(*(order(KEYS[1]) for _ in range(8))))
        assert codes == ["200"] + ["too_many_jobs"] * 7


async def test_callers_cannot_see_delete_or_count_each_others_videos(serve, tmp_path) -> None:
    server = await serve(data_dir=tmp_path, jobs_at_once=0, api_keys=KEYS, max_jobs_per_key=1)
    me, you = [{"authorization": f"Bearer {key}"} for key in KEYS]
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as http:
        made = (await http.post("/v1/videos", json={"prompt": "a"}, headers=me)).json()
        path = f"/v1/videos/{made['id']}"
        assert (await http.get(path)).status_code == 401
        for method, target in (("GET", path), ("DELETE", path), ("GET", f"{path}/content")):
            assert (await http.request(method, target, headers=you)).status_code == 404
        assert (await http.post(f"{path}/remix", json={"prompt": "b"}, headers=you)).status_code == 404
        assert (await http.get("/v1/videos", headers=you)).json()["data"] == []
        refused = await http.post("/v1/videos", json={"prompt": "a"}, headers=me)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "job_limit")
        assert (await http.post("/v1/videos", json={"prompt": "a"}, headers=you)).status_code == 200
        assert (await http.get(path, headers=me)).status_code == 200


async def test_without_its_database_the_server_still_streams(serve, tmp_path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    server = await serve(data_dir=blocked)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as http:
        for method, path in (("POST", "/v1/videos"), ("GET", "/v1/videos"), ("GET", "/v1/videos/x")):
            reply = await http.request(method, path, json={"prompt": "a"} if method == "POST" else None)
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "storage_unavailable"), path
    await server.works()


async def test_videos_may_be_kept_in_any_fsspec_store(serve, tmp_path) -> None:
    server = await serve(data_dir=tmp_path / "data", videos=f"dir::file://{tmp_path}/elsewhere")
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        video = await client.videos.create_and_poll(prompt="a bar", extra_body={"num_frames": 14})
        assert len(decode(await film(client, video.id))) == 14
        assert list((tmp_path / "elsewhere").rglob("*video.mp4")) and not (tmp_path / "data" / "videos").exists()
        await client.videos.delete(video.id)
        assert not list((tmp_path / "elsewhere").rglob("*.m*"))


async def test_jobs_work_the_same_on_postgresql(serve, tmp_path, postgres, empty_postgres) -> None:
    server = await serve(data_dir=tmp_path, database=postgres.url)
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        video = await client.videos.create_and_poll(prompt="a bar", extra_body={"num_frames": 14})
        assert len(decode(await film(client, video.id))) == 14
        await client.videos.delete(video.id)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as http:
        for method, path in [("GET", "/v1/videos/%00"), ("DELETE", "/v1/videos/%00"), ("GET", "/v1/videos?after=%00")]:
            assert (await http.request(method, path)).status_code in (400, 404), "no text to PostgreSQL"
    assert not (tmp_path / "jobs.sqlite").exists()


async def test_a_video_begins_with_the_picture_that_was_sent_as_a_file_or_as_a_data_url(http) -> None:
    out = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(out, "PNG")
    url = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    by_form = await http.post(
        "/v1/videos", data={"prompt": "a"}, files={"input_reference": ("a.png", out.getvalue(), "image/png")}
    )
    by_json = await http.post("/v1/videos", json={"prompt": "a", "input_reference": url})
    assert by_form.status_code == by_json.status_code == 200, (by_form.text, by_json.text)
    bad = await http.post("/v1/videos", json={"prompt": "a", "input_reference": "https://example.org/a.png"})
    assert bad.status_code == 400 and "URLs are not fetched" in bad.json()["error"]["message"]


def test_a_model_of_the_same_latents_goes_on_with_anothers_video(order) -> None:
    settings = Settings(model="longlive", size="96x64", device="cpu")
    theirs = order(model="self-forcing", width=96, height=64)
    assert request.unlike(theirs, settings.spec) is None
    asked = request.ExtendRequest(prompt="b", seconds=1.0, video={"id": "video_a"})
    ours = request.longer_order(theirs, asked, 3, settings.spec, settings)
    assert (ours.model, ours.prompt, ours.seed, ours.given_chunks) == ("longlive", "b", theirs.seed, 3)
    assert (ours.cache.budget_latents, ours.cache.position_mode) == (9, "absolute"), "the cache that this model wants"


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (
            {"model": "pafu-mini", "width": 96, "height": 64},
            "the latents of 'pafu-mini' differ from those of 'longlive'",
        ),
        ({"model": "frame-wise-1-step", "width": 96, "height": 64}, "chunk_latents is 1 for 'frame-wise-1-step' but"),
        ({"model": "self-forcing", "width": 832, "height": 480}, "are 832x480, those of 'longlive' are 96x64"),
        (
            {"model": "longlive", "width": 832, "height": 480},
            "of 'longlive' are 832x480, those of 'longlive' are 96x64",
        ),
        ({"model": "a model of a later Pafu"}, "the latents of 'a model of a later Pafu' differ"),
    ],
    ids=["family", "chunk", "size", "own at another size", "unknown"],
)
def test_what_differs_between_the_latents_of_two_models_is_named(order, theirs, said) -> None:
    settings = Settings(model="longlive", size="96x64", device="cpu")
    assert said in (request.unlike(order(**theirs), settings.spec) or "")


async def test_a_video_with_other_latents_is_extended_from_its_last_picture(serve, tmp_path) -> None:
    """Its pictures come first, at the new model's size; source and model are no longer needed."""
    first = await serve(data_dir=tmp_path)
    async with openai.AsyncOpenAI(base_url=f"{first.url}/v1", api_key="none") as client:
        source = await client.videos.create_and_poll(prompt="a bar", extra_body={"seed": 5, "num_frames": 20})
        shown = decode(await film(client, source.id))
    await first.stop()
    second = await serve(data_dir=tmp_path, model="pafu-mini", size="256x128")  # the middle of each, twice as large
    async with openai.AsyncOpenAI(base_url=f"{second.url}/v1", api_key="none") as client:
        longer = await client.videos.extend(prompt="on", seconds="1", video=source.id.encode())
        await client.videos.delete(source.id)
        longer = await client.videos.poll(longer.id)
        assert (longer.status, longer.num_frames, longer.size) == ("completed", 36, "256x128")
        assert "starts with the last picture" in longer.warnings[0] and "'test-tiny'" in longer.warnings[0]
        pictures = decode(await film(client, longer.id))
        assert pictures.shape == (36, 128, 256, 3)
        halves = pictures[:20, ::2, ::2].astype(int)
        assert np.abs(halves - shown[:, 32:96]).mean() < 8, "the source's pictures"
        assert np.abs(pictures[20, 0, 0].astype(int) - pictures[19].mean((0, 1))).max() < 8, "begun with its last one"
        bar = [int(np.abs(p[0].astype(int) - p[0, -1]).sum(-1).argmax()) for p in pictures[20:22]]
        assert bar == [48, 52], "the chunk that is the picture at rest is not shown"
        again = await client.videos.extend(prompt="on", seconds="1", video=longer.id.encode())
        remix = await client.videos.remix(longer.id, prompt="off")
        await client.videos.delete(longer.id)
        for made, count in ((again, 52), (remix, 36)):
            made = await client.videos.poll(made.id)
            assert (made.status, made.num_frames, made.warnings[-1]) == ("completed", count, longer.warnings[-1])
            assert np.array_equal(decode(await film(client, made.id))[:20], pictures[:20])
