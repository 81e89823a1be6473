"""Parquet files for a Delta table, written inside a task and invisible until the driver commits them.

A task opens a `ParquetSink`, appends batches and hands back a `WrittenFile` as one JSON string; `delta.commit_files` makes many
of them visible in one transaction. A task that dies leaves a file that no log mentions: an orphan. This module knows the file
and its statistics, not the table's log.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from feature_pipelines.errors import TableError
from jobs.tables.files import child_uri, filesystem_of

__all__ = ["ROW_GROUP_ROWS", "ParquetSink", "WrittenFile"]

ROW_GROUP_ROWS = 131_072
_SAMPLE_ROWS = 8_192
_STATISTICS_COLUMNS = 32
_STRING_PREFIX = 32
_HIGHEST_CHARACTER = "\U0010ffff"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class WrittenFile:
    """A data file that exists and waits to be committed.

    Args:
        path: relative to the table's root.
        size: bytes.
        rows: number of rows, at least 1.
        stats: the statistics of Delta's log, as JSON.
        partition_values: partition column to its value as text, None for null; empty for an unpartitioned table.
    """

    path: str
    size: int
    rows: int
    stats: str
    partition_values: Mapping[str, str | None] = field(default_factory=dict, hash=False)

    def to_json(self) -> str:
        """Return one line that `from_json` turns back into an equal object."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> WrittenFile:
        """Return the object that `to_json` wrote."""
        return cls(**json.loads(text))


