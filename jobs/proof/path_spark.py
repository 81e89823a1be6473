"""The paths through Spark: the UDF of both kinds in a query, and the batch job from Parquet and from Delta into tables of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_pipelines.reasons import Reason
from jobs.proof.path_answers import Answer, Row, class_scores_of
from jobs.proof.path_bench import Bench
from jobs.proof.path_rows import ROW, expressed, placed

__all__ = ["BatchPath", "UdfPath"]

_NANOSECONDS = 2**63 // 1000 - 1
"""Beyond so many microseconds from 1970 Spark itself fails a query of a pandas UDF."""


class UdfPath:
    """`score_udf` in a query, on a struct of the request's and every stored field.

    Args:
        bench: the model and the session.
        kind: "arrow" or "pandas". In a pandas frame not every time and integer is exact; the function refuses such a row.
    """

    def __init__(self, bench: Bench, kind: str) -> None:
        self._bench, self._kind, self._spark = bench, kind, bench.spark()
        codes = {Reason.BAD_TIMESTAMP, Reason.PRECISION_LOST} if kind == "pandas" else ()
        self.cannot_carry = frozenset(map(str, codes))

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return one answer per row; see ScoringPath."""
        from pyspark.sql.functions import struct

        from udfs.spark_udf import score_udf

        bench = self._bench
        table, refused = expressed(bench.scorer.feature_set, rows)
        if self._kind == "pandas":
            table, beyond = _within_nanoseconds(table)
            refused |= beyond
        conf = bench.conf
        score = score_udf(
            self._spark,
            bench.model_uri(),
            kind=self._kind,
            cache=conf.storage.cache,
            allow_tolerance=conf.model.allow_tolerance,
        )
        names = bench.scorer.feature_set.sources.names
        frame = (
            self._spark.createDataFrame(table)
            .select(ROW, score(struct(*names)).alias("s"))
            .select(ROW, "s.*")
        )
        found = {row[ROW]: _of_struct(row.asDict()) for row in frame.collect()}
        return placed(len(rows), refused, found)


class BatchPath:
    """The batch job over a table of the rows.

    Args:
        bench: the model, the session and the scratch directory.
        source: "parquet" or "delta".
    """

    cannot_carry: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, bench: Bench, source: str) -> None:
        self._bench, self._source, self._spark = bench, source, bench.spark()
        self._runs = 0

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return one answer per row; see ScoringPath."""
        from deltalake import DeltaTable, write_deltalake

        from jobs.runs.plan import make_plan
        from jobs.runs.score_run import score

        bench = self._bench
        table, refused = expressed(bench.scorer.feature_set, rows)
        self._runs += 1
        directory = bench.scratch() / f"batch-{self._source}-{self._runs}"
        requests = directory / "requests"
        requests.mkdir(parents=True)
        if self._source == "delta":
            write_deltalake(str(requests), table)
        else:
            pq.write_table(table, requests / "rows.parquet")
        conf = bench.conf_with(
            [
                f"input.source={json.dumps(str(requests))}",
                f"input.row_id=[{ROW}]",
                "input.version=null",
                "input.range_from=null",
                "input.range_to=null",
                f"output.scored={json.dumps(str(directory / 'scored'))}",
                f"output.quarantine={json.dumps(str(directory / 'quarantine'))}",
                "output.pass_through=[]",
                "quarantine.max_share=1",
                f"storage.runs={json.dumps(str(directory / 'runs'))}",
            ]
        )
        plan = make_plan(conf, bench.model, bench.bundle)
        score(self._spark, plan)
        scored = DeltaTable(plan.scored).to_pyarrow_table().to_pylist()
        bad = DeltaTable(plan.quarantine).to_pyarrow_table().to_pylist()
        found = {
            int(row["row_id"]): Answer(
                score=row["score"],
                label=row.get("label"),
                version=row["model_version"],
                verified=row["verified"],
                classes=class_scores_of(row),
            )
            for row in scored
        }
        found |= {int(row["row_id"]): Answer(code=row["code"], field=row["field"]) for row in bad}
        return placed(len(rows), refused, found)


def _of_struct(row: dict[str, Any]) -> Answer:
    if row["error_code"] is not None:
        return Answer(code=row["error_code"], field=row["error_field"])
    return Answer(score=row["score"], label=row.get("label"), classes=class_scores_of(row))


def _within_nanoseconds(table: pa.Table) -> tuple[pa.Table, dict[int, Answer]]:
    """Return the rows whose times pandas' nanoseconds hold, and the answers to the others."""
    refused: dict[int, Answer] = {}
    for column in table.schema:
        if pa.types.is_timestamp(column.type):
            times = table.column(column.name).cast(pa.int64())
            far = pc.fill_null(pc.or_(pc.greater(times, _NANOSECONDS), pc.less(times, -_NANOSECONDS)), False)
            for position in table.column(ROW).filter(far).to_pylist():
                refused.setdefault(position, Answer(code=str(Reason.BAD_TIMESTAMP), field=column.name))
    return table.filter(pc.invert(pc.is_in(table.column(ROW), pa.array(refused, pa.int64())))), refused
