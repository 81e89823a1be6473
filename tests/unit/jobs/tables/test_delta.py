import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from feature_pipelines.errors import TableError
from jobs.tables import delta
from jobs.tables.delta import (
    ParquetSink,
    WrittenFile,
    add_columns,
    commit_files,
    committed_version,
    ensure_table,
    open_table,
    recorded_digest,
    replace_files,
)

SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("name", pa.string())])


@pytest.fixture
def uri(tmp_path):
    ensure_table(str(tmp_path / "t"), SCHEMA)
    return str(tmp_path / "t")


def write(uri, ids, name="part"):
    with ParquetSink(uri, SCHEMA, name) as sink:
        sink.append(pa.table({"id": ids, "name": [f"n{i}" for i in ids]}, SCHEMA))
        return sink.close()


def ids_of(uri, version=None):
    return sorted(pa.table(DeltaTable(uri, version=version).to_pyarrow_table()).column("id").to_pylist())


def test_commit_files_makes_rows_visible_at_once(uri):
    files = [write(uri, [1, 2]), write(uri, [3])]
    assert ids_of(uri) == []

    assert commit_files(uri, files, app_id="run/1", schema=SCHEMA, version=7, metadata={"run_id": "r"})

    assert ids_of(uri) == [1, 2, 3]
    assert committed_version(uri, "run/1") == 7
    assert DeltaTable(uri).count() == 3
    assert DeltaTable(uri).history(1)[0]["run_id"] == "r"


def test_commit_files_happens_once_per_app_id(uri):
    assert commit_files(uri, [write(uri, [1])], app_id="run/1", schema=SCHEMA)
    assert not commit_files(uri, [write(uri, [1])], app_id="run/1", schema=SCHEMA)
    assert commit_files(uri, [write(uri, [2])], app_id="run/2", schema=SCHEMA)

    assert ids_of(uri) == [1, 2]


def test_commit_files_counts_a_version_and_all_before_it_as_committed(uri):
    for version, ids in ((1, [1]), (3, [2])):
        assert commit_files(uri, [write(uri, ids)], app_id="stream", schema=SCHEMA, version=version)
    for version in (1, 2, 3):
        assert not commit_files(uri, [write(uri, [9])], app_id="stream", schema=SCHEMA, version=version)
    assert commit_files(uri, [write(uri, [3])], app_id="stream", schema=SCHEMA, version=4)
    assert sorted(ids_of(uri)) == [1, 2, 3]
    assert committed_version(uri, "stream") == 4


def test_commit_files_records_work_that_had_no_rows(uri):
    assert committed_version(uri, "run/1") is None

    assert commit_files(uri, [], app_id="run/1", schema=SCHEMA)

    assert committed_version(uri, "run/1") == 1
    assert not commit_files(uri, [write(uri, [1])], app_id="run/1", schema=SCHEMA)
    assert ids_of(uri) == []


@pytest.mark.parametrize("with_rows", [True, False])
def test_commit_files_from_racing_threads_commits_one(uri, with_rows):
    start = threading.Barrier(8)

    def race(round_):
        files = [write(uri, [1])] if with_rows else []
        start.wait(timeout=60)
        return commit_files(uri, files, app_id=f"run/{round_}", schema=SCHEMA)

    with ThreadPoolExecutor(8) as threads:
        for round_ in range(5):
            assert sum(threads.map(race, [round_] * 8)) == 1
            assert committed_version(uri, f"run/{round_}") == 1
    assert ids_of(uri) == ([1] * 5 if with_rows else [])


def test_commit_files_of_different_work_all_succeed_in_a_race(uri):
    start = threading.Barrier(8)

    def race(work):
        files = [write(uri, [work])]
        start.wait(timeout=60)
        return commit_files(uri, files, app_id=f"run/{work}", schema=SCHEMA)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(race, range(8)))
    assert ids_of(uri) == list(range(8))


def race_in_a_process(uri, start, results):
    files = [write(uri, [1])]
    start.wait(60)
    results.put(commit_files(uri, files, app_id="run/1", schema=SCHEMA))


def test_commit_files_from_racing_processes_commits_one(uri):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(3), context.Queue()
    racers = [context.Process(target=race_in_a_process, args=(uri, start, results)) for _ in range(3)]
    for racer in racers:
        racer.start()
    outcomes = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join(60)

    assert sorted(outcomes) == [False, False, True]
    assert ids_of(uri) == [1]


def die_between_write_and_commit(uri):
    write(uri, [1], name="run-1")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_crash_between_write_and_commit_changes_nothing_but_leaves_an_orphan(uri):
    before = DeltaTable(uri).version()
    victim = multiprocessing.get_context("spawn").Process(target=die_between_write_and_commit, args=(uri,))
    victim.start()
    victim.join(60)

    assert victim.exitcode == -signal.SIGKILL
    assert DeltaTable(uri).version() == before
    assert ids_of(uri) == []
    assert len(delta.orphans(uri, "run-1-")) == 1
    assert commit_files(uri, [write(uri, [1], name="run-1")], app_id="run/1", schema=SCHEMA)
    assert ids_of(uri) == [1]


