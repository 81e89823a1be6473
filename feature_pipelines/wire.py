"""The wire form: how one value of each declared type is written in JSON, read and written exactly.

    declared       JSON
    Int64, Int32   integer, or a string of decimal digits (1.0, 1e3 and true are refused)
    Float64        number (nearest float64), or "NaN", "Infinity", "-Infinity"
    Float32        the same, then the nearest float32
    Bool           true, false
    Timestamp      RFC 3339 with an offset, or integer microseconds since 1970 (naive or sub-microsecond is refused)
    decimal(p, s)  string, exactly representable
    String         string
    Binary         base64 string
    any            null and missing are the same; an unknown field is an error

This module knows nothing of fields, bounds or columns.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import decimal as _decimal
import functools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from feature_pipelines.columns import DType
from feature_pipelines.reasons import Reason, Refused

__all__ = ["encode", "limits_of", "parse", "parse_timestamp", "parser_of"]


def parse(dtype: DType, value: Any) -> Any:
    """Return the in-memory value of one non-null JSON value.

    Raises:
        Refused: it is not in the wire form.
    """
    return _PARSERS[dtype.kind](dtype, value)


def parser_of(dtype: DType) -> Callable[[DType, Any], Any]:
    """Return what `parse` calls for values of a type: for columns of many."""
    return _PARSERS[dtype.kind]


def limits_of(dtype: DType) -> tuple[int, int] | None:
    """Return the lowest and highest value of a type that JSON integers stand for as they are; None for other types."""
    return _LIMITS.get(dtype.kind)


def encode(dtype: DType, values: list[Any]) -> list[Any]:
    """Return in-memory values (none of them null) in the wire form; NaN is null there."""
    to_wire = _ENCODERS.get(dtype.kind)
    return values if to_wire is None else [to_wire(dtype, value) for value in values]


def _parse_integer(dtype: DType, value: Any) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        if len(value) > 20:
            raise Refused(Reason.INTEGER_OVERFLOW, f"beyond {dtype}")
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise Refused(Reason.WRONG_TYPE, f"expected {dtype}: an integer or a string of decimal digits")
    lowest, highest = _LIMITS[dtype.kind]
    if not lowest <= value <= highest:
        raise Refused(Reason.INTEGER_OVERFLOW, f"beyond {dtype}")
    return value


def _parse_float(dtype: DType, value: Any) -> float:
    if isinstance(value, str) and value in _NOT_NUMBERS:
        return _NOT_NUMBERS[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(Reason.WRONG_TYPE, f"expected {dtype}: a number, or 'NaN', 'Infinity', '-Infinity'")
    try:
        result = float(value)
    except OverflowError:
        result = math.inf if value > 0 else -math.inf
    if dtype.kind == "float32" and not math.isnan(result):
        with np.errstate(over="ignore"):
            result = float(np.float32(result))
    return math.nan if math.isnan(result) else result


def _parse_bool(dtype: DType, value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refused(Reason.WRONG_TYPE, "expected bool: true or false")
    return value


def _parse_string(dtype: DType, value: Any) -> str:
    if not isinstance(value, str):
        raise Refused(Reason.WRONG_TYPE, "expected a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refused(Reason.BAD_VALUE, "the string is not valid Unicode (a lone surrogate)") from None
    return value


def _parse_binary(dtype: DType, value: Any) -> bytes:
    if not isinstance(value, str):
        raise Refused(Reason.WRONG_TYPE, "expected a base64 string")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(Reason.BAD_VALUE, "not valid base64") from None


def _parse_decimal(dtype: DType, value: Any) -> int:
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise Refused(Reason.WRONG_TYPE, f"expected {dtype}: a string such as '12.34'")
    unscaled = _decimal.Decimal(value).scaleb(dtype.scale, _WIDE)
    if unscaled != unscaled.to_integral_value(context=_WIDE):
        raise Refused(Reason.PRECISION_LOST, f"more than {dtype.scale} digits behind the point")
    if abs(unscaled) >= 10**dtype.precision:
        raise Refused(Reason.OUT_OF_RANGE, f"beyond {dtype}")
    return int(unscaled)


def _parse_timestamp(dtype: DType, value: Any) -> int:
    if isinstance(value, str):
        return parse_timestamp(value)
    return _parse_integer(dtype, value)


def parse_timestamp(text: str) -> int:
    """Return microseconds since 1970-01-01T00:00Z of an RFC 3339 time with an offset.

    Raises:
        Refused: BAD_TIMESTAMP: no offset, finer than a microsecond, or no such time.

    >>> parse_timestamp("2013-11-03T01:30:00-05:00")
    1383460200000000
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        naive = _RFC3339.fullmatch(text + "Z") is not None
        raise Refused(
            Reason.BAD_TIMESTAMP,
            "a time without an offset is refused; add 'Z' or an offset"
            if naive
            else "expected RFC 3339 with an offset, such as 2013-01-01T10:15:00Z, or integer microseconds",
        )
    date, hour, minute, second, fraction, sign, off_hour, off_minute = match.groups()
    digits = fraction or ""
    if digits[6:].strip("0"):
        raise Refused(Reason.BAD_TIMESTAMP, "finer than a microsecond")
    try:
        days = datetime.date.fromisoformat(date).toordinal() - _EPOCH_DAY
    except ValueError:
        raise Refused(Reason.BAD_TIMESTAMP, "no such date") from None
    if (
        int(hour) > 23
        or int(minute) > 59
        or int(second) > 59
        or int(off_hour or 0) > 23
        or int(off_minute or 0) > 59
    ):
        raise Refused(Reason.BAD_TIMESTAMP, "no such time of day")
    offset = (int(off_hour or 0) * 60 + int(off_minute or 0)) * (-1 if sign == "-" else 1)
    seconds = days * 86_400 + int(hour) * 3_600 + (int(minute) - offset) * 60 + int(second)
    return seconds * 1_000_000 + int(digits[:6].ljust(6, "0"))


