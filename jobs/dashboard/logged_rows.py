"""Rows of the prediction log's files as arrays that can be counted, whichever version of the log wrote them.

Columns are read by name, and only those that are counted: a file of an older or a newer log is taken if it has them. A label is
"true" or "false", or the name of one of several classes. This module counts nothing, and reads no field of a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["Coded", "LoggedRows", "columns_of", "is_log"]

_TEXT, _TIME = pa.string(), pa.timestamp("us", tz="UTC")
_COUNTED = {
    "process": _TEXT,
    "served_ts": _TIME,
    "as_of_ts": _TIME,
    "model_version": _TEXT,
    "statuses": pa.map_(_TEXT, _TEXT),
    "event_ts": pa.map_(_TEXT, _TIME),
    "score": pa.float64(),
    "label": pa.bool_(),
    "error_code": _TEXT,
    "request_rows": pa.int32(),
    "lookup_us": pa.int64(),
    "features_us": pa.int64(),
    "model_us": pa.int64(),
}
_OF_SEVERAL_CLASSES = {"class_label": _TEXT}
"""Logs of older versions, and of models of two classes, do without."""


def is_log(schema: pa.Schema) -> bool:
    """Return whether a file has every column that is counted, each of its type."""
    return all(
        name in schema.names and schema.field(name).type.equals(kind) for name, kind in _COUNTED.items()
    )


def columns_of(schema: pa.Schema) -> list[str]:
    """Return the columns of a file that `LoggedRows.of` reads."""
    wanted = _COUNTED | _OF_SEVERAL_CLASSES
    return [field.name for field in schema if field.name in wanted and field.type.equals(wanted[field.name])]


@dataclass(frozen=True)
class Coded:
    """A text column: of each row the position of its text in `names`, -1 where it is null."""

    codes: NDArray[np.int64]
    names: Sequence[str]

    @classmethod
    def of(cls, column: Any) -> Coded:
        """Return an Arrow column of texts or booleans ("true", "false")."""
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        encoded = array.cast(pa.string()).dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return cls(codes, encoded.dictionary.to_pylist())

    def at(self, rows: NDArray[Any]) -> Coded:
        """Return some rows."""
        return Coded(self.codes[rows], self.names)

    def counts(self) -> dict[str, int]:
        """Return how many rows have each text; null is not counted."""
        found = np.bincount(self.codes[self.codes >= 0], minlength=len(self.names))
        return {name: int(n) for name, n in zip(self.names, found, strict=True) if n}


@dataclass(frozen=True)
class LoggedRows:
    """Rows of one file.

    Args:
        served: of each row, microseconds.
        process, version, label, error: texts of each row.
        score: of each row; NaN where it has none or where it is NaN.
        is_scored: whether a row has a score.
        calls: of each set of rows that was scored together [served, lookup, features, model], microseconds; those that were not
            measured are left out.
        calls_served: when each set of rows was scored, measured or not.
        looked_up: by view, which rows were looked up and the status of each.
        ages: by view, which rows found a row there, how old that was as of the request (seconds), and its event time.
    """

    served: NDArray[np.int64]
    process: Coded
    version: Coded
    label: Coded
    error: Coded
    score: NDArray[np.float64]
    is_scored: NDArray[np.bool_]
    calls: NDArray[np.int64]
    calls_served: NDArray[np.int64]
    looked_up: dict[str, tuple[NDArray[np.int64], Coded]]
    ages: dict[str, tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]]

    def __len__(self) -> int:
        return len(self.served)

    @classmethod
    def of(cls, table: pa.Table) -> LoggedRows:
        """Return the rows of a table that `is_log` takes, read with `columns_of` at least."""
        served, as_of = _integers(table["served_ts"]), _integers(table["as_of_ts"])
        process, error = Coded.of(table["process"]), Coded.of(table["error_code"])
        scores = table["score"].combine_chunks()
        parts = [_integers(table[name]) for name in ("lookup_us", "features_us", "model_us")]
        keys = np.stack([process.codes, served, _integers(table["request_rows"]), *parts])
        together = np.unique(keys, axis=1) if len(served) else keys
        spent = together[[1, 3, 4, 5]]
        looked_up = _looked_up(table["statuses"], error)
        return cls(
            served=served,
            process=process,
            version=Coded.of(table["model_version"]),
            label=Coded.of(_labels(table)),
            error=error,
            score=scores.fill_null(float("nan")).to_numpy(zero_copy_only=False),
            is_scored=scores.is_valid().to_numpy(zero_copy_only=False),
            calls=spent[:, spent[1:].any(axis=0)],
            calls_served=together[1],
            looked_up=looked_up,
            ages=_ages(table["event_ts"], as_of, looked_up),
        )

    def cells(self, width_us: int) -> Iterator[tuple[int, LoggedRows]]:
        """Yield (start, the rows served in [start, start + width)), starts being multiples of the width, ascending."""
        starts = self.served // width_us * width_us
        for start in np.unique(starts).tolist():
            yield start, self._between(start, start + width_us)

    def _between(self, start: int, end: int) -> LoggedRows:
        kept = (self.served >= start) & (self.served < end)
        if kept.all():
            return self
        measured = (self.calls[0] >= start) & (self.calls[0] < end)
        return LoggedRows(
            served=self.served[kept],
            process=self.process.at(kept),
            version=self.version.at(kept),
            label=self.label.at(kept),
            error=self.error.at(kept),
            score=self.score[kept],
            is_scored=self.is_scored[kept],
            calls=self.calls[:, measured],
            calls_served=self.calls_served[(self.calls_served >= start) & (self.calls_served < end)],
            looked_up={
                view: (rows[of], statuses.at(of))
                for view, (rows, statuses) in self.looked_up.items()
                if (of := kept[rows]).any()
            },
            ages={
                view: (rows[of], age[of], event[of])
                for view, (rows, age, event) in self.ages.items()
                if (of := kept[rows]).any()
            },
        )


def _labels(table: pa.Table) -> Any:
    two = table["label"].cast(pa.string())
    return pc.coalesce(table["class_label"], two) if "class_label" in table.column_names else two


def _integers(column: Any) -> NDArray[np.int64]:
    values: NDArray[np.int64] = (
        column.combine_chunks().cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    )
    return values


def _entries(column: Any) -> tuple[NDArray[np.int64], Coded, Any]:
    """Return of a map column's entries: the row of each, its key, its value."""
    array = column.combine_chunks()
    offsets = array.offsets.to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(array)), np.diff(offsets))
    first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    return rows, Coded.of(array.keys[first:last]), array.items[first:last]


