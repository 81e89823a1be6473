"""What a view held for each row of an input, joined beforehand by shuffle and laid beside it: a file for each unit of work.

The input itself is never rewritten: a task reads its unit as ever and takes from the staged file as many rows as it has read, so ids,
quarantined originals and the proof of both are the input's. This module knows neither Spark nor how the join was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_pipelines.columns import Columns
from feature_pipelines.errors import VerificationError
from feature_pipelines.schema_arrow import arrow_type, column_from_arrow
from feature_pipelines.views import FeatureView
from jobs.tables.files import child_uri, filesystem_of
from jobs.tables.sink import WrittenFile

__all__ = ["FOUND", "STATUS", "StagedRows", "StagedView", "staged_columns", "staged_schema"]

STATUS, FOUND = "__status", "__found_ts"


@dataclass(frozen=True)
class StagedView:
    """The files of one view.

    Args:
        uri: the directory.
        files: of each unit, in the order of the units; as many rows as the unit, in its order. None: it has no row.
    """

    uri: str
    files: tuple[WrittenFile | None, ...]

    def of_units(self, start: int, stop: int) -> StagedView:
        """Return the files of a chunk."""
        return replace(self, files=self.files[start:stop])

    def is_there(self) -> bool:
        """Return whether every file still is, with the size it was written with."""
        for file in filter(None, self.files):
            filesystem, path = filesystem_of(child_uri(self.uri, file.path))
            if filesystem.get_file_info(path).size != file.size:
                return False
        return True

    def to_json(self) -> dict[str, Any]:
        """Return the value as JSON values."""
        return {"uri": self.uri, "files": [file and file.to_json() for file in self.files]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StagedView:
        """Return what `to_json` wrote."""
        return cls(value["uri"], tuple(text and WrittenFile.from_json(text) for text in value["files"]))


class StagedRows:
    """The staged rows of one unit, taken in order."""

    def __init__(self, staged: StagedView, unit: int) -> None:
        file = staged.files[unit]
        self._name = "" if file is None else file.path
        self._batches: Iterator[pa.RecordBatch] = iter(())
        if file is not None:
            filesystem, path = filesystem_of(child_uri(staged.uri, file.path))
            self._batches = pq.ParquetFile(filesystem.open_input_file(path)).iter_batches()
        self._held: list[pa.RecordBatch] = []
        self.rows = 0 if file is None else file.rows

    def next(self, n: int) -> pa.RecordBatch:
        """Return the next n rows, at least one.

        Raises:
            VerificationError: there are not as many.
        """
        held = sum(batch.num_rows for batch in self._held)
        while held < n:
            batch = next(self._batches, None)
            if batch is None:
                raise VerificationError(f"staged file {self._name} has fewer rows than its unit of the input")
            self._held.append(batch)
            held += batch.num_rows
        whole = pa.Table.from_batches(self._held).combine_chunks()
        self._held = whole.slice(n).to_batches()
        taken = whole.slice(0, n).combine_chunks().to_batches()
        return taken[0] if taken else pa.RecordBatch.from_pylist([], schema=whole.schema)


def staged_schema(view: FeatureView) -> pa.Schema:
    """Return what a staged file holds: the view's fields, null where there is none, the Status, and the event_ts of what was found."""
    fields = [pa.field(f.name, arrow_type(f.dtype)) for f in view.fields]
    return pa.schema([*fields, pa.field(STATUS, pa.int8(), nullable=False), pa.field(FOUND, pa.int64())])


def staged_columns(view: FeatureView, rows: pa.RecordBatch) -> tuple[Columns, NDArray[np.int8]]:
    """Return what `AsOfIndex.lookup` gives for the same rows.

    The rows of the view were checked when they were staged; what cannot be null is so only where nothing was found.
    """
    columns = {f.name: column_from_arrow(f, rows.column(f.name))[0] for f in view.fields}
    return columns, rows.column(STATUS).to_numpy()
