"""uvicorn as all servers here use it: it says nothing by itself, trusts no proxy's headers, and leaves signals to whoever starts it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import uvicorn

from jobs.online.connection import Connection

__all__ = ["HttpServer", "drain", "make_server"]

_DRAIN_SECONDS = 0.5
_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 75


class HttpServer(uvicorn.Server):
    """A server that takes no signals: uvicorn would end the process by them, and the exit code would say so."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def make_server(app: Any, shutdown_seconds: float) -> HttpServer:
    """Return a server that is not started.

    Args:
        app: an ASGI application without lifespan.
        shutdown_seconds: how long requests under way may take once it is told to end; whole seconds, at least 1.
    """
    return HttpServer(
        uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(shutdown_seconds)),
        )
    )


async def drain(server: HttpServer) -> None:
    """Take no new connection, give clients a moment to leave with their next answer, and end when they have, or soon anyway.

    A client that sends its next request just when its idle connection is closed would lose it.
    """
    for listener in server.servers:
        listener.close()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _DRAIN_SECONDS
    while server.server_state.connections and loop.time() < deadline:
        await asyncio.sleep(0.02)
    server.should_exit = True
