"""The two sides of the join by row id: requests as the batch job reads them, and the ids of logged rows; and rows come back from it.

Values travel in canonical form, in Arrow types that Spark carries exactly: instants and decimals as the int64 that they are. The
first breach of a request's contract travels beside it. This module knows nothing of models but their declarations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_pipelines.columns import Column, Nullable, Strings, freeze, values_and_valid
from feature_pipelines.errors import VerificationError
from feature_pipelines.reasons import Reason, RowError
from feature_pipelines.schema import Field, Schema, null_value
from feature_pipelines.schema_arrow import arrow_type, column_to_arrow, columns_from_arrow
from jobs.proof.log_files import LogFile
from jobs.proof.log_rows import LogRows, read_rows
from jobs.proof.log_texts import column_from_texts
from jobs.runs.ids import row_ids
from jobs.tables.units import Unit, read_unit

__all__ = [
    "Bounds",
    "Declared",
    "JoinedRows",
    "LogKeys",
    "ReadRequests",
    "canonical_array",
    "canonical_column",
    "errors_of",
    "key_arrays",
    "key_types",
    "log_ids",
]

ID, UNIT, ORDINAL, ERROR, THERE = "__id", "__unit", "__ordinal", "__error", "__there"
_BATCH_ROWS = 32_768
_SPARK = {
    "float64": "double",
    "float32": "float",
    "int64": "bigint",
    "int32": "int",
    "bool": "boolean",
    "timestamp": "bigint",
    "decimal": "bigint",
    "string": "string",
    "binary": "binary",
}
_AS_INTEGERS = ("timestamp", "decimal")
_NOT_ONCE = (
    "the join by row id did not bring each logged row back once: an id occurs more than once in the requests table (input.row_id "
    "names columns that identify a row), or the log was rewritten meanwhile (run again)"
)
Within = tuple[str, int | None, int | None]


def canonical_array(declared: Field, column: Column) -> pa.Array:
    """Return a column as an Arrow array that Spark carries exactly; null where it is null."""
    if declared.dtype.kind not in _AS_INTEGERS:
        return column_to_arrow(declared, column)
    values, valid = values_and_valid(column)
    return pa.array(values, pa.int64(), mask=None if valid is None else ~valid)


def canonical_column(declared: Field, array: pa.Array) -> Column:
    """Return the column of which `canonical_array` made the array; where a row was not there, the null value."""
    kind = declared.dtype.kind
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    values: Any
    if kind == "string":
        encoded = array.dictionary_encode()
        names = (*encoded.dictionary.to_pylist(), "")
        codes = encoded.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False)
        values = Strings(codes.astype(np.int32), names)
    elif kind == "binary":
        values = np.empty(len(array), np.object_)
        values[:] = [value or b"" for value in array.to_pylist()]
    else:
        nothing = pa.scalar(null_value(declared.dtype), array.type)
        filled = array.fill_null(nothing) if array.null_count else array
        values = filled.to_numpy(zero_copy_only=False).astype(declared.dtype.numpy, copy=False)
    column: Column = Nullable(values, valid) if declared.nullable else values
    return freeze(column)


@dataclass(frozen=True)
class Declared:
    """What is read of a requests table: the fields, and by view the column with the status of what the table brings itself."""

    fields: Schema
    statuses: Schema

    @property
    def all(self) -> tuple[Field, ...]:
        """Everything that travels."""
        return (*self.fields, *self.statuses)

    def ddl(self) -> str:
        """Return the columns that `ReadRequests` yields, for Spark."""
        columns = [f"`{f.name}` {_SPARK[f.dtype.kind]}" for f in self.all]
        return ", ".join([f"{ID} string", f"{THERE} boolean", f"{ERROR} string", *columns])


class Bounds(Protocol):
    """Says which requests may have a row in the log; see key_bounds."""

    def mask(self, rows: pa.RecordBatch) -> NDArray[np.bool_]:
        """Return which."""
        ...


@dataclass(frozen=True)
class ReadRequests:
    """A function for `mapInArrow` over unit numbers: the requests of these units, each with its id and first error.

    Args:
        declared: what is read; `columns` its columns and those of the key.
        units: of the table; `schema` the table's, serialised.
        key: the key's fields.
        bounds: those that cannot have a row in the log are left out; None = all may.
    """

    declared: Declared
    units: tuple[Unit, ...]
    columns: tuple[str, ...]
    schema: bytes
    key: tuple[str, ...]
    bounds: Bounds | None = None

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the rows."""
        schema = pa.ipc.read_schema(pa.py_buffer(self.schema))
        for number in (n for batch in batches for n in batch.column(0).to_pylist()):
            unit = self.units[number]
            ordinal = unit.first_ordinal
            for rows in read_unit(unit, list(self.columns), batch_rows=_BATCH_ROWS, schema=schema):
                ids = row_ids(rows, self.key, unit.file_uri, ordinal)
                ordinal += rows.num_rows
                if self.bounds is not None:
                    mask = pa.array(self.bounds.mask(rows))
                    rows, ids = rows.filter(mask), ids.filter(mask)
                if rows.num_rows:
                    yield self._canonical(rows, ids)

    def _canonical(self, rows: pa.RecordBatch, ids: pa.Array) -> pa.RecordBatch:
        columns, broken = columns_from_arrow(Schema(self.declared.all), rows)
        errors: list[str | None] = [None] * rows.num_rows
        for error in reversed(broken):  # the first of a row stays
            errors[error.row] = f"{error.code} {error.field}"
        ids = ids.dictionary_decode() if pa.types.is_dictionary(ids.type) else ids
        arrays = [ids.cast(pa.string()), pa.array([True] * rows.num_rows), pa.array(errors, pa.string())]
        arrays += [canonical_array(f, columns[f.name]) for f in self.declared.all]
        return pa.RecordBatch.from_arrays(
            arrays, names=[ID, THERE, ERROR, *(f.name for f in self.declared.all)]
        )


