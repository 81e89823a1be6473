"""A column of maps taken apart, so that the value of one key in all rows is a column: by strides where all rows have the same keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

__all__ = ["MapColumn"]


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
        if array.null_count and _hides_entries(array):
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


def _hides_entries(array: pa.MapArray) -> bool:
    """Return whether a null map lies over entries; those of a file never do."""
    lengths = np.diff(array.offsets.to_numpy()[: len(array) + 1])
    return bool(lengths[array.is_null().to_numpy(zero_copy_only=False)].any())


def _without_nulls(array: pa.MapArray) -> pa.MapArray:
    """Return the array with empty maps in the place of null ones, which may lie over entries."""
    return pa.array([[] if row is None else row for row in array.to_pylist()], array.type)
