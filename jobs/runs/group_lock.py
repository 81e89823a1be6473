"""The lock of a group of runs: one process works in a place at a time, and who comes meanwhile is told what is going on.

The file `lock` is locked, and holds what its holder says of itself: process, host, since when, what it scores, the run's id. Only
the very same run is no reason to complain; another one that was silently not done would be missed by nobody until its rows are.
This module does not know what a run is, beyond the identity that it is given.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from feature_pipelines.errors import ConfigurationError, RunConflictError

__all__ = ["Busy", "differences_of", "holding"]

_PATIENCE_SECONDS = 1.0
_STEP_SECONDS = 0.05


class Busy(Exception):
    """Another process works on the very run that is asked for; `holder` says which, where, and the run's id."""

    def __init__(self, holder: Mapping[str, Any]) -> None:
        run = f"run {holder['run_id']}" if holder.get("run_id") else "the same run, which has no id yet"
        super().__init__(f"{_who(holder)} is working on it since {holder.get('since')}: {run}")
        self.holder = holder


@contextmanager
def holding(
    directory: Path,
    now: datetime,
    identity: Mapping[str, Any],
    *,
    new_run: bool = False,
    setting: str = "storage.runs",
) -> Iterator[Callable[[str], None]]:
    """Hold a group's directory and yield a function to call with the run's id, once it is known.

    The lock ends with the process, however that ends.

    Args:
        directory: the group's; made if it is not there.
        now: since when, for the others.
        identity: what makes the run's result, by name; JSON values.
        new_run: whether a run is started over, whatever there is.
        setting: the key that names the directory, for messages.

    Raises:
        Busy: another process holds it for a run of the same identity.
        RunConflictError: another process holds it for another run, or does not say for which; names both.
        ConfigurationError: the directory cannot be written, or its file system has no locks.
    """
    mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": now.isoformat()}
    mine |= {"new_run": new_run, "identity": dict(identity)}
    with _opened(directory, setting) as file:
        holder = _take(file, directory, setting)
        if holder is not None:
            _require_same_work(holder, identity, new_run)
            raise Busy(holder)
        try:
            _say(file, mine)
            yield lambda run_id: _say(file, {**mine, "run_id": run_id})
        finally:
            file.truncate(0)  # else the next holder would be taken for this one until it has said its name


def differences_of(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return, in words, each part in which a run differs from what is asked for now.

    >>> differences_of({"model": "m version 1", "input": "a"}, {"model": "m version 2", "input": "a"})
    ["model: the run has 'm version 1', now it is 'm version 2'"]
    """
    return [
        f"{name}: the run has {recorded.get(name)!r}, now it is {wanted.get(name)!r}"
        for name in sorted({*recorded, *wanted})
        if recorded.get(name) != wanted.get(name)
    ]


def _opened(directory: Path, setting: str) -> IO[str]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return (directory / "lock").open("a+")
    except OSError as exc:
        raise ConfigurationError(
            f"{setting}: {directory} cannot be written ({exc.strerror}); name a directory that this job may write",
            location=str(directory),
        ) from exc


def _take(file: IO[str], directory: Path, setting: str) -> dict[str, Any] | None:
    """Lock the file and return None, or return what its holder says of itself, {} if it says nothing in time."""
    give_up = time.monotonic() + _PATIENCE_SECONDS
    said: dict[str, Any] | None = None
    while not _locked(file, directory, setting):
        before, said = said, _said(directory / "lock")
        # What is read twice is the holder's word; read once, it may be that of the one before, who was killed.
        if said is not None and said == before:
            return said
        if time.monotonic() > give_up:
            return {}
        time.sleep(_STEP_SECONDS)
    return None


def _locked(file: IO[str], directory: Path, setting: str) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        raise ConfigurationError(
            f"{setting}: {directory} cannot be locked ({exc.strerror}), which keeps two processes from one run; name a "
            "directory on a file system with locks (local, NFS, a volume)",
            location=str(directory),
        ) from exc
    return True


def _say(file: IO[str], holder: Mapping[str, Any]) -> None:
    file.truncate(0)
    file.write(json.dumps(holder))
    file.flush()
    os.fsync(file.fileno())


def _said(lock: Path) -> dict[str, Any] | None:
    try:
        said = json.loads(lock.read_text())
    except (OSError, json.JSONDecodeError):
        return None  # it is being written, or its holder is gone
    return said if isinstance(said, dict) else None


def _who(holder: Mapping[str, Any]) -> str:
    return f"process {holder['pid']} on {holder.get('host')}" if holder.get("pid") else "another process"


def _require_same_work(holder: Mapping[str, Any], identity: Mapping[str, Any], new_run: bool) -> None:
    """Raise a RunConflictError unless the holder of the lock does all that is asked for now."""
    recorded = holder.get("identity")
    run = f"run {holder['run_id']}" if holder.get("run_id") else "a run that has no id yet"
    differences: list[str] = []
    if recorded is None:
        problem = f"{_who(holder)} is at work here and does not say on what, so this run may be another"
    else:
        differences = differences_of(recorded, identity)
        if new_run and not holder.get("new_run"):
            differences.append("--new-run: the run was not started over, now it is asked to be")
        if not differences:
            return
        problem = (
            f"{_who(holder)} is working on {run} since {holder.get('since')}, which is not the one that is asked for: "
            f"{'; '.join(differences)}"
        )
    raise RunConflictError(
        f"{problem}. Runs with the same model, source, range and output wait for each other. Nothing was scored: run this again "
        "when that one has ended",
        holder=dict(holder),
        differences=differences,
    )
