"""Gateways and workers of asynchronous inference as real processes, with the toy model, a store and a database of their own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.submissions.database import Database
from jobs.submissions.ledger import Ledger
from tests.toy.processes import descendants, free_port, server, wait_until
from tests.toy.workspace import CONF_DIR

__all__ = ["Async", "Running", "open_async", "said_of"]

JSON = {"content-type": "application/json"}
FINAL = ("succeeded", "failed", "cancelled")
_SECONDS = 60


@dataclass
class Running:
    """One process: a gateway, whose port is not 0, or a worker."""

    process: subprocess.Popen[bytes]
    output: Path
    port: int = 0

    def kill(self) -> None:
        """End it and all that it started, as a machine that loses power does."""
        pids = [self.process.pid, *descendants(self.process.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = JSON, seconds: float = 30
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def get(self, path: str) -> Any:
        """Return what a GET answers as JSON."""
        status, _, text = self.call("GET", path)
        assert status == 200, (status, text[:500])
        return json.loads(text)

    def submit(self, body: Any, **headers: str) -> str:
        """Return the id of a submission that is taken."""
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
        status, _, said = self.call("POST", "/submissions", text, sent)
        assert status in (200, 202), (status, said[:500])
        found: str = json.loads(said)["id"]
        return found

    def finished(self, id_: str, seconds: float = _SECONDS) -> dict[str, Any]:
        """Wait until a submission has ended; return it with all its answers."""
        found: dict[str, Any] = {}

        def is_done() -> bool:
            found.update(self.get(f"/submissions/{id_}?limit=1"))
            return found["state"] in FINAL

        deadline = time.monotonic() + seconds
        while not is_done():
            assert time.monotonic() < deadline, found
            time.sleep(0.02)
        results: list[Any] = []
        following: str | None = f"/submissions/{id_}"
        while following is not None:
            page = self.get(following)
            results += page["results"]
            following = page["next"]
        return found | {"results": results}

    def error(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = JSON
    ) -> tuple[int, str]:
        """Return status and code of a request that is refused."""
        status, _, text = self.call(method, path, body, headers)
        return status, json.loads(text)["error"]["code"]


@dataclass
class Async:
    """Where gateways and workers are started, all of one database.

    Args:
        directory: of everything.
        env: of the processes.
        flags: of the configuration and the model.
        settings: key=value for all of them.
    """

    directory: Path
    env: Mapping[str, str]
    flags: Sequence[str]
    settings: Sequence[str]
    _open: ExitStack = field(default_factory=ExitStack)
    _n: int = 0

    @property
    def database(self) -> str:
        """Where submissions are kept."""
        named = [s.partition("=")[2] for s in self.settings if s.startswith("submissions.database_url=")]
        url = named[-1]
        return self.env[url.removeprefix("env:")] if url.startswith("env:") else url

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """Open the ledger beside the gateways and workers."""
        database = Database(self.database, pool_size=2)
        try:
            yield Ledger(database, lambda: time.time_ns() // 1000)
        finally:
            database.close()

    def job(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another job of the same settings to its end."""
        command = [sys.executable, "-m", f"jobs.{name}", "--model", "houses"]
        command += [part for one in self.settings for part in ("--set", one)]
        return subprocess.run(
            [*command, *arguments],
            env=self.env,
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def gateway(self, *settings: str, env: Mapping[str, str] | None = None) -> Running:
        """Start a gateway; return it when it answers."""
        running = self.start("serve_async", *settings, "--port", str(port := free_port()), env=env)
        running.port = port
        self.await_event(running, "gateway_ready")
        return running

    def worker(self, *settings: str, env: Mapping[str, str] | None = None) -> Running:
        """Start a worker; return it when it takes work."""
        running = self.start("work_async", *settings, env=env)
        self.await_event(running, "worker_ready")
        return running

    def start(self, job: str, *options: str, env: Mapping[str, str] | None = None) -> Running:
        """Start a process; options that hold a "=" are settings."""
        self._n += 1
        output = self.directory / f"{job}-{self._n}.log"
        command = [sys.executable, "-m", f"jobs.{job}", *self.flags]
        for option in (*self.settings, *options):
            command += ["--set", option] if "=" in option else [option]
        process = self._open.enter_context(
            server(command, env={**self.env, **(env or {})}, cwd=self.directory, log=output)
        )
        return Running(process, output)

    def await_event(self, running: Running, event: str) -> None:
        """Wait until a process says that it does what it is for."""

        def is_up() -> bool:
            return running.process.poll() is not None or f'"{event}"' in running.output.read_text()

        wait_until(is_up, event, _SECONDS, running.output)
        assert running.process.poll() is None, running.output.read_text()[-3000:]

    def close(self) -> None:
        """End all that was started."""
        self._open.close()


@contextlib.contextmanager
def open_async(
    directory: Path, env: Mapping[str, str], bundle: Path, *settings: str, name: str = "houses"
) -> Iterator[Async]:
    """Make a place for gateways and workers of a model.

    Args:
        directory: of everything.
        env: of processes.
        bundle: the model's directory.
        settings: key=value.
        name: of the model.
    """
    directory.mkdir(parents=True, exist_ok=True)
    given = (
        f"model.name={name}",
        f"store.url=sqlite:///{directory}/online.db",
        f"serve.log_directory={directory}/prediction_log",
        "serve.log_flush_seconds=0.2",
        f"submissions.database_url=sqlite:///{directory}/submissions.db",
        "submissions.retry_seconds=0.1",
        *settings,
    )
    env = {"ONESCORE_HOME": str(directory), "ONESCORE_CONF_DIR": str(CONF_DIR), **env}
    opened = Async(directory, env, ("--model", "houses", "--bundle", str(bundle)), given)
    try:
        yield opened
    finally:
        opened.close()


def said_of(answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return answers as texts that are equal only where every bit is."""
    return [json.dumps(answer, sort_keys=True) for answer in answers]
