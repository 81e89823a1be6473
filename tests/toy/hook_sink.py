"""A receiver of webhooks: a real HTTP server that remembers what it was sent and answers as it is told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["HookSink", "hook_sink"]


@dataclass
class HookSink:
    """What it was sent, and how it answers.

    Args:
        url: where it listens.
        got: of each request its headers, by lower-case name, and its body.
        statuses: of the next answers, in order; then `status`.
        headers: of each answer.
    """

    url: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def hook_sink() -> Iterator[HookSink]:
    """Start one on a free port of the loopback interface."""
    sink = HookSink()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            sink.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(sink.statuses.pop(0) if sink.statuses else sink.status)
            for name, value in sink.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sink.url = f"http://127.0.0.1:{server.server_port}/hook?a=1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
