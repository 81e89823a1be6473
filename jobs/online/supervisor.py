"""Starts the workers of one server on one socket, replaces those that die, and ends them in good order.

    SIGTERM, SIGINT   every worker finishes what it has begun; exit code 0
    SIGHUP            the model is looked up anew: workers with it start, and when all of them answer, the old ones end

A worker that refuses the model or a setting (exit code 2 or 3) before any has ever answered ends the server with that code.
This process never touches a request. It knows nothing of models beyond what a worker is to be told.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from feature_pipelines.errors import ConfigurationError, OnescoreError
from jobs.online.json_logs import event
from jobs.online.worker import WorkerSpec

__all__ = ["Supervisor", "listen"]

_BACKLOG = 2048
_LONGEST_PAUSE_SECONDS = 30.0
_MARGIN_SECONDS = 3.0
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def listen(host: str, port: int, section: str) -> socket.socket:
    """Return a socket that listens; port 0 is any free one.

    Args:
        host, port: where.
        section: of the configuration, whose keys `host` and `port` say so.

    Raises:
        ConfigurationError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as exc:
        listening.close()
        raise ConfigurationError(
            f"{section}.host {host}, {section}.port {port}: {exc.strerror}", host=host, port=port
        ) from exc
    return listening


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    ready: int
    is_ready: bool = False
    is_leaving: bool = False


class Supervisor:
    """Runs one server.

    Args:
        prepare: resolves the model and returns what workers are told; called again by SIGHUP. Its `socket_fd` and `ready_fd` are
            filled in here.
        listening: the socket; closed at the end.
        n_workers: how many processes answer.
    """

    def __init__(self, prepare: Callable[[], WorkerSpec], listening: socket.socket, n_workers: int) -> None:
        self._prepare, self._listening, self._n = prepare, listening, n_workers
        self._workers: list[_Worker] = []
        self._signals: set[int] = set()
        self._has_answered = False
        self._pause, self._not_before = 0.5, 0.0

    def run(self) -> int:
        """Serve until told to end; return the exit code."""
        spec = self._prepare()
        with tempfile.TemporaryDirectory(prefix="onescore-metrics-") as metrics, self._signalled() as wakeup:
            self._metrics = metrics
            try:
                return self._supervise(spec, wakeup)
            finally:
                self._listening.close()
                self._end(self._workers, spec.shutdown_seconds + _MARGIN_SECONDS)

    def _supervise(self, spec: WorkerSpec, wakeup: int) -> int:
        event("server_starting", address=self._listening.getsockname()[:2], workers=self._n)
        while True:
            for _ in range(self._n - sum(not worker.is_leaving for worker in self._workers)):
                if time.monotonic() >= self._not_before:
                    self._workers.append(self._start(spec))
            readable, _, _ = select.select([wakeup, *self._awaited()], [], [], 0.2)
            if wakeup in readable:
                os.read(wakeup, 64)
            if self._signals & {signal.SIGTERM, signal.SIGINT}:
                event("server_ending")
                return 0
            self._note_ready(readable)
            code = self._reap()
            if code:
                return code
            if signal.SIGHUP in self._signals:
                self._signals.discard(signal.SIGHUP)
                spec = self._reload(spec)

    def _awaited(self) -> list[int]:
        return [worker.ready for worker in self._workers if worker.ready >= 0]

    def _note_ready(self, readable: list[int]) -> None:
        for worker in self._workers:
            if worker.ready in readable:
                worker.is_ready = os.read(worker.ready, 1) == b"1"
                os.close(worker.ready)
                worker.ready = -1
                if worker.is_ready:
                    self._has_answered, self._pause = True, 0.5
        answering = [w for w in self._workers if w.is_ready and not w.is_leaving]
        if len(answering) >= self._n:
            for old in self._workers:
                if old.is_leaving and old.process.poll() is None:
                    old.process.terminate()

    def _reap(self) -> int:
        """Forget workers that ended; return an exit code if the server must end with it, else 0."""
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._forget(worker)
            code = worker.process.returncode
            if worker.is_leaving:
                continue
            event("worker_died", worker=worker.process.pid, code=code)
            if code in (2, 3) and not self._has_answered:
                return code
            if not worker.is_ready:  # it never answered: do not start the next at once
                self._not_before = time.monotonic() + self._pause
                self._pause = min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
        return 0

    def _forget(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        if worker.ready >= 0:
            os.close(worker.ready)
        if worker.process.stdin is not None:
            with contextlib.suppress(OSError):
                worker.process.stdin.close()
        mark_process_dead(worker.process.pid, self._metrics)  # type: ignore[no-untyped-call]

    def _reload(self, spec: WorkerSpec) -> WorkerSpec:
        try:
            new = self._prepare()
        except OnescoreError as exc:
            event("reload_failed", reason=str(exc))
            return spec
        event("reloading", version=new.version, was=spec.version)
        for worker in self._workers:
            worker.is_leaving = True
        return new

    def _start(self, spec: WorkerSpec) -> _Worker:
        ready, told = os.pipe()
        descriptor = self._listening.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.online.worker"],
            env=_environment(os.environ, self._metrics),
            stdin=subprocess.PIPE,
            pass_fds=(descriptor, told),
        )
        os.close(told)
        line = dataclasses.replace(spec, socket_fd=descriptor, ready_fd=told).to_json()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(line.encode() + b"\n")
                process.stdin.flush()
        return _Worker(process, ready)

    def _end(self, workers: list[_Worker], seconds: float) -> None:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.terminate()
        deadline = time.monotonic() + seconds
        for worker in list(workers):
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                event("worker_killed", worker=worker.process.pid)
                worker.process.kill()
                worker.process.wait()
            self._forget(worker)

    @contextlib.contextmanager
    def _signalled(self) -> Iterator[int]:
        """Note signals in a set, and make a descriptor readable by each, so that waiting ends."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        before = {
            number: signal.signal(number, lambda n, _: self._signals.add(n))
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        previous = signal.set_wakeup_fd(writing)
        try:
            yield reading
        finally:
            signal.set_wakeup_fd(previous)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reading)
            os.close(writing)


def _environment(environment: Mapping[str, str], metrics: str) -> dict[str, str]:
    """Return a worker's: where metrics are shared, this very code, and one thread for libraries that would take all cores."""
    code = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [code, environment.get("PYTHONPATH", "")]))
    threads = dict.fromkeys(_ONE_THREAD, "1")
    return {**threads, **environment, "PROMETHEUS_MULTIPROC_DIR": metrics, "PYTHONPATH": path}
