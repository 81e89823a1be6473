"""How many files of a source are not read yet is told by what Spark noted, for tables and for directories."""

from __future__ import annotations

import json

import pytest
from deltalake import write_deltalake

from jobs.runs.stream_progress import FilesBehind
from jobs.runs.stream_state import StreamState


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


def test_source_without_files_has_none_behind(trained_workspace, state):
    assert FilesBehind(trained_workspace.conf("stream.format=rate"), state).after(0) is None
