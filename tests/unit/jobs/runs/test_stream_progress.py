"""How many files of a source are not read yet is told by what Spark noted; what cannot be told or written fails no committed batch."""

from __future__ import annotations

import json
import os
import socket
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from deltalake import write_deltalake
from py4j.protocol import Py4JNetworkError
from pyspark.errors import PySparkException

from feature_pipelines.errors import TableError
from jobs.runs.ids import IdSum
from jobs.runs.manifest import ChunkRecord
from jobs.runs.stream_batch import Done
from jobs.runs.stream_progress import FilesBehind, StreamProgress, last_process
from jobs.runs.stream_state import BatchRecord, StreamState, Totals
from tests.toy.processes import wait_until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_IDS = IdSum(2, 5, 6)
DONE = Done(
    BatchRecord(
        ChunkRecord(3, (), (), _IDS, _IDS, IdSum(), {}, 0, {}), "digest", "1", {}, None, None, Totals(1, 2, 2)
    ),
    0.5,
    False,
)


@pytest.fixture
def state(tmp_path):
    state = StreamState(str(tmp_path / "c"))
    (state.spark / "offsets").mkdir(parents=True)
    (state.spark / "sources" / "0").mkdir(parents=True)
    return state


def test_files_of_a_table_that_come_after_a_batch(trained_workspace, tmp_path, state):
    table = str(tmp_path / "t")
    for i in range(3):
        write_deltalake(table, trained_workspace.rows("houses").slice(i, 1), mode="append")
    behind = FilesBehind(trained_workspace.conf(f"stream.source={table}"), state)
    for batch, offset in enumerate(
        [
            {"version": 2, "index": 1, "snapshot": True},
            {"version": 3, "index": 0, "snapshot": False},
        ]
    ):
        (state.spark / "offsets" / str(batch)).write_text(f"v1\n{{}}\n{json.dumps(offset)}")
    assert [behind.after(batch) for batch in (0, 1)] == [2, 0]
    write_deltalake(table, trained_workspace.rows("houses").slice(5, 1), mode="append")
    assert behind.after(1) == 1
    assert behind.after(7) is None


def test_files_of_a_directory_that_spark_has_not_noted(trained_workspace, tmp_path, state):
    source = tmp_path / "in put"
    (source / "day=1").mkdir(parents=True)
    for name in ("a.json", "b.json", "day=1/c.json", "_hidden", ".partial"):
        (source / name).write_text("{}")
    behind = FilesBehind(trained_workspace.conf("stream.format=json", f"stream.source={source}"), state)
    assert behind.after(0) == 3
    noted = [
        {"path": f"file://{tmp_path}/in%20put/a.json"},
        {"path": f"file://{tmp_path}/in%20put/gone.json"},
    ]
    lines = "\n".join(json.dumps(line) for line in noted)
    (state.spark / "sources" / "0" / "0").write_text(f"v1\n{lines}")
    assert behind.after(0) == 2


def test_directory_is_listed_as_rarely_as_that_takes_long_and_a_log_is_read_once(
    trained_workspace, tmp_path, state, monkeypatch
):
    """A listing that takes a second is repeated after twenty; meanwhile what Spark reads is counted off it."""
    now = [0.0]
    listings = []

    def listed(place):
        listings.append(now[0])
        now[0] += 1.0
        return {f"{place}/{i}.json" for i in range(5 + len(listings))}

    monkeypatch.setattr("jobs.runs.stream_progress._listed", listed)
    conf = trained_workspace.conf("stream.format=json", f"stream.source={tmp_path}")
    behind = FilesBehind(conf, state, lambda: now[0])
    log = state.spark / "sources" / "0"

    def read(batch):
        (log / str(batch)).write_text("v1\n" + json.dumps({"path": f"file://{tmp_path}/{batch}.json"}))
        return behind.after(batch)

    assert read(0) == 5
    (log / "0").write_text("no longer a log")
    now[0] = 20.5
    assert read(1) == 4
    now[0] = 21.0
    assert read(2) == 4
    assert listings == [0.0, 21.0]


def test_source_without_files_has_none_behind(trained_workspace, state):
    assert FilesBehind(trained_workspace.conf("stream.format=rate"), state).after(0) is None


@pytest.fixture
def progress(trained_workspace, state):
    state.path.mkdir()
    query = state.begin(NOW, {}, "1")
    model = SimpleNamespace(declined=None)
    return StreamProgress(trained_workspace.conf("stream.format=rate"), state, query, model, lambda: NOW)


