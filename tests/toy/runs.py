"""What tests of scoring runs share: comparing a run with a clean one, dying at a named place, and jobs as real processes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from jobs.runs.manifest import RunDirectory
from jobs.runs.tracking import connect_from
from jobs.tables.delta import orphans
from tests.toy.workspace import Workspace

__all__ = [
    "BAD_HOUSES",
    "QUARANTINE",
    "SCORED",
    "InThisProcess",
    "JobProcess",
    "Killed",
    "assert_equals_clean_run",
    "content",
    "dies_at",
    "directory_tree",
    "latest_run",
    "move_alias",
    "register_again",
    "start_job",
]

SCORED, QUARANTINE = "houses_scored", "houses_quarantine"
BAD_HOUSES = tuple(range(0, 2_000, 217))  # one in each file, three in each full chunk
_OF_THE_ATTEMPT = ("run_id", "scored_at", "quarantined_at")
_PATIENCE_SECONDS = 240


# --- runs in this process


class Killed(BaseException):
    """Stands for SIGKILL in this process; no `except Exception` catches it."""


class InThisProcess:
    """A Spark session whose tasks run one after the other in this process; all else is the real session's."""

    def __init__(self, spark: Any) -> None:
        self._spark = spark

    def __getattr__(self, name: str) -> Any:
        return getattr(self._spark, name)

    def range(self, start: int, end: int, step: int, partitions: int) -> _Frame:
        """Return the numbers, each a partition of its own."""
        return _Frame(list(range(start, end, step)))


class _Frame:
    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers
        self.task: Any = None

    def mapInArrow(self, task: Any, schema: str) -> _Frame:
        self.task = pickle.loads(pickle.dumps(task))
        return self

    def collect(self) -> list[tuple[str, bytes]]:
        batches = [pa.RecordBatch.from_pydict({"id": [number]}) for number in self.numbers]
        return [
            row
            for batch in batches
            for out in self.task(iter([batch]))
            for row in zip(out.column(0).to_pylist(), out.column(1).to_pylist(), strict=True)
        ]


@contextmanager
def dies_at(monkeypatch: Any, point: str, arrival: int = 1) -> Iterator[None]:
    """Make this process die at the so-manieth arrival at a kill point, and see that it does.

    Only for runs with `InThisProcess`; blocks are left in order, which SIGKILL would not do.
    """
    arrivals: Counter[str] = Counter()

    def reached(place: str) -> None:
        arrivals[place] += 1
        if place == point and arrivals[place] == arrival:
            raise Killed(point)

    with monkeypatch.context() as patch:
        for module in ("score_run", "score_task", "staging", "stream_batch", "stream_run", "stream_task"):
            patch.setattr(f"jobs.runs.{module}.reached", reached)
        try:
            yield
        except Killed:
            return
    raise AssertionError(f"{point} was reached {arrivals[point]} times, never the {arrival}th")


def register_again(workspace: Workspace) -> str:
    """Register the model's files as one more version, and return its number; the alias stays where it is."""
    client = connect_from(workspace.conf())
    first = client.get_model_version("houses", "1")
    with redirect_stderr(io.StringIO()):
        return str(client.create_model_version("houses", first.source, first.run_id, tags=first.tags).version)


def move_alias(workspace: Workspace, version: str) -> None:
    """Make a version the champion."""
    connect_from(workspace.conf()).set_registered_model_alias("houses", "champion", version)


# --- what is in the tables


def content(workspace: Workspace, table: str) -> Counter[str]:
    """Return a table's rows as a multiset, without what differs from run to run and from directory to directory."""
    rows = workspace.rows(table)
    kept = rows.drop_columns([name for name in _OF_THE_ATTEMPT if name in rows.schema.names])
    return Counter(repr(row).replace(str(workspace.root), "") for row in kept.to_pylist())


def assert_equals_clean_run(workspace: Workspace, clean: Workspace) -> None:
    """See that the tables hold what the clean run's hold, that the ids are those of the input, and that nothing is left over."""
    for table in (SCORED, QUARANTINE):
        ours, theirs = content(workspace, table), content(clean, table)
        assert theirs
        assert ours - theirs == Counter(), f"{table} has rows twice or rows that a clean run does not have"
        assert theirs - ours == Counter(), f"{table} lacks rows of a clean run"
    ids = [workspace.rows(table).column("row_id") for table in (SCORED, QUARANTINE)]
    wanted = workspace.rows("houses").column("house_id").cast(pa.string())
    assert sorted(pa.chunked_array([c for part in ids for c in part.chunks]).to_pylist()) == sorted(
        wanted.to_pylist()
    )
    assert not pc.any(pc.is_in(ids[0], ids[1])).as_py()
    run = latest_run(workspace)
    summary = run.completed()
    assert summary is not None
    assert (summary["rows_scored"], summary["rows_quarantined"]) == (len(ids[0]), len(ids[1]))
    for table in (SCORED, QUARANTINE):
        assert set(workspace.rows(table).column("run_id").to_pylist()) == {run.run_id}
        assert orphans(workspace.table(table), "") == []


