"""What protects a page in a browser, and its server from other pages: headers, and who may call by a browser at all.

Nothing here uses cookies, so a page of another site cannot act with a user's key. What it could do is reach a server on the user's own
machine that asks for no key: an unsafe request from another origin is refused, and so is, where no key is needed, a request under a name
that is not the machine's own (DNS rebinding).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import orjson

__all__ = ["PAGE_HEADERS", "SAFE_METHODS", "Protected", "is_loopback_name", "is_own"]

PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
"""No script, style or connection but our own; no inline script or style; no frame around it; no markup from text."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""They change nothing, so any page may send them."""
_OWN_SITE = frozenset({"same-origin", "none"})

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Message]], Send], Awaitable[None]]


class Protected:
    """An ASGI application behind these checks; every answer gets the headers that it does not have itself.

    Args:
        app: answers what is let through.
        loopback_only: whether a request must be addressed to a name of the loopback interface: where no key is asked for.
    """

    def __init__(self, app: App, *, loopback_only: bool = False) -> None:
        self._app, self._loopback_only = app, loopback_only

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[Message]], send: Send
    ) -> None:
        """Answer one request; see the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _completed(message.get("headers", ()))
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self._loopback_only and not is_loopback_name(headers.get("host", "")):
            await _refuse(
                sent, "HOST", "this server answers under localhost alone, unless keys are configured"
            )
        elif scope["method"] not in SAFE_METHODS and not is_own(headers):
            await _refuse(sent, "CROSS_ORIGIN", "a page of another origin may not do this")
        else:
            await self._app(scope, receive, sent)


def is_loopback_name(host: str) -> bool:
    """Return whether a Host header, with or without a port, names the loopback interface.

    >>> [is_loopback_name(host) for host in ("localhost:80", "127.0.0.1", "[::1]:8080", "127.0.0.1.evil.example", "")]
    [True, True, True, False, False]
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in ("localhost", "127.0.0.1", "::1")


def is_own(headers: Mapping[str, str]) -> bool:
    """Return whether a request comes from no page, or from one of this server: browsers say so, other clients say nothing.

    Args:
        headers: of the request, by lower-case name.
    """
    if headers.get("sec-fetch-site", "none") not in _OWN_SITE:
        return False
    origin = headers.get("origin")
    try:
        return origin is None or urlsplit(origin).netloc == headers.get("host")
    except ValueError:
        return False


def _completed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    given = list(headers)
    names = {name.lower() for name, _ in given}
    return given + [(n.encode(), v.encode()) for n, v in PAGE_HEADERS.items() if n.encode() not in names]


async def _refuse(send: Send, code: str, message: str) -> None:
    body = orjson.dumps({"error": {"code": code, "message": message}})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
