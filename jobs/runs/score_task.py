"""What one Spark task of a scoring run does: read its unit, score it with the kernel, write two files, prove the ids.

No row passes through the JVM: the task reads row groups with pyarrow and writes Parquet with pyarrow; Spark schedules it, retries it
and carries one line of JSON back. Files are invisible until the driver commits them.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_pipelines.columns import Timestamp
from feature_pipelines.schema import Field, Reason, RowError
from feature_pipelines.schema_arrow import column_from_arrow
from jobs.runs.ids import IdSum, id_sum, row_ids, unreadable_keys
from jobs.runs.kill_points import reached
from jobs.runs.row_json import rows_as_json
from jobs.runs.score_tables import QUARANTINE_SCHEMA, STAMPS, scored_schema
from jobs.runs.staged_views import StagedRows, StagedView, staged_columns
from jobs.runs.written_ids import ids_in_files
from jobs.tables.delta_types import as_stored
from jobs.tables.sink import ParquetSink, WrittenFile
from jobs.tables.units import Unit, read_unit
from udfs.kernel import Kernel
from udfs.platform import platform_id
from udfs.rows import Found, ScoredRows
from udfs.shipped import load_kernel

__all__ = ["RESULT", "ScoreTask", "TaskResult"]

RESULT = "result string, hashes binary"
"""What a task yields for each unit, as DDL."""


@dataclass(frozen=True)
class TaskResult:
    """What a task hands back for its unit: a line of JSON and, where a key is declared, the hashes of its ids."""

    unit: int
    scored: WrittenFile | None
    quarantined: WrittenFile | None
    ids_in: IdSum
    ids_scored: IdSum
    ids_quarantined: IdSum
    reasons: Mapping[str, int]
    positives: int
    seconds: Mapping[str, float]
    hashes: bytes = b""

    def to_json(self) -> str:
        """Return one line of JSON, with all but the hashes."""
        files = [file.to_json() if file else None for file in (self.scored, self.quarantined)]
        ids = [part.to_json() for part in (self.ids_in, self.ids_scored, self.ids_quarantined)]
        return json.dumps([self.unit, files, ids, dict(self.reasons), self.positives, dict(self.seconds)])

    @classmethod
    def from_json(cls, text: str, hashes: bytes = b"") -> TaskResult:
        """Return what `to_json` wrote, and the hashes that came beside it."""
        unit, files, ids, reasons, positives, seconds = json.loads(text)
        scored, quarantined = (WrittenFile.from_json(file) if file else None for file in files)
        ids_in, ids_scored, ids_quarantined = (IdSum.from_json(part) for part in ids)
        return cls(
            unit,
            scored,
            quarantined,
            ids_in,
            ids_scored,
            ids_quarantined,
            reasons,
            positives,
            seconds,
            hashes,
        )


@dataclass(frozen=True)
class ScoreTask:
    """A function for `mapInArrow` over unit numbers; it travels to the workers by pickle, so it holds plain values alone.

    Args:
        shipped: the archive with the model and the views.
        units: the units of this chunk, by position.
        columns: input columns to read.
        source_schema: the input's schema, serialised.
        key: the row id's fields.
        repeated: input columns that the scored table repeats.
        scored_uri, quarantine_uri: the tables.
        stamps: the provenance values of `STAMPS` but those that the worker knows itself (platform_id, verified).
        source_root: where the input is; files below it are named by their path from there.
        file_prefix: beginning of the names of files that this chunk writes.
        batch_rows: rows in memory at once.
        time_range: (column, from, to) in microseconds, from inclusive, to exclusive, None = unbounded; a row without a time
            is before all times.
        allow_tolerance: see load_bundle.
        staged: by name, the views that were joined beforehand, with a file for each of `units`.
    """

    shipped: str
    units: tuple[Unit, ...]
    columns: tuple[str, ...]
    source_schema: bytes
    key: tuple[str, ...]
    repeated: tuple[str, ...]
    scored_uri: str
    quarantine_uri: str
    stamps: Mapping[str, str]
    source_root: str
    file_prefix: str
    batch_rows: int
    time_range: tuple[str, int | None, int | None] | None
    allow_tolerance: bool
    staged: Mapping[str, StagedView] = field(default_factory=dict)

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Score the units whose numbers the batches hold; yield a row for each (see RESULT)."""
        for batch in batches:
            for number in batch.column(0).to_pylist():
                result = self.run(number)
                columns = [pa.array([result.to_json()], pa.string()), pa.array([result.hashes], pa.binary())]
                yield pa.RecordBatch.from_arrays(columns, names=["result", "hashes"])

    def run(self, number: int) -> TaskResult:
        """Score one unit."""
        reached("task.before_write")
        clock = _Stages()
        kernel = load_kernel(self.shipped, self.allow_tolerance)
        clock.add("load")
        unit = self.units[number]
        schema = pa.ipc.read_schema(pa.py_buffer(self.source_schema))
        output = scored_schema(kernel.scorer.feature_set, kernel.scorer.output, schema, self.repeated)
        ids_in, positives, refused = IdSum(), 0, list[_Refused]()
        name = f"{self.file_prefix}-{number:05d}"
        with (
            ParquetSink(self.scored_uri, output, name) as scored_sink,
            ParquetSink(self.quarantine_uri, QUARANTINE_SCHEMA, name) as quarantine_sink,
        ):
            for batch, ordinals, ids, errors, staged in self._batches(number, schema):
                clock.add("read")
                ids_in += id_sum(ids)
                clock.add("prove")
                rows = kernel.score(batch, errors, _found(kernel, staged))
                clock.add("score")
                scored_sink.append(self._scored(batch, ids, rows, kernel, output))
                refused += [_Refused(int(ordinals[e.row]), ids[e.row].as_py(), e) for e in rows.errors]
                positives += _positives(rows)
                clock.add("write")
                reached("task.mid_write")
            for rows_of_input, why in self._originals(unit, schema, refused):
                quarantine_sink.append(self._quarantined(rows_of_input, why, unit.file_uri))
            scored, quarantined = scored_sink.close(), quarantine_sink.close()
        clock.add("write")
        reached("task.after_write")
        hashes: list[NDArray[np.uint64]] = []
        ids_scored = ids_in_files(self.scored_uri, [scored] if scored else [], hashes)
        ids_quarantined = ids_in_files(self.quarantine_uri, [quarantined] if quarantined else [], hashes)
        clock.add("prove")
        reasons = Counter(str(one.error.code) for one in refused)
        return TaskResult(
            number,
            scored,
            quarantined,
            ids_in,
            ids_scored,
            ids_quarantined,
            reasons,
            positives,
            clock.seconds,
            np.concatenate(hashes).astype("<u8").tobytes() if self.key and hashes else b"",
        )

    def _batches(
        self, number: int, schema: pa.Schema
    ) -> Iterator[
        tuple[pa.RecordBatch, NDArray[np.int64], pa.Array, list[RowError], dict[str, pa.RecordBatch]]
    ]:
        """Yield a unit's rows in the time range: ordinals in the file, ids, those without a time or key, what is staged."""
        unit = self.units[number]
        beside = {name: StagedRows(view, number) for name, view in self.staged.items()}
        ordinal = unit.first_ordinal
        file = _name_below(self.source_root, unit.file_uri)
        for batch in read_unit(unit, list(self.columns), batch_rows=self.batch_rows, schema=schema):
            ids = row_ids(batch, self.key, file, ordinal)
            ordinals = np.arange(ordinal, ordinal + batch.num_rows)
            ordinal += batch.num_rows
            staged = {name: rows.next(batch.num_rows) for name, rows in beside.items()}
            errors: list[RowError] = []
            if self.time_range is not None:
                inside, errors = _in_range(batch, *self.time_range)
                index = np.flatnonzero(inside)
                if len(index) < batch.num_rows:
                    batch, ids, ordinals = (
                        batch.take(pa.array(index)),
                        ids.take(pa.array(index)),
                        ordinals[index],
                    )
                    staged = {name: rows.take(pa.array(index)) for name, rows in staged.items()}
                    errors = [error._replace(row=int(np.searchsorted(index, error.row))) for error in errors]
            errors += [
                RowError(row, Reason.BAD_VALUE, name, "the string is not valid UTF-8")
                for name, rows in unreadable_keys(batch, self.key).items()
                for row in rows
            ]
            yield batch, ordinals, ids, errors, staged

    def _originals(
        self, unit: Unit, schema: pa.Schema, refused: list[_Refused]
    ) -> Iterator[tuple[pa.RecordBatch, list[_Refused]]]:
        """Read the refused rows again, with every column of the input: a later version of the model may need the others."""
        wanted = np.array([one.ordinal for one in refused], dtype=np.int64)
        first = unit.first_ordinal
        batches = (
            read_unit(unit, schema.names, batch_rows=self.batch_rows, schema=schema) if refused else iter(())
        )
        for batch in batches:
            start, stop = np.searchsorted(wanted, [first, first + batch.num_rows])
            if stop > start:
                yield batch.take(pa.array(wanted[start:stop] - first)), refused[start:stop]
            first += batch.num_rows

    def _scored(
        self, batch: pa.RecordBatch, ids: pa.Array, rows: ScoredRows, kernel: Kernel, schema: pa.Schema
    ) -> pa.RecordBatch:
        n = len(rows.index)
        columns: dict[str, pa.Array] = {
            "row_id": ids,
            **{name: as_stored(name, batch.column(name)) for name in self.repeated},
        }
        if n < batch.num_rows:
            index = pa.array(rows.index)
            columns = {name: column.take(index) for name, column in columns.items()}
        if rows.as_of is not None:
            columns["as_of_ts"] = pa.array(rows.as_of, pa.timestamp("us", tz="UTC"))
        columns |= {name: pa.array(values, schema.field(name).type) for name, values in rows.outputs.items()}
        stamps = {**self.stamps, "platform_id": platform_id(), "verified": kernel.scorer.verified}
        columns |= {name: _constant(stamps[name], n) for name in STAMPS}
        columns["scored_at"] = _now(n)
        return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], names=schema.names)

    def _quarantined(self, rows: pa.RecordBatch, refused: list[_Refused], file: str) -> pa.RecordBatch:
        n = len(refused)
        columns = {
            "row_id": pa.array([one.row_id for one in refused]),
            "code": pa.array([str(one.error.code) for one in refused]),
            "field": pa.array([one.error.field for one in refused]),
            "message": pa.array([one.error.message for one in refused]),
            "row": pa.array(rows_as_json(rows)),
            "source_file": _constant(file, n),
            "source_ordinal": pa.array([one.ordinal for one in refused], pa.int64()),
            "model_name": _constant(self.stamps["model_name"], n),
            "model_version": _constant(self.stamps["model_version"], n),
            "run_id": _constant(self.stamps["run_id"], n),
            "quarantined_at": _now(n),
        }
        return pa.RecordBatch.from_arrays(
            [columns[name] for name in QUARANTINE_SCHEMA.names], names=QUARANTINE_SCHEMA.names
        )


