import os

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from feature_pipelines.errors import TableError
from jobs.tables import resample
from jobs.tables.delta import ParquetSink, commit_files, ensure_table
from jobs.tables.resample import holds_scaled, read_all, resampled_rows, write_scaled
from jobs.tables.snapshot import pin_snapshot

SCHEMA = pa.schema(
    [
        pa.field("flight_id", pa.string(), nullable=False),
        pa.field("origin", pa.string()),
        pa.field("is_resampled", pa.bool_(), nullable=False),
    ]
)


def requests(n):
    return pa.table(
        {
            "flight_id": [f"f{i}" for i in range(n)],
            "origin": ["EWR", None] * (n // 2) + ["JFK"] * (n % 2),
            "is_resampled": [False] * n,
        },
        SCHEMA,
    )


def ids(table):
    return table.column("flight_id").to_pylist()


def test_the_real_rows_come_first_and_copies_are_labelled():
    table = resampled_rows(requests(3), 0, 7, rows=7, seed=1)

    assert ids(table)[:3] == ["f0", "f1", "f2"]
    assert table.column("is_resampled").to_pylist() == [False] * 3 + [True] * 4
    assert [name.split("~")[1] for name in ids(table)[3:]] == ["0000001", "0000002", "0000003", "0000004"]
    assert len(set(ids(table))) == 7
    assert table.schema == SCHEMA


def test_a_copy_is_the_real_row_under_another_id():
    real = requests(5)

    for row in resampled_rows(real, 5, 50, rows=50, seed=1).to_pylist():
        original = real.to_pylist()[ids(real).index(row["flight_id"].split("~")[0])]
        assert row["origin"] == original["origin"]


@pytest.mark.parametrize("rows", [4, 10, 1000])
def test_the_cut_into_pieces_changes_nothing(rows):
    real = requests(10)
    whole = resampled_rows(real, 0, rows, rows=rows, seed=7)

    for step in (1, 3, 64):
        pieces = [
            resampled_rows(real, s, min(s + step, rows), rows=rows, seed=7) for s in range(0, rows, step)
        ]
        assert pa.concat_tables(pieces).equals(whole)


def test_the_seed_decides():
    real = requests(10)

    assert resampled_rows(real, 10, 99, rows=99, seed=1).equals(resampled_rows(real, 10, 99, rows=99, seed=1))
    assert ids(resampled_rows(real, 10, 99, rows=99, seed=1)) != ids(
        resampled_rows(real, 10, 99, rows=99, seed=2)
    )


def test_a_smaller_table_is_a_subset_in_order():
    real = requests(100)

    table = resampled_rows(real, 0, 10, rows=10, seed=1)

    positions = [int(name[1:]) for name in ids(table)]
    assert len(set(positions)) == 10
    assert positions == sorted(positions) != list(range(10))
    assert not any(table.column("is_resampled").to_pylist())


def test_the_choice_is_uniform():
    chosen = [
        name.split("~")[0] for name in ids(resampled_rows(requests(10), 10, 100_010, rows=100_010, seed=3))
    ]

    counts = np.unique(chosen, return_counts=True)[1]
    assert len(counts) == 10
    assert abs(counts - 10_000).max() < 400  # four standard deviations


def test_read_all_joins_row_groups_of_different_encodings(tmp_path):
    uri = str(tmp_path / "t")
    ensure_table(uri, SCHEMA)
    with ParquetSink(uri, SCHEMA, "part", row_group_rows=40) as sink:
        sink.append(requests(100))
        commit_files(uri, [sink.close()], app_id="a", schema=SCHEMA)

    assert read_all(pin_snapshot(uri)).cast(SCHEMA).equals(requests(100))


@pytest.fixture
def source(tmp_path):
    uri = str(tmp_path / "requests")
    ensure_table(uri, SCHEMA)
    with ParquetSink(uri, SCHEMA, "part") as sink:
        sink.append(requests(100))
        commit_files(uri, [sink.close()], app_id="a", schema=SCHEMA)
    return uri


def content(uri):
    return pa.table(DeltaTable(uri).to_pyarrow_table()).sort_by("flight_id")


def test_write_scaled_commits_once_what_the_pure_function_says(spark, source, tmp_path):
    target = str(tmp_path / "scaled")
    rows = resample.FILE_ROWS + 10

    assert not holds_scaled(source, target, rows=rows, seed=5)
    assert write_scaled(spark, source, target, rows=rows, seed=5)

    table = DeltaTable(target)
    assert (table.version(), table.count(), len(table.file_uris())) == (1, rows, 2)
    assert table.metadata().configuration == {"onescore.resampled": "true"}
    assert "not data" in table.metadata().description
    entry = table.history(1)[0]
    assert (entry["onescore_rows"], entry["onescore_seed"]) == (rows, 5)
    tail = resampled_rows(requests(100), rows - 5, rows, rows=rows, seed=5)
    written = set(content(target).column("flight_id").to_pylist())
    assert len(written) == rows
    assert set(ids(tail)) <= written
    assert holds_scaled(source, target, rows=rows, seed=5)
    assert not write_scaled(spark, source, target, rows=rows, seed=5)
    assert DeltaTable(target).version() == 1


def test_write_scaled_to_another_size_replaces_the_content(spark, source, tmp_path):
    target = str(tmp_path / "scaled")
    write_scaled(spark, source, target, rows=200)

    write_scaled(spark, source, target, rows=30)

    assert content(target).equals(resampled_rows(requests(100), 0, 30, rows=30, seed=0).sort_by("flight_id"))


def test_write_scaled_leaves_no_file_that_is_not_in_the_table(spark, source, tmp_path):
    target = str(tmp_path / "scaled")
    write_scaled(spark, source, target, rows=200)

    assert sorted(f"{target}/{name}" for name in os.listdir(target) if name.endswith(".parquet")) == sorted(
        DeltaTable(target).file_uris()
    )


def test_write_scaled_from_an_empty_source_says_so(spark, tmp_path):
    uri = str(tmp_path / "requests")
    ensure_table(uri, SCHEMA)

    with pytest.raises(TableError, match="no requests to resample from"):
        write_scaled(spark, uri, str(tmp_path / "scaled"), rows=5)