@dataclass(frozen=True)
class LogKeys:
    """A function for `mapInArrow` over numbers of log units: the id and place of each row, and one at place -1 for the unit itself.

    Args:
        units: the files.
        key: the key's fields as the request declares them; `types`: what the table has for them, serialised.
        within: see `read_rows`.
        batch_rows: see `read_rows`.
    """

    units: tuple[tuple[LogFile, ...], ...]
    key: tuple[Field, ...]
    types: bytes
    within: Within
    batch_rows: int

    DDL = f"{ID} string, {UNIT} int, {ORDINAL} int"

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the rows."""
        types = pa.ipc.read_schema(pa.py_buffer(self.types))
        names = ["sequence", self.within[0], "request"]
        for number in (n for batch in batches for n in batch.column(0).to_pylist()):
            ordinal = 0
            yield _rows_of_unit(pa.array([None], pa.string()), number, -1)
            for rows, _ in read_rows(self.units[number], names, self.batch_rows, self.within):
                ids = log_ids(rows, self.key, types, f"\0{number}")
                yield _rows_of_unit(ids, number, ordinal)
                ordinal += len(rows)


def _rows_of_unit(ids: pa.Array, number: int, ordinal: int) -> pa.RecordBatch:
    n = len(ids)
    unit = pa.array(np.full(n, number, np.int32))
    places = pa.array(np.arange(ordinal, ordinal + n, dtype=np.int32))
    return pa.RecordBatch.from_arrays([ids, unit, places], names=[ID, UNIT, ORDINAL])


def log_ids(rows: LogRows, key: Sequence[Field], types: pa.Schema, place: str) -> pa.Array:
    """Return the id of each logged row, as a batch makes it of the same fields.

    Args:
        rows: with their requests.
        key: the key's fields; none = no row has an id.
        types: the Arrow types that the table has for them.
        place: what begins the id of a row of which the log lacks a part of the key, or has one that the table's type cannot hold;
            no table's row has that one.
    """
    if not key:
        return pa.array([f"{place}#{i}" for i in range(len(rows))], pa.string())
    arrays = key_arrays(rows, key, types)
    batch = pa.RecordBatch.from_arrays(arrays, names=[f.name for f in key])
    return row_ids(batch, tuple(f.name for f in key), place, 0).cast(pa.string())


def key_arrays(rows: LogRows, key: Sequence[Field], types: pa.Schema) -> list[pa.Array]:
    """Return the key's fields of logged rows in the table's types; null where the log lacks one, or has one that its type cannot hold."""
    arrays = []
    for declared in key:
        column, errors = column_from_texts(declared, rows.maps["request"].values(declared.name))
        array = column_to_arrow(declared, column)
        lacking = np.zeros(len(rows), np.bool_)
        lacking[[error.row for error in errors]] = True
        lacking |= rows.maps["request"].positions(declared.name) < 0
        if lacking.any():
            array = pc.if_else(pa.array(lacking), pa.scalar(None, array.type), array)
        arrays.append(_cast(array, types.field(declared.name).type))
    return arrays


def _cast(array: pa.Array, to: pa.DataType) -> pa.Array:
    """Return the values in another type, null where that type does not hold one exactly."""
    try:
        return array.cast(to)
    except pa.ArrowInvalid:
        if len(array) == 1:
            return pa.nulls(1, to)
        half = len(array) // 2
        return pa.concat_arrays([_cast(array[:half], to), _cast(array[half:], to)])


class JoinedRows:
    """Rows that come back from the join, sorted by unit and ordinal, taken unit by unit and batch by batch."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = (batch for batch in batches if batch.num_rows)
        self._held: pa.RecordBatch | None = next(self._batches, None)

    @classmethod
    def units(
        cls, batches: Iterator[pa.RecordBatch], is_joined: bool
    ) -> Iterator[tuple[int, JoinedRows | None]]:
        """Yield the units that a task gets, each with the rows that stand next; None where the batches are numbers of units alone."""
        if not is_joined:
            for batch in batches:
                for number in batch.column(0).to_pylist():
                    yield number, None
            return
        joined = cls(batches)
        while (unit := joined.enter()) is not None:
            yield unit, joined

    def enter(self) -> int | None:
        """Return the next unit, whose rows are then taken; None at the end.

        Raises:
            VerificationError: see `next`.
        """
        held = self._held
        if held is None:
            return None
        if held.column(ORDINAL)[0].as_py() != -1:
            raise VerificationError(_NOT_ONCE)
        unit = int(held.column(UNIT)[0].as_py())
        self._held = held.slice(1) if held.num_rows > 1 else next(self._batches, None)
        return unit

    def next(self, unit: int, first: int, n: int) -> pa.RecordBatch:
        """Return the rows of a unit from an ordinal on.

        Raises:
            VerificationError: they are not each there once: an id stands in the table twice, or the log changed meanwhile.
        """
        parts: list[pa.RecordBatch] = []
        left = n
        while left and self._held is not None:
            part = self._held.slice(0, left)
            parts.append(part)
            left -= part.num_rows
            rest = self._held.slice(part.num_rows)
            self._held = rest if rest.num_rows else next(self._batches, None)
        rows = pa.Table.from_batches(parts).combine_chunks().to_batches()[0] if parts else None
        found = np.zeros(0) if rows is None else rows.column(ORDINAL).to_numpy()
        of_unit = [] if rows is None else rows.column(UNIT).to_numpy()
        if not np.array_equal(found, np.arange(first, first + n)) or not np.all(np.equal(of_unit, unit)):
            raise VerificationError(_NOT_ONCE)
        return rows


def errors_of(texts: pa.Array) -> list[RowError]:
    """Return the errors that travelled as text."""
    found = []
    for row in np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False)).tolist():
        code, _, field = texts[row].as_py().partition(" ")
        found.append(RowError(row, Reason(code), field, "of the requests table"))
    return found


def key_types(key: Sequence[Field], schema: pa.Schema | None) -> pa.Schema:
    """Return the Arrow types of the key's fields: the table's, else those of their declarations."""
    return pa.schema(
        [
            pa.field(f.name, schema.field(f.name).type if schema is not None else arrow_type(f.dtype))
            for f in key
        ]
    )
