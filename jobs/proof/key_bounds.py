"""Between which values the keys of logged rows lie: what of a requests table cannot have a row of the log need not be read.

A logged row is joined by its id, and equal ids have equal key fields; so a request with a field below the least or above the greatest
of the log has no row there. That holds whatever time either side has, which a range of times would not. This module joins nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_pipelines.schema import Field
from jobs.proof.log_files import LogFile
from jobs.proof.log_rows import read_rows
from jobs.proof.requests import Within, key_arrays

__all__ = ["KeyBounds", "LogBounds", "has_order"]


@dataclass(frozen=True)
class KeyBounds:
    """The bounds.

    Args:
        fields: of each field whose type has an order its name, the least and the greatest value, both inclusive.
        is_empty: no logged row has a key, so that no request has a row in the log.
    """

    fields: tuple[tuple[str, Any, Any], ...]
    is_empty: bool = False

    @classmethod
    def of(cls, parts: Iterable[bytes]) -> KeyBounds:
        """Return the bounds over what `LogBounds` gave for all units."""
        tables = [pa.ipc.open_stream(pa.py_buffer(part)).read_all() for part in parts]
        together = pa.concat_tables(tables) if tables else pa.table({})
        fields = []
        for name in together.schema.names:
            found = pc.min_max(together.column(name)).as_py()
            fields.append((name, found["min"], found["max"]))
        return cls(tuple(fields), not together.num_rows or any(low is None for _, low, _ in fields))

    def may_hold(self, parquet: pq.ParquetFile, group: int) -> bool:
        """Return whether a row group may have a request with a row in the log; True unless its footer proves the contrary."""
        if self.is_empty:
            return False
        chunks = parquet.metadata.row_group(group)
        bounds = {
            chunks.column(i).path_in_schema: chunks.column(i).statistics for i in range(chunks.num_columns)
        }
        for name, low, high in self.fields:
            known = bounds.get(name)
            if known is None or not known.has_min_max or not _are_alike(known.min, low):
                continue
            if known.max < low or known.min > high:
                return False
        return True

    def mask(self, rows: pa.RecordBatch) -> NDArray[np.bool_]:
        """Return which requests may have a row in the log."""
        found = np.full(rows.num_rows, not self.is_empty, np.bool_)
        for name, low, high in self.fields if not self.is_empty else ():
            column = rows.column(name)
            column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            inside = pc.and_(
                pc.greater_equal(column, pa.scalar(low, column.type)),
                pc.less_equal(column, pa.scalar(high, column.type)),
            )
            found &= inside.fill_null(False).to_numpy(zero_copy_only=False)
        return found


@dataclass(frozen=True)
class LogBounds:
    """A function for `mapInArrow` over numbers of log units: between which values the keys of a unit's rows lie.

    Args:
        units, key, types, within, batch_rows: see LogKeys; some field's type has an order.
    """

    units: tuple[tuple[LogFile, ...], ...]
    key: tuple[Field, ...]
    types: bytes
    within: Within
    batch_rows: int

    DDL = "bounds binary"

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield a row for each unit that has a row with a key."""
        types = pa.ipc.read_schema(pa.py_buffer(self.types))
        ordered = [f.name for f in self.key if has_order(types.field(f.name).type)]
        for number in (n for batch in batches for n in batch.column(0).to_pylist()):
            found = self._of_unit(number, types, ordered)
            if found.num_rows:
                yield pa.RecordBatch.from_pydict({"bounds": pa.array([_serialised(found)], pa.binary())})

    def _of_unit(self, number: int, types: pa.Schema, ordered: list[str]) -> pa.Table:
        names = ["sequence", self.within[0], "request"]
        parts = []
        for rows, _ in read_rows(self.units[number], names, self.batch_rows, self.within):
            arrays = dict(zip((f.name for f in self.key), key_arrays(rows, self.key, types), strict=True))
            whole = np.logical_and.reduce(
                [array.is_valid().to_numpy(zero_copy_only=False) for array in arrays.values()]
            )
            kept = {name: arrays[name].filter(pa.array(whole)) for name in ordered}
            if whole.any():
                parts.append(pa.table({name: _ends(array) for name, array in kept.items()}))
        return pa.concat_tables(parts) if parts else pa.table({})


def _ends(array: pa.Array) -> pa.Array:
    found = pc.min_max(array)
    return array.take(pa.array([pc.index(array, found[end]).as_py() for end in ("min", "max")]))


def _are_alike(value: Any, other: Any) -> bool:
    """Return whether two values can be compared: of one type, and of times both or neither with a zone."""
    has_zone, has_zone_too = (getattr(one, "tzinfo", None) is not None for one in (value, other))
    return type(value) is type(other) and has_zone == has_zone_too


def has_order(type_: pa.DataType) -> bool:
    """Return whether values of a key's type are bounded here."""
    return bool(pa.types.is_integer(type_) or pa.types.is_string(type_) or pa.types.is_timestamp(type_))


def _serialised(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
