"""The UDF in real queries: `select`, SQL and streams give the bits of the batch job, and what a type cannot carry is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.errors import PythonException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from jobs.runs.batch import score_table
from tests.toy.bits import bits_by_row, outcomes
from tests.toy.every_type_rows import NEW_YORK_FOLD, hard_rows, microseconds
from udfs.spark_udf import score_udf

N = 300
NEW_YORK = "America/New_York"
ZONE = "spark.sql.session.timeZone"
BATCH = "spark.sql.execution.arrow.maxRecordsPerBatch"
PLAIN_FROM, PLAIN_TO = microseconds("1902-01-01T00:00:00+00:00"), microseconds("2037-01-01T00:00:00+00:00")
NO_TEXT = ["row", "asked_ts", "seen_ts", "big", "small", "wide", "narrow", "flag", "payload"]


@contextmanager
def setting(spark: SparkSession, key: str, value: str) -> Iterator[None]:
    before = spark.conf.get(key)
    spark.conf.set(key, value)
    try:
        yield
    finally:
        spark.conf.set(key, before)


@pytest.fixture(scope="module")
def hard(spark: SparkSession, every_type: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The hard rows as a Parquet file, and the bits that the batch job gave them."""

    class Hard:
        rows = hard_rows(N)
        path = str(tmp_path_factory.mktemp("hard") / "rows.parquet")

        def frame(self) -> Any:
            return spark.read.parquet(self.path)

        def score(self, kind: str, frame: Any = None, columns: tuple[str, ...] = ("*",)) -> dict[int, str]:
            every_type.connect()
            score = score_udf(spark, "models:/every_type@champion", kind=kind)
            return scored(self.frame() if frame is None else frame, score, "row", columns)

    pq.write_table(Hard.rows, Hard.path)
    every_type.workspace.write("every_type", Hard.rows)
    summary, _ = score_table(spark, every_type.conf())
    assert (summary.rows_scored, summary.rows_quarantined) == (N, 0)
    Hard.batch = bits_by_row(every_type.workspace.rows("every_type_scored"))  # type: ignore[attr-defined]
    assert len(set(Hard.batch.values())) == N  # type: ignore[attr-defined]
    return Hard()


def scored(frame: Any, score: Any, key: str, columns: tuple[str, ...] = ("*",)) -> dict[int, str]:
    answer = frame.select(key, score(F.struct(*columns)).alias("s")).select(key, "s.*")
    return outcomes(answer.toArrow().to_pylist(), key)


def times_of(rows: pa.Table) -> dict[int, list[int]]:
    columns = [rows.column(name).cast(pa.int64()).to_pylist() for name in ("asked_ts", "seen_ts")]
    return {row: [t for t in times if t is not None] for row, times in enumerate(zip(*columns, strict=True))}


def is_plain(times: list[int]) -> bool:
    """Whether a local time in New York says which instant it is, in every time zone database."""
    return all(PLAIN_FROM < t < PLAIN_TO and t not in NEW_YORK_FOLD for t in times)


# Bits and time zones


def test_arrow_kind_gives_the_bits_of_the_batch_job_in_a_session_of_another_zone(
    spark: SparkSession, hard: Any
) -> None:
    with setting(spark, ZONE, NEW_YORK):
        assert hard.score("arrow") == hard.batch


def test_pandas_kind_gives_these_bits_or_refuses_a_local_time_that_is_not_one_instant(
    spark: SparkSession, hard: Any
) -> None:
    with setting(spark, ZONE, NEW_YORK):
        found = hard.score("pandas")
    times = times_of(hard.rows)
    refused = {row for row, outcome in found.items() if outcome.startswith("BAD_TIMESTAMP")}
    assert {row for row in found if set(times[row]) & set(NEW_YORK_FOLD)} <= refused
    assert not {row for row in refused if is_plain(times[row])}
    assert {row: found[row] for row in found if row not in refused} == {
        row: bits for row, bits in hard.batch.items() if row not in refused
    }
    assert 50 < len(refused) < N - 50


@pytest.mark.parametrize("zone", ["UTC", NEW_YORK, "Asia/Kathmandu", "+02:00"])
def test_pandas_kind_reads_times_right_where_spark_localises_by_arrow(
    spark: SparkSession, hard: Any, every_type: Any, zone: str
) -> None:
    """Without text and decimals Spark takes another way into pandas, by a time zone database that differs before 1901."""
    exact = hard.score("arrow", columns=tuple(NO_TEXT))
    with setting(spark, ZONE, zone):
        found = hard.score("pandas", columns=tuple(NO_TEXT))
    refused = {row for row, outcome in found.items() if outcome.startswith("BAD_TIMESTAMP")}
    assert {r: b for r, b in found.items() if r not in refused} == {
        r: b for r, b in exact.items() if r not in refused
    }
    if zone == NEW_YORK:
        assert {
            row for row, times in times_of(hard.rows).items() if set(times) & set(NEW_YORK_FOLD)
        } <= refused
    plain = {row for row, times in times_of(hard.rows).items() if is_plain(times)}
    assert plain
    assert not plain & refused
    if zone in ("UTC", "+02:00"):
        assert not refused


