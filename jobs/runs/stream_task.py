"""What one Spark task of a micro-batch does: read its rows by the contract, score them with the kernel, write two files, prove the ids.

Rows come as Spark hands them over, in Arrow; beside their columns stands where in the source each one was, as far as the source says.
Files are invisible until the driver commits them, so a task that is repeated leaves an orphan at most.
"""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import TaskContext

from feature_pipelines.columns import Timestamp
from feature_pipelines.schema import Field, Reason, RowError, Schema
from feature_pipelines.schema_arrow import column_from_arrow
from jobs.runs.ids import IdSum, id_sum, row_ids, unreadable_keys
from jobs.runs.kill_points import reached
from jobs.runs.output_rows import count_positives, quarantined_rows, scored_rows
from jobs.runs.score_tables import QUARANTINE_SCHEMA, scored_schema
from jobs.runs.score_task import TaskResult
from jobs.runs.wire_rows import cells_as_batch, lines_as_batch, type_of
from jobs.runs.written_ids import ids_in_files
from jobs.tables.files import normal_uri
from jobs.tables.sink import ParquetSink
from udfs.kernel import Kernel
from udfs.rows import ScoredRows
from udfs.shipped import load_kernel

__all__ = [
    "FILE",
    "ORDINAL",
    "PROBLEM",
    "REFUSED",
    "RESULT",
    "VALUE",
    "Form",
    "StreamTask",
    "StreamTaskResult",
]

Form = Literal["columns", "lines", "cells"]
"""How a source's rows look: columns of the declared types, a JSON object in `value`, or columns of text."""
VALUE = "value"
FILE, ORDINAL = "__onescore_file", "__onescore_ordinal"
"""Columns that say where a row was in the source; a source has both, the first alone, or neither."""
REFUSED, PROBLEM = "_corrupt_record", "__onescore_problem"
"""The text of a row of CSV that is refused, and why: code, field and message of its error in JSON; null for the others."""
RESULT = "result string"
"""What a task yields, as DDL."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class StreamTaskResult:
    """What a task hands back as a line of JSON: what any scoring task does, and what the watermark needs.

    Args:
        task: counts, sums and files; its unit is the task's partition.
        latest_us: the latest event time among its rows that is not after the batch's beginning, None = there is none.
    """

    task: TaskResult
    latest_us: int | None

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps([self.task.to_json(), self.latest_us])

    @classmethod
    def from_json(cls, text: str) -> StreamTaskResult:
        """Return what `to_json` wrote."""
        task, latest_us = json.loads(text)
        return cls(TaskResult.from_json(task), latest_us)


@dataclass(frozen=True)
class StreamTask:
    """A function for `mapInArrow` over a micro-batch's rows; it travels to the workers by pickle, so it holds plain values alone.

    Args:
        shipped: the archive with the model and the views.
        form: how the rows look.
        schema: the columns that the contract reads, of the types that they have, serialised.
        key: the row id's fields.
        repeated: columns that the scored table repeats.
        scored_uri, quarantine_uri: the tables.
        stamps: the provenance values of `STAMPS` but those that the worker knows itself (platform_id, verified).
        place: names the batch where the source does not say in which file a row was.
        source_root: where the source is; files below it are named by their path from there.
        file_prefix: beginning of the names of files that this batch writes.
        event_time: the column of event times, None = rows have none.
        late_before_us: rows with an event time before are late, None = none is.
        started_us: when the batch began: later event times are nothing that a watermark follows.
        allow_tolerance: see load_bundle.
    """

    shipped: str
    form: Form
    schema: bytes
    key: tuple[str, ...]
    repeated: tuple[str, ...]
    scored_uri: str
    quarantine_uri: str
    stamps: Mapping[str, str]
    place: str
    source_root: str
    file_prefix: str
    event_time: str | None
    late_before_us: int | None
    started_us: int
    allow_tolerance: bool

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Score a partition; yield one row (see RESULT), none for a partition without rows."""
        context = TaskContext.get()
        result = self.run(batches, context.partitionId() if context is not None else 0)
        if result.task.ids_in.count:
            yield pa.RecordBatch.from_arrays([pa.array([result.to_json()], pa.string())], names=["result"])

    def run(self, batches: Iterator[pa.RecordBatch], partition: int) -> StreamTaskResult:
        """Score the rows of a partition."""
        kernel = load_kernel(self.shipped, self.allow_tolerance)
        started = time.perf_counter()
        schema = pa.ipc.read_schema(pa.py_buffer(self.schema))
        output = scored_schema(kernel.scorer.feature_set, kernel.scorer.output, schema, self.repeated)
        stamps = {**self.stamps, "verified": kernel.scorer.verified}
        reader = _Reader(self, kernel, schema, partition)
        name = f"{self.file_prefix}-{partition:05d}"
        reasons: Counter[str] = Counter()
        ids_in, positives, latest = IdSum(), 0, None
        with (
            ParquetSink(self.scored_uri, output, name) as scored_sink,
            ParquetSink(self.quarantine_uri, QUARANTINE_SCHEMA, name) as quarantine_sink,
        ):
            for raw in batches:
                if not raw.num_rows:
                    continue
                read = reader.read(raw)
                ids_in += id_sum(read.ids)
                latest = _later(latest, read.latest_us)
                rows = kernel.score(read.rows, read.errors)
                scored_sink.append(scored_rows(read.rows, read.ids, rows, stamps, self.repeated, output))
                if rows.errors:
                    quarantine_sink.append(self._quarantined(read, rows))
                reasons.update(str(error.code) for error in rows.errors)
                positives += count_positives(rows)
                reached("stream_task.mid_write")
            scored, quarantined = scored_sink.close(), quarantine_sink.close()
        reached("stream_task.after_write")
        result = TaskResult(
            partition,
            scored,
            quarantined,
            ids_in,
            ids_in_files(self.scored_uri, [scored] if scored else []),
            ids_in_files(self.quarantine_uri, [quarantined] if quarantined else []),
            reasons,
            positives,
            {"score": time.perf_counter() - started},
        )
        return StreamTaskResult(result, latest)

    def _quarantined(self, read: _Read, rows: ScoredRows) -> pa.RecordBatch:
        index = pa.array([error.row for error in rows.errors], pa.int64())
        return quarantined_rows(
            read.originals.take(index),
            read.ids.take(index),
            rows.errors,
            read.files.take(index),
            read.ordinals.take(index),
            self.stamps,
        )


