"""The front: routes over one engine. Imports no torch, so it starts at once and a device fault cannot take it down."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import Match, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.spec import ModelSpec
from server import __version__
from server.access.gate import Access
from server.access.limits import caller_of
from server.config import Settings
from server.engine.interface import Engine
from server.errors import PafuError
from server.http import asyncapi, client_secrets, openapi, status
from server.http.guard import Guard
from server.http.replies import add_error_handlers, error_reply
from server.jobs import routes as job_routes
from server.jobs.video_service import VideoService
from server.live import session_info
from server.live.connection import ViewerConnection
from server.live.registry import SessionRegistry
from server.telemetry import logs
from server.telemetry.observer import Observer

KEY_SECONDS = 1.0  # how soon the removal of a key is noticed
PAGE = Path(__file__).resolve().parents[2] / "clients" / "web"
# The registry of the operating system is not to be trusted: a wrong type keeps a browser from running a module.
MIME_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}


class PageFiles(StaticFiles):
    """The web client; always revalidated (ETag), so that an upgraded server never meets an old page."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        name = "index.html" if path in (".", "") else path
        if response.status_code == 200 and (mime := MIME_TYPES.get(Path(name).suffix)):
            response.headers["content-type"] = mime
        response.headers["cache-control"] = "no-cache"
        response.headers["x-content-type-options"] = "nosniff"
        return response


class Page(Mount):
    """The page's own paths and no other: a wrong method on a route must not end up as a missing file of the page."""

    def __init__(self) -> None:
        super().__init__("/", PageFiles(directory=PAGE, html=True, check_dir=False))
        self._paths = page_paths()

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        ours = scope["type"] == "http" and scope["path"] in self._paths
        return super().matches(scope) if ours else (Match.NONE, {})


def page_paths() -> set[str]:
    """Every path under which a file of the page is served."""
    return {"/"} | {f"/{path.relative_to(PAGE).as_posix()}" for path in PAGE.rglob("*") if path.is_file()}


