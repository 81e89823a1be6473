import datetime as dt
from decimal import Decimal

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql.types import DecimalType, IntegerType, StringType, TimestampNTZType, TimestampType

from feature_pipelines.errors import TableError
from jobs.tables.delta import ParquetSink, commit_files, ensure_table, open_table, read_delta, table_schema

SCHEMA = pa.schema(
    [
        pa.field("n", pa.int32(), nullable=False),
        pa.field("ts", pa.timestamp("us", tz="UTC")),
        pa.field("local", pa.timestamp("us")),
        pa.field("d", pa.decimal128(10, 2)),
        pa.field("s", pa.string()),
    ]
)
ROW = {
    "n": 1,
    "ts": dt.datetime(2013, 11, 3, 5, 30, 0, 1, dt.UTC),
    "local": dt.datetime(2013, 11, 3, 1, 30),  # noqa: DTZ001
    "d": Decimal("1.50"),
    "s": None,
}


def append(uri, *rows):
    with ParquetSink(uri, SCHEMA, "part") as sink:
        sink.append(pa.Table.from_pylist(list(rows), SCHEMA))
        commit_files(uri, [sink.close()], app_id=str(rows), schema=SCHEMA)


def test_table_schema_is_the_one_the_table_was_made_with(tmp_path):
    uri = str(tmp_path / "t")
    ensure_table(uri, SCHEMA)

    assert table_schema(open_table(uri)) == SCHEMA


def test_read_delta_gives_rows_and_types(spark, tmp_path):
    uri = str(tmp_path / "a table")
    ensure_table(uri, SCHEMA)
    append(uri, ROW)

    frame = read_delta(spark, uri)

    assert [f.dataType for f in frame.schema] == [
        IntegerType(),
        TimestampType(),
        TimestampNTZType(),
        DecimalType(10, 2),
        StringType(),
    ]
    assert pa.table(frame.toArrow()).cast(SCHEMA).to_pylist() == [ROW]


def test_read_delta_of_an_empty_table_has_no_rows_and_all_columns(spark, tmp_path):
    uri = str(tmp_path / "t")
    ensure_table(uri, SCHEMA)

    frame = read_delta(spark, uri)

    assert frame.columns == SCHEMA.names
    assert frame.count() == 0


def test_read_delta_of_an_older_version(spark, tmp_path):
    uri = str(tmp_path / "t")
    ensure_table(uri, SCHEMA)
    append(uri, ROW)
    append(uri, ROW | {"n": 2})

    assert [row.n for row in read_delta(spark, uri, version=1).collect()] == [1]
    assert read_delta(spark, f"file://{uri}").count() == 2


def test_read_delta_keeps_partition_columns_in_place(spark, tmp_path):
    uri = str(tmp_path / "t")
    table = pa.table({"month": pa.array([3, None], pa.int32()), "day": ["1 May/%", "2"], "n": [1, 2]})
    write_deltalake(uri, table, partition_by=["month", "day"])

    rows = read_delta(spark, uri).orderBy("n").collect()

    assert [tuple(row) for row in rows] == [(3, "1 May/%", 1), (None, "2", 2)]


def test_read_delta_of_a_missing_table_says_so(spark, tmp_path):
    with pytest.raises(TableError, match="no Delta table there"):
        read_delta(spark, str(tmp_path / "none"))
