"""Row ids and their checksum: how a run proves that each input row came out once.

A row's id is its declared key (a String as it is, an integer in digits, several fields as a JSON array), else, and where a part
of the key is null or not UTF-8, its file and ordinal. The checksum of a set of ids is the sum, modulo 2^64, of two independent
64-bit hashes of each id: 128 bits, independent of order, and sensitive to a row that is lost, doubled or changed.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["IdSum", "id_sum", "row_ids", "unreadable_keys"]

_SEEDS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_MULTIPLIER = np.uint64(0xFF51AFD7ED558CCD)
_FINAL = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(32)
_MASK = 2**64 - 1
_BLOCK = 16_384


@dataclass(frozen=True)
class IdSum:
    """A count of ids and their checksum (32 hex digits when printed); sums of disjoint sets add up."""

    count: int = 0
    low: int = 0
    high: int = 0

    def __add__(self, other: IdSum) -> IdSum:
        return IdSum(
            self.count + other.count, (self.low + other.low) & _MASK, (self.high + other.high) & _MASK
        )

    def __str__(self) -> str:
        return f"{self.count} ids, checksum {self.high:016x}{self.low:016x}"

    def to_json(self) -> list[Any]:
        """Return [count, low, high]; the sums as hex, since JSON readers round large integers."""
        return [self.count, f"{self.low:016x}", f"{self.high:016x}"]

    @classmethod
    def from_json(cls, value: list[Any]) -> IdSum:
        """Return what `to_json` wrote."""
        return cls(value[0], int(value[1], 16), int(value[2], 16))


def row_ids(batch: pa.RecordBatch, key: tuple[str, ...], file: str, first_ordinal: int) -> pa.Array:
    """Return each row's id, a string array without nulls.

    Args:
        batch: rows that lie side by side in a file.
        key: the key fields, () = none declared.
        file: the file's name, the same in every run over the snapshot.
        first_ordinal: the position in the file of the batch's first row.
    """
    if not key:
        return _ordinals(file, first_ordinal, batch.num_rows)
    for name, rows in unreadable_keys(batch, key).items():
        position = batch.schema.get_field_index(name)
        known = batch.column(position)
        if pa.types.is_dictionary(known.type):
            known = known.dictionary_decode()
        mask = np.zeros(batch.num_rows, dtype=np.bool_)
        mask[rows] = True
        batch = batch.set_column(
            position, name, pc.if_else(pa.array(mask), pa.scalar(None, known.type), known)
        )
    if len(key) == 1:
        ids = batch.column(key[0])
        if pa.types.is_dictionary(ids.type):
            ids = ids.dictionary_decode()
        ids = ids.cast(pa.string()) if _has_text_form(ids.type) else _as_json(batch, key)
    else:
        ids = _as_json(batch, key)
    return pc.coalesce(ids, _ordinals(file, first_ordinal, batch.num_rows)) if ids.null_count else ids


def unreadable_keys(batch: pa.RecordBatch, key: tuple[str, ...]) -> dict[str, list[int]]:
    """Return, by key field, the rows whose string is not valid UTF-8, which Parquet files may hold; only fields that have any."""
    found = {}
    for name in key:
        column = batch.column(name)
        values = column.dictionary if pa.types.is_dictionary(column.type) else column
        if not _is_text(values.type):
            continue
        try:
            values.validate(full=True)
        except pa.ArrowInvalid:
            decoded = column.dictionary_decode() if values is not column else column
            raw = decoded.cast(pa.large_binary()).to_pylist()
            found[name] = [row for row, value in enumerate(raw) if value is not None and not _is_utf8(value)]
    return found


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_text(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    )


def _has_text_form(type_: pa.DataType) -> bool:
    return _is_text(type_) or bool(pa.types.is_integer(type_))


def _ordinals(file: str, first: int, n: int) -> pa.Array:
    return pc.binary_join_element_wise(
        pa.scalar(file), pa.array(np.arange(first, first + n)).cast(pa.string()), "#"
    )


def _as_json(batch: pa.RecordBatch, key: tuple[str, ...]) -> pa.Array:
    parts = zip(*(batch.column(name).to_pylist() for name in key), strict=True)
    texts = [None if None in row else json.dumps(row, default=str, ensure_ascii=False) for row in parts]
    return pa.array(texts, pa.string())


def id_sum(ids: pa.Array | pa.ChunkedArray, hashes: list[NDArray[np.uint64]] | None = None) -> IdSum:
    """Return the count and checksum of string ids; nulls must not occur.

    Args:
        ids: strings.
        hashes: receives the 64-bit hashes of the ids (equal ids have equal ones), in their order.
    """
    if isinstance(ids, pa.ChunkedArray):
        return sum((id_sum(chunk, hashes) for chunk in ids.chunks), IdSum())
    if pa.types.is_dictionary(ids.type):
        ids = ids.dictionary_decode()
    if not pa.types.is_large_string(ids.type):
        ids = ids.cast(pa.large_string())
    if not len(ids):
        return IdSum()
    _, offset_buffer, data_buffer = ids.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64, count=len(ids) + 1, offset=ids.offset * 8)
    data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer is not None else np.empty(0, np.uint8)
    data = np.concatenate([data[offsets[0] : offsets[-1]], np.zeros(8, np.uint8)])
    compiled = _compiled() if "numba" in sys.modules else None
    if compiled is not None:
        lows = np.empty(len(ids), np.uint64)
        low, high = compiled(_every_word(data), offsets - offsets[0], *_SEEDS, lows)
        if hashes is not None:
            hashes.append(lows)
        return IdSum(len(ids), int(low), int(high))
    return _interpreted(data, offsets - offsets[0], [] if hashes is None else hashes)


def _interpreted(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], hashes: list[NDArray[np.uint64]]
) -> IdSum:
    """Return the sum with numpy alone, in blocks that stay in the processor's cache."""
    total = IdSum()
    for start in range(0, len(offsets) - 1, _BLOCK):
        total += _block_sum(data, offsets[start : start + _BLOCK + 1], hashes)
    return total