class Front:
    """What the routes share: settings, the engine, and the sessions that are alive."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        """Raises ConfigError when the keys cannot be read."""
        self.settings = settings
        self.engine = engine
        self.access = Access(settings, page_paths())
        self.spec: ModelSpec = settings.spec
        self.sessions = SessionRegistry(engine, self.spec, settings, self.access.limits)
        self.viewers: dict[ViewerConnection, asyncio.Task[None] | None] = {}
        self.jobs = VideoService(settings, self.spec, engine, self.access.limits)
        self.draining = False

    async def live(self, websocket: WebSocket) -> None:
        """One viewer, from accept to close."""
        if self.draining:
            refusal = PafuError("shutting_down", "the server is shutting down; try another or try again later")
            self.engine.observer.error(refusal.kind.code)
            return await websocket.send_denial_response(error_reply(refusal))
        caller = caller_of(websocket)
        try:
            connection = self.access.limits.hold_connection(caller)
        except PafuError as full:
            self.engine.observer.error(full.kind.code)
            return await websocket.send_denial_response(error_reply(full))
        with connection:
            observer = self.engine.observer
            viewer = ViewerConnection(websocket, caller, self.sessions, self.spec, self.settings, observer)
            self.viewers[viewer] = asyncio.current_task()
            try:
                await viewer.run()
            finally:
                del self.viewers[viewer]

    async def watch_keys(self) -> None:
        """What a key has opened ends with it, within KEY_SECONDS."""
        while self.access.keys.required:
            await asyncio.sleep(KEY_SECONDS)
            for viewer in list(self.viewers):
                if not self.access.keys.stands(viewer.caller):
                    viewer.revoke()
            self.sessions.forget_owners(self.access.keys.has_key)

    async def drain(self) -> None:
        """Take no more sessions or jobs and bring the running ones to their ends, in bounded time."""
        self.draining = True
        within = self.settings.shutdown_timeout / 2
        await asyncio.gather(self.jobs.drain(within), self._drain_sessions(within))

    async def _drain_sessions(self, within: float) -> None:
        await self.sessions.drain(within)
        if running := [task for task in self.viewers.values() if task is not None]:
            await asyncio.wait(running, timeout=within)  # uvicorn closes the sockets of those who do not listen

    def readiness(self) -> tuple[status.Readiness, int]:
        """What /readyz says, and its HTTP status."""
        said = status.readiness(self.engine.status(), self.draining)
        return said, 200 if said.status == "ready" else 503

    def health(self) -> status.Health:
        depth = self.sessions.waiting_room.depth
        return status.health(self.engine.status(), self.draining, waiting=depth, viewers=len(self.viewers))


def create_app(settings: Settings, engine: Engine) -> FastAPI:
    """The ASGI application; whoever runs it starts and stops the engine (server.http.service)."""
    front = Front(settings, engine)
    replies = openapi.ERROR_REPLIES
    app = FastAPI(title="Pafu", version=__version__, docs_url=None, redoc_url=None, responses=replies)
    openapi.describe(app, front.access.public)
    app.state.front = front
    app.add_middleware(Guard, settings=settings, access=front.access)
    app.add_middleware(Timed, observer=engine.observer)
    add_error_handlers(app, engine.observer.error)
    _add_routes(app, front)
    app.include_router(job_routes.routes(front.jobs))
    app.include_router(client_secrets.routes(front.access, settings.ticket_seconds))
    if settings.metrics_port is None:
        add_metrics_route(app, engine.observer)
    app.router.routes.append(Page())
    return app


def _add_routes(app: FastAPI, front: Front) -> None:
    @app.get("/health", responses=openapi.unready(status.Health))
    async def health(response: Response) -> status.Health:
        response.status_code = front.readiness()[1]
        return front.health()

    @app.get("/healthz", responses=openapi.unready(status.Alive))
    async def healthz(response: Response) -> status.Alive:
        alive = status.liveness(front.engine.status())
        response.status_code = 200 if alive.status == "ok" else 503
        return alive

    @app.get("/readyz", responses=openapi.unready(status.Readiness))
    async def readyz(response: Response) -> status.Readiness:
        said, response.status_code = front.readiness()
        return said

    @app.get("/version")
    async def version() -> status.Version:
        return status.version(front.engine.status())

    @app.get("/v1/models")
    async def models() -> status.Models:
        return status.Models(data=[status.model(front.spec, front.settings, front.engine.status())])

    @app.get("/asyncapi.json")
    async def asyncapi_document() -> dict[str, Any]:
        return asyncapi.document()

    @app.get("/v1/sessions")
    async def list_sessions(request: Request) -> session_info.SessionList:
        own = front.sessions.of(caller_of(request))
        return session_info.SessionList(data=[front.sessions.describe(session) for session in own])

    @app.get("/v1/sessions/{session_id}")
    async def inspect_session(request: Request, session_id: str) -> session_info.Session:
        return front.sessions.describe(front.sessions.find(session_id, caller_of(request)))

    @app.delete("/v1/sessions/{session_id}")
    async def stop_session(request: Request, session_id: str) -> session_info.SessionDeleted:
        await front.sessions.find(session_id, caller_of(request)).stop()
        return session_info.SessionDeleted(id=session_id)

    @app.websocket("/v1/realtime/video")
    async def live(websocket: WebSocket) -> None:
        await front.live(websocket)


class Timed:
    """Counts and times HTTP requests by route template; outermost, so that refusals are seen too."""

    def __init__(self, app: ASGIApp, observer: Observer) -> None:
        self._app = app
        self._observer = observer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return self._count_error(scope)
        began, code = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        request_id = Headers(scope=scope).get("x-request-id") or f"req_{secrets.token_hex(8)}"
        try:
            with logs.about(request_id=request_id[:128]):
                await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "") or "page"  # never the path: anybody can invent paths
            self._observer.request(route, scope["method"], code, time.perf_counter() - began)
            self._count_error(scope)

    def _count_error(self, scope: Scope) -> None:
        """What the guard refused never reached a route."""
        if code := scope.get("pafu.error"):
            self._observer.error(code)


def metrics_app(observer: Observer) -> FastAPI:
    """What answers Prometheus on a port of its own."""
    app = FastAPI(title="Pafu metrics", docs_url=None, redoc_url=None, openapi_url=None)
    add_metrics_route(app, observer)
    return app


def add_metrics_route(app: FastAPI, observer: Observer) -> None:
    text = {
        "text/plain": {"schema": {"type": "string"}},
        "application/openmetrics-text": {"schema": {"type": "string"}},
    }

    @app.get("/metrics", response_class=Response, responses={200: {"content": text}})
    async def metrics(request: Request) -> Response:
        await observer.gather()
        body, content_type = observer.scrape(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})
