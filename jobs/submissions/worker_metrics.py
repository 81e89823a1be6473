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

from jobs.submissions.briefly import Briefly
from jobs.submissions.ledger import Ledger
from jobs.submissions.scorer_pool import ScorerPool
from jobs.submissions.scoring import Model
from jobs.submissions.takeover import SignsOfLife
from jobs.submissions.work import Work

__all__ = ["Readiness", "WorkerMetrics"]

_LOAD_SECONDS = 5.0
_READY_SECONDS = 1.0


class Readiness:
    """Whether a worker scores what comes: its database answers, and a process has the model loaded or could load it.

    Args:
        ledger, pool: what is asked.
        model: what new submissions are scored with.
        name: of it.
        queues: whence this worker takes work.
    """

    def __init__(
        self, ledger: Ledger, pool: ScorerPool, model: Model, name: str, queues: tuple[str, str]
    ) -> None:
        self._ledger, self._pool, self._model, self._name = ledger, pool, model, name
        self._queues = queues

    def __call__(self) -> tuple[bool, dict[str, Any]]:
        """Return whether it is ready, and what was found; `not_taken_here` is of this model, but of another store."""
        database: dict[str, Any]
        try:
            elsewhere = self._ledger.queued_elsewhere(self._name, self._queues)
            database = {"ok": True, "not_taken_here": elsewhere}
        except Exception as exc:  # noqa: BLE001 - whatever the driver raises
            database = {"ok": False, "raised": type(exc).__name__}
        why = self._pool.cannot_load(self._model, _LOAD_SECONDS)
        model = {"ok": why is None, "model": self._name, "version": self._model.version, "why": why}
        checks = {"database": database, "model": model}
        is_ready = all(check["ok"] for check in checks.values())
        return is_ready, {"ready": is_ready, "checks": checks}


class WorkerMetrics:
    """The metrics of one worker; a context manager that serves them meanwhile.

    Args:
        port: where, on the loopback interface; 0 = any free one; None = nowhere.
        work, pool, signs, ready: what is asked.
    """

    def __init__(
        self,
        port: int | None,
        work: Work,
        pool: ScorerPool,
        signs: SignsOfLife,
        ready: Callable[[], tuple[bool, dict[str, Any]]],
    ) -> None:
        registry = self._registry = CollectorRegistry()
        self._runs = Counter(
            "onescore_async_runs",
            "Submissions brought to their end, or found there, and such that are tried again later.",
            ("ended",),
            registry=registry,
        )
        self._seconds = Histogram(
            "onescore_async_run_seconds",
            "From taking one to its end, or to leaving it to later.",
            registry=registry,
        )
        for name, meaning, value in (
            ("running", "Submissions under way.", lambda: len(work.running())),
            ("scorers_replaced", "Processes that crashed or hung while they scored.", lambda: pool.replaced),
            ("taken_over", "Submissions of dead workers that were queued again.", lambda: signs.taken_over),
        ):
            Gauge(f"onescore_async_{name}", meaning, registry=registry).set_function(value)
        self._server = (
            None
            if port is None
            else ThreadingHTTPServer(("127.0.0.1", port), _handler(registry, Briefly(ready, _READY_SECONDS)))
        )
        self.port = None if self._server is None else int(self._server.server_address[1])

    def __enter__(self) -> WorkerMetrics:
        if self._server is not None:
            threading.Thread(target=self._server.serve_forever, daemon=True, name="worker-metrics").start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def counted(self, work: Work) -> Callable[[str], float | None]:
        """Return `work.run`, counted."""

        def run(id_: str) -> float | None:
            started = time.perf_counter()
            pause = work.run(id_)
            self._runs.labels("yes" if pause is None else "no").inc()
            self._seconds.observe(time.perf_counter() - started)
            return pause

        return run


def _handler(
    registry: CollectorRegistry, ready: Briefly[tuple[bool, dict[str, Any]]]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = 404, b""
            if self.path == "/metrics":
                status, body = 200, generate_latest(registry)
            elif self.path == "/ready":
                is_ready, found = ready()
                status, body = 200 if is_ready else 503, json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return

    return Handler
