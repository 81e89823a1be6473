"""Rows of the prediction log in memory: maps taken apart by key, JSON text read into canonical columns, a whole column at a time.

Text goes through Arrow's own readers where these give the same value as the wire form's (numbers, UTC times), and all other text
through the wire form, each distinct text once. This module knows nothing of Spark, models or what is compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_pipelines.columns import Column, take
from feature_pipelines.errors import ContractError
from feature_pipelines.reasons import RowError
from feature_pipelines.schema import Field, build_column
from feature_pipelines.schema_arrow import column_from_arrow
from jobs.proof.log_files import LogFile

__all__ = ["LogRows", "MapColumn", "column_from_texts", "is_hashed", "read_rows"]

_NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$"
_INTEGER = r"^-?[0-9]{1,19}$"
_UTC = r'^"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z"$'
_PLAIN = r'^"[^"\\]*"$'
_MAPS = ("request", "stored", "features", "statuses", "event_ts")
_LATER = ("request", "stored", "statuses", "event_ts")
_HASHED = r"^[0-9a-f]{64}$"
_UNREADABLE = object()


@dataclass(frozen=True, eq=False)
class MapColumn:
    """A column of maps, taken apart.

    Args:
        offsets: row i has the entries offsets[i] to offsets[i + 1], int64.
        codes: of each entry its key's position in `names`, int32.
        names: keys.
        items: of each entry its value.
    """

    offsets: NDArray[np.int64]
    codes: NDArray[np.int32]
    names: tuple[str, ...]
    items: pa.Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of(cls, array: pa.MapArray) -> MapColumn:
        """Take a map array apart; a null row has no entries."""
        if array.null_count:
            array = _without_nulls(array)
        offsets = array.offsets.to_numpy().astype(np.int64)[: len(array) + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        keys = array.keys.slice(first, last - first)
        keys = keys if pa.types.is_dictionary(keys.type) else keys.dictionary_encode()
        codes = keys.indices.to_numpy().astype(np.int32, copy=False)
        names = tuple(keys.dictionary.to_pylist())
        return cls(offsets - first, codes, names, array.items.slice(first, last - first))

    @classmethod
    def concat(cls, parts: Sequence[MapColumn]) -> MapColumn:
        """Return the rows of all parts, at least one, one after the other."""
        if len(parts) == 1:
            return parts[0]
        position: dict[str, int] = {}
        codes, offsets, end = [], [np.zeros(1, np.int64)], 0
        for part in parts:
            new = np.array([position.setdefault(name, len(position)) for name in part.names], np.int32)
            codes.append(new[part.codes] if len(part.codes) else part.codes)
            offsets.append(part.offsets[1:] + end)
            end += int(part.offsets[-1])
        items = pa.concat_arrays([part.items for part in parts])
        return cls(np.concatenate(offsets), np.concatenate(codes), tuple(position), items)

    @cached_property
    def _width(self) -> int:
        """How many entries every row has, if all have the same keys in the same order, else 0."""
        n = len(self)
        width = len(self.codes) // n if n else 0
        if not width or len(self.codes) != n * width or (np.diff(self.offsets) != width).any():
            return 0
        return width if (self.codes.reshape(n, width) == self.codes[:width]).all() else 0

    @cached_property
    def _owners(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def positions(self, name: str) -> NDArray[np.int64]:
        """Return of each row the place of a key's entry, -1 where it has none."""
        n = len(self)
        if name not in self.names:
            return np.full(n, -1, np.int64)
        code = self.names.index(name)
        if self._width:
            at = np.flatnonzero(self.codes[: self._width] == code)
            return self.offsets[:-1] + at[0] if len(at) else np.full(n, -1, np.int64)
        places = np.full(n, -1, np.int64)
        entries = np.flatnonzero(self.codes == code)
        places[self._owners[entries]] = entries
        return places

    def values(self, name: str) -> pa.Array:
        """Return the value of a key in each row, null where a row does not have it."""
        places = self.positions(name)
        mask = places < 0
        return self.items.take(pa.array(places, mask=mask) if mask.any() else pa.array(places))

    def matrix(self, names: Sequence[str]) -> tuple[NDArray[np.float64], dict[str, NDArray[np.bool_]]]:
        """Return float values, (len(names), n), null as NaN, and by name the rows without an entry, where there are any."""
        values = self.items.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
        out = np.full((len(names), len(self)), np.nan)
        lacking = {}
        for row, name in enumerate(names):
            places = self.positions(name)
            there = places >= 0
            if there.all() and len(places):
                out[row] = values[places]
            else:
                out[row, there] = values[places[there]]
                lacking[name] = ~there
        return out, lacking

    def take(self, index: NDArray[np.int64]) -> MapColumn:
        """Return some rows, in the order of the index."""
        lengths = np.diff(self.offsets)[index]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        entries = np.repeat(self.offsets[:-1][index] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return MapColumn(offsets, self.codes[entries], self.names, self.items.take(pa.array(entries)))


Maps = dict[str, MapColumn]


class _Maps(Mapping[str, MapColumn]):
    """Maps by name; some are read when the first of them is asked for."""

    def __init__(self, known: Maps, later: Callable[[], Maps] | None = None) -> None:
        self._known, self._later = known, later

    def __getitem__(self, name: str) -> MapColumn:
        if name not in self._known:
            self._load()
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._known)

    def __len__(self) -> int:
        self._load()
        return len(self._known)

    def take(self, index: NDArray[np.int64]) -> _Maps:
        """Return the maps of some rows; what is not read yet stays so."""
        taken = {name: one.take(index) for name, one in self._known.items()}
        if self._later is None:
            return _Maps(taken)
        return _Maps(taken, lambda: {name: one.take(index) for name, one in self.items()})

    @classmethod
    def concat(cls, parts: Sequence[_Maps]) -> _Maps:
        """Return the rows of all parts; what is not read yet stays so."""
        known = {name: MapColumn.concat([part[name] for part in parts]) for name in parts[0]._known}
        if all(part._later is None for part in parts):
            return cls(known)
        return cls(
            known, lambda: {name: MapColumn.concat([part[name] for part in parts]) for name in parts[0]}
        )

    def _load(self) -> None:
        if self._later is not None:
            self._known, self._later = {**self._later(), **self._known}, None


