"""A model whose score is a digest of every bit of its input: one feature set with a column of each type that there is.

Each type is copied into the matrix as whole numbers that float64 holds exactly, so nothing is lost to rounding; the last feature
mixes all of them into 52 bits, and the model returns that. Two paths that give one score for a row had the same bits in every column.
"""

from __future__ import annotations

import zlib
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import (
    Binary,
    Bool,
    Float32,
    Float64,
    Int32,
    Int64,
    Nullable,
    String,
    Strings,
    Timestamp,
    decimal,
)
from feature_pipelines.definitions import FeatureSet, Fitted
from feature_pipelines.schema import Field, Schema

__all__ = ["FEATURES", "REQUEST"]

Money = Annotated[NDArray[np.int64], decimal(18, 4)]

REQUEST = Schema(
    (
        Field("row", Int64, "identifies the row"),
        Field("asked_ts", Timestamp, "never null"),
        Field("seen_ts", Nullable[Timestamp]),
        Field("big", Nullable[Int64]),
        Field("small", Nullable[Int32]),
        Field("wide", Float64, infinite=True),
        Field("narrow", Float32, infinite=True),
        Field("flag", Nullable[Bool]),
        Field("name", Nullable[String]),
        Field("amount", Nullable[Money]),
        Field("payload", Nullable[Binary]),
    )
)


def asked_bits(asked_ts: Timestamp) -> Int64:
    """Bits of the time. Never null."""
    return _mixed(asked_ts)


def seen_bits(seen_ts: Nullable[Timestamp]) -> Int64:
    """Bits of the time, -1 where it is null."""
    return np.where(seen_ts.valid, _mixed(seen_ts.values), -1)


def big_bits(big: Nullable[Int64]) -> Int64:
    """Bits of the integer, -1 where it is null."""
    return np.where(big.valid, _mixed(big.values), -1)


def small_bits(small: Nullable[Int32]) -> Int64:
    """The integer, 2^40 where it is null."""
    return np.where(small.valid, small.values.astype(np.int64), 2**40)


def wide_bits(wide: Float64) -> Int64:
    """Bits of the float; null and NaN are one."""
    return _mixed(wide.view(np.int64))


def narrow_bits(narrow: Float32) -> Int64:
    """Bits of the float; null and NaN are one."""
    return narrow.view(np.int32).astype(np.int64)


def flag_bits(flag: Nullable[Bool]) -> Int64:
    """0 or 1, -1 where it is null."""
    return np.where(flag.valid, flag.values.astype(np.int64), -1)


def name_bits(name: Nullable[String]) -> Int64:
    """CRC of the text in UTF-8, -1 where it is null."""
    return np.where(name.valid, _crc_of_texts(name.values), -1)


def name_code(name: Nullable[String], *, names: tuple[str, ...]) -> Int64:
    """Position of the text among those known; an unknown one is one beyond, a null one is -1."""
    return np.where(name.valid, name.values.encode(names), -1)


def amount_bits(amount: Nullable[Money]) -> Int64:
    """Bits of the unscaled value, -1 where it is null."""
    return np.where(amount.valid, _mixed(amount.values), -1)


def payload_bits(payload: Nullable[Binary]) -> Int64:
    """CRC of the bytes, -1 where it is null."""
    crc = np.array([zlib.crc32(value) for value in payload.values], dtype=np.int64)
    return np.where(payload.valid, crc, -1)


def every_bit(
    asked_bits: Int64,
    seen_bits: Int64,
    big_bits: Int64,
    small_bits: Int64,
    wide_bits: Int64,
    narrow_bits: Int64,
    flag_bits: Int64,
    name_bits: Int64,
    name_code: Int64,
    amount_bits: Int64,
    payload_bits: Int64,
) -> Int64:
    """A digest of all of these, 0 to 2^52. Never null."""
    times = _mixed(asked_bits) ^ _mixed(seen_bits + 1)
    numbers = _mixed(big_bits + 2) ^ _mixed(small_bits + 3) ^ _mixed(wide_bits + 4) ^ _mixed(narrow_bits + 5)
    others = (
        _mixed(flag_bits + 6) ^ _mixed(name_bits + 7) ^ _mixed(amount_bits + 8) ^ _mixed(payload_bits + 9)
    )
    return _mixed(_mixed(times) + _mixed(numbers + 1) + _mixed(others + 2) + _mixed(name_code + 10))


def known_names(name: Nullable[String]) -> list[str]:
    """Return the texts that occur, sorted."""
    return sorted({text for text, valid in zip(name.values.tolist(), name.valid, strict=True) if valid})


def _mixed(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Mix 64 bits into 52, by integer arithmetic alone."""
    bits = values.astype(np.int64).view(np.uint64)
    bits = (bits ^ (bits >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    bits = (bits ^ (bits >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return (bits >> np.uint64(12)).view(np.int64)


def _crc_of_texts(texts: Strings) -> NDArray[np.int64]:
    return np.array([zlib.crc32(text.encode()) for text in texts.categories], dtype=np.int64)[texts.codes]


FEATURES = FeatureSet(
    name="every_type",
    request=REQUEST,
    features=(
        asked_bits,
        seen_bits,
        big_bits,
        small_bits,
        wide_bits,
        narrow_bits,
        flag_bits,
        name_bits,
        name_code,
        amount_bits,
        payload_bits,
        every_bit,
    ),
    fitted=(Fitted("names", known_names, ("name",)),),
    row_id=("row",),
    as_of="asked_ts",
)
