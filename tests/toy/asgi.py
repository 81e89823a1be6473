"""One request to an ASGI application in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

__all__ = ["Answer", "call"]


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


def call(
    app: Any,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    peer: str = "127.0.0.1",
    until: bytes | None = None,
    content: bytes = b"",
    version: str = "1.1",
) -> Answer:
    """Return the answer to a request; of one without end, what came until some bytes were in it."""
    given = {"host": "localhost"} | dict(headers or {})
    raw, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": version,
        "method": method,
        "scheme": "http",
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": (peer, 5000),
        "server": ("127.0.0.1", 80),
    }
    return asyncio.run(_call(app, scope, until, content))


async def _call(app: Any, scope: dict[str, Any], until: bytes | None, content: bytes) -> Answer:
    started: dict[str, Any] = {}
    body = bytearray()
    enough, asked = asyncio.Event(), False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await enough.wait()
            return {"type": "http.disconnect"}
        asked = True
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        body.extend(message.get("body", b""))
        if until is not None and until in body:
            enough.set()

    await asyncio.wait_for(app(scope, receive, send), 20)
    headers = {name.decode().lower(): value.decode() for name, value in started["headers"]}
    return Answer(started["status"], headers, bytes(body))
