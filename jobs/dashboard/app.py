"""The dashboard as an ASGI application, for a server of its own or below a path of another one.

    GET /            the page
        /static/...  its files
        /data        ?model=&window= : a snapshot as JSON
        /events      ?model=&window= : a snapshot now and whenever something changed, as server-sent events

The page and its files hold nothing and need no key; figures do. This module computes none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import hmac
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from feature_pipelines.errors import ContractError
from jobs.dashboard.assets import Assets
from jobs.dashboard.browser import Protected
from jobs.dashboard.live import Live
from jobs.dashboard.windows import WINDOWS

__all__ = ["Access", "Guard", "by_key", "dashboard_app"]

_FILES = (
    "index.html",
    "dashboard.js",
    "charts.js",
    "panels.js",
    "page.js",
    "stream.js",
    "dashboard.css",
    "theme.css",
    "icon.svg",
)
_DEFAULT_SECONDS = 900
_MOST_STREAMS = 64
_MOST_OF_ONE = 16
_BEAT_SECONDS = 10
_RETRY_MS = 2_000


class Access(enum.Enum):
    """What a caller may see: nothing, figures without any single answer, or all of it."""

    NONE = "none"
    FIGURES = "figures"
    ALL = "all"


Guard = Callable[[Request], Access]
"""Says what a caller may see now, or raises ContractError with the evidence `status` and `code`. A stream asks it again and again, with one
request, which counts once where requests are counted."""


def by_key(key: str | None) -> Guard:
    """Return a guard that lets in who sends the key as `Authorization: Bearer` or `X-API-Key`; without a key, everybody.

    Args:
        key: None only where the loopback interface alone is served.
    """

    def guard(request: Request) -> Access:
        if key is None:
            return Access.ALL
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        return Access.ALL if hmac.compare_digest(given.encode(), key.encode()) else Access.NONE

    return guard


def dashboard_app(live: Live, guard: Guard, *, loopback_only: bool = False, home: str | None = None) -> Any:
    """Return the application; who mounts it starts and closes `live`.

    Args:
        live: what it shows.
        guard: says what a caller may see.
        loopback_only: see `Protected`.
        home: path of the page of submissions, which the page then links to; None = there is none.
    """
    assets = Assets(dict.fromkeys(_FILES, "jobs.dashboard"))
    streams: Counter[tuple[str, ...]] = Counter()  # by who has them open

    async def page(request: Request) -> Response:
        return assets.answer(request, "index.html")

    async def static(request: Request) -> Response:
        return assets.answer(request, request.path_params["name"])

    async def links(_: Request) -> Response:
        return JSONResponse({"home": home})

    async def data(request: Request) -> Response:
        found = _asked(request, guard)
        if isinstance(found, Response):
            return found
        _, body = await asyncio.to_thread(live.snapshot, **found)
        return Response(body, media_type="application/json", headers={"cache-control": "no-store"})

    async def events(request: Request) -> Response:
        found = _asked(request, guard)
        if isinstance(found, Response):
            return found
        caller = _who(request)
        if streams.total() >= _MOST_STREAMS or streams[caller] >= _MOST_OF_ONE:
            return _refused(503, "OVERLOADED", "too many dashboards are open", {"retry-after": "10"})

        async def stream() -> AsyncIterator[bytes]:
            streams[caller] += 1
            try:
                async for message in _messages(live, found, lambda: _may_go_on(request, guard)):
                    yield message
            finally:
                streams[caller] -= 1
                if not streams[caller]:
                    del streams[caller]

        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    routes = [
        Route("/", page),
        Route("/static/{name}", static),
        Route("/links", links),
        Route("/data", data),
        Route("/events", events),
    ]
    return Protected(Starlette(routes=routes), loopback_only=loopback_only)


async def _messages(live: Live, asked: dict[str, Any], may_go_on: Callable[[], bool]) -> AsyncIterator[bytes]:
    """Yield a snapshot now, and whenever it is another one; a comment where nothing happens, so that a dead connection shows.

    `may_go_on` is asked every second and before each message; the first time that it says no is the end.
    """
    yield b"retry: %d\n\n" % _RETRY_MS
    last = None
    with live.watched() as changed:
        while not live.is_closed:
            changed.clear()
            state, body = await asyncio.to_thread(live.snapshot, **asked)
            if state != last:
                last = state
                yield b"id: %d-%d\nevent: snapshot\ndata: %b\n\n" % (*state, body)
            else:
                yield b": nothing new\n\n"
            for _ in range(_BEAT_SECONDS):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await changed.wait()
                if not may_go_on():
                    return
                if changed.is_set():
                    break


def _who(request: Request) -> tuple[str, ...]:
    """Return by what the streams of one caller are counted together: the peer's address and the key that it shows."""
    peer = "" if request.client is None else request.client.host
    return peer, *(request.headers.get(name, "") for name in ("authorization", "x-api-key"))


def _may_go_on(request: Request, guard: Guard) -> bool:
    """Return whether a stream's caller is still let in."""
    try:
        return guard(request) is not Access.NONE
    except ContractError:
        return False


def _asked(request: Request, guard: Guard) -> dict[str, Any] | Response:
    """Return which snapshot is asked for, or why there is none."""
    try:
        access = guard(request)
    except ContractError as refused:  # of a server that has more reasons, such as too many requests
        evidence = refused.evidence
        headers = {"retry-after": str(evidence["retry_after"])} if "retry_after" in evidence else {}
        return _refused(
            int(evidence.get("status", 403)), str(evidence.get("code", "REFUSED")), str(refused), headers
        )
    if access is Access.NONE:
        return _refused(401, "UNAUTHENTICATED", "send a key", {"www-authenticate": "Bearer"})
    unknown = set(request.query_params) - {"model", "window"}
    window = request.query_params.get("window", str(_DEFAULT_SECONDS))
    if unknown or window not in map(str, WINDOWS):
        windows = ", ".join(map(str, WINDOWS))
        return _refused(422, "BAD_PARAMS", f"the query may have model, and window: one of {windows}")
    return {
        "model": request.query_params.get("model") or None,
        "seconds": int(window),
        "with_answers": access is Access.ALL,
    }


def _refused(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps({"error": {"code": code, "message": message}})
    return Response(body, status, headers, "application/json")
