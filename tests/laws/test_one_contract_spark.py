"""L5 through Spark: the form of a column depends on its declared type alone, not on storage, session or what stands beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from feature_pipelines.schema_arrow import columns_from_arrow
from jobs.runs.batch import score_table
from jobs.tables.snapshot import pin_snapshot, plan_units, read_unit
from tests.toy.bits import bits_by_row, bits_of, outcomes
from tests.toy.every_type import FEATURES
from tests.toy.every_type_rows import hard_rows
from udfs.bundle import load_bundle
from udfs.kernel import Kernel
from udfs.spark_udf import score_udf

N = 200
ZONES = ("UTC", "America/New_York")
ZONE = "spark.sql.session.timeZone"
ROWS = hard_rows(N)
DDL = (
    "row bigint, asked_ts timestamp, seen_ts timestamp, big bigint, small int, wide double, narrow float, flag boolean, "
    "name string, amount decimal(18,4), payload binary"
)


@pytest.fixture(scope="module")
def alone(every_type: Any) -> dict[int, str]:
    """The bits of each row scored alone, with no other row in its batch: what every path and batch must give."""
    kernel = Kernel(load_bundle(every_type.workspace.root / "bundle"))
    found = {}
    for row in range(N):
        scored = kernel.score(ROWS.slice(row, 1).combine_chunks().to_batches()[0])
        assert scored.errors == []
        found[row] = bits_of(scored.outputs["score"][0])
    assert len(set(found.values())) == N
    return found


@pytest.fixture(autouse=True)
def _zone_restored(request: pytest.FixtureRequest) -> Any:
    yield
    if "spark" in request.fixturenames:
        request.getfixturevalue("spark").conf.set(ZONE, "UTC")


def score(spark: SparkSession, every_type: Any, frame: Any, kind: str = "arrow") -> dict[int, str]:
    every_type.connect()
    udf = score_udf(spark, "models:/every_type@champion", kind=kind)
    return outcomes(
        frame.select("row", udf(F.struct("*")).alias("s")).select("row", "s.*").toArrow().to_pylist(), "row"
    )


def by_pyarrow(spark: SparkSession, path: str) -> None:
    pq.write_table(ROWS, path + ".parquet", row_group_size=37)


def by_pyarrow_plain(spark: SparkSession, path: str) -> None:
    pq.write_table(ROWS, path + ".parquet", use_dictionary=False, version="1.0", coerce_timestamps="us")


def by_spark(spark: SparkSession, path: str, timestamps: str) -> None:
    spark.conf.set("spark.sql.parquet.outputTimestampType", timestamps)
    spark.createDataFrame(ROWS).coalesce(1).write.parquet(path + ".parquet")
    (file,) = Path(path + ".parquet").glob("*.parquet")
    physical = {
        c.path: c.physical_type for c in map(pq.ParquetFile(file).schema.column, range(len(ROWS.schema)))
    }
    assert physical["asked_ts"] == ("INT96" if timestamps == "INT96" else "INT64")


def by_spark_int96(spark: SparkSession, path: str) -> None:
    by_spark(spark, path, "INT96")


def by_spark_micros(spark: SparkSession, path: str) -> None:
    by_spark(spark, path, "TIMESTAMP_MICROS")


def by_delta(spark: SparkSession, path: str) -> None:
    write_deltalake(path + ".delta", ROWS)


WRITERS = [by_pyarrow, by_pyarrow_plain, by_spark_int96, by_spark_micros, by_delta]


@pytest.fixture(scope="module", params=WRITERS, ids=lambda writer: writer.__name__)
def stored(
    request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The same rows as one storage holds them, written in a session in New York."""
    path = str(tmp_path_factory.mktemp("stored") / "rows")
    spark.conf.set(ZONE, ZONES[1])
    request.param(spark, path)
    spark.conf.set(ZONE, "UTC")
    return path + (".delta" if request.param is by_delta else ".parquet")


def read(spark: SparkSession, stored: str) -> Any:
    if stored.endswith(".parquet"):
        return spark.read.schema(DDL).parquet(stored)
    return spark.read.schema(DDL).option("basePath", stored).parquet(*DeltaTable(stored).file_uris())


@pytest.mark.parametrize("zone", ZONES)
def test_storage_and_session_zone_change_nothing_in_the_udf(
    spark: SparkSession, every_type: Any, alone: dict[int, str], stored: str, zone: str
) -> None:
    spark.conf.set(ZONE, zone)
    assert score(spark, every_type, read(spark, stored)) == alone


def test_storage_changes_nothing_in_the_batch_job(
    spark: SparkSession, every_type: Any, alone: dict[int, str], stored: str
) -> None:
    spark.conf.set(ZONE, ZONES[1])
    name = "scored_" + Path(stored).parent.name
    summary, _ = score_table(
        spark, every_type.conf(f"input.source={stored}", f"output.scored={name}", "score.batch_rows=7")
    )
    assert (summary.rows_scored, summary.rows_quarantined) == (N, 0)
    found = every_type.workspace.rows(name)
    assert bits_by_row(found) == alone
    as_of = dict(
        zip(map(int, found.column("row_id").to_pylist()), found.column("as_of_ts").to_pylist(), strict=True)
    )
    assert as_of == dict(zip(range(N), ROWS.column("asked_ts").to_pylist(), strict=True))


