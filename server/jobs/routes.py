"""``/v1/videos``, compatible with OpenAI's client; our additional fields are optional in requests and replies.

Requests are JSON or forms (server.jobs.request). Deleting a running video also stops its work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel

from model.spec import SPECS
from model.words.vocabularies import warnings
from server.access.limits import caller_of
from server.errors import PafuError
from server.jobs import conditional
from server.jobs.files import READ_SIZE
from server.jobs.job import Job, Order
from server.jobs.request import ExtendRequest, RemixRequest, VideoRequest, read_fields
from server.jobs.video_service import Sender, VideoService
from server.states import JobState
from server.telemetry.traces import context_of

MEDIA_TYPES = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg", "loop": "image/webp"}
SUFFIXES = {"video": "mp4", "thumbnail": "webp", "spritesheet": "jpg", "loop": "webp"}
FASTEST_POLL, SLOWEST_POLL = 0.25, 5.0  # seconds
POLLS_PER_VIDEO = 10
DISCONNECT_SECONDS = 0.25
MAX_KEY = 255


Status = Literal["queued", "in_progress", "completed", "failed"]
STATUSES: dict[JobState, Status] = {
    JobState.QUEUED: "queued",
    JobState.RUNNING: "in_progress",
    JobState.COMPLETED: "completed",
    JobState.FAILED: "failed",
}


class VideoError(BaseModel):
    """Why a video failed; ``code`` is one of server.errors."""

    code: str
    message: str


class Video(BaseModel):
    """OpenAI's video object, with additional fields after it."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Status
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    error: VideoError | None
    prompt: str
    remixed_from_video_id: str | None
    seconds: str
    size: str
    seed: int
    fps: int
    width: int
    height: int
    num_frames: int
    media_type: str
    inference_time_s: float
    warnings: list[str]  # about words not in the picture, and extensions of another model's video
    extra_params: dict[str, Any]


class VideoList(BaseModel):
    """One page of the caller's videos."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class VideoDeleted(BaseModel):
    """The reply to a deletion."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


def video_object(job: Job) -> Video:
    """The job as callers see it. It counts as queued until a worker has room for it."""
    order, done = job.order, job.state is JobState.COMPLETED
    waiting = job.state is JobState.RUNNING and job.started_at is None
    cache = {name: getattr(order.cache, name) for name in order.cache.__struct_fields__}
    return Video(
        id=job.id,
        model=order.model,
        status=STATUSES[JobState.QUEUED if waiting else job.state],
        progress=100 if done else min(99, progress(job)),
        created_at=int(job.created_at),
        completed_at=int(job.finished_at) if done and job.finished_at else None,
        expires_at=int(job.expires_at) if job.expires_at else None,
        error=VideoError(code=job.error_code, message=job.error_message or "") if job.error_code else None,
        prompt=order.prompt,
        remixed_from_video_id=job.remixed_from,
        seconds=f"{order.seconds:g}",
        size=f"{order.width}x{order.height}",
        seed=order.seed,
        fps=order.fps,
        width=order.width,
        height=order.height,
        num_frames=order.pictures,
        media_type=MEDIA_TYPES["video"],
        inference_time_s=round(job.work_seconds, 3),
        warnings=warnings_of(order),
        extra_params={"cache": cache},
    )


def warnings_of(order: Order) -> list[str]:
    """Warnings about the prompt, and about an extension of another model's video."""
    spec = SPECS.get(order.model)
    return [*(warnings(order.prompt, spec) if spec else []), *([order.carried.said] if order.carried else [])]


def progress(job: Job) -> int:
    """Percentage of finished chunks, not counting those that an extension copies from its source.

    0 if this version does not know the job's model.
    """
    from server.jobs.chunks import chunks_of

    spec = SPECS.get(job.order.model)
    given = job.order.given_chunks
    return int(100 * (job.chunks - given) / max(1, chunks_of(job.order, spec) - given)) if spec else 0


