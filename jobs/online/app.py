"""The server as an ASGI application: routes, limits, and an answer in JSON to whatever a client sends.

    POST /invocations    GET /ping  /health  /version  /ready  /metrics

A request that cannot be answered as a whole gets {"error": {"code", "message"}} without data or stack trace; a row that cannot be
gets its own error among the predictions. This module knows nothing of models, stores and sockets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import orjson

from feature_pipelines.errors import ContractError
from jobs.online.batching import Batcher, Overloaded
from jobs.online.metrics import ServingMetrics
from jobs.online.protocol import asks_for_features, refuse, require_json
from jobs.online.readiness import Readiness
from udfs.incidents import incident

__all__ = ["App", "Limits"]

_JSON = b"application/json"
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
_GET_ROUTES = ("/ping", "/health", "/version", "/ready", "/metrics")
_RETRY_AFTER = (b"retry-after", b"1")
_CLOSE = (b"connection", b"close")
_READ_ON = 4

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Limits(NamedTuple):
    """What a request may cost: bytes of its body, and seconds until the last of them is here."""

    max_body_bytes: int
    body_timeout_seconds: float


class _Gone(Exception):
    """The client went away before its request was whole."""


class App:
    """Answers HTTP requests.

    Args:
        batcher: scores.
        readiness: says whether requests should come here.
        metrics: counts.
        render: returns the text of /metrics; called in a thread.
        facts: the answer of /version.
        limits: of a request.
    """

    def __init__(
        self,
        batcher: Batcher,
        readiness: Readiness,
        metrics: ServingMetrics,
        *,
        render: Callable[[], bytes],
        facts: Mapping[str, Any],
        limits: Limits,
    ) -> None:
        self._batcher, self._readiness, self._metrics = batcher, readiness, metrics
        self._render, self._limits = render, limits
        self._version = orjson.dumps(facts)
        self.is_draining = False

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request; see the ASGI specification."""
        if scope["path"] == "/invocations":
            started = time.perf_counter()
            try:
                status = await self._invocations(scope, receive, send)
            except _Gone:
                return
            self._metrics.request(status, time.perf_counter() - started)
        elif scope["path"] not in _GET_ROUTES:
            await self._refuse(send, 404, "NOT_FOUND", "there is no such route")
        elif scope["method"] not in ("GET", "HEAD"):
            await self._refuse(send, 405, "METHOD_NOT_ALLOWED", "use GET", (b"allow", b"GET, HEAD"))
        else:
            await self._get(scope["path"], send)

    async def _get(self, path: str, send: Send) -> None:
        if path in ("/ping", "/health"):
            await self._send(send, 200, b"\n", _TEXT)
        elif path == "/version":
            await self._send(send, 200, self._version)
        elif path == "/metrics":
            text = await asyncio.get_running_loop().run_in_executor(None, self._render)
            await self._send(send, 200, text, _TEXT)
        else:
            found = await self._readiness.check()
            found["checks"]["accepting"] = {"ok": not self.is_draining}
            found["ready"] = found["ready"] and not self.is_draining
            await self._send(send, 200 if found["ready"] else 503, orjson.dumps(found))

    async def _invocations(self, scope: dict[str, Any], receive: Receive, send: Send) -> int:
        """Answer a request to score; return the status."""
        try:
            if scope["method"] != "POST":
                await self._refuse(send, 405, "METHOD_NOT_ALLOWED", "use POST", (b"allow", b"POST"))
                return 405
            _check_headers(scope["headers"], self._limits.max_body_bytes)
            with_features = asks_for_features(scope["query_string"])
            body = await self._body(receive)
            answer = await self._batcher.answer(body, with_features)
        except ContractError as refused:
            status = int(refused.evidence["status"])
            unread = (_CLOSE,) if status in (408, 413) else ()
            await self._refuse(send, status, refused.evidence["code"], str(refused), *unread)
            return status
        except Overloaded:
            message = "too many requests wait; try again later"
            await self._refuse(send, 503, "OVERLOADED", message, _RETRY_AFTER)
            return 503
        except (_Gone, asyncio.CancelledError):
            raise
        except Exception as exc:  # noqa: BLE001 - the outermost frame: a client gets an incident, not a stack trace
            await self._refuse(send, 500, "INTERNAL", incident(exc))
            return 500
        await self._send(send, 200, answer)
        return 200

    async def _body(self, receive: Receive) -> bytes:
        message = await receive()
        body: bytes = message.get("body", b"")
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._check_size(len(body))
            return body
        try:
            async with asyncio.timeout(self._limits.body_timeout_seconds):
                return await self._long_body(message, receive)
        except TimeoutError:
            refuse(408, "BODY_TOO_SLOW", f"no whole body in {self._limits.body_timeout_seconds:g} seconds")

    async def _long_body(self, message: dict[str, Any], receive: Receive) -> bytes:
        """Return the body; one that is too large is read on for a while, as many clients read no answer before they sent it all."""
        parts = []
        size = 0
        most = self._limits.max_body_bytes
        while message["type"] == "http.request" and size <= most * _READ_ON:
            part = message.get("body", b"")
            size += len(part)
            if size <= most:
                parts.append(part)
            if not message.get("more_body", False):
                break
            message = await receive()
        if message["type"] != "http.request":
            raise _Gone
        self._check_size(size)
        return b"".join(parts)

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_body_bytes:
            refuse(413, "BODY_TOO_LARGE", f"the body has more than {self._limits.max_body_bytes} bytes")

    async def _refuse(
        self, send: Send, status: int, code: str, message: str, *headers: tuple[bytes, bytes]
    ) -> None:
        await self._send(
            send, status, orjson.dumps({"error": {"code": code, "message": message}}), _JSON, *headers
        )

    async def _send(
        self,
        send: Send,
        status: int,
        body: bytes,
        content_type: bytes = _JSON,
        *headers: tuple[bytes, bytes],
    ) -> None:
        sent = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
        if self.is_draining and _CLOSE not in headers:
            sent.append(_CLOSE)
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": body})


def _check_headers(headers: list[tuple[bytes, bytes]], max_body_bytes: int) -> None:
    content_type, encoding = b"", b""
    for name, value in headers:
        if name == b"content-type":
            content_type = value
        elif name == b"content-encoding":
            encoding = value
        elif name == b"content-length" and int(value) > max_body_bytes * _READ_ON:
            refuse(413, "BODY_TOO_LARGE", f"the body has more than {max_body_bytes} bytes")
    require_json(content_type, encoding)
