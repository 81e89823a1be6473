"""The lean server as a real process with the toy model and a SQLite store, and calls to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_pipelines.stores.opening import open_store
from tests.toy.house_bundle import house_wire
from tests.toy.processes import children, free_port, server, wait_until
from tests.toy.stored_rates import write_rates
from tests.toy.workspace import CONF_DIR, rate_rows

__all__ = ["Serving", "asking", "serving", "write_store"]

JSON = {"content-type": "application/json"}


def write_store(path: Path) -> int:
    """Fill a SQLite store with the toy view's rates; return the time by which all of them are visible."""
    store = open_store(f"sqlite:///{path}", timeout_ms=10_000)
    try:
        return write_rates(store, rate_rows())
    finally:
        store.close()


def asking(n: int, as_of_ts: int) -> list[dict[str, Any]]:
    """Return n rows that send no stored field."""
    rows = house_wire(n)
    kept = [{name: v for name, v in row.items() if not name.startswith("rate_")} for row in rows]
    return [row | {"as_of_ts": as_of_ts} for row in kept]


@dataclass(frozen=True)
class Serving:
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]
    store: Path
    log: Path
    output: Path

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = JSON, seconds: float = 60
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        with contextlib.closing(connection):
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()

    def predictions(self, body: Any, path: str = "/invocations") -> list[dict[str, Any]]:
        """Return the answers to a body that is taken."""
        status, _, text = self.call("POST", path, json.dumps(body).encode())
        assert status == 200, text
        found: list[dict[str, Any]] = json.loads(text)["predictions"]
        return found

    def ready(self) -> dict[str, Any]:
        """Return what /ready says."""
        found: dict[str, Any] = json.loads(self.call("GET", "/ready")[2])
        return found

    def metrics(self) -> dict[str, float]:
        """Return every sample by its text, such as 'onescore_rows_total'."""
        text = self.call("GET", "/metrics")[2].decode()
        return {k: float(v) for k, v in re.findall(r"^(onescore_\S+(?: \S+\})?) (\S+)$", text, re.MULTILINE)}

    def events(self) -> list[dict[str, Any]]:
        """Return what it logged: every line is JSON."""
        return [json.loads(line) for line in self.output.read_text().splitlines()]

    def workers(self) -> list[int]:
        """Return its workers' processes."""
        return children(self.process.pid)


@contextlib.contextmanager
def serving(
    directory: Path,
    env: Mapping[str, str],
    *options: str,
    model: str = "houses",
    workers: int = 1,
    settings: Sequence[str] = (),
) -> Iterator[Serving]:
    """Start a server, wait until all workers answer, and end it.

    Args:
        directory: where the store, the log and the output are.
        env: the environment.
        options: of the command, such as --bundle.
        model: whose configuration it has.
        workers: processes.
        settings: key=value.
    """
    port, output = free_port(), directory / "server.log"
    store, log = directory / "online.db", directory / "prediction_log"
    command = [sys.executable, "-m", "jobs.serve_realtime", "--model", model, "--port", str(port)]
    command += ["--workers", str(workers), *options]
    for setting in (f"store.url=sqlite:///{store}", f"serve.log_directory={log}", *settings):
        command += ["--set", setting]
    env = {"ONESCORE_HOME": str(directory), "ONESCORE_CONF_DIR": str(CONF_DIR), **env}
    with server(command, env=env, cwd=directory, log=output) as process:

        def is_up() -> bool:
            return process.poll() is not None or output.read_text().count('"worker_ready"') >= workers

        wait_until(is_up, "the server", 60, output)
        assert process.poll() is None, output.read_text()[-3000:]
        yield Serving(port, process, store, log, output)