@dataclass(frozen=True)
class _Read:
    """A batch of the source, read: n rows each.

    Args:
        rows: the columns that the contract reads.
        originals: as the source has them.
        errors: of rows that are refused already.
        ids, files, ordinals: which row each is.
        latest_us: see StreamTaskResult.
    """

    rows: pa.RecordBatch
    originals: pa.RecordBatch
    errors: list[RowError]
    ids: pa.Array
    files: pa.Array
    ordinals: pa.Array
    latest_us: int | None


class _Reader:
    """Reads the batches of one partition, in order."""

    def __init__(self, task: StreamTask, kernel: Kernel, schema: pa.Schema, partition: int) -> None:
        self._task = task
        self._place = f"{task.place}/{partition}"
        self._next = 0
        fields = kernel.scorer.feature_set.sources
        known = [fields[f.name] if f.name in fields else Field(f.name, type_of(f.type)) for f in schema]
        self._declared = Schema(tuple(known)) if task.form != "columns" else None

    def read(self, raw: pa.RecordBatch) -> _Read:
        """Return a batch, n > 0 rows, read."""
        task = self._task
        files, ordinals = self._places(raw)
        originals = raw.select([n for n in raw.schema.names if n not in (FILE, ORDINAL, PROBLEM)])
        rows, errors = originals, list[RowError]()
        if self._declared is not None and task.form == "lines":
            rows, errors = lines_as_batch(raw.column(VALUE).cast(pa.binary()).to_pylist(), self._declared)
        elif self._declared is not None:
            rows, errors = cells_as_batch(originals, self._declared)
        errors = [*_problems(raw), *errors]
        late, latest = self._late(rows)
        errors = [
            *late,
            *errors,
            *(
                RowError(row, Reason.BAD_VALUE, name, "the string is not valid UTF-8")
                for name, bad in unreadable_keys(rows, task.key).items()
                for row in bad
            ),
        ]
        # A file may be split among tasks: without places in it, a row is named by its batch, task and number there.
        named = files if ORDINAL in raw.schema.names else pa.array([self._place] * raw.num_rows, pa.string())
        ids = _ids(rows, task.key, task.source_root, named, ordinals)
        return _Read(rows, originals, errors, ids, files, ordinals, latest)

    def _places(self, raw: pa.RecordBatch) -> tuple[pa.Array, pa.Array]:
        """Return file and ordinal of each row; where the source does not say, the batch and partition and a running number."""
        n = raw.num_rows
        files, ordinals = _column(raw, FILE), _column(raw, ORDINAL)
        if ordinals is None:
            ordinals = pa.array(np.arange(self._next, self._next + n), pa.int64())
            self._next += n
        if files is None:
            return pa.array([self._place] * n, pa.string()), ordinals
        return pa.array([_full_name(name) for name in files.to_pylist()], pa.string()), ordinals

    def _late(self, rows: pa.RecordBatch) -> tuple[list[RowError], int | None]:
        """Return the errors of late rows, and the latest event time that the watermark may follow."""
        task = self._task
        if task.event_time is None or task.event_time not in rows.schema.names:
            return [], None
        declared = Field(task.event_time, Timestamp)
        values, broken = column_from_arrow(declared, rows.column(task.event_time))
        times: NDArray[np.int64] = np.asarray(values)
        is_good = np.ones(len(times), dtype=np.bool_)
        is_good[[error.row for error in broken]] = False
        past = times[is_good & (times <= task.started_us)]
        latest = int(past.max()) if len(past) else None
        if task.late_before_us is None:
            return [], latest
        limit = (_EPOCH + timedelta(microseconds=task.late_before_us)).isoformat()
        message = f"its event time is before the watermark of its batch, {limit}"
        late = np.flatnonzero(is_good & (times < task.late_before_us)).tolist()
        return [RowError(row, Reason.LATE, task.event_time, message) for row in late], latest


