"""Units of work over a pinned input: which row groups a task reads, and reading them.

A unit is some adjacent row groups of one file, so what a row's position in its file is, is known without reading what
comes before. Units follow from the snapshot alone, never from a shuffle or from how many machines there are. This module does
not know what is done with the rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from feature_pipelines.errors import TableError, did_you_mean
from jobs.tables.files import is_local
from jobs.tables.parquet_source import FOOTER_THREADS, open_parquet
from jobs.tables.pinned import InputFile, Snapshot

__all__ = ["Unit", "plan_units", "read_unit"]

_UNITS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DICTIONARY_BYTES = 4.0


@dataclass(frozen=True)
class Unit:
    """Adjacent row groups of one file.

    Args:
        file_uri: absolute path or URI.
        row_groups: their indices in the file, ascending and without gaps.
        first_ordinal: position in the file of the first row, from 0; row i of the unit has `first_ordinal + i`.
        rows: how many there are, at least 1.
        partition_values: partition column to its value as text, None for null.
    """

    file_uri: str
    row_groups: tuple[int, ...]
    first_ordinal: int
    rows: int
    partition_values: Mapping[str, str | None] = field(default_factory=dict, hash=False)

    def to_json(self) -> str:
        """Return one line that `from_json` turns back into an equal unit."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Unit:
        """Return the unit that `to_json` wrote."""
        parts = json.loads(text)
        return cls(**{**parts, "row_groups": tuple(parts["row_groups"])})


def plan_units(
    snapshot: Snapshot,
    *,
    unit_rows: int,
    time_column: str | None = None,
    time_from_us: int | None = None,
    time_to_us: int | None = None,
    may_hold: Callable[[pq.ParquetFile, int], bool] | None = None,
) -> list[Unit]:
    """Return the units that together hold every row of a snapshot once, in order of file and position.

    A unit has at most `unit_rows` rows, unless a single row group has more. With a time range, row groups that cannot hold a
    row of `time_from_us <= t < time_to_us` are left out: those whose footer gives bounds
    outside it and no nulls. Rows outside the range remain in the units that are left; a reader still has to filter.

    Args:
        snapshot: the pinned input.
        unit_rows: at least 1.
        time_column: a timestamp column with time zone; of any other type nothing is left out.
        time_from_us, time_to_us: microseconds since 1970-01-01T00:00Z; None is open.
        may_hold: further says of a row group, by its number, whether it is wanted; the same goes for what is left.

    Raises:
        TableError: an unknown time column, or a file that is gone or no Parquet.
    """
    if unit_rows < 1:
        raise ValueError(f"unit_rows: expected at least 1, got {unit_rows}")
    if time_column is not None and time_column not in snapshot.schema.names:
        raise TableError(
            f"{snapshot.label} has no column {time_column!r}.{did_you_mean(time_column, snapshot.schema.names)}"
        )
    wanted = (time_from_us, time_to_us) if time_column is not None else (None, None)

    def units_of(file: InputFile) -> list[Unit]:
        with open_parquet(file.uri) as parquet:
            keep = [
                _may_hold(parquet, group, time_column, *wanted)
                and (may_hold is None or may_hold(parquet, group))
                for group in range(parquet.num_row_groups)
            ]
            rows = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        return _grouped(file, rows, keep, unit_rows)

    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        return [unit for units in threads.map(units_of, snapshot.files) for unit in units]