def test_commit_files_outlives_checkpoints_of_the_log(tmp_path):
    uri = str(tmp_path / "t")
    properties = {"delta.checkpointInterval": "3", "delta.logRetentionDuration": "interval 0 seconds"}
    ensure_table(uri, SCHEMA, properties=properties)

    for i in range(8):
        commit_files(uri, [write(uri, [i])] if i % 2 else [], app_id=f"run/{i}", schema=SCHEMA)

    assert [name for name in os.listdir(f"{uri}/_delta_log") if name.endswith(".checkpoint.parquet")]
    assert [committed_version(uri, f"run/{i}") for i in range(8)] == [1] * 8
    assert not commit_files(uri, [], app_id="run/0", schema=SCHEMA)
    assert ids_of(uri) == [1, 3, 5, 7]


def test_commit_files_refuses_another_schema(uri):
    other = pa.schema([pa.field("id", pa.int64()), pa.field("label", pa.string())])

    with pytest.raises(
        TableError, match="name: the table has string, expected no such column; label: the table has no such"
    ):
        commit_files(uri, [], app_id="run/1", schema=other)

    assert committed_version(uri, "run/1") is None


def test_commit_files_refuses_a_file_that_is_not_there(uri):
    written = write(uri, [1])
    os.remove(f"{uri}/{written.path}")

    with pytest.raises(
        TableError, match=f"1 of 2 files to commit are missing or of another size, such as {written.path}"
    ):
        commit_files(uri, [written, write(uri, [2])], app_id="run/1", schema=SCHEMA)


def test_commit_files_refuses_a_file_that_was_cut_short(uri):
    written = write(uri, [1])
    os.truncate(f"{uri}/{written.path}", written.size - 1)

    with pytest.raises(TableError, match="1 of 1 files to commit are missing or of another size"):
        commit_files(uri, [written], app_id="run/1", schema=SCHEMA)


def test_commit_files_to_a_missing_table_says_so(tmp_path):
    with pytest.raises(TableError, match="no Delta table there"):
        commit_files(str(tmp_path / "none"), [], app_id="run/1", schema=SCHEMA)


def test_commit_files_gives_up_after_bounded_races(uri, monkeypatch):
    def always_lose(*_):
        raise delta.CommitFailedError("lost")

    monkeypatch.setattr(delta, "_write", always_lose)
    monkeypatch.setattr(delta.time, "sleep", lambda _: None)

    with pytest.raises(TableError, match="application transaction 'run/1' lost 20 races"):
        commit_files(uri, [], app_id="run/1", schema=SCHEMA)


def test_ensure_table_from_racing_threads_makes_one_table(tmp_path):
    start = threading.Barrier(8)

    def race(place):
        start.wait(timeout=60)
        return ensure_table(place, SCHEMA).metadata().id

    with ThreadPoolExecutor(8) as threads:
        for round_ in range(5):
            place = str(tmp_path / f"t{round_}")
            assert len(set(threads.map(race, [place] * 8))) == 1
            assert os.listdir(f"{place}/_delta_log") == ["00000000000000000000.json"]


def test_ensure_table_keeps_an_existing_table_with_its_rows(uri):
    commit_files(uri, [write(uri, [1])], app_id="run/1", schema=SCHEMA)

    table = ensure_table(
        uri, SCHEMA.with_metadata({"note": "ignored"}), properties={"delta.appendOnly": "true"}
    )

    assert table.count() == 1
    assert table.metadata().configuration == {}


def test_ensure_table_records_properties_and_description(tmp_path):
    table = ensure_table(
        str(tmp_path / "t"), SCHEMA, properties={"onescore.label": "x"}, description="about it"
    )

    assert table.metadata().configuration == {"onescore.label": "x"}
    assert table.metadata().description == "about it"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (pa.schema([SCHEMA.field(0)]), "name: the table has string, expected no such column"),
        (
            pa.schema([*SCHEMA, pa.field("x", pa.int32())]),
            "x: the table has no such column, expected integer",
        ),
        (
            pa.schema([pa.field("id", pa.int32(), nullable=False), SCHEMA.field(1)]),
            "id: the table has long not null, expected integer not null",
        ),
        (
            pa.schema([pa.field("id", pa.int64()), SCHEMA.field(1)]),
            "id: the table has long not null, expected long",
        ),
        (pa.schema([SCHEMA.field(1), SCHEMA.field(0)]), "order: the table has id, name, expected name, id"),
    ],
)
def test_ensure_table_names_both_sides_of_every_difference(uri, schema, message):
    with pytest.raises(TableError, match=message):
        ensure_table(uri, schema)


