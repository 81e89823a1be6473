"""What one Spark task of a build does: take all rows of its keys, compute their history, write one file.

The file is invisible until the driver commits it; Spark carries one line of JSON back. Runs on workers, so it needs neither
Delta nor MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_pipelines.history_arrow import (
    IS_DELETED,
    correction,
    history_from_arrow,
    refused_rows,
    view_table_schema,
)
from feature_pipelines.lookup_arrow import CREATED_TS, EVENT_TS
from feature_pipelines.views import FeatureView
from jobs.runs.kill_points import reached
from jobs.runs.row_json import rows_as_json
from jobs.tables.sink import ParquetSink, WrittenFile

__all__ = ["BuildResult", "BuildTask", "RefuseTask"]

_STORED = "__stored"


@dataclass(frozen=True)
class BuildResult:
    """What a task hands back."""

    file: WrittenFile | None
    rows_read: int
    rows_written: int
    tombstones: int

    def to_json(self) -> str:
        """Return one line of JSON."""
        file = self.file.to_json() if self.file else None
        return json.dumps([file, self.rows_read, self.rows_written, self.tombstones])

    @classmethod
    def from_json(cls, text: str) -> BuildResult:
        """Return what `to_json` wrote."""
        file, *counts = json.loads(text)
        return cls(WrittenFile.from_json(file) if file else None, *counts)


@dataclass(frozen=True)
class BuildTask:
    """A function for `mapInArrow` over source rows (and, for a correction, stored rows) partitioned by key.

    Args:
        view: the declaration.
        uri: root of the view's table.
        file_prefix: beginning of the names of files.
        after, through: created_ts of the versions to compute: after exclusive, None = all; through inclusive.
        corrects: whether stored rows are among the rows and `through` is the time of a correction.
    """

    view: FeatureView
    uri: str
    file_prefix: str
    after: int | None
    through: int
    corrects: bool = False

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Compute one partition; yield one line of JSON, none for an empty partition."""
        held = [batch for batch in batches if batch.num_rows]
        if held:
            line = self.run(pa.Table.from_batches(held)).to_json()
            yield pa.RecordBatch.from_arrays([pa.array([line], pa.string())], names=["result"])

    def run(self, rows: pa.Table) -> BuildResult:
        """Compute and write the rows of some keys."""
        if self.corrects:
            source, stored = self._apart(rows)
            found = correction(
                self.view,
                source,
                stored,
                created_after=-(2**63) if self.after is None else self.after,
                corrected_at=self.through,
            )
        else:
            source = rows
            found = history_from_arrow(
                self.view, rows, created_after=self.after, created_through=self.through
            )
        reached("build_task.before_write")
        with ParquetSink(self.uri, found.schema, self.file_prefix) as sink:
            sink.append(found)
            written = sink.close()
        reached("build_task.after_write")
        tombstones = int(np.sum(found.column(IS_DELETED).to_numpy()))
        return BuildResult(written, source.num_rows, found.num_rows, tombstones)

    def _apart(self, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Return source rows and stored rows, each with its own columns."""
        is_stored = rows.column(_STORED)
        own = [name for name in rows.schema.names if not name.startswith("__")]
        source = rows.filter(pc.invert(is_stored)).select(own)
        schema = view_table_schema(self.view, source.schema)
        taken = rows.filter(is_stored)
        plain = (*self.view.keys, EVENT_TS, CREATED_TS)
        columns = [
            taken.column(name if name in plain else f"__{name}").cast(schema.field(name).type)
            for name in schema.names
        ]
        return source, pa.table(columns, schema=schema)


@dataclass(frozen=True)
class RefuseTask:
    """A function for `mapInArrow` over source rows: those that break the view's contract, with the reason and the row as JSON."""

    view: FeatureView

    schema = "code string, field string, message string, row string"

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the refused rows of each batch."""
        for batch in batches:
            errors = refused_rows(self.view, batch)
            rows = batch.take(pa.array([error.row for error in errors], pa.int64()))
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array([str(error.code) for error in errors], pa.string()),
                    pa.array([error.field for error in errors], pa.string()),
                    pa.array([error.message for error in errors], pa.string()),
                    pa.array(rows_as_json(rows), pa.string()),
                ],
                names=["code", "field", "message", "row"],
            )