_INT64, _INT32 = (-(2**63), 2**63 - 1), (-(2**31), 2**31 - 1)
_LIMITS = {"int64": _INT64, "timestamp": _INT64, "int32": _INT32}
_EPOCH_DAY = datetime.date(1970, 1, 1).toordinal()
_INTEGER = re.compile(r"-?[0-9]+")
_DECIMAL = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?")
_RFC3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_NOT_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_WIDE = _decimal.Context(prec=100)
_PARSERS: dict[str, Callable[[DType, Any], Any]] = {
    "float64": _parse_float,
    "float32": _parse_float,
    "int64": _parse_integer,
    "int32": _parse_integer,
    "bool": _parse_bool,
    "timestamp": _parse_timestamp,
    "decimal": _parse_decimal,
    "string": _parse_string,
    "binary": _parse_binary,
}


def _float_to_wire(dtype: DType, value: float) -> Any:
    if math.isfinite(value):
        return value
    return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


@functools.lru_cache(maxsize=4096)  # rows of one hour, or of one key, share their times
def _timestamp_to_wire(dtype: DType, value: int) -> Any:
    days, microseconds = divmod(value, 86_400_000_000)
    if not 1 <= days + _EPOCH_DAY <= datetime.date.max.toordinal():
        return value
    seconds, fraction = divmod(microseconds, 1_000_000)
    time = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    tail = f".{fraction:06d}" if fraction else ""
    return f"{datetime.date.fromordinal(days + _EPOCH_DAY).isoformat()}T{time}{tail}Z"


def _decimal_to_wire(dtype: DType, value: int) -> str:
    return format(_decimal.Decimal(value).scaleb(-dtype.scale, _WIDE), "f")


_ENCODERS: dict[str, Callable[[DType, Any], Any]] = {
    "float64": _float_to_wire,
    "float32": _float_to_wire,
    "int64": lambda dtype, value: value if abs(value) <= 2**53 else str(value),
    "timestamp": _timestamp_to_wire,
    "decimal": _decimal_to_wire,
    "binary": lambda dtype, value: base64.b64encode(value).decode(),
}
