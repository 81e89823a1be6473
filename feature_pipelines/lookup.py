"""Stored features as of a time: for each request the newest row of its key that was visible then, whole, or nothing.

`AsOfIndex` holds one view's rows as sorted arrays, so that a look-up is two binary searches and the answer was computed when
the index was built. Its order of rows is the one total order of the project: (event_ts, created_ts, digest of the row's
canonical bytes). It reads no clock and no storage but its own files, mapped into memory, so that workers of one machine share
them.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.as_of_order import NOTHING, newest_so_far
from feature_pipelines.columns import (
    Column,
    Columns,
    Nullable,
    Strings,
    length,
    take,
    take_where,
    values_and_valid,
)
from feature_pipelines.errors import ContractError
from feature_pipelines.views import FeatureView

__all__ = ["AsOfIndex", "Status"]

_NEVER = np.iinfo(np.int64).min
_TABLE_CELLS = 1 << 22
_CELLS_PER_ROW = 64
_MANY, _LARGE = 4_096, 65_536


class Status(IntEnum):
    """What became of a look-up.

    PRESENT: a row. NOT_FOUND: none visible for the key, or a tombstone. EXPIRED: the newest is older than the ttl. NULL: a key field
    of the request is null, so nothing was looked up. FUTURE: the store's newest row is not visible yet at the request's time.
    UNAVAILABLE: the store did not answer in time. OVERRIDDEN: the caller sent every field of the view.
    """

    PRESENT = 0
    NOT_FOUND = 1
    EXPIRED = 2
    NULL = 3
    FUTURE = 4
    UNAVAILABLE = 5
    OVERRIDDEN = 6


@dataclass(frozen=True, eq=False)
class AsOfIndex:
    """One view's rows, ready to be looked up.

    Rows are sorted by (key, visible_ts); `newest[i]` is the newest, in the total order, of the rows of that key up to i, -1 where
    that is a tombstone.

    Args:
        view: the declaration.
        keys: per key column its distinct values, sorted: strings, or an int64 array.
        entities: sorted codes of the keys that occur, int64.
        times: the distinct visible_ts = max(event_ts, created_ts), sorted, int64 microseconds.
        order: per row entity * (len(times) + 1) + rank of its visible_ts in `times`, sorted, int64.
        newest: per row the position of the newest row, int64; -1 = a tombstone.
        event_ts: per row, int64 microseconds.
        fields: per row the stored columns.
    """

    view: FeatureView
    keys: tuple[Strings | NDArray[np.int64], ...]
    entities: NDArray[np.int64]
    times: NDArray[np.int64]
    order: NDArray[np.int64]
    newest: NDArray[np.int64]
    event_ts: NDArray[np.int64]
    fields: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.order)

    @classmethod
    def build(
        cls,
        view: FeatureView,
        keys: Sequence[Column],
        event_ts: NDArray[np.int64],
        created_ts: NDArray[np.int64],
        fields: Columns,
        is_deleted: NDArray[np.bool_] | None = None,
    ) -> AsOfIndex:
        """Build the index of n rows, in any order.

        Args:
            view: the declaration.
            keys: the key columns, String or Int64/Int32, in the order of `view.keys`; a row with a null key is never found.
            event_ts, created_ts: int64 microseconds, shape (n,).
            fields: every field of the view, n rows each.
            is_deleted: which rows are tombstones, shape (n,), their values are never read; None = none.

        Raises:
            ContractError: a key column of another kind, or more possible keys than an int64 can number.
        """
        distinct = tuple(_distinct(view, key) for key in keys)
        if math.prod(len(values) for values in distinct) >= 2**63:
            raise ContractError(
                f"view {view.name!r}: too many combinations of its {len(distinct)} key columns to number them"
            )
        codes, has_key = _entity_codes(distinct, keys, _positions(distinct))
        keep = np.flatnonzero(has_key)
        visible = np.maximum(event_ts, created_ts)
        keep = keep[np.lexsort((visible[keep], codes[keep]))]
        entities, entity = np.unique(codes[keep], return_inverse=True)
        times, rank = np.unique(visible[keep], return_inverse=True)
        newest = newest_so_far(view, keep, entity, (event_ts, created_ts), fields, is_deleted)
        return cls(
            view=view,
            keys=distinct,
            entities=entities,
            times=times,
            order=entity.astype(np.int64) * (len(times) + 1) + rank,
            newest=newest,
            event_ts=event_ts[keep],
            fields={name: take(column, keep) for name, column in fields.items()},
        )

    def lookup(
        self, keys: Sequence[Column], as_of: NDArray[np.int64]
    ) -> tuple[dict[str, Column], NDArray[np.int8]]:
        """Return the view's fields for each request, and each request's Status.

        Args:
            keys: the key columns of n requests, in the order of `view.keys`.
            as_of: int64 microseconds, shape (n,).

        Returns:
            The columns of the row found (null where none is PRESENT), and the statuses, int8, shape (n,).

        Raises:
            ContractError: a key that is a string here and an integer in the index, or the other way round.
        """
        row, present, status = self._find(keys, as_of)
        return self._gather(row, present), status

    def lookup_timed(
        self, keys: Sequence[Column], as_of: NDArray[np.int64]
    ) -> tuple[dict[str, Column], NDArray[np.int8], NDArray[np.int64]]:
        """Return what `lookup` does, and the event_ts of the row that was found, also of an expired one.

        Where none was, the time is the lowest int64.
        """
        row, present, status = self._find(keys, as_of)
        times = np.full(len(as_of), _NEVER)
        found = (status == Status.PRESENT) | (status == Status.EXPIRED)
        times[found] = self.event_ts[row[found]]
        return self._gather(row, present), status, times

    def _find(
        self, keys: Sequence[Column], as_of: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int8]]:
        """Return the position of each request's row, where there is one that is PRESENT, and each Status."""
        n = len(as_of)
        if not len(self):
            nothing = np.zeros(n, dtype=np.bool_)
            status = np.full(n, Status.NOT_FOUND, dtype=np.int8)
            return nothing.astype(np.int64), nothing, _with_null_keys(status, keys)
        entity, known = self._entity(keys)
        row = self._newest_row(entity, self._rank(as_of))
        found = known & (row >= 0)
        row *= found
        present = found.copy()
        if self.view.ttl_seconds is not None:
            oldest = (
                np.maximum(as_of, _NEVER + self.view.ttl_seconds * 1_000_000)
                - self.view.ttl_seconds * 1_000_000
            )
            present &= self.event_ts[row] >= oldest
        status = np.where(present, Status.PRESENT, np.where(found, Status.EXPIRED, Status.NOT_FOUND)).astype(
            np.int8
        )
        return row, present, _with_null_keys(status, keys)

    def _entity(self, keys: Sequence[Column]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return each request's entity number, and whether there is such an entity."""
        for name, indexed, asked in zip(self.view.keys, self.keys, keys, strict=True):
            if isinstance(indexed, Strings) != isinstance(values_and_valid(asked)[0], Strings):
                raise ContractError(
                    f"view {self.view.name!r}: key {name!r} is a string in one of table and request only"
                )
        code, known = _entity_codes(self.keys, keys, self._key_positions)
        if self._is_dense:
            known &= code < len(self.entities)
            return code * known, known
        entity = np.searchsorted(self.entities, code)
        entity[entity == len(self.entities)] = 0
        return entity, known & (self.entities[entity] == code)

    def _rank(self, as_of: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many of the distinct times are not after each request: a binary search, or a grid where that is exact."""
        if self._grid is None:
            return np.searchsorted(self.times, as_of, side="right")
        width, before = self._grid
        first = self.times[0]
        cell = np.clip(as_of, first, self.times[-1])
        cell -= first
        cell //= width
        rank = before.take(cell)
        padded = self.times.take(rank, mode="clip")
        return rank + ((padded <= as_of) & (rank < len(self.times)))

    def _newest_row(self, entity: NDArray[np.int64], rank: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the newest visible row of each entity, NOTHING if there is none: by table, or by binary search."""
        wanted = entity * (len(self.times) + 1) + rank
        return self._search(wanted) if self._table is None else self._table.take(wanted)

    def _search(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        columns = len(self.times) + 1
        position = _places(self.order, wanted) - 1
        same = (position >= 0) & (self.order[position] // columns == wanted // columns)
        return np.where(same, self.newest[position], NOTHING)

    @functools.cached_property
    def _key_positions(self) -> tuple[Mapping[str, int], ...]:
        return _positions(self.keys)

    @functools.cached_property
    def _is_dense(self) -> bool:
        """Whether an entity's number is its code."""
        return len(self.entities) == 0 or int(self.entities[-1]) == len(self.entities) - 1

    @functools.cached_property
    def _grid(self) -> tuple[int, NDArray[np.int64]] | None:
        """(width, times before each cell), such that no cell holds two times; None where that would take too many cells."""
        if len(self.times) < 2:
            return (1, np.zeros(1, dtype=np.int64)) if len(self.times) else None
        span = int(self.times[-1]) - int(self.times[0])
        if span >= 2**63:
            return None
        width = int(np.diff(self.times).min())
        cells = span // width + 1
        if cells > _TABLE_CELLS or cells > _CELLS_PER_ROW * len(self.times):
            return None
        starts = self.times[0] + np.arange(cells, dtype=np.int64) * width
        return width, np.searchsorted(self.times, starts, side="left")

    @functools.cached_property
    def _table(self) -> NDArray[np.int64] | None:
        """The newest visible row for every (entity, rank); None where that would be too large."""
        cells = len(self.entities) * (len(self.times) + 1)
        if cells > _TABLE_CELLS or cells > _CELLS_PER_ROW * len(self):
            return None
        return self._search(np.arange(cells, dtype=np.int64))

    def _gather(self, row: NDArray[np.int64], present: NDArray[np.bool_]) -> dict[str, Column]:
        everywhere = bool(present.all())
        return {f.name: take_where(self.fields[f.name], row, present, everywhere) for f in self.view.fields}

    def save(self, directory: Path) -> None:
        """Write the index as plain .npy files and two JSON files into a new directory."""
        directory.mkdir(parents=True)
        strings: dict[str, Any] = {}
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        for i, key in enumerate(self.keys):
            _put(f"key.{i}", key, arrays, strings)
        for name, column in self.fields.items():
            values, valid = values_and_valid(column)
            _put(f"field.{name}", values, arrays, strings)
            if valid is not None:
                arrays[f"valid.{name}"] = valid
        for name, array in arrays.items():
            np.save(directory / f"{name}.npy", array, allow_pickle=False)
        (directory / "strings.json").write_text(json.dumps(strings))
        (directory / "view.json").write_text(json.dumps(self.view.describe()))

    @classmethod
    def load(cls, view: FeatureView, directory: Path) -> AsOfIndex:
        """Map a saved index into memory.

        Raises:
            ContractError: it was built for another view, or another declaration of this one.
        """
        if json.loads((directory / "view.json").read_text()) != view.describe():
            raise ContractError(
                f"the index in {directory.name!r} was not built for view {view.name!r} as it is declared now"
            )
        strings = json.loads((directory / "strings.json").read_text())

        def get(name: str) -> Any:
            array = np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            return Strings(array, tuple(strings[name])) if name in strings else array

        fields: dict[str, Column] = {}
        for f in view.fields:
            values = get(f"field.{f.name}")
            fields[f.name] = Nullable(values, get(f"valid.{f.name}")) if f.nullable else values
        keys = tuple(get(f"key.{i}") for i in range(len(view.keys)))
        return cls(view=view, keys=keys, fields=fields, **{name: get(name) for name in _ARRAYS})


_ARRAYS = ("entities", "times", "order", "newest", "event_ts")


def _places(of: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many of the sorted values are below each that is wanted.

    Many are asked in ascending order: each search then walks memory that the one before has just read, which outweighs the sorting.
    """
    if len(wanted) < _MANY or len(of) < _LARGE:
        return np.searchsorted(of, wanted, side="left")
    order = np.argsort(wanted)
    places = np.empty(len(wanted), dtype=np.int64)
    places[order] = np.searchsorted(of, wanted[order], side="left")
    return places


def _put(name: str, values: Any, arrays: dict[str, Any], strings: dict[str, Any]) -> None:
    if isinstance(values, Strings):
        strings[name] = values.categories
        arrays[name] = values.codes
    else:
        arrays[name] = values


def _with_null_keys(status: NDArray[np.int8], keys: Sequence[Column]) -> NDArray[np.int8]:
    """Return the statuses with NULL where a part of the request's key is null; such a request has found nothing."""
    for key in keys:
        valid = values_and_valid(key)[1]
        if valid is not None and not valid.all():
            status[~valid] = Status.NULL
    return status


def _distinct(view: FeatureView, key: Column) -> Strings | NDArray[np.int64]:
    values, valid = values_and_valid(key)
    if isinstance(values, Strings):
        used = np.unique(values.codes if valid is None else values.codes[valid])
        names = sorted(values.categories[code] for code in used)
        return Strings(np.arange(len(names), dtype=np.int32), tuple(names))
    if values.dtype.kind == "i":
        return np.unique(values if valid is None else values[valid]).astype(np.int64)
    raise ContractError(f"view {view.name!r}: a key column must be String or an integer, not {values.dtype}")


def _positions(distinct: Sequence[Strings | NDArray[np.int64]]) -> tuple[Mapping[str, int], ...]:
    """Return the position of each distinct string of each key column; nothing for integer keys."""
    names = [key.categories if isinstance(key, Strings) else () for key in distinct]
    return tuple({name: i for i, name in enumerate(of_key)} for of_key in names)


def _entity_codes(
    distinct: Sequence[Strings | NDArray[np.int64]],
    keys: Sequence[Column],
    positions: Sequence[Mapping[str, int]],
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return each row's entity code, and whether every part of its key is known and not null."""
    n = length(keys[0])
    code = np.zeros(n, dtype=np.int64)
    known = np.ones(n, dtype=np.bool_)
    for values_of_key, key, position in zip(distinct, keys, positions, strict=True):
        values: Any
        values, valid = values_and_valid(key)
        if isinstance(values_of_key, Strings):
            of_category = np.array([position.get(name, -1) for name in values.categories], dtype=np.int64)
            part = of_category[values.codes]
            known &= part >= 0
        else:
            part = np.searchsorted(values_of_key, values)
            part[part == len(values_of_key)] = 0
            known &= values_of_key[part] == values if len(values_of_key) else False
        if valid is not None:
            known &= valid
        code = code * len(values_of_key) + part
    return code, known
