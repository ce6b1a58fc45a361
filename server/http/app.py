"""The front: HTTP routes over one engine. Without torch it starts fast and survives device faults."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from starlette.responses import Response
from starlette.routing import Route

from model.spec import ModelSpec
from server import __version__
from server.access.gate import LIVE, Access
from server.access.limits import caller_of
from server.config import ConfigError, Settings
from server.engine.interface import Engine
from server.errors import PafuError, nearest
from server.gallery import routes as gallery_routes
from server.http import asyncapi, client_secrets, hls, openapi, status, workers
from server.http.cors_headers import Cors
from server.http.origin_check import Guard
from server.http.page import Page, page_paths
from server.http.proxies import PageSlash, Proxies
from server.http.replies import add_error_handlers, error_reply
from server.http.safe_headers import SafeHeaders
from server.http.timed import Timed
from server.http.unexpected import UnexpectedErrors
from server.jobs import routes as job_routes
from server.jobs.database import shared_journals
from server.jobs.video_service import VideoService
from server.live import session_info
from server.live.connection import ViewerConnection
from server.live.hls_output import HlsOutputs
from server.live.registry import SessionRegistry
from server.telemetry.observer import Observer

METRICS = "/metrics"
KEY_SECONDS = 1.0  # how often the keys are checked


class Front:
    """The state that routes share: settings, engine, live sessions, jobs, viewers."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        """Raises ConfigError if the keys cannot be read."""
        self.settings = settings
        self.engine = engine
        self.access = Access(settings, page_paths())
        self.spec: ModelSpec = settings.spec
        self.sessions = SessionRegistry(engine, self.spec, settings, self.access.limits, shared_journals(settings))
        self.hls = HlsOutputs(self.sessions, self.spec, self.access.keys.has_key)
        self.viewers: dict[ViewerConnection, asyncio.Task[None] | None] = {}
        self.jobs = VideoService(settings, self.spec, engine, self.access.limits)
        self.gallery = gallery_routes.GalleryService(settings, self.spec, engine)
        self.draining = False
        self.kept_sessions = self.kept_jobs = 0  # which the next server will continue; set by ``drain``

    async def live(self, websocket: WebSocket) -> None:
        """Serve one viewer's WebSocket until it closes."""
        if self.draining:
            refusal = PafuError("shutting_down", "the server is shutting down; try another or try again later")
            self.engine.observer.error(refusal.kind.code)
            return await websocket.send_denial_response(error_reply(refusal))
        caller = caller_of(websocket)
        try:
            connection = self.access.limits.acquire_connection(caller)
        except PafuError as full:
            self.engine.observer.error(full.kind.code)
            return await websocket.send_denial_response(error_reply(full))
        self.gallery.make_way()
        with connection:
            observer = self.engine.observer
            viewer = ViewerConnection(websocket, caller, self.sessions, self.spec, self.settings, observer)
            self.viewers[viewer] = asyncio.current_task()
            try:
                await viewer.run()
            finally:
                del self.viewers[viewer]

    async def watch_keys(self) -> None:
        """Close connections within KEY_SECONDS after their key is removed."""
        while self.access.keys.required:
            await asyncio.sleep(KEY_SECONDS)
            for viewer in list(self.viewers):
                if not self.access.keys.stands(viewer.caller):
                    viewer.revoke()
            self.hls.forget_owners()
            self.sessions.forget_owners(self.access.keys.has_key)

    async def drain(self) -> None:
        """Refuse new sessions and jobs, and end the running ones in bounded time."""
        self.draining = True
        await self.gallery.stop()
        within = self.settings.shutdown_timeout / 2
        await asyncio.gather(self.jobs.drain(within), self._drain_sessions(within))
        self.kept_sessions = len(self.sessions) if self.settings.keep_on_disk else 0
        self.kept_jobs = await self.jobs.unfinished()

    async def _drain_sessions(self, within: float) -> None:
        await self.sessions.drain(within)
        if running := [task for task in self.viewers.values() if task is not None]:
            await asyncio.wait(running, timeout=within)  # afterwards uvicorn closes the remaining sockets

    def readiness(self) -> tuple[status.Readiness, int]:
        """The reply of /readyz and its HTTP status."""
        said = status.readiness(self.engine.status(), self.draining)
        return said, 200 if said.status == "ready" else 503

    def health(self) -> status.Health:
        depth = self.sessions.waiting_room.depth
        return status.health(
            self.engine.status(), self.draining, waiting=depth, viewers=len(self.viewers), jobs=self.jobs.trouble
        )


