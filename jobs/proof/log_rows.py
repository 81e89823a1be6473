"""Rows of the prediction log in memory, some files' together: a whole column at a time, and only the columns that are asked for.

This module knows nothing of Spark, models or what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_pipelines.errors import ContractError
from jobs.proof.log_files import LogFile
from jobs.proof.map_columns import MapColumn
from udfs.prediction_rows import SCHEMA

__all__ = ["LogRows", "read_rows"]

_MAPS = ("request", "stored", "features", "statuses", "event_ts", "class_scores")
_LATER = ("request", "stored", "statuses", "event_ts")


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
                rows = _taken_apart(
                    _with_classes(batch, names), partial(_read_later, file, later, first, batch.num_rows)
                )
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


def _with_classes(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """Return the batch with the columns of several classes where those are asked for and an older version wrote the file."""
    for name in ("class_label", "class_scores"):
        if name in names and name not in batch.schema.names:
            batch = batch.append_column(name, pa.nulls(batch.num_rows, SCHEMA.field(name).type))
    return batch


def _joined(parts: list[LogRows]) -> LogRows:
    if len(parts) == 1:
        return parts[0]
    maps = _Maps.concat([part.maps for part in parts])
    flat = pa.concat_tables([part.flat for part in parts])
    return LogRows(flat, maps, np.concatenate([part.has_stored for part in parts]))