def latest_run(workspace: Workspace) -> RunDirectory:
    """Return the newest run of the only group there is."""
    (pointer,) = (workspace.root / ".onescore" / "runs").glob("*/latest")
    return RunDirectory(pointer.parent / pointer.read_text())


def directory_tree(root: Path) -> dict[str, str]:
    """Return the digest of every file below a directory."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# --- runs as processes


class JobProcess:
    """A job started as a user would, in a process group of its own; it can be made to pause at a kill point."""

    def __init__(
        self, command: Sequence[str], env: dict[str, str], directory: Path, pause_at: str | None
    ) -> None:
        self.pause_file = directory / f"pause-{time.monotonic_ns()}"
        if pause_at is not None:
            env = {**env, "ONESCORE_PAUSE_AT": pause_at, "ONESCORE_PAUSE_FILE": str(self.pause_file)}
        self.output = directory / f"output-{time.monotonic_ns()}"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command,
                env=env,
                cwd=directory,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def __enter__(self) -> JobProcess:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.members():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)

    def paused(self) -> dict[str, Any]:
        """Wait until a process of the job pauses, and return what it says of itself."""
        _until(lambda: self._said() is not None or self.process.poll() is not None, "the job to pause")
        said = self._said()
        assert said is not None, (
            f"the job ended with {self.process.returncode} before it paused:\n{self.output.read_text()}"
        )
        assert self.process.poll() is None
        return said

    def release(self) -> None:
        """Let the paused process go on."""
        self.pause_file.write_text("")

    def jvm(self) -> int:
        """Return the pid of the driver's JVM, which in local mode is the executor as well."""
        (java,) = [pid for pid, stat in self.members().items() if stat.name == "java"]
        return java

    def members(self) -> dict[int, _Stat]:
        """Return the living processes of the job: the driver, its JVM, Python's worker daemon, the workers."""
        return {pid: stat for pid, stat in _processes() if stat.session == self.pid and stat.state != "Z"}

    def kill(self, pid: int) -> None:
        """SIGKILL a process of the job, and wait until it is gone."""
        assert pid in self.members()
        os.kill(pid, signal.SIGKILL)
        if pid == self.pid:
            assert self.process.wait(30) == -signal.SIGKILL
        _until(lambda: pid not in self.members(), f"process {pid} to die")

    def wait_until_all_are_gone(self) -> None:
        """Wait for the JVM and the workers to notice that the driver is dead."""
        _until(lambda: not self.members(), "the processes of the dead driver to end")

    def ended(self) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(_PATIENCE_SECONDS)

    def _said(self) -> dict[str, Any] | None:
        text = self.pause_file.read_text() if self.pause_file.exists() else ""
        return json.loads(text) if text.endswith("}") else None


def start_job(
    workspace: Workspace,
    env: dict[str, str],
    *arguments: str,
    job: str = "score_batch",
    pause_at: str | None = None,
    code: str | None = None,
) -> JobProcess:
    """Start `python -m jobs.score_batch --model houses`, or another job, in a workspace; `code` runs before it in the same process."""
    start = (
        ["-m", f"jobs.{job}"]
        if code is None
        else ["-c", f"{code}\nimport jobs.{job} as job, sys; sys.exit(job.run(job.main))"]
    )
    command = [sys.executable, *start, "--model", "houses", "--set", "spark.master=local[2,4]", *arguments]
    return JobProcess(command, {**env, **workspace.env()}, workspace.root, pause_at)


def _until(is_true: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while not is_true():
        assert time.monotonic() < give_up, f"waited {_PATIENCE_SECONDS} s for {what}"
        time.sleep(0.05)


class _Stat(NamedTuple):
    """What /proc/<pid>/stat says of a process; see proc(5)."""

    name: str
    state: str
    parent: int
    session: int


def _processes() -> Iterator[tuple[int, _Stat]]:
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = file.read_text().rpartition(")")
        except OSError:
            continue  # it has just ended
        fields = after.split()
        yield (
            int(file.parent.name),
            _Stat(before.partition("(")[2], fields[0], int(fields[1]), int(fields[3])),
        )
