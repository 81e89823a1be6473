"""One process that answers requests: it loads the model, and serves a socket that it is given until it is told to end.

    python -m jobs.online.worker < spec.json        started by the supervisor alone

The first line of its input is its `WorkerSpec`; when that input ends, the supervisor is gone and the worker ends too. It never
imports MLflow: the model is a directory by then.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from feature_pipelines.errors import OnescoreError
from jobs.online.app import App, Limits
from jobs.online.batching import Batcher
from jobs.online.http_server import HttpServer, drain, make_server
from jobs.online.json_logs import event, log_json
from jobs.online.metrics import Observed, ServingMetrics
from jobs.online.readiness import Readiness
from udfs.online import OnlineScorer
from udfs.serving import ServingSettings, open_scorer
from udfs.trees import warm_up

__all__ = ["WorkerSpec", "main"]

_FULL_COLLECTION_EVERY = 1_000  # of collections of the middle generation; Python's own is 10


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker needs to know; it may hold the store's password, so it travels by a pipe.

    Args:
        socket_fd: the socket that listens, inherited.
        ready_fd: where one byte is written when requests are answered, inherited.
        bundle: the model's directory.
        digest: of the model, as the registry has it; None = not checked.
        version, alias: of the model, as far as they are known.
        allow_tolerance: see `load_bundle`.
        settings: of store and log.
        max_body_bytes, max_rows, max_waiting, body_timeout_seconds: limits of requests.
        max_staleness_seconds: see `Readiness`.
        shutdown_seconds: how long requests under way may take once the worker is told to end.
    """

    socket_fd: int
    ready_fd: int
    bundle: str
    digest: str | None
    version: str | None
    alias: str | None
    allow_tolerance: bool
    settings: ServingSettings
    max_body_bytes: int
    max_rows: int
    max_waiting: int
    body_timeout_seconds: float
    max_staleness_seconds: float | None
    shutdown_seconds: float

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerSpec:
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(**{**values, "settings": ServingSettings(**values["settings"])})


def main() -> int:
    """Serve until SIGTERM; return the exit code."""
    log_json()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the supervisor answers
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    spec = WorkerSpec.from_json(sys.stdin.readline())
    if (Path(spec.bundle) / "trees.npz").exists():
        warm_up()  # one row in 5 microseconds instead of 40; before the golden rows, so that they are replayed by it
    try:
        online = open_scorer(
            Path(spec.bundle),
            spec.settings,
            _now,
            model_version=spec.version,
            expected_digest=spec.digest,
            allow_tolerance=spec.allow_tolerance,
        )
    except OnescoreError as exc:
        event("worker_refused", reason=str(exc))
        return exc.exit_code
    metrics = ServingMetrics(CollectorRegistry())
    metrics.model({**online.scorer.info, "verified": online.scorer.verified}, spec.version)
    observed: Any = Observed(metrics, online.log)  # stands in the log's place, before it
    online.log = observed
    _calm_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(spec, online, metrics))
    online.close()
    event("worker_ended")
    return 0


def _calm_collector() -> None:
    """Keep Python's collector off what never dies, and from walking, each time, all answers that wait to be logged.

    A full collection of both took 0.2 to 0.7 seconds, during which nobody was answered. Young garbage is collected as ever.
    """
    gc.collect()
    gc.freeze()
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_COLLECTION_EVERY)


def _now() -> int:
    return time.time_ns() // 1000


async def _serve(spec: WorkerSpec, online: OnlineScorer, metrics: ServingMetrics) -> None:
    loop = asyncio.get_running_loop()
    batcher = Batcher(online, max_waiting=spec.max_waiting, max_rows=spec.max_rows)
    readiness = Readiness(
        online,
        _now,
        max_staleness_seconds=spec.max_staleness_seconds,
        timeout_seconds=spec.settings.store_timeout_ms / 1000 + 1,
    )
    app = App(
        batcher,
        readiness,
        metrics,
        render=_render,
        facts=_facts(spec, online),
        limits=Limits(spec.max_body_bytes, spec.body_timeout_seconds),
    )
    listening = socket.socket(fileno=spec.socket_fd)
    server = make_server(app, spec.shutdown_seconds)
    ending: list[asyncio.Task[None]] = []

    def end() -> None:
        if not ending:
            app.is_draining = True
            event("worker_draining")
            ending.append(loop.create_task(drain(server)))

    loop.add_signal_handler(signal.SIGTERM, end)
    threading.Thread(target=_await_orphaned, daemon=True, name="supervisor-watch").start()
    telling = loop.create_task(_tell(spec, server, online, readiness, metrics))
    try:
        await server.serve(sockets=[listening])
    finally:
        telling.cancel()
        batcher.close()
        readiness.close()


def _facts(spec: WorkerSpec, online: OnlineScorer) -> dict[str, Any]:
    info = online.scorer.info
    return {
        "model": info["name"],
        "model_version": spec.version,
        "alias": spec.alias,
        "digest": info["digest"],
        "fingerprint": info["feature_fingerprint"],
        "verified": online.scorer.verified,
    }


async def _tell(
    spec: WorkerSpec, server: HttpServer, online: OnlineScorer, readiness: Readiness, metrics: ServingMetrics
) -> None:
    """Say once that requests are answered, then keep the metrics that nobody's request moves."""
    while not server.started:
        await asyncio.sleep(0.01)
    os.write(spec.ready_fd, b"1")
    os.close(spec.ready_fd)
    event("worker_ready", model=online.scorer.info["name"], version=spec.version, bundle=spec.bundle)
    observed: Any = online.log
    while True:
        await readiness.refresh()
        metrics.store(readiness.through, _now())
        metrics.count_noted()  # of clients that went away, before their answers
        if observed.log is not None:
            metrics.log(observed.log.metrics())
        await asyncio.sleep(1)


def _render() -> bytes:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _await_orphaned() -> None:
    """End this process in good order when the supervisor is gone."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
