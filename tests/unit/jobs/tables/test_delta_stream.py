"""The files that a Delta table's commits add, in order, each once, in steps of any size."""

from __future__ import annotations

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_pipelines.errors import ConfigurationError, TableError
from jobs.tables.delta_stream import DeltaFiles, DeltaStreamReader, _File

BEGINNING = {"version": 0, "index": 0, "snapshot": False}


def rows(start, n=3):
    return pa.table({"x": pa.array(range(start, start + n), pa.int64())})


@pytest.fixture
def table(tmp_path):
    """Five commits of a file each."""
    uri = str(tmp_path / "t")
    for i in range(5):
        write_deltalake(uri, rows(10 * i), mode="append")
    return uri


def values(files):
    return [pa.parquet.read_table(f.uri).column("x")[0].as_py() for f in files]


def offset(version, index=0, snapshot=False):
    return {"version": version, "index": index, "snapshot": snapshot}


@pytest.mark.parametrize("limit", [1, 2, 3, 100, None])
def test_files_come_in_order_and_once_whatever_the_steps(table, limit):
    files, at, seen, steps = DeltaFiles(table), BEGINNING, [], 0
    while True:
        end, taken = files.advance(at, files.newest(), limit)
        if not taken:
            break
        assert files.between(at, end) == taken
        at, steps = end, steps + 1
        seen += values(taken)
    assert seen == [0, 10, 20, 30, 40]
    assert at == offset(5)
    assert steps == -(-5 // (limit or 5))


def test_snapshot_is_read_file_by_file_and_then_what_later_commits_add(table):
    files = DeltaFiles(table)
    at, first = files.advance(offset(4, 0, True), files.newest(), 3)
    assert at == offset(4, 3, True)
    at, second = files.advance(at, files.newest(), 3)
    assert sorted(values(first + second)) == [0, 10, 20, 30, 40]
    assert at == offset(5)
    write_deltalake(table, rows(50), mode="append")
    assert values(files.advance(at, files.newest(), 3)[1]) == [50]


def test_compaction_adds_nothing(table):
    DeltaTable(table).optimize.compact()
    write_deltalake(table, rows(50), mode="append")
    files = DeltaFiles(table)
    end, taken = files.advance(offset(5), files.newest(), None)
    assert values(taken) == [50]
    assert end == offset(7)


@pytest.mark.parametrize("change", ["delete", "overwrite"])
def test_commit_that_takes_rows_out_is_refused_or_passed_over(table, change):
    if change == "delete":
        DeltaTable(table).delete("x = 10")
    else:
        write_deltalake(table, rows(90), mode="overwrite")
    write_deltalake(table, rows(50), mode="append")
    files = DeltaFiles(table)
    with pytest.raises(TableError, match="version 5 takes rows out .*skipChangeCommits=true"):
        files.advance(offset(5), files.newest(), None)
    assert values(DeltaFiles(table, skip_changes=True).advance(offset(5), 6, None)[1]) == [50]


def test_change_of_columns_is_refused(table):
    more = rows(50).append_column("y", pa.array([1, 2, 3], pa.int64()))
    write_deltalake(table, more, mode="append", schema_mode="merge")
    files = DeltaFiles(table)
    with pytest.raises(TableError, match="version 5 changes the table's columns"):
        files.advance(offset(5), files.newest(), None)


def test_log_entry_that_has_gone_is_refused(table, tmp_path):
    (tmp_path / "t" / "_delta_log" / f"{2:020d}.json").unlink()
    with pytest.raises(TableError, match="log's entry of version 2 is gone"):
        DeltaFiles(table).of(2, False)


def reader(table, **options):
    from pyspark.sql.types import LongType, StringType, StructField, StructType

    columns = [("x", LongType()), ("file", StringType()), ("ordinal", LongType())]
    return DeltaStreamReader(
        {"path": table, **options}, StructType([StructField(name, type_) for name, type_ in columns])
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, offset(4, 0, True)),
        ({"startingVersion": "2"}, offset(2)),
        ({"startingversion": "latest"}, offset(5)),
    ],
)
def test_query_begins_where_the_options_say(table, options, expected):
    assert reader(table, **options).initialOffset() == expected


@pytest.mark.parametrize(
    "options", [{"startingVersion": "newest"}, {"maxFilesPerTrigger": "0"}, {"maxFilesPerTrigger": "few"}]
)
def test_option_that_makes_no_sense_is_refused(table, options):
    with pytest.raises(ConfigurationError, match=f"stream.options.{next(iter(options))}: expected"):
        reader(table, **options).initialOffset()


def test_run_until_all_is_read_ends_at_what_was_there_when_it_began(table):
    one = reader(table, maxFilesPerTrigger="2")
    one.prepareForTriggerAvailableNow()
    write_deltalake(table, rows(50), mode="append")
    at, n = one.initialOffset(), 0
    at = offset(4, 0, True)
    while (end := one.latestOffset(at, one.getDefaultReadLimit())) != at:
        n += len(one.partitions(at, end))
        at = end
    assert (n, at) == (5, offset(5))


def test_stretch_of_commits_that_add_nothing_is_left_behind_after_a_while(table, monkeypatch):
    monkeypatch.setattr("jobs.tables.delta_stream._VERSIONS", 1)
    for _ in range(2):
        DeltaTable(table).alter.set_table_properties({"delta.appendOnly": "false"})
    one = reader(table)
    assert one.latestOffset(offset(6), one.getDefaultReadLimit()) == offset(6)
    assert one.latestOffset(offset(5), one.getDefaultReadLimit()) == offset(7)


def test_rows_come_with_their_file_and_place(table):
    (file,) = DeltaFiles(table).of(0, False)
    (batch,) = reader(table).read(_File(file.uri, {}))
    assert batch.to_pydict() == {"x": [0, 1, 2], "file": [file.uri] * 3, "ordinal": [0, 1, 2]}
