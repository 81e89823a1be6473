"""What one Spark task of a resampling does: make some files' rows from the real ones, write them, say what to commit.

Also the choice of rows, which is a pure function. Runs on workers, so it needs neither Delta nor MLflow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.tables.pinned import Snapshot
from jobs.tables.sink import ROW_GROUP_ROWS, ParquetSink, WrittenFile
from jobs.tables.units import plan_units, read_unit

__all__ = ["FILE_ROWS", "PREFIX", "ResampleTask", "read_all", "resampled_rows"]

FILE_ROWS = 4 * ROW_GROUP_ROWS
PREFIX = "scaled"
_ID, _FLAG = "flight_id", "is_resampled"


@dataclass(frozen=True)
class ResampleTask:
    """A function for `mapInArrow` over numbers of files; it travels to the workers by pickle, so it holds plain values alone.

    Args:
        source: the real requests, a pinned snapshot as JSON.
        target_uri: root of the scaled table.
        rows: size of the whole scaled table.
        seed: of the choice.
    """

    source: str
    target_uri: str
    rows: int
    seed: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Write the files; yield for each one line of JSON."""
        source = Snapshot.from_json(self.source)
        real = read_all(source)
        for number in (n for batch in batches for n in batch.column(0).to_pylist()):
            written = self._written(real, source.schema, number)
            if written is not None:
                yield pa.RecordBatch.from_pydict({"file": [written.to_json()]})

    def _written(self, real: pa.Table, schema: pa.Schema, number: int) -> WrittenFile | None:
        last = min((number + 1) * FILE_ROWS, self.rows)
        with ParquetSink(self.target_uri, schema, f"{PREFIX}-{number:05d}") as sink:
            for start in range(number * FILE_ROWS, last, ROW_GROUP_ROWS):
                stop = min(start + ROW_GROUP_ROWS, last)
                sink.append(resampled_rows(real, start, stop, rows=self.rows, seed=self.seed))
            return sink.close()


def resampled_rows(real: pa.Table, start: int, stop: int, *, rows: int, seed: int) -> pa.Table:
    """Return rows `start` to `stop` (exclusive) of a scaled table of `rows` rows.

    Args:
        real: all real requests, in their order; at least one.
        start, stop: positions from 0.
        rows: size of the whole table; below the number of real ones a subset of that size, in their order.
        seed: of the choice.

    >>> real = pa.table({"flight_id": ["a", "b"], "is_resampled": [False, False]})
    >>> resampled_rows(real, 1, 4, rows=4, seed=0).column("flight_id").to_pylist()[0]
    'b'
    """
    n_real = real.num_rows
    positions = np.arange(start, stop, dtype=np.uint64)
    if rows < n_real:
        ranks = np.argsort(_hash(np.arange(n_real, dtype=np.uint64), seed), kind="stable")
        return real.take(pa.array(np.sort(ranks[:rows])[start:stop]))
    is_copy = positions >= n_real
    chosen = np.where(is_copy, _hash(positions, seed) % np.uint64(n_real), positions)
    table = real.take(pa.array(chosen))
    if not is_copy.any():
        return table
    number = np.where(is_copy, positions - np.uint64(n_real) + np.uint64(1), 0)
    suffix = pc.utf8_lpad(pa.array(number).cast(pa.string()), 7, "0")
    ids = table.column(_ID).cast(pa.string())
    copies = pc.if_else(pa.array(is_copy), pc.binary_join_element_wise(ids, suffix, "~"), ids)
    table = table.set_column(table.schema.get_field_index(_ID), real.schema.field(_ID), copies)
    return table.set_column(table.schema.get_field_index(_FLAG), real.schema.field(_FLAG), pa.array(is_copy))


def read_all(source: Snapshot) -> pa.Table:
    """Return a whole (small) input in memory, in file order, repeating strings dictionary-encoded."""
    batches = [
        batch
        for unit in plan_units(source, unit_rows=ROW_GROUP_ROWS)
        for batch in read_unit(unit, source.schema.names, batch_rows=ROW_GROUP_ROWS, schema=source.schema)
    ]
    columns = [_joined([batch.column(name) for batch in batches]) for name in source.schema.names]
    fields = [f.with_type(column.type) for f, column in zip(source.schema, columns, strict=True)]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _joined(chunks: list[pa.Array]) -> pa.Array:
    if len({chunk.type for chunk in chunks}) > 1:
        chunks = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in chunks]
    return pa.chunked_array(chunks).unify_dictionaries().combine_chunks()


def _hash(positions: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """SplitMix64 of (seed, position): uniform, and no state to carry from row to row.

    Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (2014).
    """
    with np.errstate(over="ignore"):
        z = (positions + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + _mixed_seed(seed)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(z ^ (z >> np.uint64(31)), np.uint64)


def _mixed_seed(seed: int) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "little"))
