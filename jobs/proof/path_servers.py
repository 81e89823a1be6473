"""Servers that answer: one that runs elsewhere, by its URL, and the lean one and MLflow's own, started here.

A server that is started here listens on the loopback interface, must answer within a limit, and is ended with all that it
started, whatever happens. This module knows nothing of rows and answers.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from feature_pipelines.errors import ConfigurationError, UnavailableError

__all__ = ["JSON", "Server", "async_server", "lean_server", "stock_server"]

JSON = "application/json"
_REQUEST_SECONDS = 60
_LEAN_SECONDS, _STOCK_SECONDS = 60, 180
_END_SECONDS = 15


@dataclass(frozen=True)
class Server:
    """A server that answers, by its address.

    Args:
        url: http or https, host, port, and the path below which its routes are.

    Raises:
        ConfigurationError: it is no such URL.
    """

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ConfigurationError("--url: expected http://host:port, without a user")

    def call(
        self, method: str, route: str, body: bytes | None = None, content_type: str = JSON
    ) -> tuple[int, bytes]:
        """Return status and body of one request, on a connection of its own.

        Raises:
            UnavailableError: it does not answer in time.
        """
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=_REQUEST_SECONDS)
        try:
            with contextlib.closing(connection):
                headers = {"content-type": content_type} if body is not None else {}
                connection.request(method, parts.path.rstrip("/") + route, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as exc:
            raise UnavailableError(
                f"server {self.url} does not answer: {type(exc).__name__}. Is it running?", url=self.url
            ) from exc

    def facts(self) -> dict[str, Any] | None:
        """Return what a lean server says of its model; None for MLflow's own, which says its own version alone.

        Raises:
            UnavailableError: it does not answer, or is neither.
        """
        status, text = self.call("GET", "/version")
        if status != http.HTTPStatus.OK:
            raise UnavailableError(f"server {self.url}: GET /version answered {status}", url=self.url)
        with contextlib.suppress(ValueError):
            said = json.loads(text)
            if isinstance(said, dict) and "digest" in said:
                return said
        return None


@contextlib.contextmanager
def lean_server(command: Sequence[str], environment: Mapping[str, str], directory: Path) -> Iterator[Server]:
    """Start `jobs.serve_realtime` with port 0 and wait until its worker answers.

    Args:
        command: the whole command.
        environment: of the process.
        directory: where its output goes.

    Raises:
        UnavailableError: it ended, or did not answer in time; the message has the end of its output.
    """
    log = directory / "server.log"

    def address() -> Server | None:
        starting = _event(log, "server_starting")
        is_ready = starting is not None and _event(log, "worker_ready") is not None
        return Server(f"http://127.0.0.1:{starting['address'][1]}") if starting and is_ready else None

    with _process(command, environment, log, "the lean server", _LEAN_SECONDS, address) as server:
        yield server


@contextlib.contextmanager
def async_server(
    gateway: Sequence[str], worker: Sequence[str], environment: Mapping[str, str], directory: Path
) -> Iterator[Server]:
    """Start `jobs.serve_async` with port 0 and `jobs.work_async`, and wait until both do what they are for.

    Args:
        gateway, worker: the whole commands.
        environment: of the processes.
        directory: where their output goes.

    Raises:
        UnavailableError: see lean_server.
    """
    logs = directory / "gateway.log", directory / "worker.log"

    def address() -> Server | None:
        ready = _event(logs[0], "gateway_ready")
        return Server(f"http://127.0.0.1:{ready['address'][1]}") if ready is not None else None

    with _process(gateway, environment, logs[0], "the gateway", _LEAN_SECONDS, address) as server:

        def works() -> Server | None:
            return server if _event(logs[1], "worker_ready") is not None else None

        with _process(worker, environment, logs[1], "the worker", _LEAN_SECONDS, works):
            yield server


def _event(log: Path, name: str) -> dict[str, Any] | None:
    """Return the first event of a name in a log of JSON lines; None if there is none."""
    events = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    return next((event for event in events if event.get("event") == name), None)


@contextlib.contextmanager
def stock_server(uri: str, environment: Mapping[str, str], directory: Path) -> Iterator[Server]:
    """Start `mlflow models serve` on a free port and wait until it answers.

    Args:
        uri: of the model.
        environment: of the process.
        directory: where its output goes.

    Raises:
        UnavailableError: see lean_server.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["mlflow", "models", "serve", "--model-uri", uri, "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = Server(f"http://127.0.0.1:{port}")

    def address() -> Server | None:
        with contextlib.suppress(UnavailableError):
            return server if server.call("GET", "/ping")[0] == http.HTTPStatus.OK else None
        return None

    log = directory / "server.log"
    with _process(command, environment, log, "mlflow models serve", _STOCK_SECONDS, address) as ready:
        yield ready


@contextlib.contextmanager
def _process(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    name: str,
    seconds: float,
    address: Callable[[], Server | None],
) -> Iterator[Server]:
    """Run a server in a session of its own, so that Ctrl-C reaches this process alone, which then ends it and all it started."""
    with log.open("wb") as file:
        try:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        except OSError as exc:
            raise UnavailableError(f"{name} cannot be started: {command[0]}: {exc.strerror}") from exc
    try:
        yield _await(process, log, name, seconds, address)
    finally:
        _end(process)


def _await(
    process: subprocess.Popen[bytes],
    log: Path,
    name: str,
    seconds: float,
    address: Callable[[], Server | None],
) -> Server:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        found = address()
        if found is not None:
            return found
        time.sleep(0.1)
    code = process.poll()
    what = f"did not answer within {seconds:g} s" if code is None else f"ended with exit code {code}"
    said = " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:])
    raise UnavailableError(f"{name} {what}; it said last: {said[-600:] or 'nothing'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its whole session: first asked to, then made to."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if number is signal.SIGTERM:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
    process.wait()
