"""The files that a Delta table's commits add, in order, each once, in steps of any size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_pipelines.errors import ConfigurationError, TableError
from jobs.tables.delta_additions import DeltaFiles, first_offset
from jobs.tables.delta_stream import START, DeltaStreamReader, _File


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


def offset(version, index=0, snapshot=False, table=None):
    return {"version": version, "index": index, "snapshot": snapshot, "table": table}


def id_of(table):
    return str(DeltaTable(table).metadata().id)


@pytest.mark.parametrize("limit", [1, 2, 3, 100, None])
def test_files_come_in_order_and_once_whatever_the_steps(table, limit):
    files, at, seen, steps = DeltaFiles(table), offset(0), [], 0
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
    assert first_offset(table, options) == {**expected, "table": id_of(table)}


@pytest.mark.parametrize("start", [offset(4, 0, True), offset(5)])
def test_beginning_stays_where_it_was_kept_while_the_table_grows(table, start):
    one = reader(table, **{START: json.dumps(start)})
    before = one.initialOffset()
    write_deltalake(table, rows(50), mode="append")
    again = reader(table, **{START.lower(): json.dumps(start), "startingVersion": "latest"})
    assert one.initialOffset() == again.initialOffset() == before == start


def test_reader_that_is_not_told_where_the_query_began_does_not_guess(table):
    with pytest.raises(ConfigurationError, match="not known at which version of the table the query began"):
        reader(table).initialOffset()


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (offset(4, 0, True), offset(4)),
        (offset(4, 0, True), offset(3)),
        (offset(5, 0, True), offset(4, 3, True)),
        (offset(3, 0, True), offset(4, 3, True)),
        (offset(3), offset(4, 3, True)),
        (offset(5), offset(4)),
        (offset(4, 3, True), offset(4, 2, True)),
        (offset(4, 0, True), offset(4, 9, True)),
        (offset(2), offset(4, 2)),
    ],
)
def test_offsets_that_are_no_stretch_of_the_table_are_refused_and_not_read_as_nothing(table, start, end):
    write_deltalake(table, rows(50), mode="append")
    with pytest.raises(TableError, match=r"a batch from file \d of .*version \d to .* would lose rows"):
        reader(table).partitions(start, end)


def test_place_beyond_the_files_of_a_version_is_refused(table):
    with pytest.raises(TableError, match="is at file 6 of version 4, which has 5: it is another table"):
        reader(table).partitions(offset(4, 6, True), offset(5))


def test_batch_without_files_is_no_error(table):
    assert reader(table).partitions(offset(5), offset(5)) == []
    assert reader(table).partitions(offset(4, 5, True), offset(5)) == []


def test_snapshot_has_one_order_whatever_the_log_looks_like(table):
    before = DeltaFiles(table).of(4, True)
    DeltaTable(table).create_checkpoint()
    for i in range(4):
        (Path(table) / "_delta_log" / f"{i:020d}.json").unlink()
    assert DeltaFiles(table).of(4, True) == before
    assert [file.uri for file in before] == sorted(file.uri for file in before)


def test_starting_version_that_makes_no_sense_is_refused(table):
    with pytest.raises(ConfigurationError, match="stream.options.startingVersion: expected"):
        first_offset(table, {"startingVersion": "newest"})


def test_query_that_begins_at_a_version_that_is_still_to_come_waits_for_it(table):
    start = first_offset(table, {"startingVersion": "7"})
    one = reader(table, **{START: json.dumps(start)})
    limit = one.getDefaultReadLimit()
    assert one.initialOffset() == one.latestOffset(start, limit) == start
    assert one.partitions(start, start) == []
    for i in range(5, 8):
        assert one.latestOffset(start, limit) == start
        write_deltalake(table, rows(10 * i), mode="append")
    end = one.latestOffset(start, limit)
    assert end == offset(8, table=id_of(table))
    assert len(one.partitions(start, end)) == 1


@pytest.mark.parametrize("limit", ["0", "few"])
def test_limit_that_makes_no_sense_is_refused(table, limit):
    with pytest.raises(ConfigurationError, match="stream.options.maxFilesPerTrigger: expected"):
        reader(table, maxFilesPerTrigger=limit)


def test_run_until_all_is_read_ends_at_what_was_there_when_it_began(table):
    one = reader(table, maxFilesPerTrigger="2")
    one.prepareForTriggerAvailableNow()
    write_deltalake(table, rows(50), mode="append")
    at, n = offset(4, 0, True), 0
    while (end := one.latestOffset(at, one.getDefaultReadLimit())) != at:
        n += len(one.partitions(at, end))
        at = end
    assert (n, at) == (5, offset(5, table=id_of(table)))


def test_stretch_of_commits_that_add_nothing_is_left_behind_after_a_while(table, monkeypatch):
    monkeypatch.setattr("jobs.tables.delta_stream._VERSIONS", 1)
    for _ in range(2):
        DeltaTable(table).alter.set_table_properties({"delta.appendOnly": "false"})
    one = reader(table)
    assert one.latestOffset(offset(6), one.getDefaultReadLimit()) == offset(6)
    assert one.latestOffset(offset(5), one.getDefaultReadLimit()) == offset(7, table=id_of(table))


def test_batch_that_was_found_just_now_needs_no_second_look_at_the_table(table, monkeypatch):
    looks = []
    now = DeltaFiles.now
    monkeypatch.setattr(DeltaFiles, "now", lambda files: looks.append(files) or now(files))
    one = reader(table)
    end = one.latestOffset(offset(3), one.getDefaultReadLimit())
    assert len(one.partitions(offset(3), end)) == 2
    assert len(looks) == 1
    assert len(one.partitions(offset(3), offset(4))) == 1
    assert len(looks) == 2


def make_anew(table, commits):
    """Drop a table and write another one under its name."""
    shutil.rmtree(table)
    for i in range(commits):
        write_deltalake(table, rows(100 + i), mode="append")


def asked(one, start):
    """Ask a reader for all that Spark asks of it."""
    return [
        lambda: one.initialOffset(),
        lambda: one.latestOffset(start, one.getDefaultReadLimit()),
        lambda: one.partitions(start, offset(start["version"] + 1, table=start["table"])),
    ]


@pytest.mark.parametrize("commits", [2, 6, 9])
def test_table_that_was_dropped_and_made_anew_is_refused_whatever_its_version(table, commits):
    start = first_offset(table, {"startingVersion": "latest"})
    make_anew(table, commits)
    one = reader(table, **{START: json.dumps(start)})
    for ask in asked(one, start):
        with pytest.raises(TableError, match="dropped and made anew") as refused:
            ask()
        assert start["table"] in str(refused.value)
        assert id_of(table) in str(refused.value)


def test_offset_of_before_that_has_no_id_is_read_and_gets_one(table):
    old = {"version": 4, "index": 0, "snapshot": True}
    one = reader(table, **{START: json.dumps(old)})
    assert one.initialOffset() == old
    end = one.latestOffset(old, one.getDefaultReadLimit())
    assert end == offset(5, table=id_of(table))
    assert len(one.partitions(old, end)) == 5
    assert one.latestOffset(offset(5), one.getDefaultReadLimit()) == offset(5)
    make_anew(table, 9)
    with pytest.raises(TableError, match="dropped and made anew"):
        one.latestOffset(end, one.getDefaultReadLimit())


def test_table_that_has_not_come_as_far_as_the_stream_is_refused_without_an_id_too(table):
    make_anew(table, 3)
    one = reader(table, **{START: json.dumps(offset(0))})
    for ask in asked(one, offset(5))[1:]:
        with pytest.raises(
            TableError, match=r"goes on at version \d, and the table's newest is 2: it was put back"
        ):
            ask()


@pytest.mark.parametrize("trouble", ["vacuumed", "damaged"])
def test_file_that_cannot_be_read_is_named(table, trouble):
    (file,) = DeltaFiles(table).of(0, False)
    path = Path(file.uri.removeprefix("file://"))
    if trouble == "vacuumed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(TableError, match="next file cannot be read") as refused:
        list(reader(table).read(_File(file.uri, {})))
    assert file.uri in str(refused.value)
    assert "\n" not in str(refused.value)


def test_rows_come_with_their_file_and_place(table):
    (file,) = DeltaFiles(table).of(0, False)
    (batch,) = reader(table).read(_File(file.uri, {}))
    assert batch.to_pydict() == {"x": [0, 1, 2], "file": [file.uri] * 3, "ordinal": [0, 1, 2]}