def create_app(settings: Settings, engine: Engine) -> FastAPI:
    """The ASGI application. The caller starts and stops the engine (server.http.service). Raises ConfigError."""
    front = Front(settings, engine)
    replies = openapi.ERROR_REPLIES
    app = FastAPI(
        title="Pafu", version=__version__, docs_url=None, redoc_url=None, responses=replies, redirect_slashes=False
    )
    openapi.describe(app, front.access.public, front.access.keys.required)
    app.state.front = front
    app.add_middleware(Guard, settings=settings, access=front.access)
    app.add_middleware(Cors, origins=settings.allowed_origins)
    app.add_middleware(UnexpectedErrors, count=engine.observer.error)
    app.add_middleware(PageSlash)
    app.add_middleware(Timed, observer=engine.observer, access_log=settings.access_log)
    app.add_middleware(Proxies, trusted=settings.trusted_proxies, base_path=settings.base_path)
    app.add_middleware(SafeHeaders, origins=settings.allowed_origins)
    add_error_handlers(app, engine.observer.error)
    _add_status(app, front)
    _add_sessions(app, front)
    app.include_router(job_routes.routes(front.jobs))
    app.include_router(gallery_routes.routes(front.gallery))
    app.include_router(workers.routes(engine))
    app.include_router(hls.routes(front.hls))
    app.include_router(client_secrets.routes(front.access, settings.ticket_seconds))
    if settings.metrics_port is None:
        add_metrics_route(app, engine.observer)
    check_public(app, settings)
    app.router.routes.append(Page(settings))
    app.router.add_websocket_route("/{path:path}", no_socket)
    return app


def check_public(app: FastAPI, settings: Settings) -> None:
    """Raises ConfigError for an entry of ``public_paths`` that no route has."""
    routes = [route for route in app.routes if isinstance(route, Route)]
    for path in settings.public_paths:
        if path != METRICS and not any(route.path_regex.match(path) for route in routes):
            hint = nearest(path, [route.path for route in routes])
            raise ConfigError(f"{path!r} is not a path of this server; {hint}", "public_paths")


def _add_status(app: FastAPI, front: Front) -> None:
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

    @app.get("/v1/models/{name}")
    async def model(name: str) -> status.Model:
        if name != front.spec.name:
            raise PafuError(
                "unknown_model", f"there is no model {name[:64]!r}; this server has {front.spec.name!r}", "model"
            )
        return status.model(front.spec, front.settings, front.engine.status())

    @app.get("/asyncapi.json")
    async def asyncapi_document() -> dict[str, Any]:
        return asyncapi.document()


def _add_sessions(app: FastAPI, front: Front) -> None:
    @app.get("/v1/sessions")
    async def list_sessions(request: Request) -> session_info.SessionList:
        own = front.sessions.of(caller_of(request))
        return session_info.SessionList(data=[front.sessions.describe(session) for session in own])

    @app.get("/v1/sessions/{session_id}")
    async def inspect_session(request: Request, session_id: str) -> session_info.Session:
        return front.sessions.describe(await front.sessions.find(session_id, caller_of(request)))

    @app.delete("/v1/sessions/{session_id}")
    async def stop_session(request: Request, session_id: str) -> session_info.SessionDeleted:
        await (await front.sessions.find(session_id, caller_of(request))).stop()
        return session_info.SessionDeleted(id=session_id)

    @app.get(LIVE, include_in_schema=False)
    async def not_upgraded(request: Request) -> None:
        version = request.scope["http_version"]
        lacks = "no header Upgrade: websocket" if version == "1.1" else f"HTTP/{version}, which cannot upgrade"
        raise PafuError(
            "upgrade_required",
            f"{LIVE} is a WebSocket, but the request has {lacks}: use a WebSocket client, or let the proxy "
            "in front forward the header (nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
            'proxy_set_header Connection "upgrade")',
        )

    @app.websocket(LIVE)
    async def live(websocket: WebSocket) -> None:
        await front.live(websocket)


async def no_socket(websocket: WebSocket) -> None:
    """Refuse a WebSocket on an unknown path."""
    missing = PafuError("not_found", f"there is no WebSocket {websocket.url.path[:200]!r}; live video is at {LIVE}")
    await websocket.send_denial_response(error_reply(missing))


def metrics_app(observer: Observer, access_log: bool) -> FastAPI:
    """An application with only /metrics, for a separate port."""
    app = FastAPI(title="Pafu metrics", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_middleware(UnexpectedErrors, count=observer.error)
    app.add_middleware(Timed, observer=observer, access_log=access_log)
    app.add_middleware(Proxies)
    app.add_middleware(SafeHeaders)
    add_error_handlers(app, observer.error)
    add_metrics_route(app, observer)
    return app


def add_metrics_route(app: FastAPI, observer: Observer) -> None:
    """Add GET /metrics, which polls the gauge sources first."""
    text = {
        "text/plain": {"schema": {"type": "string"}},
        "application/openmetrics-text": {"schema": {"type": "string"}},
    }

    @app.get(METRICS, response_class=Response, responses={200: {"content": text}})
    async def metrics(request: Request) -> Response:
        await observer.gather()
        body, content_type = observer.scrape(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})