def _ids(
    rows: pa.RecordBatch, key: tuple[str, ...], root: str, files: pa.Array, ordinals: pa.Array
) -> pa.Array:
    """Return each row's id; rows that lie side by side in one file are named together, as the batch job names them (see `row_ids`)."""
    n = rows.num_rows
    codes = files.dictionary_encode().indices.to_numpy()
    places = ordinals.to_numpy()
    breaks = (np.flatnonzero((np.diff(codes) != 0) | (np.diff(places) != 1)) + 1).tolist()
    parts = [
        row_ids(
            rows.slice(start, stop - start), key, _name_below(root, files[start].as_py()), int(places[start])
        )
        for start, stop in zip([0, *breaks], [*breaks, n], strict=True)
    ]
    return pa.concat_arrays([part.cast(pa.string()) for part in parts])


@functools.lru_cache(maxsize=1_000)
def _full_name(file: str) -> str:
    """Return the one spelling of a file; what is no path (a topic's partition) stays as it is."""
    return normal_uri(file) if file.startswith("/") or ":" in file else file


def _name_below(root: str, file: str) -> str:
    """Return a file's path from the root; of a file elsewhere, or of no file, all of its name."""
    return file[len(root) + 1 :] if root and file.startswith(f"{root}/") else file


def _problems(raw: pa.RecordBatch) -> list[RowError]:
    """Return the errors of rows that the source's reader refused."""
    problems = _column(raw, PROBLEM)
    said = [] if problems is None else problems.to_pylist()
    found = [(row, json.loads(problem)) for row, problem in enumerate(said) if problem is not None]
    return [RowError(row, Reason(code), field, message) for row, (code, field, message) in found]


def _column(batch: pa.RecordBatch, name: str) -> pa.Array | None:
    return batch.column(name) if name in batch.schema.names else None


def _later(one: int | None, other: int | None) -> int | None:
    return max((us for us in (one, other) if us is not None), default=None)