def test_storage_changes_nothing_in_memory(stored: str) -> None:
    """The columns themselves, type by type: whatever the file chose, the form is that of the declaration."""
    snapshot = pin_snapshot(stored)
    batches = [
        batch
        for unit in plan_units(snapshot, unit_rows=1_000)
        for batch in read_unit(unit, FEATURES.request.names, batch_rows=1_000, schema=snapshot.schema)
    ]
    whole = pa.Table.from_batches(batches).combine_chunks().to_batches()
    assert len(whole) == 1
    order = np.argsort(np.array(whole[0].column("row")))
    columns, errors = columns_from_arrow(FEATURES.request, whole[0].take(pa.array(order)))
    expected, _ = columns_from_arrow(FEATURES.request, ROWS.combine_chunks().to_batches()[0])
    assert errors == []
    for declared in FEATURES.request:
        got, want = (_parts(found[declared.name]) for found in (columns, expected))
        assert [part.dtype for part in got] == [part.dtype for part in want]
        assert [part.tobytes() for part in got] == [part.tobytes() for part in want], declared.name


def _parts(column: Any) -> list[Any]:
    """The arrays of a column that two equal columns have in common: strings and bytes by length and content."""
    values, rest = (column.values, [column.valid]) if hasattr(column, "valid") else (column, [])
    if hasattr(values, "tolist") and not isinstance(values, np.ndarray):
        values = np.array([text.encode() + b"|" for text in values.tolist()])
    elif values.dtype == np.object_:
        values = np.array([bytes(value) + b"|" for value in values])
    return [values, *rest]


def as_pandas() -> pd.DataFrame:
    """The rows as a person would hold them in pandas: nullable integers, instants with a zone, None for null."""
    frame = ROWS.to_pandas(timestamp_as_object=False)
    frame["big"] = pd.array(ROWS.column("big").to_pylist(), dtype="Int64")
    frame["small"] = pd.array(ROWS.column("small").to_pylist(), dtype="Int32")
    return frame


FRAMES: list[tuple[str, Callable[[SparkSession], Any]]] = [
    ("from pandas", lambda spark: spark.createDataFrame(as_pandas(), DDL)),
    ("from arrow", lambda spark: spark.createDataFrame(ROWS)),
    (
        "from a dictionary",
        lambda spark: spark.createDataFrame(
            ROWS.set_column(8, "name", ROWS.column("name").dictionary_encode()), DDL
        ),
    ),
    (
        "shuffled",
        lambda spark: spark.createDataFrame(ROWS).repartition(5, "name").sortWithinPartitions("payload"),
    ),
]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("make", [make for _, make in FRAMES], ids=[name for name, _ in FRAMES])
def test_how_a_frame_was_made_changes_nothing(
    spark: SparkSession,
    every_type: Any,
    alone: dict[int, str],
    make: Callable[[SparkSession], Any],
    zone: str,
) -> None:
    spark.conf.set(ZONE, zone)
    assert score(spark, every_type, make(spark)) == alone


@pytest.mark.parametrize("column", ["big", "small", "flag", "name", "amount", "payload", "seen_ts"])
def test_null_beside_it_changes_nothing(every_type: Any, alone: dict[int, str], column: str) -> None:
    """Each value in a batch with nulls and in a batch without."""
    kernel = Kernel(load_bundle(every_type.workspace.root / "bundle"))
    has_value = np.array(ROWS.column(column).is_valid())
    null = int(np.flatnonzero(~has_value)[0])
    for rows in (np.flatnonzero(has_value)[:40], np.append(np.flatnonzero(has_value)[:40], null)):
        batch = ROWS.take(pa.array(rows)).combine_chunks().to_batches()[0]
        found = [bits_of(score) for score in kernel.score(batch).outputs["score"]]
        assert found == [alone[int(row)] for row in rows]


def test_null_and_nan_are_one_float_and_minus_zero_is_another(every_type: Any) -> None:
    kernel = Kernel(load_bundle(every_type.workspace.root / "bundle"))

    def score_of(value: float | None, column: str, type_: pa.DataType) -> str:
        at = ROWS.schema.get_field_index(column)
        row = ROWS.slice(0, 1).set_column(at, column, pa.array([value], type_, from_pandas=False))
        return bits_of(kernel.score(row.combine_chunks().to_batches()[0]).outputs["score"][0])

    other_nan = float(np.array([0xFFF8_0000_0000_0001], np.uint64).view(np.float64)[0])
    for column, type_ in (("wide", pa.float64()), ("narrow", pa.float32())):
        assert (
            score_of(None, column, type_)
            == score_of(float("nan"), column, type_)
            == score_of(other_nan, column, type_)
        )
        assert score_of(0.0, column, type_) != score_of(-0.0, column, type_)