def reply(job: Job, status: int = 200) -> JSONResponse:
    """The video object; for an unfinished job also the poll interval."""
    headers = {}
    if job.state in (JobState.QUEUED, JobState.RUNNING):
        wait = min(max(job.order.seconds / POLLS_PER_VIDEO, FASTEST_POLL), SLOWEST_POLL)
        headers = {"openai-poll-after-ms": str(round(1000 * wait))}
    return JSONResponse(video_object(job).model_dump(), status, headers)


def idempotency_key(request: Request) -> str | None:
    """The Idempotency-Key header, if any. Raises PafuError for an invalid one."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= MAX_KEY:
        reason = f"the idempotency key has {len(key)} characters; allowed: 1 to {MAX_KEY}"
        raise PafuError("invalid_message", reason, "Idempotency-Key")
    return key


def sender_of(request: Request) -> Sender:
    """The caller with the request's idempotency key, request id and trace. Raises PafuError."""
    return Sender(caller_of(request), idempotency_key(request), request.state.request_id, context_of(request.headers))


def body_of(kind: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI description of a request body: the same fields as JSON and as a form."""
    schema = kind.model_json_schema()
    schema = inlined(schema, schema.pop("$defs", {}))  # OpenAPI has no $defs here
    content = {kind: {"schema": schema} for kind in ("application/json", "multipart/form-data")}
    return {"requestBody": {"required": True, "content": content}}


def inlined(schema: Any, parts: dict[str, Any]) -> Any:
    """The schema with its references resolved."""
    if isinstance(schema, list):
        return [inlined(each, parts) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return inlined(parts[schema["$ref"].rpartition("/")[2]], parts)
    return {name: inlined(each, parts) for name, each in schema.items()}


BYTES = {"schema": {"type": "string", "format": "binary"}}
VIDEO_BYTES: dict[int | str, dict[str, Any]] = {200: {"description": "The video.", "content": {"video/mp4": BYTES}}}
RESULT_BYTES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file.", "content": dict.fromkeys(MEDIA_TYPES.values(), BYTES)},
    206: {"description": "The requested range.", "content": dict.fromkeys(MEDIA_TYPES.values(), BYTES)},
}


def routes(videos: VideoService) -> APIRouter:
    """The router for ``videos``."""
    router = APIRouter(prefix="/v1/videos", tags=["videos"])
    _add_orders(router, videos)
    _add_not_offered(router)
    _add_videos(router, videos)
    return router


def _add_orders(router: APIRouter, videos: VideoService) -> None:
    @router.post("", response_model=Video, openapi_extra=body_of(VideoRequest))
    async def create(request: Request) -> Response:
        """Create a video job."""
        return reply(await videos.create(await read_fields(request), sender_of(request)))

    @router.post("/sync", response_class=Response, responses=VIDEO_BYTES, openapi_extra=body_of(VideoRequest))
    async def create_sync(request: Request) -> Response:
        """Create a video and wait for its bytes.

        Disconnecting deletes the video, unless an idempotency key was sent.
        """
        sender = sender_of(request)
        caller, key = sender.caller, sender.key
        job = await videos.create(await read_fields(request), sender)
        waiting = asyncio.create_task(videos.over(job.id, caller))
        try:
            while not waiting.done():
                await asyncio.wait((waiting,), timeout=DISCONNECT_SECONDS)
                if await request.is_disconnected():
                    if key is None:
                        await videos.delete(job.id, caller)
                    return Response(status_code=499)
        finally:
            waiting.cancel()
        await videos.content(job.id, "video", caller)  # raises if the job failed
        return await download(videos, request, job.id, "video")

    @router.post("/extensions", response_model=Video, openapi_extra=body_of(ExtendRequest))
    async def extend(request: Request) -> Response:
        """Extend a completed video."""
        return reply(await videos.extend(await read_fields(request), sender_of(request)))

    @router.post("/{video_id}/remix", response_model=Video, openapi_extra=body_of(RemixRequest))
    async def remix(request: Request, video_id: str) -> Response:
        """Generate the video again with another prompt."""
        return reply(await videos.remix(video_id, await read_fields(request), sender_of(request)))


def _add_not_offered(router: APIRouter) -> None:
    """Refuse OpenAI's endpoints that no model here supports."""

    def refuse(what: str) -> Callable[[], Awaitable[None]]:
        async def refused() -> None:
            raise PafuError("unsupported", f"{what} are not offered; remix and extensions are")

        return refused

    for path, what in (("/edits", "edits of a video"), ("/characters", "characters")):
        router.add_api_route(path, refuse(what), methods=["POST"], include_in_schema=False)
    router.add_api_route("/characters/{name}", refuse("characters"), methods=["GET"], include_in_schema=False)


def _add_videos(router: APIRouter, videos: VideoService) -> None:
    @router.get("")
    async def page(
        request: Request,
        after: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        """List the caller's videos."""
        jobs, more = await videos.page(caller_of(request), after, limit, order == "desc")
        ids = [job.id for job in jobs]
        first, last = (ids[0], ids[-1]) if ids else (None, None)
        return VideoList(data=[video_object(job) for job in jobs], first_id=first, last_id=last, has_more=more)

    @router.get("/{video_id}", response_model=Video)
    async def retrieve(request: Request, video_id: str) -> Response:
        """Get a video's status."""
        return reply(await videos.get(video_id, caller_of(request)))

    @router.delete("/{video_id}")
    async def delete(request: Request, video_id: str) -> VideoDeleted:
        """Delete a video; if it is still running, the work stops at once."""
        await videos.delete(video_id, caller_of(request))
        return VideoDeleted(id=video_id)

    @router.head("/{video_id}/content", include_in_schema=False)  # used by players and download tools
    @router.get("/{video_id}/content", response_class=Response, responses=RESULT_BYTES)
    async def content(
        request: Request, video_id: str, variant: Literal["video", "thumbnail", "spritesheet", "loop"] = "video"
    ) -> Response:
        """Download a completed video, its thumbnail, sprite sheet or short loop; supports ranges."""
        return await download(videos, request, video_id, variant)


async def download(videos: VideoService, request: Request, video_id: str, variant: str) -> Response:
    """A result file, or the requested range of it."""
    name, size = await videos.content(video_id, variant, caller_of(request))
    job = await videos.get(video_id, caller_of(request))
    etag, changed = f'"{video_id}-{variant}"', formatdate(job.finished_at, usegmt=True)
    headers = {
        "accept-ranges": "bytes",
        "etag": etag,
        "last-modified": changed,
        "content-disposition": f'inline; filename="{video_id}.{SUFFIXES[variant]}"',
        "x-pafu-video-id": video_id,
    }
    if conditional.is_another(request.headers, etag, changed):
        raise HTTPException(412, "the file is not the one that If-Match or If-Unmodified-Since names")
    if conditional.is_known(request.headers, etag, changed):
        return Response(None, 304, headers)
    if request.method == "HEAD":  # ranges apply to GET only
        return Response(None, 200, {**headers, "content-length": str(size)}, MEDIA_TYPES[variant])
    asked = conditional.wanted_range(request.headers, etag, changed, size)
    if asked == ():
        raise HTTPException(416, f"the file has {size} bytes, none in this range", {"content-range": f"bytes */{size}"})
    start, stop = asked or (0, size)
    headers["content-length"] = str(stop - start)
    if asked:
        headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
    status = 206 if asked else 200
    return StreamingResponse(pieces(videos, name, start, stop), status, headers, MEDIA_TYPES[variant])


async def pieces(videos: VideoService, name: str, start: int, stop: int) -> AsyncIterator[bytes]:
    """Yield bytes ``start`` to ``stop`` of a result file."""
    for place in range(start, stop, READ_SIZE):
        yield await videos.piece(name, place, min(stop, place + READ_SIZE))
