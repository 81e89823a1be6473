"""Which Arrow types a Delta table holds, and the exact conversion of those it does not.

Delta knows signed integers, microseconds, UTC or no zone at all; Parquet files of other writers (pandas above all) have nanoseconds,
zones and unsigned integers. A table written with those cannot be read again by most readers.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as pt

from feature_pipelines.errors import ContractError

__all__ = ["as_stored", "stored_type"]

_WIDENED = {
    pa.null(): pa.string(),  # of a column without any value
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
}
_AS_IT_IS = {
    pa.bool_(),
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
    pa.string(),
    pa.binary(),
    pa.date32(),
}


def stored_type(type_: pa.DataType) -> pa.DataType | None:
    """Return the type by which Delta holds every value of a type exactly; None if it holds no such column.

    A timestamp is held in microseconds, so one in nanoseconds may have values that cannot be (see `as_stored`).

    >>> stored_type(pa.timestamp("ns", tz="America/New_York"))
    TimestampType(timestamp[us, tz=UTC])
    """
    if pt.is_dictionary(type_):
        return stored_type(type_.value_type)
    if pt.is_timestamp(type_):
        return pa.timestamp("us", tz="UTC") if type_.tz is not None else pa.timestamp("us")
    if pt.is_decimal32(type_) or pt.is_decimal64(type_) or pt.is_decimal128(type_):
        return pa.decimal128(type_.precision, type_.scale) if type_.scale >= 0 else None
    if pt.is_fixed_size_binary(type_):
        return pa.binary()
    if type_ in _AS_IT_IS:
        return type_
    if pt.is_struct(type_):
        return type_ if all(stored_type(field.type) == field.type for field in type_) else None
    if pt.is_list(type_):
        return type_ if stored_type(type_.value_type) == type_.value_type else None
    return _WIDENED.get(type_)


def as_stored(name: str, array: pa.Array) -> pa.Array:
    """Return a column as Delta holds it; a dictionary stays one, over stored values.

    Raises:
        ContractError: a time finer than a microsecond, or beyond what microseconds reach.
    """
    is_coded = pt.is_dictionary(array.type)
    values = array.dictionary if is_coded else array
    wanted = stored_type(values.type)
    if wanted is None or wanted == values.type:
        return array
    try:
        converted = values.cast(wanted)
    except pa.ArrowInvalid as exc:
        raise ContractError(
            f"column {name!r} has values that {wanted} cannot hold, as a table needs it (a time finer than a microsecond?); "
            "leave it out of output.pass_through, or round it in the input",
            column=name,
        ) from exc
    return pa.DictionaryArray.from_arrays(array.indices, converted) if is_coded else converted