def test_session_zone_changed_after_the_function_was_made_is_refused(
    spark: SparkSession, hard: Any, every_type: Any
) -> None:
    every_type.connect()
    by_pandas, by_arrow = (
        score_udf(spark, "models:/every_type@champion", kind=kind) for kind in ("pandas", "arrow")
    )
    with setting(spark, ZONE, NEW_YORK):
        with pytest.raises(
            PythonException, match=r"is 'America/New_York', but was 'UTC' when score_udf was called"
        ):
            scored(hard.frame(), by_pandas, "row")
        assert scored(hard.frame(), by_arrow, "row") == hard.batch


def test_time_beyond_nanoseconds_is_exact_in_arrow_and_fails_the_pandas_query(
    spark: SparkSession, hard: Any, every_type: Any, tmp_path: Path
) -> None:
    days = (
        "0001-01-01T00:00:00+00:00",
        "1600-01-01T00:00:00.000001+00:00",
        "9999-12-31T23:59:59.999999+00:00",
    )
    rows = hard_rows(30, times=tuple(map(microseconds, days)))
    pq.write_table(rows, tmp_path / "old.parquet")
    frame = spark.read.parquet(str(tmp_path / "old.parquet"))
    every_type.workspace.write("old", rows)
    score_table(spark, every_type.conf("input.source=old", "output.scored=old_scored"))
    assert hard.score("arrow", frame) == bits_by_row(every_type.workspace.rows("old_scored"))
    with pytest.raises(PythonException, match="out of bounds timestamp"):
        hard.score("pandas", frame)


