"""Promise: the whole path works, from a prompt through a real server process and the public client to decoded
pictures."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from pafu_client import Chunk, InteractionFailed, Jobs, PafuError, connect, models, still, watch
from PIL import Image

FPS = 16


async def record(url: str, prompt: str = "a red house on a meadow, the camera pans right", **options) -> list[Chunk]:
    async with connect(url, prompt=prompt, **{"realtime": False, **options}) as stream:
        return [chunk async for chunk in stream]


def data(chunks: list[Chunk]) -> bytes:
    return b"".join(chunk.data for chunk in chunks)


async def test_a_stream_has_every_picture_on_time_and_pictures_that_differ(live_server, decode) -> None:
    chunks = await record(live_server, num_frames=60, seed=1)
    video = decode(data(chunks))
    assert video.pictures.shape[0] == sum(chunk.metadata.num_frames for chunk in chunks) == 60
    assert np.allclose(video.seconds, np.arange(60) / FPS)
    assert video.keys == [0, 12, 24, 36, 48] and not video.has_b_frames
    moved = np.abs(np.diff(video.pictures.astype(int), axis=0)).max(axis=(1, 2, 3))
    assert (moved > 0).mean() > 0.5, "the video stands still"


async def test_the_same_seed_gives_the_same_video_and_another_seed_another(live_server) -> None:
    first = await record(live_server, num_frames=24, seed=1)
    again = await record(live_server, num_frames=24, seed=1)
    other = await record(live_server, num_frames=24, seed=2)
    assert data(first) == data(again) != data(other)


async def test_two_viewers_at_once_see_what_each_would_see_alone(live_server, decode) -> None:
    wishes = [{"prompt": "a red house", "seed": 1}, {"prompt": "night, a mill, the camera pans left", "seed": 2}]
    alone = [await record(live_server, num_frames=48, **wish) for wish in wishes]
    together = await asyncio.gather(*(record(live_server, num_frames=48, realtime=True, **wish) for wish in wishes))
    for one, both in zip(alone, together, strict=True):
        assert np.array_equal(decode(data(one)).pictures, decode(data(both)).pictures)
    assert not np.array_equal(decode(data(alone[0])).pictures, decode(data(alone[1])).pictures)


async def test_words_and_camera_change_a_running_stream(live_server) -> None:
    async with connect(live_server, prompt="a red house, the camera holds still", seed=1) as stream:
        assert (await stream.receive()).metadata.stats["camera"] == {"offset": 0, "speed": 0}
        event = await stream.interact(prompt="a red house at night", camera={"pan": "right"})
        async for chunk in stream:
            if event in chunk.metadata.started_event_ids:
                break
        assert chunk.metadata.stats["prompt"] == "a red house at night"
        assert chunk.metadata.stats["camera"]["speed"] > 0
        await stream.stop()
        async for _ in stream:
            pass
        assert stream.done is not None and (stream.done.stopped, stream.done.reason) == (True, "stopped")


async def test_every_chunk_tells_what_it_cost(live_server) -> None:
    (chunk, *_) = await record(live_server, num_frames=12)
    stats = chunk.metadata.stats
    assert {"text", "denoise", "clean", "decode", "prune", "encode", "total"} <= set(stats["seconds"])
    assert stats["chunk_seconds"] > 0 and stats["cache_tokens"] > 0 and stats["cache_bytes"] > 0


async def test_cache_settings_of_a_session_are_followed(live_server) -> None:
    cache = {"policy": "window", "budget_latents": 3, "recent_latents": 3}
    chunks = await record(live_server, num_frames=60, extra_params={"cache": cache})
    tokens = [chunk.metadata.stats["cache_tokens"] for chunk in chunks]
    assert len(set(tokens)) == 1 and chunks[-1].metadata.stats["evicted_tokens"] > 0


async def test_a_stream_a_still_and_a_job_begin_with_the_picture_that_was_given(live_server, decode, tmp_path) -> None:
    path = tmp_path / "begin.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (150, 140, 3), np.uint8)).save(path)
    wish = {"num_frames": 12, "seed": 3}
    begun = decode(data(await record(live_server, prompt="a mill", image=path.read_bytes(), **wish))).pictures
    plain = decode(data(await record(live_server, prompt="a mill", **wish))).pictures
    assert not np.array_equal(begun, plain)
    async with Jobs(live_server) as jobs:
        video = await jobs.wait(await jobs.create("a mill", image=path, **wish))
        assert np.array_equal(decode(await jobs.content(video)).pictures, begun)
    picture = Image.open(io.BytesIO(await still(live_server, "a mill", seed=3, image=str(path))))
    assert np.abs(np.asarray(picture).astype(int) - begun[0]).mean() < 12, "a JPEG of the same picture"


async def test_a_refusal_reaches_the_caller_by_code_and_field(live_server) -> None:
    with pytest.raises(PafuError) as refused:
        await record(live_server, prompt="x" * 5000)
    assert (refused.value.code, refused.value.param) == ("invalid_message", "prompt")


async def test_the_model_says_that_its_weights_are_random(live_server) -> None:
    (model,) = await models(live_server)
    assert model["id"] == "test-tiny" and "random" in model["weights"]
    assert (model["width"], model["height"], model["fps"]) == (128, 128, FPS)
    assert "house" in model["words"]["things"] and model["examples"] and model["max_prompt_chars"] > 0


def test_the_front_has_no_torch_and_little_memory(server_process) -> None:
    status = json.load(urllib.request.urlopen(f"{server_process.url()}/health"))
    maps = Path(f"/proc/{status['front']['pid']}/maps").read_text()
    assert "libtorch" not in maps and "libav" not in maps
    assert 0 < status["front"]["rss_bytes"] <= 150e6


def test_watch_writes_a_playable_file(live_server, decode, tmp_path) -> None:
    output = tmp_path / "live.mp4"
    command = [sys.executable, "-m", "server.cli", "watch", "a red house", "--seconds", "1.5"]
    subprocess.run([*command, "--url", live_server, "-o", str(output)], check=True, capture_output=True)
    assert decode(output.read_bytes()).pictures.shape[0] == 24


def test_watch_pipes_a_playable_stream(live_server, decode) -> None:
    command = [sys.executable, "-m", "server.cli", "watch", "a red huose", "--seconds", "1", "--seed", "3", "-o", "-"]
    run = subprocess.run([*command, "--url", live_server], check=True, capture_output=True)
    assert decode(run.stdout).pictures.shape[0] == 16
    assert "note: the model does not know 'huose'; did you mean 'house'?" in " ".join(run.stderr.decode().split())


async def test_generate_writes_the_video_that_a_live_viewer_with_this_seed_sees(live_server, decode, tmp_path) -> None:
    output = tmp_path / "out.mp4"
    prompt = "a red house, no trees"
    command = [sys.executable, "-m", "server.cli", "generate", prompt, "-o", str(output)]
    run = await asyncio.to_thread(
        subprocess.run,
        [*command, "--seconds", "2", "--seed", "7", "--model", "test-tiny"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "note: 'no trees' is ignored" in " ".join((run.stdout + run.stderr).split())
    live = await record(live_server, prompt=prompt, num_frames=32, seed=7)
    assert np.array_equal(decode(output.read_bytes()).pictures, decode(data(live)).pictures)


async def test_a_second_viewer_sees_the_pictures_of_the_first_and_cannot_steer(live_server, decode) -> None:
    async with connect(live_server, prompt="a red house, the camera pans right", seed=1) as stream:
        chunks = [await stream.receive(), await stream.receive()]
        owner = asyncio.create_task(take(stream, chunks))
        async with watch(live_server, stream.init.session_id) as look:
            assert look.init.resume_token is None and look.init.config["seed"] == 1
            seen = [await look.receive() for _ in range(3)]
            await look.interact(prompt="a mill")
            while not any(isinstance(event, InteractionFailed) for event in look.events):
                seen.append(await look.receive())
        first, count = seen[0].metadata.index, len(seen)
        while len(chunks) <= first + count:  # the watcher has left, the session goes on
            await asyncio.sleep(0.05)
        await stream.stop()
        await owner
    assert [chunk.metadata.index for chunk in seen] == list(range(first, first + count)) and first > 0
    theirs = decode(data(chunks)).pictures[12 * first : 12 * (first + count)]
    assert np.array_equal(decode(data(seen)).pictures, theirs)
    with pytest.raises(PafuError) as gone:
        async with watch(live_server, "sess_0123456789abcdef"):
            pass
    assert gone.value.code == "unknown_session"


async def take(stream, chunks: list[Chunk]) -> None:
    async for chunk in stream:
        chunks.append(chunk)


async def test_watch_looks_on_at_a_session(live_server, decode, tmp_path) -> None:
    output = tmp_path / "seen.mp4"
    async with connect(live_server, prompt="a red house") as stream:
        await stream.receive()
        command = [sys.executable, "-m", "server.cli", "watch", "--session", stream.init.session_id, "--seconds", "1.5"]
        looking = asyncio.create_task(
            asyncio.to_thread(
                subprocess.run, [*command, "--url", live_server, "-o", str(output)], check=True, capture_output=True
            )
        )
        while not looking.done():
            await stream.receive()
        await looking
    assert decode(output.read_bytes()).pictures.shape[0] >= 24


def pafu(*arguments: str, **variables: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "server.cli", *arguments]
    return subprocess.Popen(command, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_ctrl_c_ends_watch_with_a_whole_file_and_a_line(live_server, decode, tmp_path) -> None:
    output, port = tmp_path / "live.mp4", live_server.rpartition(":")[2]
    for length, status in (((), 0), (("--seconds", "3000"), 130)):
        process = pafu("watch", "a red house", "--seed", "4", "-o", str(output), *length, PAFU_PORT=port)
        while not (output.exists() and output.stat().st_size):
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=120)
        shown = decode(output.read_bytes()).pictures.shape[0]
        assert (process.returncode, out) == (status, b"")
        line = error.decode().splitlines()[-1]  # a full server is told before
        assert line.startswith(f"pafu stopped; {output}: {shown} ") and "seed 4" in line
        output.unlink()


def test_watch_ends_quietly_when_its_reader_has_gone(live_server) -> None:
    process = pafu("watch", "a red house", "-o", "-", "--url", live_server)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(100)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(120) == 1


def test_watch_tells_a_program_what_it_wrote(live_server, tmp_path) -> None:
    output = str(tmp_path / "live.mp4")
    process = pafu(
        "watch", "a red house", "--seconds", "1", "--seed", "4", "-o", output, "--json", "--url", live_server
    )
    told = json.loads(process.communicate(timeout=120)[0])
    assert (told["file"], told["pictures"], told["seed"], told["stopped"]) == (output, 16, 4, False)


def test_the_doctor_knows_the_pafu_that_runs(server_process) -> None:
    port = server_process.url().rpartition(":")[2]
    process = pafu("doctor", "--json", PAFU_MODEL="test-tiny", PAFU_PORT=port)
    told = json.loads(process.communicate(timeout=120)[0])
    found = {finding["name"]: finding for finding in told["findings"]}
    assert process.returncode == 0 and told["fine"]
    assert all(words in found["port"]["seen"] for words in ("test-tiny", "ready", str(server_process.process.pid)))
    assert "the running Pafu uses 0." in found["memory"]["seen"]
