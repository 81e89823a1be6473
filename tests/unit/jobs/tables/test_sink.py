import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_pipelines.errors import TableError
from jobs.tables.sink import ParquetSink, WrittenFile

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("ts", pa.timestamp("us", tz="UTC")),
        pa.field("x", pa.float64()),
        pa.field("n", pa.int64()),
    ]
)


def rows(n, start=0):
    return pa.table(
        {
            "id": [f"row-{i}" for i in range(start, start + n)],
            "ts": pa.array(range(start, start + n), pa.timestamp("us", tz="UTC")),
            "x": [float(i) for i in range(start, start + n)],
            "n": pa.array(range(start, start + n), pa.int64()),
        },
        SCHEMA,
    )


def write(tmp_path, schema, table, **options):
    with ParquetSink(str(tmp_path), schema, "part", **options) as sink:
        sink.append(table)
        return sink.close()


def stats_of(tmp_path, values, type_):
    schema = pa.schema([pa.field("v", type_)])
    return json.loads(write(tmp_path, schema, pa.table({"v": pa.array(values, type_)}, schema)).stats)


def test_sink_writes_what_was_appended_in_order(tmp_path):
    with ParquetSink(str(tmp_path), SCHEMA, "part") as sink:
        sink.append(rows(3))
        sink.append(rows(2, start=3).to_batches()[0])
        written = sink.close()

    assert written.path.startswith("part-")
    assert written.size == (tmp_path / written.path).stat().st_size
    assert written.rows == 5
    assert pq.read_table(tmp_path / written.path).equals(rows(5))


def test_sink_names_every_file_anew(tmp_path):
    assert write(tmp_path, SCHEMA, rows(1)).path != write(tmp_path, SCHEMA, rows(1)).path


def test_sink_without_rows_leaves_no_file(tmp_path):
    with ParquetSink(str(tmp_path), SCHEMA, "part") as sink:
        sink.append(rows(0))
        assert sink.close() is None
        assert sink.close() is None

    assert list(tmp_path.iterdir()) == []


def test_sink_cuts_row_groups_across_appends(tmp_path):
    with ParquetSink(str(tmp_path), SCHEMA, "part", row_group_rows=4) as sink:
        for start in range(0, 9, 3):
            sink.append(rows(3, start))
        written = sink.close()

    footer = pq.read_metadata(tmp_path / written.path)
    assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == [4, 4, 1]
    assert pq.read_table(tmp_path / written.path).equals(rows(9))


def test_sink_deletes_its_file_when_the_block_fails(tmp_path):
    with pytest.raises(KeyError), ParquetSink(str(tmp_path), SCHEMA, "part", row_group_rows=1) as sink:  # noqa: PT012
        sink.append(rows(3))
        assert len(list(tmp_path.iterdir())) == 1
        raise KeyError("boom")

    assert list(tmp_path.iterdir()) == []


def test_sink_reorders_columns_to_the_schema(tmp_path):
    written = write(tmp_path, SCHEMA, rows(2).select(["n", "x", "ts", "id"]))

    assert pq.read_schema(tmp_path / written.path).names == SCHEMA.names


def test_sink_takes_a_string_column_in_any_encoding(tmp_path):
    schema = pa.schema([pa.field("c", pa.string())])
    plain = pa.array(["a", None, "b"])
    with ParquetSink(str(tmp_path), schema, "part") as sink:
        for array in (
            plain.dictionary_encode(),
            plain,
            pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.int8()), ["b", "a"]),
        ):
            sink.append(pa.table({"c": array}))
        first = sink.close()
    with ParquetSink(str(tmp_path), schema, "part") as sink:
        sink.append(pa.table({"c": plain}))
        sink.append(pa.table({"c": plain.dictionary_encode()}))
        second = sink.close()

    for written, repeats in ((first, 3), (second, 2)):
        column = pq.read_table(tmp_path / written.path).column("c")
        assert column.type == pa.string()
        assert column.to_pylist() == ["a", None, "b"] * repeats
        assert json.loads(written.stats)["maxValues"] == {"c": "b"}


