"""The join as a Spark user meets it: columns kept, every type, ties, hot keys split, and what is refused by name."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyspark.sql import functions as F

from feature_pipelines.columns import (
    Bool,
    Float32,
    Float64,
    Int32,
    Int64,
    Nullable,
    String,
    Strings,
    Timestamp,
    decimal,
    values_and_valid,
)
from feature_pipelines.errors import ContractError
from feature_pipelines.lookup import Status
from feature_pipelines.lookup_arrow import index_from_arrow
from feature_pipelines.offline import as_of_join as as_of_join_module
from feature_pipelines.offline.as_of_join import as_of_join
from feature_pipelines.schema import Field, Schema
from feature_pipelines.schema_arrow import column_from_arrow
from feature_pipelines.views import FeatureView

Money = Annotated[NDArray[np.int64], decimal(12, 2)]
EVERY = Schema(
    (
        Field("double", Float64, infinite=True),
        Field("single", Float32, infinite=True),
        Field("long", Nullable[Int64]),
        Field("short", Nullable[Int32]),
        Field("flag", Nullable[Bool]),
        Field("at", Nullable[Timestamp]),
        Field("money", Nullable[Money]),
        Field("text", Nullable[String]),
    )
)
VIEW = FeatureView("every", {"k": "key"}, EVERY)
NARROW = FeatureView("narrow", {"k": "key"}, Schema((EVERY["double"], EVERY["text"])), ttl_seconds=100)
US = pa.timestamp("us", "UTC")
VALUES: dict[str, list[Any]] = {
    "double": [0.0, -0.0, float("nan"), None, 5e-324, float("inf"), 0.1],
    "single": [0.0, -0.0, float("nan"), None, 1e-45, float("-inf"), 0.1],
    "long": [None, 0, 2**63 - 1, -(2**63), 2**53 + 1, 1, 2],
    "short": [None, 0, 2**31 - 1, -(2**31), 7, 1, 2],
    "flag": [None, True, False, True, False, None, True],
    "at": [None, 0, -1, 253402300799999999, 1, 2, 3],
    "money": [
        None,
        Decimal("0.00"),
        Decimal("-0.01"),
        Decimal("9999999999.99"),
        Decimal(1),
        None,
        Decimal(2),
    ],
    "text": [None, "", "\u00e9", "e\u0301", "\U0001f600", "x", "y"],
}


def stored(keys: list[Any], events: list[int], created: list[int], **more: Any) -> pa.Table:
    """Return rows whose values are VALUES in turn."""
    n = len(keys)
    types = {"double": pa.float64(), "single": pa.float32(), "long": pa.int64(), "short": pa.int32()}
    types |= {"flag": pa.bool_(), "at": US, "money": pa.decimal128(12, 2), "text": pa.string()}
    columns: dict[str, Any] = {
        name: pa.array([VALUES[name][i % 7] for i in range(n)], types[name]) for name in types
    }
    times = {"event_ts": pa.array(events, US), "created_ts": pa.array(created, US)}
    return pa.table({"k": pa.array(keys), **times, **columns, **more})


def bits(column: Any) -> list[Any]:
    values: Any
    values, valid = values_and_valid(column)
    listed = values.tolist() if isinstance(values, Strings) else [value.tobytes() for value in values]
    return list(zip(listed, [True] * len(listed) if valid is None else valid.tolist(), strict=True))


def check(
    spark: Any, requests: pa.Table, rows: pa.Table, view: FeatureView = VIEW, hot: int | None = None
) -> pa.Table:
    """Join, compare with the index by bits, and return the joined table in the order of `n`, with the number of the task."""
    frames = [spark.createDataFrame(table) for table in (requests, rows)]
    frame = as_of_join(*frames, view, as_of="as_of", hot_key_rows=hot)
    joined = frame.withColumn("task", F.spark_partition_id()).toArrow().sort_by("n")
    key = requests["key"].combine_chunks()
    valid = key.is_valid().to_numpy(zero_copy_only=False)
    is_text = pa.types.is_string(key.type)
    values = Strings.of(v or "" for v in key.to_pylist()) if is_text else key.fill_null(0).to_numpy()
    as_of = requests["as_of"].cast(pa.int64()).to_numpy()
    columns, statuses = index_from_arrow(view, rows).lookup([Nullable(values, valid)], as_of)
    assert joined[f"{view.name}__status"].to_pylist() == statuses.tolist()
    for field in view.fields:
        ours, errors = column_from_arrow(field, joined[field.name].combine_chunks())
        assert not errors
        assert bits(ours) == bits(columns[field.name]), field.name
    return joined


def asking(keys: list[Any], as_of: list[int], **more: Any) -> pa.Table:
    return pa.table({"n": range(len(keys)), "key": pa.array(keys), "as_of": pa.array(as_of, US), **more})


def test_every_type_comes_through_with_its_bits(spark: Any) -> None:
    rows = stored([f"k{i}" for i in range(7)], [5] * 7, [6] * 7)
    joined = check(spark, asking([f"k{i}" for i in range(8)], [6] * 8), rows)
    assert joined["every__event_ts"].cast(pa.int64()).to_pylist() == [*[5] * 7, None]
    assert [joined[name].to_pylist()[2] for name in ("double", "single")] == [None, None]
    assert str(joined["double"].to_pylist()[1]) == "-0.0"


@pytest.mark.parametrize("most", [50_000, 3])
def test_rows_of_one_time_are_ordered_by_their_digest(spark: Any, monkeypatch: Any, most: int) -> None:
    """Also where there are too many ties to name, so that every row gets a digest."""
    monkeypatch.setattr(as_of_join_module, "_MAX_TIES", most)
    n = 3 * 12
    deleted = pa.array([i % 6 == 0 for i in range(n)])
    rows = stored([i // 3 for i in range(n)], [5] * n, [5] * n, is_deleted=deleted)
    joined = check(spark, asking(list(range(12)), [5] * 12), rows)
    assert len(set(joined["text"].to_pylist())) > 2


def test_a_tombstone_hides_until_a_newer_row_comes(spark: Any) -> None:
    rows = stored(["a", "a", "a"], [1, 2, 3], [1, 2, 3], is_deleted=pa.array([None, True, False]))
    found = check(spark, asking(["a"] * 4, [0, 1, 2, 3]), rows)["every__status"].to_pylist()
    assert found == [Status.NOT_FOUND, Status.PRESENT, Status.NOT_FOUND, Status.PRESENT]


def test_every_left_row_and_column_comes_out_as_it_was(spark: Any) -> None:
    requests = asking(
        ["a", None, "a", "b", "a"],
        [9, 9, 0, 9, 9],
        same=pa.array([[1, None], None, [], [2], [1, None]]),
        pairs=pa.array([[("x", 1)], None, [], [("y", None)], [("x", 1)]], pa.map_(pa.string(), pa.int64())),
        nan=pa.array([float("nan"), -0.0, None, 1.0, 2.0]),
    ).rename_columns(["n", "key", "as_of", "same", "a.dotted name", "nan"])
    rows = stored(["a", "b"], [1, 1], [1, 1])
    check(spark, requests, pa.concat_tables([rows, rows]))
    twice = spark.createDataFrame(pa.concat_tables([requests, requests]))
    joined = as_of_join(twice, spark.createDataFrame(rows), VIEW, as_of="as_of", hot_key_rows=3).toArrow()
    left = joined.select(requests.schema.names).to_pylist()
    assert sorted(map(str, left)) == sorted(map(str, twice.toArrow().to_pylist()))


def test_no_rows_on_either_side_are_no_error(spark: Any) -> None:
    rows = stored(["a"], [1], [1])
    assert check(spark, asking(["a"], [1]), rows.slice(0, 0))["every__status"].to_pylist() == [
        Status.NOT_FOUND
    ]
    assert check(spark, asking(["a"], [1]).slice(0, 0), rows, hot=1).num_rows == 0


def test_a_request_without_a_time_finds_nothing(spark: Any) -> None:
    frames = [spark.createDataFrame(t) for t in (asking(["a"] * 9, [None] * 9), stored(["a"], [1], [1]))]
    joined = as_of_join(*frames, VIEW, as_of="as_of", hot_key_rows=2).toArrow()
    assert joined["every__status"].to_pylist() == [Status.NOT_FOUND] * 9


# --- hot keys


def skewed(n: int, seed: int) -> tuple[pa.Table, pa.Table]:
    """Return requests and rows of which half have one key, a fifth of those at one instant, and some no key."""
    rng = np.random.default_rng(seed)

    def side(n: int) -> tuple[list[str | None], list[int]]:
        keys: Any = np.where(
            rng.random(n) < 0.5, "hot", np.char.add("k", rng.integers(0, 500, n).astype(str))
        )
        times = rng.integers(0, 10**9, n)
        times[rng.random(n) < 0.2] = 5 * 10**8
        return [None if rng.random() < 0.05 else str(key) for key in keys], times.tolist()

    keys, as_of = side(n)
    of_rows, events = side(n // 4)
    late = (np.array(events) + rng.integers(0, 10**7, len(events)) * (rng.random(len(events)) < 0.5)).tolist()
    return asking(keys, as_of), stored(of_rows, events, late)


@pytest.mark.parametrize("hot", [None, 10_000])
def test_a_hot_key_is_split_and_the_bits_stay(spark: Any, hot: int | None) -> None:
    """Half of 200,000 rows have one key: whole it is one task's; split no task has more than a few slices' worth."""
    requests, rows = skewed(160_000, 3)
    settings = {
        "spark.sql.shuffle.partitions": "32",
        "spark.sql.adaptive.coalescePartitions.enabled": "false",
    }
    before = {name: spark.conf.get(name) for name in settings}
    try:
        for name, value in settings.items():
            spark.conf.set(name, value)
        joined = check(spark, requests, rows, NARROW, hot)
    finally:
        for name, value in before.items():
            spark.conf.set(name, value)
    largest = np.bincount(joined["task"].to_numpy()).max()
    assert largest > 70_000 if hot is None else largest < 30_000, largest


# --- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.drop("key"), r"view 'every': the requests have no column 'key'"),
        (lambda r: r.withColumn("text", F.lit(1)), r"the result would have text twice"),
        (lambda r: r.withColumn("key", F.lit(1)), r"key 'key' is a string in one of table and request only"),
        (lambda r: r.withColumn("key", F.lit(1.5)), r"key 'key' of the requests is double"),
        (
            lambda r: r.withColumn("as_of", F.lit("2020-01-01")),
            r"as_of: 'as_of' is string; expected a timestamp",
        ),
        (
            lambda r: r.withColumn("as_of", F.to_timestamp_ntz(F.lit("2020-01-01"))),
            r"is timestamp_ntz; expected",
        ),
    ],
)
def test_what_cannot_be_joined_is_named(spark: Any, change: Any, message: str) -> None:
    requests = change(spark.createDataFrame(asking(["a"], [1])))
    with pytest.raises(ContractError, match=message):
        as_of_join(
            requests, spark.createDataFrame(stored(["a"], [1], [1])), VIEW, as_of="as_of", hot_key_rows=None
        )


def test_a_table_that_lacks_columns_is_named(spark: Any) -> None:
    rows = spark.createDataFrame(stored(["a"], [1], [1]).drop_columns(["text", "created_ts"]))
    with pytest.raises(
        ContractError, match=r"view 'every': its table lacks created_ts, text. It has: k, event_ts"
    ):
        as_of_join(spark.createDataFrame(asking(["a"], [1])), rows, VIEW, as_of="as_of", hot_key_rows=None)


def test_rows_that_break_the_declaration_fail_the_query(spark: Any) -> None:
    rows = stored(["a"], [1], [1]).set_column(1, "event_ts", pa.array([None], US))
    frames = [spark.createDataFrame(table) for table in (asking(["a"], [1]), rows)]
    with pytest.raises(Exception, match=r"NULL_NOT_ALLOWED in event_ts"):
        as_of_join(*frames, VIEW, as_of="as_of", hot_key_rows=None)


def test_times_of_day_light_saving_are_instants(spark: Any) -> None:
    """The session's time zone changes nothing."""
    times = [datetime(2013, 11, 3, hour, 30, tzinfo=UTC) for hour in (5, 6)]
    rows = stored(["a"], [0], [0]).set_column(1, "event_ts", pa.array(times[1:], US))
    rows = rows.set_column(2, "created_ts", rows["event_ts"])
    requests = asking(["a", "a"], [0, 0]).set_column(2, "as_of", pa.array(times, US))
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")
    try:
        joined = check(spark, requests, rows)
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")
    assert joined["every__status"].to_pylist() == [Status.NOT_FOUND, Status.PRESENT]