@pytest.mark.parametrize("error", [Py4JNetworkError("the JVM is gone"), PySparkException("no query")])
def test_spark_that_says_nothing_of_the_source_fails_no_committed_batch(progress, state, capsys, error):
    def broken():
        raise error

    progress.source = broken
    progress(DONE)
    told = json.loads((state.path / "progress").read_text())
    assert (told["rows"], told["source"]) == (2, None)
    assert f"Spark does not say how far the source is read: {type(error).__name__}" in capsys.readouterr().err


def test_disk_without_room_for_the_progress_fails_no_committed_batch(progress, state, capsys, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "write_progress", full)
    progress(DONE)
    progress.ended("complete")
    assert (progress.rows, progress.last["batch"], progress.last["state"]) == (2, 3, "complete")
    said = capsys.readouterr().err
    assert said.count("the progress could not be written") == 2
    assert "No space left on device" in said
    assert "batch 3: 2 rows" in said


LATEST = NOW - timedelta(hours=2)
KEPT = replace(DONE.record, latest_us=int(LATEST.timestamp() * 1_000_000))


class Clock:
    """A clock that a test sets, as a time and as seconds."""

    def __init__(self):
        self.passed = 0.0

    def now(self):
        return NOW + timedelta(seconds=self.passed)

    def seconds(self):
        return self.passed


@pytest.fixture
def started(trained_workspace, state):
    """Return a function that starts to tell of the query, as each process does."""
    state.path.mkdir()
    query = state.begin(NOW, {}, "1")
    conf = trained_workspace.conf("stream.format=rate")

    def start(clock):
        model = SimpleNamespace(declined=None)
        return StreamProgress(conf, state, query, model, clock.now, seconds=clock.seconds)

    return start


def test_start_with_nothing_new_keeps_the_last_batch_and_the_totals(started, state):
    clock = Clock()
    first = started(clock)
    state.write_record(KEPT)
    first(Done(KEPT, 0.5, False))
    first.ended("complete")
    before = state.progress()
    clock.passed = 3_600.0
    second = started(clock)
    second.ended("complete")
    after = state.progress()
    assert (second.batches, second.rows) == (0, 0)
    assert after["totals"]["rows"] == 2
    assert (before["lag_seconds"], after["lag_seconds"]) == (7_200.0, 10_800.0)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"started", "ended", "heartbeat", "lag_seconds"}


def test_totals_come_from_the_records_where_the_progress_is_lost(started, state):
    state.write_record(KEPT)
    (state.path / "progress").write_text("half a")
    told = started(Clock()).last
    assert (told["batch"], told["totals"]["rows"], told["seconds"]) == (3, 2, None)


def test_failed_start_keeps_the_totals_and_says_why(started, state):
    clock = Clock()
    state.write_record(KEPT)
    started(clock).ended("failed", TableError("the disk\n is full"))
    told = state.progress()
    assert (told["state"], told["error"], told["totals"]["rows"]) == ("failed", "the disk is full", 2)
    assert last_process(state) == f"failed at {NOW.isoformat()}: the disk is full"
    started(clock).beat()
    assert (state.progress()["error"], state.progress()["ended"]) == (None, None)


def test_what_others_say_of_a_failure_is_not_kept_as_it_may_hold_data(started, state):
    started(Clock()).ended("failed", ValueError("town-1"))
    assert state.progress()["error"] == "unexpected ValueError; what the job printed says more"


def test_process_that_is_idle_is_told_from_one_that_is_dead(started, state):
    clock = Clock()
    progress = started(clock)
    heard = []
    for clock.passed in (0.0, 1.0, 9.0, 10.0, 11.0, 60.0):
        progress.beat()
        heard.append((datetime.fromisoformat(state.progress()["heartbeat"]) - NOW).total_seconds())
    assert heard == [0.0, 0.0, 0.0, 10.0, 10.0, 60.0]
    told = state.progress()
    assert (told["state"], told["pid"], told["host"]) == ("running", os.getpid(), socket.gethostname())
    assert last_process(state) == (
        f"process {os.getpid()} on {socket.gethostname()}, heard of last at {clock.now().isoformat()}, did not say that it ended"
    )
    progress.ended("stopped")
    assert last_process(state) is None


def test_heart_beats_whatever_the_process_is_at(started, state, monkeypatch):
    monkeypatch.setattr("jobs.runs.stream_progress._STEP_SECONDS", 0.01)
    clock = Clock()
    progress = started(clock)
    with progress.beating():
        for clock.passed in (0.0, 10.0, 20.0):
            heard = clock.now().isoformat()
            wait_until(lambda heard=heard: state.progress()["heartbeat"] == heard, "a beat", 30)
            progress(DONE)
    assert state.progress()["batch"] == 3
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}


def test_heartbeat_that_cannot_be_written_stops_nothing(started, state, capsys, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "write_progress", full)
    started(Clock()).beat()
    assert capsys.readouterr().err == ""
