import datetime as dt
import uuid

import pyarrow as pa
import pytest

from feature_pipelines.errors import TableError
from jobs.tables.catalog import is_table_name, parse_description
from jobs.tables.snapshot import check_snapshot, pin_snapshot, plan_units, read_unit

INSTANT = dt.datetime(2013, 11, 3, 5, 30, 0, 123456, dt.UTC)


@pytest.fixture
def database(spark):
    name = f"db_{uuid.uuid4().hex}"
    spark.sql(f"CREATE DATABASE {name}")
    yield name
    spark.sql(f"DROP DATABASE {name} CASCADE")


def rows_of(snapshot):
    return [
        row
        for unit in plan_units(snapshot, unit_rows=1000)
        for batch in read_unit(unit, snapshot.schema.names, batch_rows=10, schema=snapshot.schema)
        for row in batch.to_pylist()
    ]


def test_a_catalog_table_is_pinned_with_the_types_of_the_catalog(spark, database):
    spark.sql(
        f"CREATE TABLE {database}.t (id BIGINT, ts TIMESTAMP, name STRING, month INT) USING parquet PARTITIONED BY (month)"
    )
    spark.sql(
        f"INSERT INTO {database}.t VALUES (1, TIMESTAMP '2013-11-03 05:30:00.123456 UTC', 'x', 3), (2, NULL, NULL, 4)"
    )

    snapshot = pin_snapshot(f"{database}.t", spark=spark)

    assert (snapshot.format, snapshot.version) == ("parquet", None)
    assert snapshot.schema == pa.schema(
        [
            pa.field("id", pa.int64()),
            pa.field("ts", pa.timestamp("us", tz="UTC")),
            pa.field("name", pa.string()),
            pa.field("month", pa.int32()),
        ]
    )
    assert sorted(rows_of(snapshot), key=lambda row: row["id"]) == [
        {"id": 1, "ts": INSTANT, "name": "x", "month": 3},
        {"id": 2, "ts": None, "name": None, "month": 4},
    ]
    check_snapshot(snapshot)
    chosen = pin_snapshot(f"catalog:{database}.t", partitions={"month": 4}, spark=spark)
    assert [row["id"] for row in rows_of(chosen)] == [2]


def test_an_empty_catalog_table_has_a_schema(spark, database):
    spark.sql(f"CREATE TABLE {database}.t (id BIGINT) USING parquet")

    snapshot = pin_snapshot(f"{database}.t", spark=spark)

    assert snapshot.files == ()
    assert snapshot.schema.names == ["id"]


def test_a_missing_catalog_table_is_listed_among_what_was_tried(spark, database):
    for name in (f"{database}.none", "no_such_db.none", "none_at_all"):
        with pytest.raises(TableError, match=f"no such input. Tried: .*; table {name} of the catalog\\.$"):
            pin_snapshot(name, spark=spark)


def test_a_catalog_table_of_another_format_is_refused(spark, database):
    spark.sql(f"CREATE TABLE {database}.t (id BIGINT) USING csv")

    with pytest.raises(TableError, match="a table of format 'csv', expected delta or parquet"):
        pin_snapshot(f"{database}.t", spark=spark)


def test_views_are_refused(spark, database):
    spark.sql(f"CREATE VIEW {database}.v AS SELECT 1 AS id")
    spark.range(1).createOrReplaceTempView("onescore_temporary_view")

    for name in (f"{database}.v", "onescore_temporary_view"):
        with pytest.raises(TableError, match=f"{name}: a view. A run pins files"):
            pin_snapshot(name, spark=spark)


def test_parse_description_finds_provider_and_location_of_a_delta_table():
    rows = [
        ("Provider", "string"),
        ("location", "string"),
        ("", ""),
        ("# Detailed Table Information", ""),
        ("Type", "MANAGED"),
        ("Location", "s3a://bucket/t"),
        ("Provider", "DELTA"),
    ]

    assert parse_description("db.t", rows) == ("delta", "s3a://bucket/t")


def test_parse_description_without_a_location_is_refused():
    column = ("Location", "string")
    rows = [column, ("# Detailed Table Information", ""), ("Type", "MANAGED"), ("Provider", "delta")]

    with pytest.raises(TableError, match="the catalog does not say where the table is"):
        parse_description("db.t", rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t", True),
        ("db.t", True),
        ("c.db.t", True),
        ("`a b`.t", True),
        ("a b", False),
        ("a.b.c.d", False),
        ("t;", False),
    ],
)
def test_is_table_name_lets_through_names_only(text, expected):
    assert is_table_name(text) is expected
