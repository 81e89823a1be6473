"""Any Arrow row as one JSON object and back, exactly: how a quarantine table keeps the original of a row it could not read.

Integers beyond 2^53 are strings, NaN and infinities their names, binary is base64, a string that is not UTF-8 is
{"base64": ...}, decimals, dates and timestamps are text, times of
day and durations integers in the unit of their type, maps lists of pairs. The way back needs the schema that the rows had.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["rows_as_json", "rows_from_json"]

_EXACT = 2**53


def rows_as_json(batch: pa.RecordBatch) -> list[str]:
    """Return each row as a JSON object, in order."""
    columns = [_column_as_json(column) for column in batch.columns]
    if not columns:
        return ["{}"] * batch.num_rows
    rows = (dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True))
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def rows_from_json(rows: Sequence[str], schema: pa.Schema) -> pa.RecordBatch:
    """Return the rows that `rows_as_json` wrote; a column of the schema that a row lacks is null."""
    parsed = [json.loads(row) for row in rows]
    columns = [_array([_value(row.get(f.name), f.type) for row in parsed], f.type) for f in schema]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema([pa.field(f.name, f.type) for f in schema]))


def _array(values: list[Any], type_: pa.DataType) -> pa.Array:
    if not any(isinstance(value, bytes) for value in values) or _is_binary(type_):
        return pa.array(values, type_)
    raw = pa.array(
        [value.encode() if isinstance(value, str) else value for value in values], pa.large_binary()
    )
    text = raw.cast(options=pc.CastOptions(pa.large_string(), allow_invalid_utf8=True))
    return text.cast(options=pc.CastOptions(type_, allow_invalid_utf8=True))


def _column_as_json(column: pa.Array) -> list[Any]:
    ticks = _with_ticks(column.type)
    plain = column.cast(ticks) if ticks != column.type else column
    try:
        values = plain.to_pylist()
    except UnicodeDecodeError:  # Parquet files may hold strings that are not UTF-8
        values = plain.cast(_with_bytes(ticks)).to_pylist()
    return [_as_json(value, column.type) for value in values]


def _with_bytes(type_: pa.DataType) -> pa.DataType:
    """Return a `_with_ticks` type with binary in place of strings."""
    if _is_text(type_):
        return pa.large_binary()
    if pa.types.is_struct(type_):
        return pa.struct([f.with_type(_with_bytes(f.type)) for f in type_])
    if pa.types.is_map(type_):
        return pa.map_(_with_bytes(type_.key_type), _with_bytes(type_.item_type))
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(type_.value_field.with_type(_with_bytes(type_.value_type)), type_.list_size)
    if pa.types.is_large_list(type_):
        return pa.large_list(type_.value_field.with_type(_with_bytes(type_.value_type)))
    if pa.types.is_list(type_):
        return pa.list_(type_.value_field.with_type(_with_bytes(type_.value_type)))
    return type_


def _with_ticks(type_: pa.DataType) -> pa.DataType:
    """Return the type with integers in place of all times: Python's own times neither reach as far nor are as fine."""
    if pa.types.is_dictionary(type_):
        return _with_ticks(type_.value_type)
    if pa.types.is_temporal(type_):
        return pa.int32() if type_.bit_width == 32 else pa.int64()
    if pa.types.is_struct(type_):
        return pa.struct([f.with_type(_with_ticks(f.type)) for f in type_])
    if pa.types.is_map(type_):
        return pa.map_(_with_ticks(type_.key_type), _with_ticks(type_.item_type))
    if pa.types.is_fixed_size_list(type_):
        return pa.list_(type_.value_field.with_type(_with_ticks(type_.value_type)), type_.list_size)
    if pa.types.is_large_list(type_):
        return pa.large_list(type_.value_field.with_type(_with_ticks(type_.value_type)))
    if pa.types.is_list(type_):
        return pa.list_(type_.value_field.with_type(_with_ticks(type_.value_type)))
    return type_


def _as_json(value: Any, type_: pa.DataType) -> Any:
    """Return one value of a `_with_ticks` array as JSON."""
    if value is None:
        return None
    if pa.types.is_dictionary(type_):
        return _as_json(value, type_.value_type)
    if pa.types.is_timestamp(type_):
        return str(np.datetime64(value, type_.unit)) + ("Z" if type_.tz is not None else "")
    if pa.types.is_date(type_):
        return str(np.datetime64(value, _date_unit(type_)))
    if pa.types.is_floating(type_) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, int) and abs(value) > _EXACT:
        return str(value)
    if isinstance(value, bytes):
        return _text(value) if _is_text(type_) else base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return format(value, "f")
    if pa.types.is_struct(type_):
        return {f.name: _as_json(value[f.name], f.type) for f in type_}
    if pa.types.is_map(type_):
        return [[_as_json(key, type_.key_type), _as_json(item, type_.item_type)] for key, item in value]
    if isinstance(value, list):
        return [_as_json(item, type_.value_type) for item in value]
    return value


def _text(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _value(value: Any, type_: pa.DataType) -> Any:
    """Return what `pa.array` takes, exactly, for one JSON value of a type."""
    if value is None:
        return None
    if pa.types.is_dictionary(type_):
        return _value(value, type_.value_type)
    if pa.types.is_timestamp(type_):
        return int(np.datetime64(value.removesuffix("Z"), type_.unit).astype(np.int64))
    if pa.types.is_date(type_):
        return int(np.datetime64(value, _date_unit(type_)).astype(np.int64))
    if pa.types.is_floating(type_):
        return float(value)
    if pa.types.is_integer(type_) or pa.types.is_temporal(type_):
        return int(value)
    if pa.types.is_decimal(type_):
        return Decimal(value)
    if _is_binary(type_) or (_is_text(type_) and isinstance(value, dict)):  # the latter is not UTF-8
        return base64.b64decode(value if isinstance(value, str) else value["base64"])
    if pa.types.is_struct(type_):
        return {f.name: _value(value.get(f.name), f.type) for f in type_}
    if pa.types.is_map(type_):
        return [(_value(key, type_.key_type), _value(item, type_.item_type)) for key, item in value]
    if isinstance(value, list):
        return [_value(item, type_.value_type) for item in value]
    return value


def _is_text(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    )


def _date_unit(type_: pa.DataType) -> Literal["D", "ms"]:
    return "D" if pa.types.is_date32(type_) else "ms"


def _is_binary(type_: pa.DataType) -> bool:
    kinds = (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_fixed_size_binary,
        pa.types.is_binary_view,
    )
    return any(is_kind(type_) for is_kind in kinds)
