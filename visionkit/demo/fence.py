"""Who may ask the demo's server, and what its page may load."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

HOST = "127.0.0.1"
HOST_NAMES = (HOST, "localhost")
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'; form-action 'self'; "
    "base-uri 'self'"
)
"""Nothing from elsewhere; Gradio's page holds its own scripts and styles inline."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class Fence:
    """ASGI middleware: pages from elsewhere get nothing and can leave nothing here, and the own page asks nobody else.

    A request under another name than this machine's is refused (a name of a stranger's that leads here would else make
    this server part of the stranger's site), and so is what a browser says another site's page has sent. Every answer
    carries `POLICY`.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key: value.decode("latin-1") for key, value in scope["headers"]}
        host = headers.get(b"host", "").rsplit(":", 1)[0]
        is_foreign = headers.get(b"sec-fetch-site") == "cross-site" and scope["method"] not in ("GET", "HEAD")
        if host not in HOST_NAMES or is_foreign:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"This page is for its own machine alone.\n"})
            return

        async def fenced(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, fenced)
