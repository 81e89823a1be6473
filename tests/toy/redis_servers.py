"""Real Redis servers for tests, each on a port of its own, without persistence; and a cluster of one node."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from tests.toy.processes import free_port, is_listening, server, wait_until

__all__ = ["RedisServer", "redis_server"]


@dataclass(frozen=True)
class RedisServer:
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Its URL, without user and password."""
        return f"redis://127.0.0.1:{self.port}/0"

    def flush(self) -> None:
        """Remove all keys."""
        with Redis(port=self.port) as client:
            client.flushall()

    def kill(self) -> None:
        """End it as a machine that loses power does: it holds nothing when it is started again."""
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Let it accept connections and answer nothing, as a machine that swaps or hangs does."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


@contextlib.contextmanager
def redis_server(directory: Path, *arguments: str, port: int | None = None) -> Iterator[RedisServer]:
    """Start a server with further arguments, on a given port or a free one; fail, saying how to install it, where there is none."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.fail(
            "these tests need redis-server: apt-get install redis-server (or .ci/check-redis says more)"
        )
    port = port or free_port()
    log = directory / "redis.log"
    command = [
        binary,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(directory),
        *arguments,
    ]
    with server(command, env={"PATH": os.environ["PATH"]}, cwd=directory, log=log) as process:
        # the last --port counts: a test that listens with TLS alone says --port 0 --tls-port N
        where = int(arguments[arguments.index("--tls-port") + 1]) if "--tls-port" in arguments else port
        wait_until(lambda: is_listening(where), "redis-server listens", seconds=20, log=log)
        yield RedisServer(where, process)
