"""`mlflow models serve` as a real process, and calls to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.toy.processes import children, command_of, descendants, free_port, is_listening, server, wait_until

__all__ = ["StockServer", "mlflow_env", "stock_server"]

JSON = "application/json"


def mlflow_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which MLflow finds its programs and the model's own code, not this source tree."""
    kept = {name: value for name, value in env.items() if name != "PYTHONPATH"}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}


@dataclass(frozen=True)
class StockServer:
    """A running server: `mlflow` is the command's process, `uvicorn` the one that it started, `all` these and all below."""

    port: int
    mlflow: int
    uvicorn: int
    all: Sequence[int]

    def post(self, body: bytes, content_type: str | None = JSON) -> tuple[int, str]:
        """Return status and text of the answer to a body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(
                "POST", "/invocations", body, {"Content-Type": content_type} if content_type else {}
            )
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def predictions(self, body: Any, content_type: str = JSON) -> list[dict[str, Any]]:
        """Return the answers to a body that is taken: what to send as JSON, or bytes."""
        status, text = self.post(body if isinstance(body, bytes) else json.dumps(body).encode(), content_type)
        assert status == 200, text
        found: list[dict[str, Any]] = json.loads(text)["predictions"]
        return found

    def end(self, pid: int, number: int) -> None:
        """Send a signal to one process, and wait until all of them are gone."""
        os.kill(pid, number)
        wait_until(lambda: not is_listening(self.port), "the server to be gone", 20)
        wait_until(
            lambda: not any(command_of(one) for one in self.all if one != self.mlflow),
            "its processes to end",
            20,
        )


@contextmanager
def stock_server(
    model: Path | str, env: Mapping[str, str], directory: Path, *options: str, workers: int = 1
) -> Iterator[StockServer]:
    """Serve a model on the loopback interface as a user would, and end it.

    Args:
        model: a directory or a registry's URI.
        env: the environment; see mlflow_env.
        directory: where it runs and logs.
        options: further ones of the command.
        workers: processes that answer.
    """
    port, log = free_port(), directory / "serve.log"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "--model-uri",
        str(model),
        "--env-manager",
        "local",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers), *options]
    with server(command, env=mlflow_env(env), cwd=directory, log=log) as process:

        def is_up() -> bool:
            started = log.read_text(errors="replace").count("Application startup complete")
            return process.poll() is not None or (is_listening(port) and started >= workers)

        wait_until(is_up, "the model server", 150, log)
        assert process.poll() is None, log.read_text()[-3000:]
        (uvicorn,) = children(process.pid)
        yield StockServer(port, process.pid, uvicorn, [process.pid, *descendants(process.pid)])
