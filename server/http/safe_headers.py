"""Security headers of every reply: no foreign page frames it, no browser guesses its type or sends on its address."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.config import Settings

REPLIES = ("http.response.start", "websocket.http.response.start")
ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cross-origin-opener-policy": "same-origin",
}
# A video or picture opened in a tab is a page that the browser makes around it, with a style of its own.
NO_PAGE = {
    "default-src": "'none'",
    "img-src": "'self'",
    "media-src": "'self'",
    "style-src": "'unsafe-inline'",
}
PAGE = {
    "default-src": "'self'",
    "img-src": "'self' blob: data:",
    "media-src": "'self' blob:",
    "style-src": "'self' 'unsafe-inline'",
    "object-src": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
}


def policy(parts: dict[str, str], *framed_by: str) -> str:
    """The Content-Security-Policy with these parts; frames in pages of ``framed_by`` alone."""
    return "; ".join(f"{name} {value}" for name, value in {**parts, "frame-ancestors": " ".join(framed_by)}.items())


def page_policy(settings: Settings) -> str:
    """The policy of the page, which loads its own files and this server's answers alone."""
    return policy(PAGE, "'self'", *settings.allowed_origins)


BARE = {**ALWAYS, "content-security-policy": policy(NO_PAGE, "'none'")}  # of replies to what is no HTTP


class SafeHeaders:
    """The outermost middleware: adds the headers that a reply does not have itself."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...] = ()) -> None:
        self._app = app
        named = {**ALWAYS, "content-security-policy": policy(NO_PAGE, "'self'", *origins)}
        self._headers = [(name.encode(), value.encode()) for name, value in named.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safe(message: Message) -> None:
            if message["type"] in REPLIES:
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                message = {**message, "headers": [*given, *(each for each in self._headers if each[0] not in names)]}
            await send(message)

        await self._app(scope, receive, send_safe)