def _found(kernel: Kernel, staged: Mapping[str, pa.RecordBatch]) -> dict[str, Found]:
    views = {view.name: view for view in kernel.scorer.feature_set.views}
    return {name: staged_columns(views[name], rows) for name, rows in staged.items()}


def _positives(rows: ScoredRows) -> int:
    """Return how many rows have the label of the positive one of two classes."""
    label = rows.outputs.get("label")
    return int(np.count_nonzero(label)) if label is not None and label.dtype == np.bool_ else 0


class _Refused(NamedTuple):
    """A row to quarantine: its position in the file, its id, and why (`error.row` is its position in a batch)."""

    ordinal: int
    row_id: str
    error: RowError


class _Stages:
    """Wall time per stage of a task."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def add(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def _name_below(root: str, file_uri: str) -> str:
    """Return a file's path from the root; of a file elsewhere its name and the partition directories above it."""
    if file_uri.startswith(f"{root}/"):
        return file_uri[len(root) + 1 :]
    *directories, name = file_uri.split("/")
    partitions = itertools.takewhile(lambda part: "=" in part, reversed(directories))
    return "/".join([*reversed(list(partitions)), name])


def _in_range(
    batch: pa.RecordBatch, column: str, start: int | None, stop: int | None
) -> tuple[NDArray[np.bool_], list[RowError]]:
    """Return which rows are in the range, and the errors of those in it whose time is null or unreadable, to be quarantined.

    These are before all times, so that of ranges that follow each other one takes them, once: the one without a beginning.
    """
    values, errors = column_from_arrow(Field(column, Timestamp), batch.column(column))
    inside = np.ones(batch.num_rows, dtype=np.bool_)
    times: Any = values
    if start is not None:
        inside &= times >= start
    if stop is not None:
        inside &= times < stop
    inside[[error.row for error in errors]] = start is None
    return inside, errors if start is None else []


def _constant(value: str, n: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(n, dtype=np.int32)), pa.array([value], pa.string())
    )


def _now(n: int) -> pa.Array:
    return pa.array(np.full(n, time.time_ns() // 1000), pa.timestamp("us", tz="UTC"))
