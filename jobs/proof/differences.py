"""How two values of one field differ: what a type, a null or another extraction does to a value leaves a trace in its bits.

Each rule is a pure function over whole columns in canonical form. A rule claims a pair only if the conversion, done here for real,
gives the other side's value bit for bit; what no rule claims is another value. Some conversions leave a trace that ordinary changes
leave too (12.0 for 12.9, an hour later, midnight): they are claimed only where nearly all rows that differ show them. It knows nothing of
rows, views or models.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, DType, Strings, values_and_valid
from feature_pipelines.parity import differing_bits, ulp_distance

__all__ = ["UTC_OFFSETS_MINUTES", "How", "differences", "is_data_type", "utc_offset"]

UTC_OFFSETS_MINUTES: Final = frozenset(
    {60 * hours for hours in range(-12, 15)}
    | {-570, -210, -150, 210, 270, 330, 345, 390, 525, 570, 630, 765, 825}
)
"""The differences from UTC that any zone has had since 1980, whole quarter hours, minutes east."""

_MINUTE_US = 60_000_000


class How(IntEnum):
    """How the online value differs from the offline one; all but SAME, NULL and OTHER are a difference of data types."""

    SAME = 0
    FLOAT32 = 1
    ZERO_SIGN = 2
    NAN_BITS = 3
    TEXT_DIGITS = 4
    LAST_BIT = 5
    TRUNCATED = 6
    INT_AS_FLOAT64 = 7
    INT_AS_FLOAT32 = 8
    INT32_WRAP = 9
    UTC_OFFSET = 10
    TIME_UNIT = 11
    FLOAT_SECONDS = 12
    NORMALISATION = 13
    ENCODING = 14
    NUMBER_TEXT = 15
    NULL = 16
    OTHER = 17

    @property
    def said(self) -> str:
        """The difference in words."""
        return _SAID[self]


_SAID: Final = {
    How.SAME: "equal",
    How.FLOAT32: "went through float32",
    How.ZERO_SIGN: "sign of zero",
    How.NAN_BITS: "other bits of NaN",
    How.TEXT_DIGITS: "written with 15 digits",
    How.LAST_BIT: "one unit in the last place: read from text inexactly",
    How.TRUNCATED: "cut to an integer",
    How.INT_AS_FLOAT64: "integer went through float64",
    How.INT_AS_FLOAT32: "integer went through float32",
    How.INT32_WRAP: "integer wrapped at 32 bits",
    How.UTC_OFFSET: "local time taken for UTC",
    How.TIME_UNIT: "time cut to a coarser unit",
    How.FLOAT_SECONDS: "time went through float seconds",
    How.NORMALISATION: "other Unicode normalisation",
    How.ENCODING: "UTF-8 read as Latin-1",
    How.NUMBER_TEXT: "number written another way",
    How.NULL: "null on one side",
    How.OTHER: "another value",
}


def is_data_type(how: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Return where a difference is one of data types.

    >>> is_data_type(np.array([How.SAME, How.FLOAT32, How.NULL, How.OTHER], dtype=np.int8)).tolist()
    [False, True, False, False]
    """
    found: NDArray[np.bool_] = (how > How.SAME) & (how < How.NULL)
    return found


def differences(dtype: DType, online: Column, offline: Column) -> NDArray[np.int8]:
    """Return, for each row, How the online value differs from the offline one; int8, shape (n,).

    The first rule that holds names the difference; whichever side is the converted one. TRUNCATED, UTC_OFFSET and TIME_UNIT are
    claimed if they hold for at least nine tenths, and at least three, of the rows in which both sides have values that differ.

    Args:
        dtype: the field's declared type.
        online, offline: n rows each, in that type's canonical form.

    >>> exact = np.array([0.1, 0.1, 0.1, np.nan, 0.0, 2.5])
    >>> other = np.array([0.1, np.float32(0.1), 0.2, 0.0, -0.0, 2.0])
    >>> [How(code).name for code in differences(DType("float64"), other, exact)]
    ['SAME', 'FLOAT32', 'OTHER', 'NULL', 'ZERO_SIGN', 'OTHER']
    >>> exact = np.array([2.5, 7.75, -1.5, 4.0])
    >>> [How(code).name for code in differences(DType("float64"), np.trunc(exact), exact)]
    ['TRUNCATED', 'TRUNCATED', 'TRUNCATED', 'SAME']
    """
    ours, ours_valid = values_and_valid(online)
    theirs, theirs_valid = values_and_valid(offline)
    if isinstance(ours, Strings) and isinstance(theirs, Strings):
        how = _of_strings(ours, theirs)
    else:
        known = None if ours_valid is None or theirs_valid is None else ours_valid & theirs_valid
        how = _of_arrays(dtype, np.asarray(ours), np.asarray(theirs), known)
    if ours_valid is not None and theirs_valid is not None:
        how[~ours_valid & ~theirs_valid] = How.SAME
        how[ours_valid != theirs_valid] = How.NULL
    return how