def _looked_up(column: Any, error: Coded) -> dict[str, tuple[NDArray[np.int64], Coded]]:
    """Return by view the rows that were looked up; a refused row that never was has the first status, PRESENT."""
    rows, view, values = _entries(column)
    status = Coded.of(values)
    present = status.names.index("PRESENT") if "PRESENT" in status.names else -2
    asked = (error.codes[rows] < 0) | (status.codes != present)
    return {
        name: (rows[kept], status.at(kept))
        for code, name in enumerate(view.names)
        if (kept := asked & (view.codes == code)).any()
    }


def _ages(
    column: Any, as_of: NDArray[np.int64], looked_up: dict[str, tuple[NDArray[np.int64], Coded]]
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]]:
    rows, view, values = _entries(column)
    event = values.cast(pa.int64()).to_numpy(zero_copy_only=False)
    found = {}
    for code, name in enumerate(view.names):
        if name not in looked_up:
            continue
        of_rows, status = looked_up[name]
        is_present = np.zeros(len(as_of), dtype=bool)
        if "PRESENT" in status.names:
            is_present[of_rows[status.codes == status.names.index("PRESENT")]] = True
        kept = (view.codes == code) & is_present[rows]
        if kept.any():
            of_event = rows[kept]
            found[name] = (of_event, (as_of[of_event] - event[kept]) / 1e6, event[kept])
    return found