@pytest.mark.parametrize("kind", ["arrow", "pandas"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_batch_size_changes_nothing(spark: SparkSession, hard: Any, kind: str, size: int) -> None:
    frame = hard.frame().repartition(2) if size == 7 else hard.frame()
    with setting(spark, BATCH, str(size)):
        assert hard.score(kind, frame) == hard.batch


@pytest.mark.parametrize("kind", ["arrow", "pandas"])
def test_integers_beside_nulls_stay_whole(spark: SparkSession, hard: Any, kind: str) -> None:
    """The known trap of pandas: a null in the batch turns 9007199254740993 into 9007199254740992."""
    big = hard.rows.column("big").to_pylist()
    assert None in big
    assert 9_007_199_254_740_993 in big
    rounded = [None if b is None else int(float(b)) for b in big[:16]]
    frame = spark.createDataFrame(
        hard.rows.slice(0, 16).set_column(
            3, "big", pa.array([None if b is None else min(b, 2**63 - 1) for b in rounded], pa.int64())
        )
    )
    found = hard.score(kind, frame)
    changed = [
        row for row in range(16) if rounded[row] is not None and min(rounded[row], 2**63 - 1) != big[row]
    ]
    assert changed
    assert [row for row in found if found[row] != hard.batch[row]] == changed


# Ways to call it


@pytest.mark.parametrize("kind", ["arrow", "pandas"])
def test_registered_function_in_sql(spark: SparkSession, hard: Any, every_type: Any, kind: str) -> None:
    every_type.connect()
    spark.udf.register("score_row", score_udf(spark, "models:/every_type@champion", kind=kind))
    hard.frame().createOrReplaceTempView("hard_rows")
    answer = spark.sql("SELECT row, s.* FROM (SELECT row, score_row(struct(*)) AS s FROM hard_rows)")
    assert outcomes(answer.toArrow().to_pylist(), "row") == hard.batch
    late = spark.sql("SELECT row FROM hard_rows WHERE score_row(struct(*)).score > 2e15").collect()
    assert 0 < len(late) < N


@pytest.mark.parametrize(("kind", "sink"), [("arrow", "memory"), ("pandas", "parquet")])
def test_stream_gives_the_bits_of_the_batch_job(
    spark: SparkSession, hard: Any, every_type: Any, tmp_path: Path, kind: str, sink: str
) -> None:
    every_type.connect()
    score = score_udf(spark, "models:/every_type@champion", kind=kind)
    (tmp_path / "in").mkdir()
    for start in (0, 100, 200):
        pq.write_table(hard.rows.slice(start, 100), tmp_path / "in" / f"{start}.parquet")
    schema = hard.frame().schema
    rows = spark.readStream.schema(schema).option("maxFilesPerTrigger", 1).parquet(str(tmp_path / "in"))
    answer = rows.select("row", score(F.struct("*")).alias("s")).select("row", "s.*")
    writer = answer.writeStream.format(sink).trigger(availableNow=True)
    writer = writer.queryName("streamed").option("checkpointLocation", str(tmp_path / "checkpoint"))
    query = writer.start() if sink == "memory" else writer.start(str(tmp_path / "out"))
    query.awaitTermination()
    assert query.lastProgress["batchId"] == 2
    found = spark.table("streamed") if sink == "memory" else spark.read.parquet(str(tmp_path / "out"))
    assert outcomes(found.toArrow().to_pylist(), "row") == hard.batch


# Stored views and bad rows


@pytest.fixture(scope="module")
def houses(spark: SparkSession, trained_workspace: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A copy of the toy workspace, its tables as frames, and the bits that the batch job gave."""
    workspace = trained_workspace.copy_to(tmp_path_factory.mktemp("houses") / "workspace")
    score_table(spark, workspace.conf())

    class Houses:
        requests = spark.createDataFrame(workspace.rows("houses"))
        rates = spark.createDataFrame(workspace.rows("rates"))
        batch = bits_by_row(workspace.rows("houses_scored"))
        connect = workspace.connect

    return Houses


@pytest.mark.parametrize("zone", ["UTC", NEW_YORK])
@pytest.mark.parametrize("kind", ["arrow", "pandas"])
def test_views_are_looked_up_as_of_each_row(spark: SparkSession, houses: Any, kind: str, zone: str) -> None:
    houses.connect()
    with setting(spark, ZONE, zone):
        score = score_udf(spark, "models:/houses@champion", views={"rates": houses.rates}, kind=kind)
        assert scored(houses.requests, score, "house_id") == houses.batch


@pytest.mark.parametrize("kind", ["arrow", "pandas"])
def test_row_that_names_its_own_time_is_scored_as_of_it(spark: SparkSession, houses: Any, kind: str) -> None:
    """As online and in the batch job; before the first rate is known nothing is found, and null leaves the as-of field."""
    houses.connect()
    looked_up = score_udf(spark, "models:/houses@champion", views={"rates": houses.rates}, kind=kind)
    brought = score_udf(spark, "models:/houses@champion", kind=kind)
    early = F.when(F.col("house_id") % 2 == 0, F.timestamp_micros(F.lit(0)))
    timed = scored(houses.requests.withColumn("as_of_ts", early), looked_up, "house_id")
    nothing = houses.requests.withColumns(
        {name: F.lit(None).cast("double") for name in ("rate_pct", "rate_pct_floor")}
    )
    without = scored(nothing, brought, "house_id")
    assert timed == {row: (houses.batch if row % 2 else without)[row] for row in houses.batch}
    assert any(without[row] != houses.batch[row] for row in without if row % 2 == 0)


def test_views_that_the_struct_brings_are_not_looked_up(spark: SparkSession, houses: Any) -> None:
    houses.connect()
    score = score_udf(spark, "models:/houses@champion")
    with_view = houses.requests.withColumns(
        {"rate_pct": F.lit(None).cast("double"), "rate_pct_floor": F.lit(0.5)}
    )
    found = scored(with_view, score, "house_id")
    assert found.keys() == houses.batch.keys()
    assert any(found[row] != houses.batch[row] for row in found)


def test_view_neither_brought_nor_given_fails_with_its_name(spark: SparkSession, houses: Any) -> None:
    houses.connect()
    score = score_udf(spark, "models:/houses@champion")
    with pytest.raises(PythonException, match=r"view 'rates': the input does not bring its fields"):
        scored(houses.requests, score, "house_id")


@pytest.mark.parametrize("kind", ["arrow", "pandas"])
def test_bad_row_has_an_error_and_the_rows_beside_it_scores(
    spark: SparkSession, houses: Any, kind: str
) -> None:
    houses.connect()
    score = score_udf(spark, "models:/houses@champion", views={"rates": houses.rates}, kind=kind)
    bad = F.when(F.col("house_id") == 3, None).when(F.col("house_id") == 5, -1.0).otherwise(F.col("area_m2"))
    found = scored(houses.requests.withColumn("area_m2", bad), score, "house_id")
    expected = {**houses.batch, 3: "NULL_NOT_ALLOWED area_m2", 5: "OUT_OF_RANGE area_m2"}
    assert found == expected


@pytest.mark.parametrize("kind", ["arrow", "pandas"])
def test_columns_that_the_model_does_not_know_are_ignored(spark: SparkSession, hard: Any, kind: str) -> None:
    more = hard.frame().withColumns(
        {
            "tags": F.array(F.lit("a")),
            "by_key": F.create_map(F.lit("k"), F.lit(1)),
            "loaded_ts": F.lit("2013-11-03 01:30").cast("timestamp"),
        }
    )
    with setting(spark, ZONE, "UTC"):
        assert hard.score(kind, more) == hard.batch


def test_unknown_time_of_an_ignored_column_refuses_no_row(spark: SparkSession, houses: Any) -> None:
    """01:30 on that day comes twice in New York, in a column that no feature reads."""
    houses.connect()
    with setting(spark, ZONE, NEW_YORK):
        score = score_udf(spark, "models:/houses@champion", views={"rates": houses.rates}, kind="pandas")
        more = houses.requests.withColumn("loaded_ts", F.timestamp_micros(F.lit(NEW_YORK_FOLD[0])))
        assert scored(more, score, "house_id") == houses.batch
