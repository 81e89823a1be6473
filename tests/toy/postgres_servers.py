"""A real PostgreSQL server for tests, on a port of its own, with a data directory of its own; never the machine's."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.toy.processes import free_port, is_listening, wait_until

__all__ = ["PostgresServer", "postgres_server"]


class PostgresServer:
    """A running server.

    Args:
        port: where it listens.
    """

    def __init__(self, port: int) -> None:
        self._port, self._n = port, 0

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://onescore@127.0.0.1:{self._port}/{database}"

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        self._n += 1
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"create database submissions_{self._n}".encode())
        return self.url(f"submissions_{self._n}")


@contextlib.contextmanager
def postgres_server(directory: Path) -> Iterator[PostgresServer]:
    """Start a server; fail, saying how to install it, where there is none.

    PostgreSQL refuses to run as root, so root starts it as the user `postgres`, in a directory that this user may enter.
    """
    binaries = _binaries()
    options: dict[str, Any] = {}
    home = Path(tempfile.mkdtemp(prefix="onescore-postgres-"))
    if os.geteuid() == 0:
        who = pwd.getpwnam("postgres")
        os.chown(home, who.pw_uid, who.pw_gid)
        options = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": home}
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(home)}
    data, port, log = home / "data", free_port(), directory / "postgres.log"
    made = [binaries / "initdb", "-D", data, "-U", "onescore", "--auth=trust", "--no-sync", "-E", "UTF8"]
    with log.open("wb") as output:
        process = None
        try:
            subprocess.run(made, env=environment, stdout=output, stderr=output, check=True, **options)
            command = [binaries / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", home]
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, **options)
            wait_until(lambda: is_listening(port), "postgres listens", seconds=30, log=log)
            yield PostgresServer(port)
        finally:
            if process is not None:
                process.send_signal(signal.SIGINT)  # clients that are still connected are sent away
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
                process.wait()
            shutil.rmtree(home, ignore_errors=True)


def _binaries() -> Path:
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if (place / "postgres").exists():
            return place
    return pytest.fail(
        "these tests need postgresql: apt-get install postgresql (or .ci/check-postgres says more)"
    )