def test_open_table_missing_version_says_so(uri):
    with pytest.raises(TableError, match="cannot open the Delta table at version 9"):
        open_table(uri, 9)


def test_replace_files_swaps_the_whole_content(uri):
    assert recorded_digest(uri) is None
    assert replace_files(uri, [write(uri, [1, 2])], digest="d1", schema=SCHEMA)
    assert replace_files(uri, [write(uri, [3])], digest="d2", schema=SCHEMA, metadata={"rows": 1})
    assert not replace_files(uri, [write(uri, [4])], digest="d2", schema=SCHEMA)

    assert ids_of(uri) == [3]
    assert ids_of(uri, version=1) == [1, 2]
    assert recorded_digest(uri) == "d2"


def test_replace_files_can_return_to_an_earlier_content(uri):
    for digest, ids in (("d1", [1]), ("d2", [2]), ("d1", [1])):
        assert replace_files(uri, [write(uri, ids)], digest=digest, schema=SCHEMA)

    assert ids_of(uri) == [1]


def test_replace_files_with_nothing_empties_the_table(uri):
    replace_files(uri, [write(uri, [1])], digest="d1", schema=SCHEMA)

    assert replace_files(uri, [], digest="d0", schema=SCHEMA)

    assert ids_of(uri) == []
    assert recorded_digest(uri) == "d0"


def test_replace_files_from_racing_threads_leaves_one_content(uri):
    start = threading.Barrier(8)

    def race(digest):
        files = [write(uri, [1, 2])]
        start.wait(timeout=60)
        return replace_files(uri, files, digest=digest, schema=SCHEMA)

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(race, ["d"] * 8)) == 1
    assert ids_of(uri) == [1, 2]


def test_recorded_digest_of_a_missing_table_is_none(tmp_path):
    assert recorded_digest(str(tmp_path / "none")) is None


def test_statistics_reach_the_log_as_delta_writes_them(uri):
    commit_files(uri, [write(uri, [5, 3])], app_id="run/1", schema=SCHEMA)

    action = pa.table(DeltaTable(uri).get_add_actions(flatten=True)).to_pylist()[0]

    assert action["num_records"] == 2
    assert (action["min.id"], action["max.id"], action["null_count.id"]) == (3, 5, 0)
    assert DeltaTable(uri).file_uris(file_pruning_predicate="id > 5") == []


def test_a_commit_of_a_hand_made_file_keeps_partition_values(tmp_path):
    uri = str(tmp_path / "t")
    DeltaTable.create(uri, SCHEMA, partition_by=["name"])
    os.mkdir(f"{uri}/name=a b")
    with ParquetSink(f"{uri}/name=a b", pa.schema([SCHEMA.field("id")]), "part") as sink:
        sink.append(pa.table({"id": [1]}))
        inner = sink.close()
    written = WrittenFile(
        f"name=a b/{inner.path}", inner.size, 1, json.dumps({"numRecords": 1}), {"name": "a b"}
    )

    assert commit_files(uri, [written], app_id="run/1", schema=SCHEMA)

    assert pa.table(DeltaTable(uri).to_pyarrow_table()).to_pylist() == [{"id": 1, "name": "a b"}]


WIDER = pa.schema(
    [*SCHEMA, pa.field("scores", pa.map_(pa.string(), pa.float64())), pa.field("note", pa.string())]
)


def test_columns_that_a_table_lacks_are_added_once_and_null_in_its_rows(uri):
    commit_files(uri, [write(uri, [1])], app_id="run/1", schema=SCHEMA)
    version = DeltaTable(uri).version()

    assert add_columns(uri, WIDER)
    assert not add_columns(uri, WIDER)

    assert DeltaTable(uri).version() == version + 1
    ensure_table(uri, WIDER)
    (row,) = DeltaTable(uri).to_pyarrow_table().to_pylist()
    assert row == {"id": 1, "name": "n1", "scores": None, "note": None}
    with ParquetSink(uri, WIDER, "wider") as sink:
        sink.append(pa.table({"id": [2], "name": ["n2"], "scores": [[("a", 0.5)]], "note": ["x"]}, WIDER))
        written = sink.close()
    assert commit_files(uri, [written], app_id="run/2", schema=WIDER)
    by_id = {row["id"]: row for row in DeltaTable(uri).to_pyarrow_table().to_pylist()}
    assert by_id[2]["scores"] == [("a", 0.5)]


def test_columns_of_two_at_once_are_added_once(uri):
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda _: add_columns(uri, WIDER), range(4))) >= 1
    assert [field.name for field in DeltaTable(uri).schema().fields] == WIDER.names


def test_a_column_that_must_not_be_null_is_not_added(uri):
    required = pa.schema([*SCHEMA, pa.field("must", pa.int64(), nullable=False)])
    assert not add_columns(uri, required)
    with pytest.raises(TableError, match="must: the table has no such column"):
        ensure_table(uri, required)