@dataclass(frozen=True, eq=False)
class LogRows:
    """Rows of the log: the flat columns as they are, the maps taken apart; `has_stored` = the log has their stored values.

    What a row's request and look-ups were is read when it is asked for: of rows that are equal nobody does.
    """

    flat: pa.Table
    maps: _Maps
    has_stored: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.flat.num_rows)

    def times(self, name: str) -> NDArray[np.int64]:
        """Return a time column, microseconds."""
        values: NDArray[np.int64] = self.flat.column(name).combine_chunks().cast(pa.int64()).to_numpy()
        return values

    def take(self, index: NDArray[np.int64]) -> LogRows:
        """Return some rows, in the order of the index."""
        if len(index) == len(self) and (index == np.arange(len(self))).all():
            return self
        return LogRows(self.flat.take(pa.array(index)), self.maps.take(index), self.has_stored[index])


def read_rows(
    files: Sequence[LogFile],
    names: Sequence[str],
    batch_rows: int,
    within: tuple[str, int | None, int | None],
) -> Iterator[tuple[LogRows, int]]:
    """Yield the rows of files in their order, and how many were left out because an earlier file has them; few files at a time.

    Args:
        files: as `files_of` found them.
        names: columns to read.
        batch_rows: about how many rows come together; memory holds two files' worth at most beyond.
        within: (time column, from, to): rows of [from, to), microseconds, None = open.
    """
    held: list[LogRows] = []
    repeated = 0
    for file in files:
        for rows, skipped in _rows_of(file, names, batch_rows, within):
            repeated += skipped
            if held and sum(map(len, held)) + len(rows) > batch_rows:
                yield _joined(held), repeated
                held, repeated = [], 0
            held.append(rows)
    if held:
        yield _joined(held), repeated


def _rows_of(
    file: LogFile, names: Sequence[str], batch_rows: int, within: tuple[str, int | None, int | None]
) -> Iterator[tuple[LogRows, int]]:
    """Yield a file's rows; what cannot be read is said by the file's name."""
    try:
        yield from _parts_of(file, names, batch_rows, within)
    except (OSError, pa.ArrowException) as exc:
        raise _unreadable(file, exc) from exc


def _unreadable(file: LogFile, exc: Exception) -> ContractError:
    name = "/".join(Path(file.path).parts[-2:])
    return ContractError(
        f"prediction log: {name} cannot be read any more ({type(exc).__name__}): it is damaged, or was removed meanwhile; run again, "
        "or leave its day out with --from and --to"
    )


def _parts_of(
    file: LogFile, names: Sequence[str], batch_rows: int, within: tuple[str, int | None, int | None]
) -> Iterator[tuple[LogRows, int]]:
    with _open(file) as parquet:
        there = [name for name in names if name in parquet.schema_arrow.names]
        later = [name for name in there if name in _LATER] if "features" in names else []
        now = [name for name in there if name not in later]
        first = 0
        for batch in parquet.iter_batches(batch_rows, columns=now, use_threads=False):
            keep, skipped = _kept(batch, file, within)
            if keep is None or len(keep) or skipped:
                rows = _taken_apart(batch, partial(_read_later, file, later, first, batch.num_rows))
                rows = replace(rows, has_stored=np.full(batch.num_rows, "stored" in there))
                yield rows if keep is None else rows.take(keep), skipped
            first += batch.num_rows


def _open(file: LogFile) -> pq.ParquetFile:
    """Open a file so that keys of maps, which are few, come as a dictionary."""
    footer = pq.read_metadata(file.path)
    there = footer.schema.to_arrow_schema().names
    keys = [f"{name}.key_value.key" for name in _MAPS if name in there]
    return pq.ParquetFile(file.path, metadata=footer, read_dictionary=keys)


