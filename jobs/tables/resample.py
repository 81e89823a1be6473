"""A request table of any size from the real requests: for load tests, and labelled so that nobody takes it for data.

Row i is the real request i while there are any, then a copy of a real request chosen by a hash of (seed, i): the same rows
come out whatever the number of tasks, machines or attempts. Fewer rows than there are real ones are a subset chosen by the
same hash. This module knows the columns `flight_id` and `is_resampled` and nothing else of what a request is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_pipelines.errors import TableError, VerificationError
from jobs.tables.delta import ParquetSink, WrittenFile, ensure_table, recorded_digest, replace_files
from jobs.tables.sink import ROW_GROUP_ROWS
from jobs.tables.snapshot import Snapshot, pin_snapshot, plan_units, read_unit

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["FILE_ROWS", "PREFIX", "holds_scaled", "read_all", "resampled_rows", "write_scaled"]

FILE_ROWS = 4 * ROW_GROUP_ROWS
PREFIX = "scaled"
RULES = 1
_ID, _FLAG = "flight_id", "is_resampled"


def holds_scaled(source_uri: str, target_uri: str, *, rows: int, seed: int = 0) -> bool:
    """Return whether a table holds already what `write_scaled` would write; needs no Spark."""
    return recorded_digest(target_uri) == _digest(pin_snapshot(source_uri), rows, seed)


def write_scaled(spark: SparkSession, source_uri: str, target_uri: str, *, rows: int, seed: int = 0) -> bool:
    """Make a table hold `rows` requests, written by Spark tasks and committed once.

    Args:
        spark: classic or Connect; its workers can import this package and reach both tables.
        source_uri: the real requests.
        target_uri: created if there is none; what it held is replaced.
        rows: at least 1.
        seed: of the choice.

    Returns:
        True if it was written, False if the table held exactly this already.

    Raises:
        TableError: no source, or an empty one, or another schema in the target.
        VerificationError: the tasks did not write as many rows as were asked for.
    """
    source = pin_snapshot(source_uri)
    digest = _digest(source, rows, seed)
    if recorded_digest(target_uri) == digest:
        return False
    if not source.files:
        raise TableError(f"{source_uri}: no requests to resample from.", uri=source_uri)
    description = (
        "For load tests, not data: the real requests first, then copies of them under new ids (is_resampled)."
    )
    ensure_table(
        target_uri, source.schema, description=description, properties={"onescore.resampled": "true"}
    )
    n_files = -(-rows // FILE_ROWS)
    tasks = spark.range(0, n_files, 1, n_files).mapInArrow(
        _writer(source, target_uri, rows, seed), "file string"
    )
    files = [WrittenFile.from_json(row["file"]) for row in tasks.collect()]
    written = sum(file.rows for file in files)
    if written != rows:
        raise VerificationError(f"{target_uri}: expected {rows} rows from the tasks, got {written}.")
    facts = {"onescore_resampled_from": source.label, "onescore_rows": rows, "onescore_seed": seed}
    return replace_files(target_uri, files, digest=digest, schema=source.schema, metadata=facts)


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


def _digest(source: Snapshot, rows: int, seed: int) -> str:
    """The identity of a scaled table's content: its source's snapshot, size, seed and these rules."""
    return hashlib.sha256(f"{RULES} {FILE_ROWS} {rows} {seed} {source.digest()}".encode()).hexdigest()


def _writer(
    source: Snapshot, target_uri: str, rows: int, seed: int
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """The task: writes the files whose numbers it is given, and returns what to commit."""
    pinned = source.to_json()

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        snapshot = Snapshot.from_json(pinned)
        real = read_all(snapshot)
        for batch in batches:
            for file in batch.column(0).to_pylist():
                with ParquetSink(target_uri, snapshot.schema, f"{PREFIX}-{file:05d}") as sink:
                    for start in range(file * FILE_ROWS, min((file + 1) * FILE_ROWS, rows), ROW_GROUP_ROWS):
                        stop = min(start + ROW_GROUP_ROWS, rows)
                        sink.append(resampled_rows(real, start, stop, rows=rows, seed=seed))
                    written = sink.close()
                if written is not None:
                    yield pa.RecordBatch.from_pydict({"file": [written.to_json()]})

    return write


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