class ParquetSink:
    """Collects batches into one Parquet file of a table; a context manager.

    The file is created with the first row and has a name of its own, so attempts of one task never touch each other's. On
    leaving the block by an exception the file is deleted if that is still possible.

    Args:
        table_uri: root of the table, which exists (`delta.ensure_table`).
        schema: the table's schema; each batch must have its columns and types. A string column may come dictionary-encoded.
        name: beginning of the file's name, by which `delta.orphans` finds what a dead attempt left; no slash.
        row_group_rows: rows of each row group; that many are held in memory.

    >>> import tempfile
    >>> schema = pa.schema([pa.field("x", pa.int64(), nullable=False)])
    >>> with ParquetSink(tempfile.mkdtemp(), schema, "part") as sink:
    ...     sink.append(pa.table({"x": [1, 2]}))
    ...     written = sink.close()
    >>> written.rows, json.loads(written.stats)["maxValues"]
    (2, {'x': 2})
    """

    def __init__(
        self, table_uri: str, schema: pa.Schema, name: str, *, row_group_rows: int = ROW_GROUP_ROWS
    ) -> None:
        self._schema = schema.remove_metadata()
        self._row_group_rows = row_group_rows
        self._path = f"{name}-{uuid.uuid4()}.parquet"
        self._filesystem, self._full_path = filesystem_of(child_uri(table_uri, self._path))
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._stream: pafs.NativeFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._written: WrittenFile | None = None
        self._is_closed = False

    def __enter__(self) -> ParquetSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._writer is not None and self._stream is not None:
            for give_up in (self._writer.close, self._stream.close, self._delete):
                with contextlib.suppress(OSError):
                    give_up()

    def append(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Add rows at the end.

        Raises:
            TableError: another set of columns, another type, or a null in a column that allows none; names each.
        """
        table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
        if table.num_rows:
            self._pending.append(self._checked(table))
            self._pending_rows += table.num_rows
        while self._pending_rows >= self._row_group_rows:
            self._write(self._row_group_rows)

    def close(self) -> WrittenFile | None:
        """Finish the file and return what to commit; None, and no file, if there were no rows. Calling it again is harmless."""
        if self._is_closed:
            return self._written
        if self._pending_rows:
            self._write(self._pending_rows)
        self._is_closed = True
        if self._writer is not None and self._stream is not None:
            self._writer.close()
            size = self._stream.tell()
            self._stream.close()
            footer = self._writer.writer.metadata
            self._written = WrittenFile(self._path, size, footer.num_rows, _statistics(footer, self._schema))
        return self._written

    def _delete(self) -> None:
        self._filesystem.delete_file(self._full_path)

    def _checked(self, table: pa.Table) -> pa.Table:
        if set(table.schema.names) != set(self._schema.names) or len(table.schema) != len(self._schema):
            missing = sorted(set(self._schema.names) - set(table.schema.names))
            extra = sorted(set(table.schema.names) - set(self._schema.names))
            raise TableError(
                f"rows for {self._path} do not have the table's columns: missing {missing}, not in the table {extra}.",
                missing=missing,
                extra=extra,
            )
        table = table.select(self._schema.names)
        problems = []
        for wanted, column in zip(self._schema, table.columns, strict=True):
            got = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
            if got != wanted.type:
                problems.append(f"{wanted.name}: the table has {wanted.type}, the rows have {got}")
            elif not wanted.nullable and column.null_count:
                problems.append(
                    f"{wanted.name}: not nullable, but {column.null_count} of {len(column)} are null"
                )
        if problems:
            raise TableError(f"rows for {self._path} do not fit: {'; '.join(problems)}.", problems=problems)
        return table

    def _write(self, rows: int) -> None:
        """Write the first `rows` pending rows as one row group."""
        if self._writer is None:
            self._open()
        columns = []
        for wanted in self._form:
            chunks = [chunk for table in self._pending for chunk in table.column(wanted.name).chunks]
            columns.append(pa.chunked_array([_as(chunk, wanted.type) for chunk in chunks], wanted.type))
        table = pa.Table.from_arrays(columns, schema=self._form)
        if self._writer is not None:
            self._writer.write_table(table.slice(0, rows), row_group_size=rows)
        rest = table.slice(rows)
        self._pending, self._pending_rows = ([rest] if rest.num_rows else []), rest.num_rows

    def _open(self) -> None:
        """Choose each column's encoding by its first rows, then create the file."""
        first = self._pending[0].slice(0, _SAMPLE_ROWS)
        self._form = pa.schema([_form_of(f, first.column(f.name).type) for f in self._schema])
        repeating = [f.name for f in self._schema if _repeats(first.column(f.name))]
        try:
            self._stream = self._filesystem.open_output_stream(self._full_path)
        except OSError as exc:
            raise TableError(
                f"cannot write {self._full_path}: {exc}. The table must exist and be writable from every task.",
                path=self._full_path,
            ) from exc
        self._writer = pq.ParquetWriter(
            self._stream, self._form, compression="snappy", use_dictionary=repeating, store_schema=False
        )


def _form_of(declared: pa.Field, got: pa.DataType) -> pa.Field:
    return (
        declared.with_type(pa.dictionary(pa.int32(), declared.type))
        if pa.types.is_dictionary(got)
        else declared
    )


def _as(chunk: pa.Array, form: pa.DataType) -> pa.Array:
    """A chunk in the form that the writer was opened with; values are copied only if it has another form."""
    if chunk.type == form:
        return chunk
    if not pa.types.is_dictionary(chunk.type):
        return chunk.dictionary_encode()
    if pa.types.is_dictionary(form):
        return pa.DictionaryArray.from_arrays(chunk.indices.cast(pa.int32()), chunk.dictionary)
    return chunk.dictionary_decode()


def _repeats(sample: pa.ChunkedArray) -> bool:
    """Whether a Parquet dictionary pays: it costs more than all else for a column of distinct values."""
    if pa.types.is_dictionary(sample.type):
        return True
    if pa.types.is_nested(sample.type) or pa.types.is_boolean(sample.type):
        return False
    # times repeat wherever rows are sorted, but eight bytes as they are cost less than a look into a dictionary
    often = 64 if pa.types.is_timestamp(sample.type) else 2
    return int(pc.count_distinct(sample).as_py()) * often <= len(sample)


def _statistics(footer: pq.FileMetaData, schema: pa.Schema) -> str:
    """Delta's statistics from a footer: bounds that no value of the column lies outside, and null counts.

    Floats, decimals, booleans and binary get no bounds: a footer does not say whether NaN occurs, and the others gain nothing.
    """
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    position = {footer.schema.column(i).path: i for i in range(footer.num_columns)}
    for declared in list(schema)[:_STATISTICS_COLUMNS]:
        index = position.get(declared.name)
        if index is None:
            continue
        chunks = [footer.row_group(group).column(index).statistics for group in range(footer.num_row_groups)]
        if any(chunk is None or not chunk.has_null_count for chunk in chunks):
            continue
        nulls[declared.name] = sum(chunk.null_count for chunk in chunks)
        bounded = [chunk for chunk in chunks if chunk.num_values]
        if not _has_bounds(declared.type) or not bounded or not all(chunk.has_min_max for chunk in bounded):
            continue
        bounds = _bounds(declared.type, bounded)
        if bounds is not None:
            low[declared.name], high[declared.name] = bounds
    stats = {"numRecords": footer.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls}
    return json.dumps(stats, separators=(",", ":"))


def _has_bounds(type_: pa.DataType) -> bool:
    kinds = (
        pa.types.is_integer,
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_date,
        pa.types.is_timestamp,
    )
    return any(is_kind(type_) for is_kind in kinds)


def _bounds(type_: pa.DataType, chunks: list[pq.Statistics]) -> tuple[Any, Any] | None:
    """The least and the greatest value as Delta's log writes them, or None if it cannot."""
    if pa.types.is_timestamp(type_):
        return _instant_bounds(type_, min(c.min_raw for c in chunks), max(c.max_raw for c in chunks))
    try:
        low, high = min(c.min for c in chunks), max(c.max for c in chunks)
    except UnicodeDecodeError:  # a string that is not UTF-8 has no place in the log
        return None
    if isinstance(low, date):
        return low.isoformat(), high.isoformat()
    if isinstance(low, str):
        if len(high) > _STRING_PREFIX:
            if high[_STRING_PREFIX] == _HIGHEST_CHARACTER:
                return None
            high = high[:_STRING_PREFIX] + _HIGHEST_CHARACTER
        return low[:_STRING_PREFIX], high
    return low, high


def _instant_bounds(type_: pa.TimestampType, low_us: int, high_us: int) -> tuple[str, str] | None:
    """Milliseconds are all that the log keeps: rounded down and up, so that no value lies outside."""
    if type_.unit != "us":
        return None
    suffix = "" if type_.tz is None else "Z"
    try:
        low, high = (_EPOCH + timedelta(milliseconds=ms) for ms in (low_us // 1000, -(-high_us // 1000)))
    except OverflowError:
        return None
    texts = [bound.replace(tzinfo=None).isoformat(timespec="milliseconds") + suffix for bound in (low, high)]
    return texts[0], texts[1]
