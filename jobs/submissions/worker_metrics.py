"""What a scraper is told by a worker, on a port of its own: what it is at, what became of it, crashes and take-overs.

GET /metrics   GET /ready
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from jobs.submissions.scorer_pool import ScorerPool
from jobs.submissions.takeover import SignsOfLife
from jobs.submissions.work import Work

__all__ = ["WorkerMetrics"]


class WorkerMetrics:
    """The metrics of one worker; a context manager that serves them meanwhile.

    Args:
        port: where, on the loopback interface; 0 = any free one; None = nowhere.
        work, pool, signs: what is asked.
    """

    def __init__(self, port: int | None, work: Work, pool: ScorerPool, signs: SignsOfLife) -> None:
        registry = self._registry = CollectorRegistry()
        self._runs = Counter(
            "onescore_async_runs", "Submissions brought to their end, or found there.", registry=registry
        )
        self._seconds = Histogram(
            "onescore_async_run_seconds", "From taking one to its end.", registry=registry
        )
        for name, meaning, value in (
            ("running", "Submissions under way.", lambda: len(work.running())),
            ("scorers_replaced", "Processes that crashed or hung while they scored.", lambda: pool.replaced),
            ("taken_over", "Submissions of dead workers that were queued again.", lambda: signs.taken_over),
        ):
            Gauge(f"onescore_async_{name}", meaning, registry=registry).set_function(value)
        self._server = None if port is None else ThreadingHTTPServer(("127.0.0.1", port), _handler(registry))
        self.port = None if self._server is None else int(self._server.server_address[1])

    def __enter__(self) -> WorkerMetrics:
        if self._server is not None:
            threading.Thread(target=self._server.serve_forever, daemon=True, name="worker-metrics").start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def counted(self, work: Work) -> Callable[[str], None]:
        """Return `work.run`, counted."""

        def run(id_: str) -> None:
            started = time.perf_counter()
            work.run(id_)
            self._runs.inc()
            self._seconds.observe(time.perf_counter() - started)

        return run


def _handler(registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = {"/metrics": generate_latest(registry), "/ready": json.dumps({"ready": True}).encode()}
            body = found.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.send_header("content-length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: Any) -> None:
            return

    return Handler