def _read_later(file: LogFile, names: Sequence[str], first: int, n: int) -> Maps:
    """Return the maps of rows first to first + n of a file; of stored values empty ones where it has none."""
    nothing = MapColumn(np.zeros(n + 1, np.int64), np.zeros(0, np.int32), (), pa.array([], pa.string()))
    parts: list[pa.RecordBatch] = []
    try:
        with _open(file) as parquet:
            ends = np.cumsum([parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)])
            groups = np.flatnonzero((ends > first) & (np.concatenate([[0], ends[:-1]]) < first + n)).tolist()
            at = int(ends[groups[0] - 1]) if groups and groups[0] else 0
            for batch in parquet.iter_batches(columns=list(names), row_groups=groups, use_threads=False):
                start, stop = max(first - at, 0), min(first + n - at, batch.num_rows)
                parts += [batch.slice(start, stop - start)] if stop > start else []
                at += batch.num_rows
    except (OSError, pa.ArrowException) as exc:
        raise _unreadable(file, exc) from exc
    read = {
        name: MapColumn.concat([MapColumn.of(part.column(name)) for part in parts]) for name in names if parts
    }
    return {"stored": nothing} | read


def _kept(
    batch: pa.RecordBatch, file: LogFile, within: tuple[str, int | None, int | None]
) -> tuple[NDArray[np.int64] | None, int]:
    """Return which rows are kept (None: all), and how many are not because they are repeated."""
    column, start, stop = within
    inside = np.ones(batch.num_rows, np.bool_)
    if start is not None or stop is not None:
        times = batch.column(column).cast(pa.int64()).to_numpy()
        inside &= times >= start if start is not None else True
        inside &= times < stop if stop is not None else True
    repeated = np.zeros(batch.num_rows, np.bool_)
    if file.skip:
        numbers = batch.column("sequence").to_numpy()
        for first, last in file.skip:
            repeated |= (numbers >= first) & (numbers <= last)
    keep = inside & ~repeated
    return (None if keep.all() else np.flatnonzero(keep)), int((repeated & inside).sum())


def _taken_apart(batch: pa.RecordBatch, later: Callable[[], Maps]) -> LogRows:
    there = batch.schema.names
    maps = {name: MapColumn.of(batch.column(name)) for name in _MAPS if name in there}
    flat = pa.Table.from_batches([batch.select([name for name in there if name not in _MAPS])])
    return LogRows(flat, _Maps(maps, later), np.zeros(batch.num_rows, np.bool_))


def _joined(parts: list[LogRows]) -> LogRows:
    if len(parts) == 1:
        return parts[0]
    maps = _Maps.concat([part.maps for part in parts])
    flat = pa.concat_tables([part.flat for part in parts])
    return LogRows(flat, maps, np.concatenate([part.has_stored for part in parts]))


def _without_nulls(array: pa.MapArray) -> pa.MapArray:
    """Return the array with empty maps in the place of null ones, which may lie over entries."""
    return pa.array([[] if row is None else row for row in array.to_pylist()], array.type)


def column_from_texts(declared: Field, texts: pa.Array) -> tuple[Column, list[RowError]]:
    """Return the column of JSON texts (one a row; null and "null" are null), as `build_column` makes it of what they say.

    A text that is no JSON is refused as a value of a wrong type.
    """
    texts = pc.if_else(pc.equal(texts, "null"), pa.scalar(None, texts.type), texts)
    typed = _typed(declared.dtype.kind, texts)
    if typed is not None:
        return column_from_arrow(declared, typed)
    encoded = texts.dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    column, broken = build_column(declared, [*map(_parsed, distinct), None])
    codes = encoded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False).astype(np.int64)
    errors = [
        error._replace(row=row) for error in broken for row in np.flatnonzero(codes == error.row).tolist()
    ]
    return take(column, codes), sorted(errors, key=lambda error: error.row)


def is_hashed(texts: pa.Array) -> NDArray[np.bool_]:
    """Return which texts are keyed hashes of personal data: 64 hex digits, which no JSON value of a field is."""
    found = pc.fill_null(pc.match_substring_regex(texts, _HASHED), False)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return _UNREADABLE


def _typed(kind: str, texts: pa.Array) -> pa.Array | None:
    """Return the texts read by Arrow, if all have a form that it reads as the wire form does."""
    try:
        if kind in ("float64", "float32") and _all_match(texts, _NUMBER):
            return texts.cast(pa.float64())
        if kind in ("int64", "int32") and _all_match(texts, _INTEGER):
            return texts.cast(pa.int64())
        if kind == "timestamp":
            if _all_match(texts, _INTEGER):
                return texts.cast(pa.int64())
            if _all_match(texts, _UTC):
                return pc.utf8_slice_codeunits(texts, 1, -1).cast(pa.timestamp("us", tz="UTC"))
        if kind == "string" and _all_match(texts, _PLAIN):
            return pc.utf8_slice_codeunits(texts, 1, -1)
        if kind == "bool" and _all_match(texts, "^(true|false)$"):
            return pc.equal(texts, "true")
    except pa.ArrowInvalid:  # out of range, no such date: the wire form says what is wrong with which row
        return None
    return None


def _all_match(texts: pa.Array, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(texts, pattern)).as_py() is not False