@functools.cache
def _compiled() -> Any:
    """Return `_sum_loop` compiled, several times faster than numpy; None where that cannot be. Both give the same sums."""
    numba: Any = importlib.import_module("numba")
    if numba.config.DISABLE_JIT:
        return None
    words = numba.types.Array(numba.types.uint64, 1, "A", aligned=False)
    sums = numba.types.UniTuple(numba.types.uint64, 2)
    seed, out = numba.types.uint64, numba.types.uint64[::1]
    signature = sums(words, numba.types.int64[::1], seed, seed, out)
    try:
        return numba.njit(signature, cache=True, nogil=True)(_sum_loop)
    except (OSError, RuntimeError):  # no place for a cache
        return numba.njit(signature, nogil=True)(_sum_loop)


def _sum_loop(
    words: NDArray[np.uint64],
    offsets: NDArray[np.int64],
    low_seed: np.uint64,
    high_seed: np.uint64,
    lows: NDArray[np.uint64],
) -> tuple[np.uint64, np.uint64]:
    low_sum = high_sum = np.uint64(0)
    for i in range(len(offsets) - 1):
        length = offsets[i + 1] - offsets[i]
        odd = np.uint64(2 * length + 1)
        low, high = low_seed * odd, high_seed * odd
        for done in range(0, length, 8):
            word = words[offsets[i] + done]
            if length - done < 8:
                spare_bits = np.uint64(8 * (8 - (length - done)))
                word = (word << spare_bits) >> spare_bits
            low = (low ^ word) * _MULTIPLIER
            low = (low ^ (low >> _SHIFT)) * _FINAL
            low ^= low >> _SHIFT
            high = (high ^ word) * _MULTIPLIER
            high = (high ^ (high >> _SHIFT)) * _FINAL
            high ^= high >> _SHIFT
        lows[i] = low
        low_sum += low
        high_sum += high
    return low_sum, high_sum


def _every_word(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the little-endian word that begins at each byte: a view, shape (len(data) - 7,)."""
    return np.ndarray((len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))


def _block_sum(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], hashes: list[NDArray[np.uint64]]
) -> IdSum:
    """Return the sum of the ids between offsets; `data` ends in 8 spare bytes. Ids of equal word counts are hashed together."""
    starts, lengths = offsets[:-1], np.diff(offsets)
    n_words = -(-lengths // 8)
    lows = np.empty(len(lengths), np.uint64)
    high = 0
    for count in np.unique(n_words).tolist():
        same = n_words == count
        words = _words(data, starts[same], lengths[same], count)
        lows[same] = _hash(words, lengths[same], _SEEDS[0])
        high += int(_hash(words, lengths[same], _SEEDS[1]).sum(dtype=np.uint64))
    hashes.append(lows)
    return IdSum(len(lengths), int(lows.sum(dtype=np.uint64)), high & _MASK)


def _words(
    data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64], count: int
) -> list[NDArray[np.uint64]]:
    """Return each string's bytes as `count` little-endian words, zero-padded: a list of arrays, shape (n,)."""
    if not count:
        return []
    every_word = _every_word(data)
    words = [every_word[starts + 8 * i] for i in range(count)]
    spare_bits = (8 * (8 * count - lengths)).astype(np.uint64)
    words[-1] = (words[-1] << spare_bits) >> spare_bits
    return words


def _hash(words: list[NDArray[np.uint64]], lengths: NDArray[np.int64], seed: np.uint64) -> NDArray[np.uint64]:
    """Mix each row's words and length into 64 bits: multiply and fold, as MurmurHash3's finaliser does.

    The length multiplies the seed, so that no two lengths meet in both hashes: "a" and "b\\0" would, were it a word among words.
    Source: Austin Appleby, MurmurHash3 fmix64 (public domain) for the constants and shifts.
    """
    mixed = seed * (2 * lengths + 1).astype(np.uint64)
    for word in words:
        mixed ^= word
        mixed *= _MULTIPLIER
        mixed ^= mixed >> _SHIFT
        mixed *= _FINAL
        mixed ^= mixed >> _SHIFT
    return mixed
