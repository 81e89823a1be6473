"""A connection that owes its server a request and does not send it is closed, and idle ones make room where connections are scarce.

uvicorn bounds how long a connection may be idle after an answer, but neither how long the head of a request may take, from the first
byte or without any, nor how many connections there are: without these bounds whoever connects often enough, and sends nothing, keeps all
others out. This module knows nothing of what is asked; how long a body may take is its reader's to say.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Connection"]

_HEAD_SECONDS = 20.0
_UNWANTED_SECONDS = 300.0
"""So long a body may come on that was answered before it was here; within it, each byte gives further _HEAD_SECONDS."""
_MOST, _OTHER_FILES = 8_192, 256


class Connection(HttpToolsProtocol):
    """One connection. Where there are too many, the one that has been idle for longest is closed for the next."""

    _owes: asyncio.TimerHandle | None = None
    _idle_since = 0.0
    _unwanted_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Await a request; make room."""
        super().connection_made(transport)
        self._await_more()
        if len(self.connections) > _most_connections():
            idle = [one for one in self.connections if isinstance(one, Connection) and one.is_idle]
            min(idle, key=lambda one: one._idle_since).transport.abort()

    @property
    def is_idle(self) -> bool:
        """Whether no request of it is under way, and its last answer is on its way."""
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            return False
        cycle: Any = self.cycle  # None before the first request
        return cycle is None or bool(cycle.response_complete)

    def connection_lost(self, exc: Exception | None) -> None:
        """Await nothing any more."""
        self._stop_awaiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; who still sends a body that nobody wanted reads its answer after that, and is given time while bytes come."""
        super().data_received(data)
        since = self._unwanted_since
        if since is not None and self.loop.time() < since + _UNWANTED_SECONDS:
            self._await_more()

    def on_message_begin(self) -> None:
        """Await the rest of a head."""
        super().on_message_begin()
        self._await_more()

    def on_headers_complete(self) -> None:
        """Await nothing: who answers decides how long a body may take."""
        self._stop_awaiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Await the next request, if this one was answered before its body was here."""
        super().on_message_complete()
        self._unwanted_since = None
        if self.cycle.response_complete:
            self._await_more()

    def on_response_complete(self) -> None:
        """Await the rest of a body that nobody wanted."""
        super().on_response_complete()
        self._idle_since = self.loop.time()
        if self.cycle.response_complete and self.cycle.more_body:
            self._unwanted_since = self.loop.time()
            self._await_more()

    def _await_more(self) -> None:
        self._stop_awaiting()
        if self.is_idle:
            self._idle_since = self.loop.time()
        self._owes = self.loop.call_later(_HEAD_SECONDS, self._give_up)

    def _stop_awaiting(self) -> None:
        if self._owes is not None:
            self._owes.cancel()
            self._owes = None

    def _give_up(self) -> None:
        if self.is_idle:
            self.transport.close()
        elif not self.transport.is_closing():  # one that was sent before is still being answered
            self._await_more()


def _most_connections() -> int:
    """Return how many connections may be open: so many that the process has files enough for all else."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if files == resource.RLIM_INFINITY else min(_MOST, max(files // 2, files - _OTHER_FILES))