def read_unit(
    unit: Unit, columns: Sequence[str], *, batch_rows: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a unit in file order, at most `batch_rows` at a time.

    Values have the types of the schema, whatever the file chose; a string column whose values repeat comes dictionary-encoded,
    and so do partition columns of strings. A column that the file lacks is null. Memory does not grow with the unit.

    Args:
        unit: from `plan_units`.
        columns: which columns, in the order wanted; at least one, partition columns included.
        batch_rows: at least 1.
        schema: of the snapshot.

    Raises:
        TableError: unknown columns, a file that is gone, or values that do not fit the declared type.
    """
    unknown = [name for name in columns if name not in schema.names]
    if unknown or not columns:
        raise TableError(
            f"{unit.file_uri}: no column {', '.join(map(repr, unknown))}.{did_you_mean(unknown[0], schema.names)}"
            if unknown
            else f"{unit.file_uri}: at least one column must be asked for.",
            unknown=unknown,
        )
    with open_parquet(unit.file_uri) as parquet:
        names = _names_in_file(parquet, [name for name in columns if name not in unit.partition_values])
        repeating = _repeating(parquet, unit, list(names.values()))
        stored = list(names.values()) or parquet.schema_arrow.names[:1]
        footer = parquet.metadata
    with open_parquet(
        unit.file_uri,
        read_dictionary=repeating,
        pre_buffer=not is_local(unit.file_uri),
        metadata=footer,
    ) as parquet:
        batches = parquet.iter_batches(
            batch_rows, row_groups=list(unit.row_groups), columns=stored, use_threads=False
        )
        for batch in batches:
            arrays = [_column(unit, batch, schema.field(name), names.get(name)) for name in columns]
            fields = [
                schema.field(name).with_type(array.type) for name, array in zip(columns, arrays, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _grouped(file: InputFile, rows: list[int], keep: list[bool], unit_rows: int) -> list[Unit]:
    """Adjacent kept row groups, as many together as fit."""
    units: list[Unit] = []
    groups: list[int] = []
    ordinal = first = held = 0

    def close() -> None:
        if groups and held:
            units.append(Unit(file.uri, tuple(groups), first, held, dict(file.partition_values)))

    for group, (n_rows, is_kept) in enumerate(zip(rows, keep, strict=True)):
        if groups and (not is_kept or held + n_rows > unit_rows):
            close()
            groups, held = [], 0
        if is_kept and n_rows:
            first = first if groups else ordinal
            groups, held = [*groups, group], held + n_rows
        ordinal += n_rows
    close()
    return units


def _may_hold(
    parquet: pq.ParquetFile, group: int, column: str | None, from_us: int | None, to_us: int | None
) -> bool:
    """Whether a row group may hold a row of the time range; True unless its footer proves the contrary."""
    if column is None or (from_us is None and to_us is None) or column not in parquet.schema_arrow.names:
        return True
    type_ = parquet.schema_arrow.field(column).type
    if not pa.types.is_timestamp(type_) or type_.tz is None:
        return True
    chunks = parquet.metadata.row_group(group)
    found = [chunks.column(i) for i in range(chunks.num_columns) if chunks.column(i).path_in_schema == column]
    bounds = found[0].statistics if found and found[0].physical_type == "INT64" else None
    if bounds is None or not bounds.has_min_max or not bounds.has_null_count or bounds.null_count:
        return True
    per_second = _UNITS_PER_SECOND[type_.unit]
    if from_us is not None and bounds.max_raw * 1_000_000 < from_us * per_second:
        return False
    return to_us is None or bounds.min_raw * 1_000_000 < to_us * per_second


def _names_in_file(parquet: pq.ParquetFile, columns: Sequence[str]) -> dict[str, str]:
    """Each wanted column that the file has, and its name there; a metastore may have lost upper case."""
    available = parquet.schema_arrow.names
    folded: dict[str, list[str]] = {}
    for name in available:
        folded.setdefault(name.lower(), []).append(name)
    exact = set(available)
    alike = {name: folded.get(name.lower(), []) for name in columns if name not in exact}
    return {
        name: name if name in exact else alike[name][0]
        for name in columns
        if name in exact or len(alike[name]) == 1
    }


def _repeating(parquet: pq.ParquetFile, unit: Unit, names: Sequence[str]) -> list[str]:
    """String columns that the file keeps as a dictionary all through: reading them as one is twice as fast."""
    group = parquet.metadata.row_group(unit.row_groups[0])
    chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    return [
        name
        for name in names
        if name in chunks
        and pa.types.is_string(_value_type(parquet.schema_arrow.field(name).type))
        and chunks[name].has_dictionary_page
        and chunks[name].total_uncompressed_size < _DICTIONARY_BYTES * chunks[name].num_values
    ]


def _value_type(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _column(unit: Unit, batch: pa.RecordBatch, declared: pa.Field, name: str | None) -> pa.Array:
    """One column in its declared type, dictionary-encoded at most."""
    if declared.name in unit.partition_values:
        return _constant(unit.partition_values[declared.name], declared.type, batch.num_rows)
    if name is None:
        if not declared.nullable:
            raise TableError(
                f"{unit.file_uri}: lacks column {declared.name!r}, which is not nullable.",
                column=declared.name,
            )
        return pa.nulls(batch.num_rows, declared.type)
    array = batch.column(name)
    if _value_type(array.type) == declared.type:
        return array
    try:
        return array.cast(declared.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise TableError(
            f"{unit.file_uri}: column {declared.name!r} is {array.type} in the file and does not fit the declared "
            f"{declared.type}.",
            column=declared.name,
        ) from exc


def _constant(text: str | None, type_: pa.DataType, rows: int) -> pa.Array:
    value = pa.scalar(text, pa.string()).cast(type_)
    if pa.types.is_string(type_) and value.is_valid:
        indices = pa.repeat(pa.scalar(0, pa.int32()), rows)
        return pa.DictionaryArray.from_arrays(indices, pa.array([value.as_py()], type_))
    return pa.repeat(value, rows) if value.is_valid else pa.nulls(rows, type_)
