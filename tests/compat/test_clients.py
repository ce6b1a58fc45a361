"""Promise: third-party clients work unchanged: their recorded requests get valid answers."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import openai
import pytest

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

# What vLLM-Omni's streaming client puts into every session.start, and what others add: all of it asks for nothing.
OMNI_START = {
    "type": "session.start",
    "prompt": "a red house",
    "width": 128,
    "height": 128,
    "fps": 16,
    "num_frames": 24,
    "seed": 42,
    "guidance_scale": 1.0,
    "num_inference_steps": 4,
    "negative_prompt": "",
    "lora": None,
    "image_reference": None,
    "extra_params": {"is_enable_stage2": False},
    "format": "m4s",
}
# The same of its benchmark's requests, and of FastVideo's, as forms write them.
BENCHMARK_FORM = {
    "prompt": "a red house",
    "size": "128x128",
    "num_frames": "13",
    "fps": "16",
    "seed": "42",
    "num_inference_steps": "4",
    "guidance_scale": "1.0",
    "negative_prompt": "",
    "flow_shift": "",
    "n": "1",
    "quality": "standard",
    "user": "bench",
}
FASTVIDEO_JSON = {
    "model": "default",
    "prompt": "a red house",
    "size": "128x128",
    "seconds": "1",
    "fps": 16,
    "negative_prompt": None,
    "guidance_scale": 1,
    "true_cfg_scale": 1.0,
    "input_reference": None,
    "enable_teacache": False,
    "extra_params": {"enable_stage2": False, "cache": None},
}
# What vLLM-Omni's clients write whose fields all have a default, in JSON and, in Python's spelling, in a form.
OMNI_JSON = {
    "prompt": "a red house",
    "video_params": {"width": 128, "height": 128, "num_frames": 16, "fps": None},
    "seconds": "1",
    "num_frames": 16,
    "generate_sound": False,
    "sound_duration": None,
    "enable_frame_interpolation": False,
    "frame_interpolation_exp": 1,
    "frame_interpolation_scale": 1.0,
    "frame_interpolation_model_path": None,
    "quality": "default",
    "lora": None,
}
OMNI_FORM = {
    "prompt": "a red house",
    "model": "default",
    "width": "128",
    "height": "128",
    "num_frames": "13",
    "negative_prompt": "None",
    "lora": "None",
    "flow_shift": "None",
    "enable_frame_interpolation": "False",
    "generate_sound": "False",
    "extra_params": '{"is_enable_stage2": false, "pyramid_num_stages": 1, "is_amplify_first_chunk": false}',
}


def steps(body: dict[str, Any], server: Any) -> dict[str, Any]:
    """The recorded request with the steps of the model that is served."""
    own = len(server.front.spec.denoising_steps)
    kind = type(body["num_inference_steps"]) if "num_inference_steps" in body else None
    return {**body, "num_inference_steps": kind(own)} if kind else body


def http(server: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120)


async def test_vllm_omnis_streaming_client_gets_its_video(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.send(steps(OMNI_START, server))
        await viewer.until("session.done")
    assert [m["type"] for m in viewer.messages][0] == "video.start"
    assert len(viewer.fragments) == 2


@pytest.mark.parametrize(("x", "pans"), [(0.05, 1), (-0.05, -1), (0.001, 1), (0, 0)])
async def test_vllm_omnis_camera_pans(server, viewer_of, x, pans) -> None:
    camera = {"mode": "velocity", "data": {"translation": [x, 0, 0], "rotation": [0, 0, 0, 1]}}
    event = {"event_id": "e1", "event": {"multi_modal_data": {"camera": camera}}}
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start()
        await viewer.send({"type": "session.interaction", "interaction": event})
        await viewer.until("session.interaction.applied")
        speed = (await viewer.until("video.chunk_metadata"))["stats"]["camera"]["speed"]
    assert (speed > 0) - (speed < 0) == pans


async def test_a_camera_that_turns_or_rises_is_refused_by_name(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start()
        for data in ({"translation": [0, 0.1, 0]}, {"translation": [0, 0, 0], "rotation": [0, 0.7, 0, 0.7]}):
            camera = {"mode": "velocity", "data": data}
            event = {"event": {"multi_modal_data": {"camera": camera}}}
            await viewer.send({"type": "session.interaction", "interaction": event})
            assert (await viewer.until("error"))["param"] == "interaction.event.multi_modal_data.camera.data"


async def test_benchmarks_of_vllm_omni_and_fastvideo_get_their_videos(server) -> None:
    await server.engine.settled()
    async with http(server) as client:
        by_form = await client.post("/v1/videos/sync", data=steps(BENCHMARK_FORM, server))
        assert (by_form.status_code, by_form.headers.get("content-type")) == (200, "video/mp4"), by_form.text[:500]
        for body in (FASTVIDEO_JSON, OMNI_JSON):
            by_json = await client.post("/v1/videos/sync", json=body)
            assert (by_json.status_code, by_json.headers.get("content-type")) == (200, "video/mp4"), by_json.text[:500]
        spelt = await client.post("/v1/videos", data=OMNI_FORM)
        assert spelt.status_code == 200, spelt.text
        contradiction = await client.post("/v1/videos", json={**OMNI_JSON, "num_frames": 17})
        assert contradiction.status_code == 400 and contradiction.json()["error"]["param"] == "num_frames"


REFUSED = [
    ("generate_sound", True),
    ("frame_interpolation_exp", 2),
    ("guidance_scale", 7.5),
    ("negative_prompt", "blurry"),
    ("n", 2),
    ("lora", {"name": "x"}),
    ("quality", "hd"),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
async def test_what_the_model_cannot_do_is_refused_in_one_sentence_everywhere(server, viewer_of, name, value) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        by_socket = await viewer.start(**{name: value})
    async with http(server) as client:
        by_json = (await client.post("/v1/videos", json={"prompt": "a bar", name: value})).json()["error"]
        text = value if isinstance(value, str) else json.dumps(value)
        by_form = (await client.post("/v1/videos", data={"prompt": "a bar", name: text})).json()["error"]
    told = {(error["code"], error["param"], error["message"]) for error in (by_socket, by_json, by_form)}
    assert len(told) == 1 and by_socket["code"] == "unsupported" and by_socket["param"] == name


async def test_a_message_of_another_protocol_is_pointed_to_ours(server, viewer_of) -> None:
    for kind in ("session.prompt_update", "prompt", "session.update"):
        async with server.connect() as socket:
            viewer = viewer_of(socket)
            await viewer.send({"type": kind, "prompt": "x"})
            error = await viewer.next()
            assert error["code"] == "unknown_type" and "session.interaction" in error["message"]


async def test_the_openai_client_of_python_works_unchanged(server) -> None:
    await server.engine.settled()
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert (await client.models.retrieve("test-tiny")).id == "test-tiny"
        with pytest.raises(openai.NotFoundError, match="test-tiny"):
            await client.models.retrieve("sora-2")
        video = await client.videos.create_and_poll(prompt="a bar", seconds="1", size="128x128")  # type: ignore[arg-type]
        assert video.status == "completed"
        longer = await client.videos.extend(video=io.BytesIO(video.id.encode()), prompt="a bar", seconds="4")  # type: ignore[arg-type]
        assert (longer.status, longer.progress) == ("queued", 0)
        with pytest.raises(openai.BadRequestError, match="still"):
            await client.videos.download_content(longer.id)
        await client.videos.delete(longer.id)
        with pytest.raises(openai.BadRequestError, match="not offered"):
            await client.videos.edit(video=io.BytesIO(video.id.encode()), prompt="a bar")
        with pytest.raises(openai.BadRequestError, match="not offered"):
            await client.videos.create_character(name="x", video=io.BytesIO(b"x"))
        film = (await client.videos.download_content(video.id)).read()
    assert film[4:8] == b"ftyp"


async def test_ranges_are_answered_as_rfc_9110_says(server) -> None:
    await server.engine.settled()
    async with http(server) as client:
        made = await client.post("/v1/videos/sync", json={"prompt": "a bar", "num_frames": 13})
        path = f"/v1/videos/{made.headers['x-pafu-video-id']}/content"
        whole = await client.get(path)
        etag, changed = whole.headers["etag"], whole.headers["last-modified"]
        for header, value, status in (
            ("if-range", etag, 206),
            ("if-range", changed, 206),
            ("if-range", '"other"', 200),
            ("if-range", "Thu, 01 Jan 1970 00:00:00 GMT", 200),
            ("if-none-match", etag, 304),
        ):
            reply = await client.get(path, headers={"range": "bytes=0-9", header: value})
            assert reply.status_code == status, (header, value, reply.status_code)
            assert reply.content == {206: whole.content[:10], 200: whole.content, 304: b""}[status]
        assert (await client.get(path, headers={"range": "bytes=5-4"})).status_code == 200
        assert (await client.get(path, headers={"range": f"bytes={len(whole.content)}-"})).status_code == 416
        assert (await client.head(path)).headers["etag"] == etag
