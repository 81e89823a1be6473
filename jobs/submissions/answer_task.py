"""What a Spark task of a large submission does: read its rows, answer them as a worker would, hand the answers back in chunks.

The rows are read into the wire form and go through the very code that answers online, with the same online store: so there is no second
look-up of stored features whose answers could differ. It runs on Spark's workers, and writes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.request_rows import AS_OF_TS
from feature_pipelines.schema import RowError
from jobs.runs.kill_points import reached
from jobs.runs.row_json import rows_as_json
from jobs.submissions.ledger_chunk import Chunk
from jobs.submissions.payload import read_kept
from jobs.submissions.scoring import Model, Scorers
from jobs.tables.units import Unit, read_unit
from udfs.serving import ServingSettings
from udfs.shipped import model_directory

__all__ = ["ANSWERS", "PORTIONS", "AnswerTask", "wire_rows"]

PORTIONS = "first_row long, n_rows long, rows binary, units string"
"""What a task is handed, as DDL: adjacent rows, either themselves or where they are."""
ANSWERS = "first_row long, n_rows long, body binary, ids binary, n_refused long, n_retryable long"
"""What it yields for each chunk, as DDL."""

_SCORERS: dict[str, Scorers] = {}
_MICROSECONDS = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class AnswerTask:
    """A function for `mapInArrow` over PORTIONS; it travels to the workers by pickle, so it holds plain values alone.

    Args:
        shipped: the archive with the model.
        version, digest, allow_tolerance: of the model; see `scoring.Model`.
        settings: of the store; it may hold its password.
        as_of: when the submission came, microseconds.
        chunk_rows: of the submission.
        is_last: see `Scorers.answer`.
        source_schema: of the table that is referred to, serialised; None where rows came themselves.
    """

    shipped: str
    version: str | None
    digest: str
    allow_tolerance: bool
    settings: ServingSettings
    as_of: int
    chunk_rows: int
    is_last: bool
    source_schema: bytes | None

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Answer the portions that the batches hold; yield a row for each chunk (see ANSWERS)."""
        for batch in batches:
            for portion in batch.to_pylist():
                yield from self._answered(portion)

    def _answered(self, portion: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
        reached("async_task.before_score")
        model = Model(str(model_directory(self.shipped)), self.version, self.digest, self.allow_tolerance)
        scorers = _SCORERS.setdefault(self.shipped, Scorers(self.settings, 1))
        first = portion["first_row"]
        for rows, refused in self._chunks(portion, scorers.load(model).scorer.feature_set):
            found = scorers.answer(model, self.as_of, rows, refused, is_last=self.is_last)
            chunk = Chunk.packed(first, len(rows), found.body, found.ids, found.n_refused)
            columns = {
                "first_row": pa.array([first], pa.int64()),
                "n_rows": pa.array([len(rows)], pa.int64()),
                "body": pa.array([chunk.packed_body], pa.binary()),
                "ids": pa.array([chunk.packed_ids], pa.binary()),
                "n_refused": pa.array([chunk.n_refused], pa.int64()),
                "n_retryable": pa.array([found.n_retryable], pa.int64()),
            }
            yield pa.RecordBatch.from_pydict(columns)
            first += len(rows)

    def _chunks(
        self, portion: Mapping[str, Any], feature_set: FeatureSet
    ) -> Iterator[tuple[list[Any], list[RowError]]]:
        if self.source_schema is None:
            kept = read_kept(portion["rows"])
            for at in range(0, portion["n_rows"], self.chunk_rows):
                end = at + self.chunk_rows
                refused = [
                    error._replace(row=error.row - at) for error in kept.refused if at <= error.row < end
                ]
                yield list(kept.rows[at:end]), refused
            return
        schema = pa.ipc.read_schema(pa.py_buffer(self.source_schema))
        rows: list[Any] = []
        for row in _rows_of(json.loads(portion["units"]), feature_set, schema, self.chunk_rows):
            rows.append(row)
            if len(rows) == self.chunk_rows:
                yield rows, []
                rows = []
        if rows:
            yield rows, []


def _rows_of(
    parts: list[list[Any]], feature_set: FeatureSet, schema: pa.Schema, batch_rows: int
) -> Iterator[dict[str, Any]]:
    """Yield rows of units: of each (unit, how many to skip, how many to take)."""
    known = (*feature_set.sources.names, AS_OF_TS)
    columns = [name for name in schema.names if name in known]
    if not columns:  # every row is refused then, for what it lacks
        for _, _, take in parts:
            yield from ({} for _ in range(take))
        return
    for text, skip, take in parts:
        at = 0
        for batch in read_unit(
            Unit.from_json(text), columns, batch_rows=max(batch_rows, 1024), schema=schema
        ):
            low, high = max(skip - at, 0), min(skip + take - at, batch.num_rows)
            if low < high:
                yield from wire_rows(batch.slice(low, high - low))
            at += batch.num_rows
            if at >= skip + take:
                break


def wire_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return the rows of a table in the wire form, exactly; a time is integer microseconds, where it has a zone and is no finer."""
    rows: list[dict[str, Any]] = [json.loads(text) for text in rows_as_json(batch)]
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if not pa.types.is_timestamp(column.type) or column.type.tz is None:
            continue
        try:
            ticks = column.cast(_MICROSECONDS).cast(pa.int64()).to_pylist()
        except pa.ArrowInvalid:
            continue  # finer than a microsecond, which the contract refuses as it is written
        for row, value in zip(rows, ticks, strict=True):
            row[name] = value
    return rows
