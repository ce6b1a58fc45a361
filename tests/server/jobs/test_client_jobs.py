"""Promise: the Python client creates, follows, downloads, extends and deletes videos of a real server, and takes
stills."""

from __future__ import annotations

import asyncio
import io

import pytest
from pafu_client import Jobs, PafuError, Video, connect, still
from pafu_client.sync import Jobs as BlockingJobs
from PIL import Image


@pytest.fixture
async def url(serve, tmp_path) -> str:
    server = await serve(data_dir=tmp_path)
    await server.engine.settled()
    return server.url


async def test_a_video_from_the_order_to_its_files_and_a_longer_one(url, decode, tmp_path) -> None:
    seen: list[Video] = []
    async with Jobs(url) as jobs:
        ordered = await jobs.create("a bar", num_frames=20, seed=7)
        done = await jobs.wait(ordered, on_progress=seen.append)
        assert (done.status, done.progress, done.seconds, done.seed, done.over) == ("completed", 100, 1.25, 7, True)
        assert seen[-1] == done and [video.progress for video in seen] == sorted({video.progress for video in seen})
        path = await jobs.download(done, tmp_path / "bar.mp4")
        assert decode(path.read_bytes()).shape[0] == 20 and path.read_bytes() == await jobs.content(done)
        assert Image.open(io.BytesIO(await jobs.content(done.id, "thumbnail"))).format == "WEBP"
        longer = await jobs.wait(await jobs.extend(done, "a bar, wider", seconds=0.75))
        assert longer.seconds == 2 and decode(await jobs.content(longer)).shape[0] == 32
        other = await jobs.wait(await jobs.remix(done, "another bar"))
        assert other.seed == 7 and other.prompt == "another bar"
        assert [video.id for video in await jobs.list(limit=2)] == [other.id, longer.id]
        assert [video.id for video in await jobs.list(after=ordered, oldest_first=True)] == [longer.id, other.id]
        await jobs.delete(done)
        with pytest.raises(PafuError) as gone:
            await jobs.get(done)
        assert not gone.value.retryable and done.id in gone.value.message
        with pytest.raises(PafuError):
            await jobs.download(done, tmp_path / "gone.mp4")
    assert sorted(path.name for path in tmp_path.glob("*.mp4*")) == ["bar.mp4"], "no half file is left"


async def test_the_same_without_asyncio(url, decode, tmp_path) -> None:
    def work() -> int:
        with BlockingJobs(url) as jobs:
            video = jobs.wait(jobs.create("a bar", seconds=0.5), on_progress=lambda video: None)
            path = jobs.download(video, tmp_path / "bar.mp4")
            longer = jobs.wait(jobs.extend(video, "a bar", seconds=0.5))
            assert [found.id for found in jobs.list()] == [longer.id, video.id] and jobs.get(longer) == longer
            jobs.delete(longer)
            assert len(jobs.list()) == 1
        return len(decode(path.read_bytes()))

    assert await asyncio.to_thread(work) == 8


async def test_a_refusal_names_code_and_field_and_a_typing_error_is_told_at_once(url) -> None:
    async with Jobs(url) as jobs:
        with pytest.raises(PafuError) as refused:
            await jobs.create("a bar", seconds=1, num_frames=9)
        assert (refused.value.code, refused.value.param) == ("invalid_message", "num_frames")
        with pytest.raises(TypeError, match="secnds"):
            await jobs.create("a bar", secnds=1)  # type: ignore[call-arg]
        with pytest.raises(PafuError, match="nowhere.png") as unread:
            await jobs.create("a bar", image="nowhere.png")
        assert unread.value.param == "image"


async def test_waiting_ends_with_its_time_and_leaves_the_job(url) -> None:
    async with Jobs(url) as jobs:
        video = await jobs.create("a bar", seconds=20)
        with pytest.raises(PafuError) as late:
            await jobs.wait(video, timeout=0)
        assert late.value.code == "timeout" and (await jobs.get(video)).error is None
        await jobs.delete(video)


async def test_no_server_is_said_when_patience_ends() -> None:
    async with Jobs("http://127.0.0.1:9", patience=0) as jobs:
        with pytest.raises(PafuError, match="no answer") as lost:
            await jobs.list()
    assert lost.value.retryable


async def test_a_still_is_the_picture_of_its_second(url) -> None:
    async with connect(url, prompt="a bar", seed=3, format="jpeg", num_frames=25, realtime=False) as stream:
        pictures = [picture async for chunk in stream for picture in chunk.pictures()]
    assert len(pictures) == 25 and await still(url, "a bar", seed=3, at_seconds=1.5) == pictures[24]
    async with connect(url, prompt="a bar", num_frames=1) as stream:
        with pytest.raises(PafuError, match="jpeg or h264"):
            (await stream.receive()).pictures()
