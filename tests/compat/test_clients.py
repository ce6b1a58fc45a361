"""Promise: third-party clients work unchanged: their recorded requests get valid answers."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

# vLLM-Omni's streaming_video_client.py (August 2026) with --seconds and --negative-prompt, as it reaches the socket.
OMNI_START = {
    "type": "session.start",
    "model": "test-tiny",
    "prompt": "a red house",
    "negative_prompt": "",
    "width": 128,
    "height": 128,
    "size": "128x128",
    "seconds": "3",
    "fps": 16,
    "num_frames": 48,
    "num_inference_steps": 4,
    "guidance_scale": 1.0,
    "guidance_scale_2": 1.0,
    "true_cfg_scale": 1.0,
    "seed": 42,
}
OMNI_UPDATE = {  # --prompt-updates; its default texts have more than 400 characters
    "type": "session.interaction",
    "interaction": {
        "event_id": "scheduled-0.200",
        "event": {"prompt": "Slowly, while evening falls, a blue mill comes into view on the right. " * 8},
        "transition_chunks": 3,
    },
}
# Its browser demo (Gradio) adds the format; the server's other fields may come in blocks, with rates as floats.
OMNI_DEMO = {
    "type": "session.start",
    "prompt": "a red house",
    "format": "m4s",
    "video_params": {"width": 128, "height": 128, "fps": 16.0, "num_frames": 12},
    "sampling_params": {"seed": 7, "guidance_scale": 1.0},
}
# diffusion_benchmark_serving.py --endpoint /v1/videos --return-stage-metrics: a form of values as Python prints them.
OMNI_FORM = {
    "return_stage_metrics": "True",
    "prompt": "Random prompt 0 for benchmarking diffusion models",
    "height": "128",
    "width": "128",
    "num_frames": "13",
    "num_inference_steps": "4",
    "seed": "1",
    "fps": "16",
}
# FastVideo's `fastvideo bench`, which SGLang's has been before: JSON without a picture, a form with one.
FASTVIDEO_JSON = {
    "model": "default",
    "prompt": "Random prompt 0 for benchmarking diffusion models",
    "size": "128x128",
    "num_frames": 13,
    "fps": 16,
}
FASTVIDEO_FORM = {name: str(value) for name, value in FASTVIDEO_JSON.items()}

# All that any of them may send besides, with the values that ask for nothing.
NEUTRAL = {
    "negative_prompt": None,
    "num_inference_steps": 4,
    "guidance_scale": 1,
    "guidance_scale_2": 1.0,
    "true_cfg_scale": 1.0,
    "flow_shift": None,
    "boundary_ratio": None,
    "lora": None,
    "n": 1,
    "num_outputs_per_prompt": 1,
    "quality": "standard",
    "user": "bench",
    "image_reference": None,
    "video_reference": None,
    "audio_reference": None,
    "aspect_ratio": None,
    "short_edge": None,
    "start_time_seconds": None,
    "return_stage_metrics": False,
    "generate_sound": False,
    "sound_duration": None,
    "enable_frame_interpolation": False,
    "frame_interpolation_exp": 1,
    "frame_interpolation_scale": 1.0,
    "frame_interpolation_model_path": None,
    "enable_teacache": False,
    "video_params": None,
    "extra_params": {
        "is_enable_stage2": False,
        "pyramid_num_stages": 1,
        "is_amplify_first_chunk": False,
        "cache": None,
    },
}


def steps(body: dict[str, Any], server: Any) -> dict[str, Any]:
    """The recorded request with the steps of the model that is served."""
    own = len(server.front.spec.denoising_steps)
    kind = type(body["num_inference_steps"]) if "num_inference_steps" in body else None
    return {**body, "num_inference_steps": kind(own)} if kind else body


def http(server: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120)


async def test_vllm_omnis_streaming_client_gets_its_video_and_its_changes(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.send(steps(OMNI_START, server))
        await viewer.until("video.start")
        await viewer.send(OMNI_UPDATE)
        await viewer.until("session.done")
    kinds = [m["type"] for m in viewer.messages]
    assert kinds[0] == "video.start" and "session.interaction.queued" in kinds and "error" not in kinds
    assert len(viewer.fragments) == 4


async def test_seconds_and_num_frames_may_agree_and_are_refused_alike_if_not(server, viewer_of) -> None:
    both = {"prompt": "a bar", "seconds": "1", "num_frames": 17}
    async with server.connect() as socket:
        by_socket = await viewer_of(socket).start(**both)
    async with http(server) as client:
        answers = [(await client.post("/v1/videos", **{how: both})).json()["error"] for how in ("json", "data")]
    assert {(error["param"], error["message"]) for error in (by_socket, *answers)} == {
        ("num_frames", "seconds and num_frames differ; give only one")
    }


async def test_its_browser_demo_gets_its_video(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.send(OMNI_DEMO)
        await viewer.until("session.done")
    assert len(viewer.fragments) == 1


@pytest.mark.parametrize(("x", "pans"), [(0.05, 1), (-0.05, -1), (0.001, 1), (0, 0), (1e308, 1)])
async def test_vllm_omnis_camera_pans(server, viewer_of, x, pans) -> None:
    camera = {"mode": "velocity", "data": {"translation": [x, 0.0, 0.0], "rotation": [0.0, 0.0, 0.0, 1.0]}}
    event = {"event_id": "e1", "event": {"multi_modal_data": {"camera": camera}}}
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start()
        await viewer.send({"type": "session.interaction", "interaction": event})
        await viewer.until("session.interaction.applied")
        speed = (await viewer.until("video.chunk_metadata"))["stats"]["camera"]["speed"]
    assert (speed > 0) - (speed < 0) == pans


CAMERAS = [  # what its camera_utils.py makes of keys, and its mode target, which is also the default
    ({"mode": "velocity", "data": {"translation": [0.0, 0.0, 0.05], "rotation": [0.0, 0.0, 0.0, 1.0]}}, "data"),
    ({"mode": "velocity", "data": {"translation": [0.05, 0.0, 0.0], "rotation": [0.0, 0.0523, 0.0, 0.9986]}}, "data"),
    ({"mode": "velocity", "data": {"rotation": [0, 0, 0, 0]}}, "data"),
    ({"mode": "target", "data": {"translation": [1.0, 0.0, 0.0]}}, "mode"),
    ({"data": {"translation": [1.0, 0.0, 0.0]}}, "mode"),
]


async def test_a_camera_that_turns_rises_or_aims_is_refused_by_name(server, viewer_of) -> None:
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start()
        for camera, field in CAMERAS:
            event = {"event": {"multi_modal_data": {"camera": camera}}}
            await viewer.send({"type": "session.interaction", "interaction": event})
            error = await viewer.until("error")
            path = f"interaction.event.multi_modal_data.camera.{field}"
            assert (error["code"], error["param"]) == ("unsupported", path)


async def test_benchmarks_of_vllm_omni_and_fastvideo_get_their_videos(server) -> None:
    await server.engine.settled()
    picture = io.BytesIO()
    Image.new("RGB", (100, 100), "red").save(picture, "jpeg")
    upload = {"input_reference": ("dummy_image.jpg", picture.getvalue(), "application/octet-stream")}
    plain = {name: (None, value) for name, value in steps(OMNI_FORM, server).items()}  # multipart, as aiohttp sends it
    async with http(server) as client:
        for order in ({"files": plain}, {"json": FASTVIDEO_JSON}, {"data": FASTVIDEO_FORM, "files": upload}):
            made = await client.post("/v1/videos", **order)
            assert (made.status_code, made.json()["status"]) == (200, "queued"), made.text
            done = await client.post("/v1/videos/sync", **order)
            assert (done.status_code, done.headers.get("content-type")) == (200, "video/mp4"), done.text[:500]


async def test_what_asks_for_nothing_is_taken_by_socket_json_and_form(server, viewer_of) -> None:
    whole = steps(NEUTRAL, server)
    spelt = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in whole.items()}
    async with server.connect() as socket:
        viewer = viewer_of(socket)
        await viewer.start(**whole)
        assert viewer.messages[0]["type"] == "video.start"
    async with http(server) as client:
        for how, fields in (("json", whole), ("data", spelt)):
            taken = await client.post("/v1/videos", **{how: {"prompt": "a bar", "num_frames": 13, **fields}})
            assert taken.status_code == 200, taken.text


REFUSED = [
    ("generate_sound", True),
    ("frame_interpolation_exp", 2),
    ("guidance_scale", 7.5),
    ("negative_prompt", "blurry"),
    ("n", 2),
    ("lora", {"name": "x"}),
    ("quality", "hd"),
    ("aspect_ratio", "16:9"),
    ("video_reference", [{"video_url": "data:video/mp4;base64,AA=="}]),
    ("return_stage_metrics", "perhaps"),
    ("fps", 24.0),
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
            ("if-none-match", f'"x", W/{etag}', 304),
            ("if-none-match", "*", 304),
            ("if-none-match", '"x"', 206),
            ("if-modified-since", changed, 304),
            ("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT", 206),
            ("if-modified-since", "yesterday", 206),
            ("if-match", etag, 206),
            ("if-match", '"x"', 412),
            ("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT", 412),
        ):
            reply = await client.get(path, headers={"range": "bytes=0-9", header: value})
            assert reply.status_code == status, (header, value, reply.status_code)
            assert status == 412 or reply.content == {206: whole.content[:10], 200: whole.content, 304: b""}[status]
        assert (await client.get(path, headers={"range": "bytes=5-4"})).status_code == 200
        assert (await client.get(path, headers={"range": f"bytes={len(whole.content)}-"})).status_code == 416
        assert (await client.get(path, headers={"range": "bytes=-5"})).content == whole.content[-5:]
        assert (await client.head(path)).headers["etag"] == etag
        assert (await client.head(path, headers={"if-none-match": etag})).status_code == 304