def test_sink_keeps_a_dictionary_only_where_values_repeat(tmp_path):
    schema = pa.schema([pa.field("id", pa.string()), pa.field("carrier", pa.string())])
    table = pa.table({"id": [str(i) for i in range(100)], "carrier": ["UA", "AA"] * 50})

    written = write(tmp_path, schema, table)

    group = pq.read_metadata(tmp_path / written.path).row_group(0)
    assert [group.column(i).has_dictionary_page for i in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (rows(1).drop(["x"]), r"missing \['x'\], not in the table \[\]"),
        (rows(1).append_column("y", pa.array([1])), r"missing \[\], not in the table \['y'\]"),
        (
            rows(1).set_column(3, "n", pa.array([1], pa.int32())),
            "n: the table has int64, the rows have int32",
        ),
        (rows(1).set_column(0, "id", pa.array([None], pa.string())), "id: not nullable, but 1 of 1 are null"),
    ],
)
def test_sink_refuses_rows_that_do_not_fit(tmp_path, table, message):
    with pytest.raises(TableError, match=message), ParquetSink(str(tmp_path), SCHEMA, "part") as sink:
        sink.append(table)

    assert list(tmp_path.iterdir()) == []


def test_sink_into_a_missing_table_says_so(tmp_path):
    sink = ParquetSink(str(tmp_path / "no" / "table"), SCHEMA, "part")
    sink.append(rows(1))

    with pytest.raises(TableError, match="The table must exist"):
        sink.close()


def test_written_file_survives_json(tmp_path):
    written = WrittenFile("a.parquet", 10, 2, '{"numRecords":2}', {"day": "1", "hour": None})

    assert WrittenFile.from_json(written.to_json()) == written


def test_stats_count_rows_and_nulls_over_all_row_groups(tmp_path):
    schema = pa.schema([pa.field("n", pa.int64())])
    table = pa.table({"n": [3, None, 1, None, None, 2]})

    stats = json.loads(write(tmp_path, schema, table, row_group_rows=2).stats)

    assert stats == {"numRecords": 6, "minValues": {"n": 1}, "maxValues": {"n": 3}, "nullCount": {"n": 3}}


def test_stats_of_integers_beyond_2_to_the_53_are_exact(tmp_path):
    assert stats_of(tmp_path, [2**53 + 1, -(2**63)], pa.int64())["maxValues"] == {"v": 2**53 + 1}
    assert stats_of(tmp_path, [2**53 + 1, -(2**63)], pa.int64())["minValues"] == {"v": -(2**63)}


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([1.0, math.nan], pa.float64()),
        ([True, False], pa.bool_()),
        ([Decimal("1.50")], pa.decimal128(10, 2)),
        ([b"x"], pa.binary()),
        ([[1.0]], pa.list_(pa.float64())),
        ([None, None], pa.int64()),
    ],
)
def test_stats_give_no_bounds_where_they_would_mislead(tmp_path, values, type_):
    stats = stats_of(tmp_path, values, type_)

    assert stats["numRecords"] == len(values)
    assert stats["minValues"] == stats["maxValues"] == {}


def test_stats_of_times_enclose_the_microseconds(tmp_path):
    instants = [datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC), datetime(2013, 1, 1, 0, 0, 0, 1001, UTC)]

    stats = stats_of(tmp_path, instants, pa.timestamp("us", tz="UTC"))

    assert stats["minValues"] == {"v": "1969-12-31T23:59:59.999Z"}
    assert stats["maxValues"] == {"v": "2013-01-01T00:00:00.002Z"}
    assert stats_of(tmp_path, [1000], pa.timestamp("us"))["maxValues"] == {"v": "1970-01-01T00:00:00.001"}
    assert stats_of(tmp_path, [date(2013, 1, 1)], pa.date32())["maxValues"] == {"v": "2013-01-01"}


def test_stats_of_times_beyond_year_9999_are_left_out(tmp_path):
    assert stats_of(tmp_path, [2**62], pa.timestamp("us", tz="UTC"))["maxValues"] == {}


def test_stats_of_long_strings_are_cut_to_valid_bounds(tmp_path):
    low, high = "a" * 40, "é" * 40

    stats = stats_of(tmp_path, [low, high], pa.string())

    assert stats["minValues"]["v"] == "a" * 32
    assert stats["maxValues"]["v"] == "é" * 32 + "\U0010ffff" > high
    assert stats_of(tmp_path, ["é" * 32 + "\U0010ffff"], pa.string())["maxValues"] == {}