def utc_offset(online: NDArray[np.int64], offline: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the minutes by which two times differ where that is the offset of some zone from UTC, 0 elsewhere.

    A local time that is taken for UTC is late east of Greenwich, early west of it; the other way round if UTC is taken for local.

    Args:
        online, offline: microseconds, shape (n,).

    >>> noon = np.full(4, 1_370_088_000_000_000)
    >>> utc_offset(noon + np.array([-240, 345, 7, 0]) * 60_000_000, noon).tolist()
    [-240, 345, 0, 0]
    """
    shift = online - offline
    minutes = shift // _MINUTE_US
    known = np.isin(minutes, _OFFSETS) & (minutes * _MINUTE_US == shift)
    return np.where(known, minutes, 0)


_BY_PATTERN: Final = frozenset({How.TRUNCATED, How.UTC_OFFSET, How.TIME_UNIT})
_LEAST_ROWS, _LEAST_SHARE = 3, 0.9
_OFFSETS: Final = np.array(sorted(UTC_OFFSETS_MINUTES | {-m for m in UTC_OFFSETS_MINUTES}), dtype=np.int64)

Values = NDArray[Any]
Rule = Callable[[Values, Values], NDArray[np.bool_]]


def _of_arrays(
    dtype: DType, online: Values, offline: Values, known: NDArray[np.bool_] | None
) -> NDArray[np.int8]:
    """Compare values; `known` = in which rows neither side is null, None = in all."""
    how = np.zeros(len(online), dtype=np.int8)
    is_float = dtype.is_float
    changed = differing_bits(online, offline) if dtype.kind != "binary" else online != offline
    rows = np.flatnonzero(changed if known is None else changed & known)
    if not rows.size:
        return how
    how[rows] = How.OTHER
    if is_float:
        missing = np.isnan(online[rows]), np.isnan(offline[rows])
        how[rows[missing[0] != missing[1]]] = How.NULL
        how[rows[missing[0] & missing[1]]] = How.NAN_BITS
        rows = rows[~(missing[0] | missing[1])]
    n = rows.size
    with np.errstate(all="ignore"):
        for kind, holds in _RULES.get(dtype.kind, ()):
            claimed = holds(online[rows], offline[rows]) | holds(offline[rows], online[rows])
            if kind in _BY_PATTERN and int(claimed.sum()) < max(_LEAST_ROWS, _LEAST_SHARE * n):
                continue
            how[rows[claimed]] = kind
            rows = rows[~claimed]
    return how


def _through_float32(x: Values, y: Values) -> NDArray[np.bool_]:
    holds: NDArray[np.bool_] = np.equal(x, y.astype(np.float32).astype(np.float64))
    return holds


def _digits(x: Values, y: Values) -> NDArray[np.bool_]:
    """Whether x is y written with 15 digits; asked only of those that are that close."""
    found = np.zeros(len(x), dtype=np.bool_)
    close = np.flatnonzero(np.abs(x - y) <= np.abs(y) * 1e-14)
    found[close] = [
        float(f"{b:.15g}") == a for a, b in zip(x[close].tolist(), y[close].tolist(), strict=True)
    ]
    return found


def _last_bit(x: Values, y: Values) -> NDArray[np.bool_]:
    holds: NDArray[np.bool_] = np.equal(ulp_distance(x.astype(np.float64), y.astype(np.float64)), 1)
    return holds


def _through_float(bits: Any) -> Rule:
    def holds(x: Values, y: Values) -> NDArray[np.bool_]:
        rounded = y.astype(bits).astype(np.float64)
        fits = (rounded >= -(2.0**63)) & (rounded < 2.0**63)
        found: NDArray[np.bool_] = fits & (x == np.where(fits, rounded, 0.0).astype(np.int64))
        return found

    return holds


def _wrapped(x: Values, y: Values) -> NDArray[np.bool_]:
    holds: NDArray[np.bool_] = np.logical_and(x == y.astype(np.int32), x != y)
    return holds


def _coarser(x: Values, y: Values) -> NDArray[np.bool_]:
    units = (1_000, 1_000_000, 86_400_000_000)  # not the minute or hour: schedules move to whole ones
    cut: NDArray[np.bool_] = np.logical_or.reduce([x == y // unit * unit for unit in units])
    return cut


def _float_seconds(x: Values, y: Values) -> NDArray[np.bool_]:
    holds: NDArray[np.bool_] = np.equal(np.abs(x - y), 1)
    return holds


_RULES: Final[dict[str, tuple[tuple[How, Rule], ...]]] = {
    "float64": (
        (How.ZERO_SIGN, lambda x, y: (x == 0) & (y == 0)),
        (How.TRUNCATED, lambda x, y: (x == np.trunc(y)) & np.isfinite(y)),
        (How.FLOAT32, _through_float32),
        (How.TEXT_DIGITS, _digits),
        (How.LAST_BIT, _last_bit),
    ),
    "float32": (
        (How.ZERO_SIGN, lambda x, y: (x == 0) & (y == 0)),
        (How.TRUNCATED, lambda x, y: (x == np.trunc(y)) & np.isfinite(y)),
    ),
    "int64": (
        (How.INT_AS_FLOAT64, _through_float(np.float64)),
        (How.INT_AS_FLOAT32, _through_float(np.float32)),
        (How.INT32_WRAP, _wrapped),
    ),
    "int32": ((How.INT_AS_FLOAT32, _through_float(np.float32)),),
    "decimal": ((How.INT_AS_FLOAT64, _through_float(np.float64)),),
    "timestamp": (
        (How.UTC_OFFSET, lambda x, y: utc_offset(x, y) != 0),
        (How.TIME_UNIT, _coarser),
        (How.FLOAT_SECONDS, _float_seconds),
    ),
}


def _of_strings(online: Strings, offline: Strings) -> NDArray[np.int8]:
    """Each pair of distinct strings is looked at once."""
    position: dict[str, int] = {}
    codes = []
    for side in (online, offline):
        places = [position.setdefault(text, len(position)) for text in side.categories]
        codes.append(np.array(places, dtype=np.int64)[side.codes])
    how = np.zeros(len(online), dtype=np.int8)
    rows = np.flatnonzero(codes[0] != codes[1])
    texts = tuple(position)
    pairs, of_row = np.unique(codes[0][rows] * len(texts) + codes[1][rows], return_inverse=True)
    found = [_of_texts(texts[pair // len(texts)], texts[pair % len(texts)]) for pair in pairs.tolist()]
    how[rows] = np.array(found, dtype=np.int8)[of_row] if found else 0
    return how


def _of_texts(online: str, offline: str) -> How:
    """How two strings that differ do so.

    >>> [_of_texts("1545.0", "1545").name, _of_texts("07", "7").name, _of_texts("MÃ¼nchen", "München").name]
    ['NUMBER_TEXT', 'NUMBER_TEXT', 'ENCODING']
    >>> [_of_texts("Mu\\u0308nchen", "München").name, _of_texts("ua", "UA").name]
    ['NORMALISATION', 'OTHER']
    """
    if unicodedata.normalize("NFC", online) == unicodedata.normalize("NFC", offline):
        return How.NORMALISATION
    if online in _misread(offline) or offline in _misread(online):
        return How.ENCODING
    numbers = _integer(online), _integer(offline)
    return How.NUMBER_TEXT if numbers[0] is not None and numbers[0] == numbers[1] else How.OTHER


def _misread(text: str) -> Iterator[str]:
    for encoding in ("latin-1", "cp1252"):
        try:
            yield text.encode().decode(encoding)
        except UnicodeDecodeError:
            continue


def _integer(text: str) -> int | None:
    whole = text.removesuffix(".0")
    digits = whole.removeprefix("-")
    return int(whole) if digits.isascii() and digits.isdigit() else None
