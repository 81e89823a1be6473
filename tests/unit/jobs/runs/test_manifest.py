"""A run on disk: files whole or not at all, chunks cut the same way every time."""

from __future__ import annotations

import itertools
import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_pipelines.errors import ConfigurationError, RunConflictError
from jobs.runs import manifest as manifest_module
from jobs.runs.ids import IdSum
from jobs.runs.manifest import (
    ChunkRecord,
    RunDirectory,
    RunGroup,
    chunked,
    require_same,
    runs_directory,
    write_json,
)
from jobs.tables.sink import WrittenFile

NOW = datetime(2013, 1, 1, 12, tzinfo=UTC)
FILE = WrittenFile("run-000001-0.parquet", 10, 3, '{"numRecords":3}', {"day": None})
RECORD = ChunkRecord(
    chunk=1,
    scored=(FILE,),
    quarantined=(),
    ids_in=IdSum(3, 1, 2**64 - 1),
    ids_scored=IdSum(3, 1, 2**64 - 1),
    ids_quarantined=IdSum(),
    reasons={"OUT_OF_RANGE": 2},
    positives=1,
    seconds={"read": 0.25},
)


@pytest.fixture
def group(tmp_path):
    return RunGroup(tmp_path / "runs", "houses", {"source": "a"})


# --- chunks

COUNTS = st.lists(st.integers(1, 50), max_size=30)


@settings(deadline=None)
@given(COUNTS, st.integers(1, 120))
def test_chunks_are_consecutive_hold_every_unit_once_and_are_as_full_as_fits(rows, limit):
    chunks = chunked(rows, limit)
    assert [i for start, stop in chunks for i in range(start, stop)] == list(range(len(rows)))
    for start, stop in chunks:
        assert sum(rows[start:stop]) <= limit or stop - start == 1
    for (start, stop), (_, next_stop) in itertools.pairwise(chunks):
        assert next_stop > stop
        assert sum(rows[start : stop + 1]) > limit


def test_no_units_give_no_chunks():
    assert chunked([], 10) == []


# --- records and files


def test_record_comes_back_from_json():
    assert ChunkRecord.from_json(json.loads(json.dumps(RECORD.to_json()))) == RECORD


def test_run_directory_keeps_manifest_records_and_completion(group):
    run = group.new(NOW, {"identity": {"model": "m"}})
    assert run.manifest() == {"identity": {"model": "m"}, "run_id": run.run_id}
    assert run.record(1) is None
    assert run.completed() is None
    run.write_record(RECORD)
    run.complete({"rows_in": 3})
    again = RunDirectory(run.path)
    assert again.record(1) == RECORD
    assert again.completed() == {"rows_in": 3}
    assert again.record_path(1).name == "chunk-000001"


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "manifest"
    write_json(target, {"n": 1})

    def crash(*_paths):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_json(target, {"n": 2, "long": "x" * 10_000})
    assert json.loads(target.read_text()) == {"n": 1}


def test_a_file_is_on_disk_before_its_name_is(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("name"), replace(*paths)))
    write_json(tmp_path / "record", {})
    assert order == ["sync", "name", "sync"]


def test_two_writers_of_one_file_do_not_touch_each_others_half(tmp_path, monkeypatch):
    both = threading.Barrier(2, timeout=20)
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (both.wait(), replace(*paths)))
    target = tmp_path / "chunk-000000"
    failures = []

    def write(value):
        try:
            write_json(target, {"by": value * 1000})
        except OSError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert json.loads(target.read_text())["by"] in ("a" * 1000, "b" * 1000)
    assert [path.name for path in tmp_path.iterdir()] == ["chunk-000000"]


# --- groups


def test_latest_is_the_newest_run(group):
    assert group.latest() is None
    first = group.new(NOW, {})
    second = group.new(NOW, {})
    assert first.run_id != second.run_id
    assert first.run_id.startswith("20130101T120000Z-")
    assert group.latest().run_id == second.run_id


@pytest.mark.parametrize("file", ["manifest", "latest"])
def test_a_run_that_was_not_created_to_the_end_is_no_run(group, monkeypatch, file):
    kept = group.new(NOW, {})
    write = manifest_module._write

    def crash(path, text):
        if path.name == file:
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(manifest_module, "_write", crash)
    with pytest.raises(KeyboardInterrupt):
        group.new(NOW, {})
    assert group.latest().run_id == kept.run_id


def test_groups_differ_by_key_and_not_by_the_order_of_its_parts(tmp_path):
    one = RunGroup(tmp_path, "m", {"a": 1, "b": [2]})
    same = RunGroup(tmp_path, "m", {"b": [2], "a": 1})
    other = RunGroup(tmp_path, "m", {"a": 1, "b": [3]})
    assert one.path == same.path
    assert one.path != other.path


# --- what must be the same


def test_equal_terms_pass(group):
    require_same(group.new(NOW, {}), {"model": "m version 1"}, {"model": "m version 1"})


def test_a_difference_names_both_sides_and_the_way_out(group):
    run = group.new(NOW, {})
    with pytest.raises(RunConflictError) as caught:
        require_same(
            run, {"model": "m version 1", "a": 1, "old": 0}, {"model": "m version 2", "a": 1, "new": 5}
        )
    message = str(caught.value)
    assert run.run_id in message
    assert "model: the run has 'm version 1', now it is 'm version 2'" in message
    assert "old: the run has 0, now it is None" in message
    assert "new: the run has None, now it is 5" in message
    assert "--new-run" in message
    assert len(caught.value.evidence["differences"]) == 3


@pytest.mark.parametrize("location", ["s3://bucket/runs", "hdfs://host/runs", "abfss://c@a/runs"])
def test_runs_must_be_where_they_can_be_locked(location):
    with pytest.raises(ConfigurationError, match=r"storage\.runs: .* cannot be locked"):
        runs_directory(location)


def test_runs_may_be_a_path_or_a_file_uri(tmp_path):
    assert runs_directory(str(tmp_path)) == runs_directory(f"file://{tmp_path}") == Path(tmp_path)
