"""Real processes for tests: servers that are waited for and always ended, by their own ids, and never the user's."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

__all__ = [
    "children",
    "command_of",
    "descendants",
    "finished",
    "free_port",
    "is_listening",
    "parent",
    "server",
    "wait_until",
]


def free_port() -> int:
    """Return a port of the loopback interface that is free now."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def is_listening(port: int) -> bool:
    """Return whether something accepts connections there."""
    with socket.socket() as opened:
        opened.settimeout(1)
        return opened.connect_ex(("127.0.0.1", port)) == 0


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 180, log: Path | None = None) -> None:
    """Wait until something is so, or fail with the end of a log."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-3000:] if log is not None and log.exists() else ""
            raise AssertionError(f"{what}: not within {seconds:.0f} s\n{tail}")
        time.sleep(0.2)


@contextlib.contextmanager
def server(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in a session of its own, its output in a log; at the end, end it and all that it started."""
    file: IO[bytes]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        started = [process.pid, *descendants(process.pid)]
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        for pid in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def finished(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a Python process to its end; one that hangs is ended and fails with what it said and where each thread stood."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**env, "PYTHONFAULTHANDLER": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        out, err = process.communicate(timeout=30)
        raise AssertionError(f"not finished within {seconds:.0f} s\n{out[-2000:]}\n{err[-12000:]}") from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def parent(pid: int) -> int:
    """Return a process's parent, 0 if it is gone."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def children(pid: int) -> list[int]:
    """Return the processes that a process started and that still run."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [child for child in pids if parent(child) == pid]


def descendants(pid: int) -> list[int]:
    """Return all processes below one."""
    return [below for child in children(pid) for below in (child, *descendants(child))]


def command_of(pid: int) -> str:
    """Return a process's command line, "" if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
