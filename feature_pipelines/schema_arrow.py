"""Columns from Arrow: the same in-memory form as from JSON, whatever Arrow type the storage chose.

Accepted beside the declared type itself: every Arrow type whose values convert exactly (a narrower integer, float32 for
float64, int32 for float64, a timestamp of another unit), every encoding (dictionary, run-end, large, view), and strings
holding the wire form (an RFC 3339 time, an integer in decimal digits). All else is WRONG_TYPE for each row, never a guess: a
float is no integer, a timestamp without time zone is no instant.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_pipelines.columns import Column, DType, Nullable, Strings, freeze
from feature_pipelines.errors import ContractError, did_you_mean
from feature_pipelines.schema import Field, Reason, RowError, Schema, build_column, null_value, range_errors

__all__ = ["arrow_type", "column_from_arrow", "column_to_arrow", "columns_from_arrow", "missing_columns"]


def arrow_type(dtype: DType) -> pa.DataType:
    """Return the Arrow type that holds a declared type exactly."""
    if dtype.kind == "decimal":
        return pa.decimal128(dtype.precision, dtype.scale)
    return _ARROW_TYPES[dtype.kind]


_WIDE = decimal.Context(prec=100)  # the thread's own context rounds to 28 digits
_ARROW_TYPES: dict[str, pa.DataType] = {
    "float64": pa.float64(),
    "float32": pa.float32(),
    "int64": pa.int64(),
    "int32": pa.int32(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "string": pa.string(),
    "binary": pa.binary(),
}


def missing_columns(schema: Schema, names: Collection[str]) -> None:
    """Raise a ContractError that names every required column which `names` lacks, and what there is.

    A column that may be null may also be absent: missing is null.
    """
    missing = [f.name for f in schema if f.name not in names and not f.accepts_null]
    if missing:
        hints = "".join(f" {name!r}:{did_you_mean(name, names)}" for name in missing[:1])
        raise ContractError(
            f"the input lacks {len(missing)} required column(s): {', '.join(missing)}.{hints}",
            missing=missing,
            available=sorted(names),
        )


def columns_from_arrow(
    schema: Schema, batch: pa.RecordBatch, *, skip_values: Collection[str] = ()
) -> tuple[dict[str, Column], list[RowError]]:
    """Turn an Arrow batch into columns.

    Args:
        schema: the declared fields; a column absent from the batch counts as all null. Columns not declared are ignored.
        batch: n rows.
        skip_values: fields that are checked but whose values nobody needs (a long string key); they get no column.

    Returns:
        The columns (n rows each, in order) and the errors in row order; a broken value stands as the null value.
    """
    columns: dict[str, Column] = {}
    errors: list[RowError] = []
    present = set(batch.schema.names)
    for declared in schema:
        if declared.name not in present:
            array: pa.Array = pa.nulls(batch.num_rows, arrow_type(declared.dtype))
        else:
            array = batch.column(declared.name)
        if declared.name in skip_values and _is_string(array.type) and declared.dtype.kind == "string":
            errors.extend(_null_errors(declared, _valid(array)))
            continue
        columns[declared.name], broken = column_from_arrow(declared, array)
        errors.extend(broken)
    return columns, sorted(errors, key=lambda error: error.row)


def column_from_arrow(declared: Field, array: pa.Array) -> tuple[Column, list[RowError]]:
    """Return one column and its errors; see `columns_from_arrow`."""
    kind = declared.dtype.kind
    array = _decoded(declared.dtype, array)
    if _is_string(array.type) and kind != "string":
        return build_column(declared, _texts(array)[0])
    convert = _CONVERTERS[kind]
    converted = convert(declared.dtype, array)
    if converted is None:
        message = f"expected {declared.dtype}, the column is {_type_name(array.type)}"
        code = (
            Reason.BAD_TIMESTAMP
            if kind == "timestamp" and pa.types.is_timestamp(array.type)
            else Reason.WRONG_TYPE
        )
        valid = _valid(array)
        rows = range(len(array)) if valid is None else np.flatnonzero(valid).tolist()
        broken = [RowError(row, code, declared.name, message) for row in rows]
        column, nulls = column_from_arrow(declared, pa.nulls(len(array), arrow_type(declared.dtype)))
        refused = {error.row for error in broken}
        return column, broken + [error for error in nulls if error.row not in refused]
    values, bad = converted
    return _finish(declared, values, _valid(array), bad)


def _decoded(dtype: DType, array: pa.Array) -> pa.Array:
    """Return the array without an encoding of Arrow's, but for dictionaries of strings: those spare work."""
    if pa.types.is_run_end_encoded(array.type):
        rows = np.arange(array.offset, array.offset + len(array))
        run = np.searchsorted(array.run_ends.to_numpy(), rows, side="right")
        array = _without_view(array.values).take(pa.array(run))
    if pa.types.is_null(array.type):
        return array.cast(arrow_type(dtype))
    if pa.types.is_dictionary(array.type) and not (dtype.kind == "string" and _is_string(array.type)):
        return _without_view(array.dictionary).take(array.indices)
    return array


def _without_view(array: pa.Array) -> pa.Array:
    """Return the array in a type that Arrow can take rows of."""
    if pa.types.is_string_view(array.type):
        return array.cast(pa.large_string())
    return array.cast(pa.large_binary()) if pa.types.is_binary_view(array.type) else array


Converted = tuple[Any, list[tuple[NDArray[np.bool_], Reason, str]]]


def _finish(
    declared: Field,
    values: Any,
    valid: NDArray[np.bool_] | None,
    bad: list[tuple[NDArray[np.bool_], Reason, str]],
) -> tuple[Column, list[RowError]]:
    """Apply nulls, nullability and bounds to converted values, and make the result canonical."""
    errors: list[RowError] = []
    for mask, code, message in bad:
        if valid is not None:
            mask = mask & valid
        errors.extend(RowError(int(i), code, declared.name, message) for i in np.flatnonzero(mask))
    if declared.dtype.is_float:
        missing = np.isnan(values)
        if missing.any():
            values = np.where(missing, values.dtype.type(np.nan), values)
            valid = ~missing
    errors.extend(_null_errors(declared, valid))
    if isinstance(values, np.ndarray) and declared.dtype.kind not in ("bool", "binary"):
        errors.extend(range_errors(declared, values, valid))
    if errors:
        errors = list({error.row: error for error in reversed(errors)}.values())
        values, valid = _without_refused(declared.dtype, values, valid, [error.row for error in errors])
    if declared.nullable:
        mask = np.ones(len(values), dtype=np.bool_) if valid is None else valid
        return freeze(Nullable(values, mask)), sorted(errors)
    return freeze(values), sorted(errors)


def _without_refused(
    dtype: DType, values: Any, valid: NDArray[np.bool_] | None, rows: list[int]
) -> tuple[Any, NDArray[np.bool_]]:
    """Put the null value in the place of refused ones; a string's is there already."""
    valid = np.ones(len(values), dtype=np.bool_) if valid is None else valid.copy()
    valid[rows] = False
    if isinstance(values, np.ndarray):
        values = values.copy()
        values[rows] = null_value(dtype)
    return values, valid


def _null_errors(declared: Field, valid: NDArray[np.bool_] | None) -> list[RowError]:
    if valid is None or declared.accepts_null:
        return []
    message = "null where a value is required"
    return [RowError(int(i), Reason.NULL_NOT_ALLOWED, declared.name, message) for i in np.flatnonzero(~valid)]


def _valid(array: pa.Array) -> NDArray[np.bool_] | None:
    """Return where the array is not null; None where no row is. A dictionary's null values count."""
    has_null_value = pa.types.is_dictionary(array.type) and array.dictionary.null_count > 0
    if array.null_count == 0 and not has_null_value:
        return None
    valid: NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    if has_null_value:
        of_value = array.dictionary.is_valid().to_numpy(zero_copy_only=False)
        valid = valid & of_value[array.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    return valid


def _numpy(array: pa.Array, dtype: DType) -> NDArray[Any]:
    """Return the values of an array of the declared type, the null value in place of nulls."""
    if array.null_count:
        array = array.fill_null(pa.scalar(null_value(dtype), array.type))
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values


def _from_float(dtype: DType, array: pa.Array) -> Converted | None:
    target = arrow_type(dtype)
    if pa.types.is_floating(array.type):
        values = _numpy(array.cast(target, safe=False) if array.type != target else array, dtype)
        return values, []
    if not pa.types.is_integer(array.type):
        return None
    integers = _integers(array)
    values = integers.astype(dtype.numpy)
    if array.null_count:
        values[~array.is_valid().to_numpy(zero_copy_only=False)] = np.nan
    exact_bits = 53 if dtype.kind == "float64" else 24
    message = f"an integer beyond 2^{exact_bits} is not exact in {dtype}"
    return values, _beyond(integers, -(2**exact_bits), 2**exact_bits, Reason.PRECISION_LOST, message)


def _integers(array: pa.Array) -> NDArray[Any]:
    """Return an integer array's values in its own dtype, 0 in place of nulls."""
    filled = array.fill_null(0) if array.null_count else array
    values: NDArray[Any] = filled.to_numpy(zero_copy_only=False)
    return values


def _beyond(
    integers: NDArray[Any], low: int, high: int, code: Reason, message: str
) -> list[tuple[NDArray[np.bool_], Reason, str]]:
    """Return where integers are out of [low, high], which may lie outside their dtype (numpy compares exactly)."""
    limits = np.iinfo(integers.dtype)
    if limits.min >= low and limits.max <= high:
        return []
    return [((integers > high) | (integers < low), code, message)]


def _from_integer(dtype: DType, array: pa.Array) -> Converted | None:
    if not pa.types.is_integer(array.type):
        return None
    integers = _integers(array)
    limits = np.iinfo(dtype.numpy)
    bad = _beyond(integers, int(limits.min), int(limits.max), Reason.INTEGER_OVERFLOW, f"beyond {dtype}")
    return integers.astype(dtype.numpy, copy=False), bad


def _from_bool(dtype: DType, array: pa.Array) -> Converted | None:
    return (_numpy(array, dtype), []) if pa.types.is_boolean(array.type) else None


def _from_timestamp(dtype: DType, array: pa.Array) -> Converted | None:
    if pa.types.is_integer(array.type):
        return _from_integer(DType("int64"), array)
    if not pa.types.is_timestamp(array.type) or array.type.tz is None:
        return None
    ticks = _numpy(array.cast(pa.int64()), dtype)
    unit = array.type.unit
    if unit == "us":
        return ticks, []
    if unit == "ns":
        fine = ticks % 1000 != 0
        return ticks // 1000, [(fine, Reason.BAD_TIMESTAMP, "finer than a microsecond")]
    factor = 1_000_000 if unit == "s" else 1_000
    limit = np.iinfo(np.int64).max // factor
    out = (ticks > limit) | (ticks < -limit)
    return np.where(out, 0, ticks) * factor, [(out, Reason.BAD_TIMESTAMP, "beyond the range of timestamps")]


def _from_decimal(dtype: DType, array: pa.Array) -> Converted | None:
    if not pa.types.is_decimal(array.type):
        return None
    unscaled = np.zeros(len(array), dtype=np.int64)
    fine = np.zeros(len(array), dtype=np.bool_)
    large = np.zeros(len(array), dtype=np.bool_)
    for i, value in enumerate(array.to_pylist()):
        if value is None:
            continue
        scaled = value.scaleb(dtype.scale, _WIDE)
        whole = scaled.to_integral_value(context=_WIDE)
        fine[i] = whole != scaled
        large[i] = abs(whole) >= 10**dtype.precision
        if not (fine[i] or large[i]):
            unscaled[i] = int(whole)
    return unscaled, [
        (fine, Reason.PRECISION_LOST, f"more than {dtype.scale} digits behind the point"),
        (large, Reason.OUT_OF_RANGE, f"beyond {dtype}"),
    ]


def _is_string(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return bool(
        pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    )


def _from_string(dtype: DType, array: pa.Array) -> Converted | None:
    if not _is_string(array.type):
        return None
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    categories, is_broken = _texts(array.dictionary)
    codes = array.indices.cast(pa.int32())
    if codes.null_count or not categories:
        codes = codes.fill_null(len(categories))
        categories.append("")
    values = Strings(codes.to_numpy(zero_copy_only=False), tuple(name or "" for name in categories))
    bad = (
        [(np.isin(values.codes, is_broken), Reason.BAD_VALUE, "the string is not valid UTF-8")]
        if is_broken
        else []
    )
    return values, bad


def _texts(array: pa.Array) -> tuple[list[str | None], list[int]]:
    """Return an array's strings, and the positions of those that are not valid UTF-8 ("" stands for them)."""
    try:
        return array.to_pylist(), []
    except UnicodeDecodeError:
        texts: list[str | None] = []
        broken: list[int] = []
        for i, raw in enumerate(array.cast(pa.large_binary()).to_pylist()):
            try:
                texts.append(None if raw is None else raw.decode())
            except UnicodeDecodeError:
                texts.append("")
                broken.append(i)
        return texts, broken


def _from_binary(dtype: DType, array: pa.Array) -> Converted | None:
    kinds = (
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_fixed_size_binary,
        pa.types.is_binary_view,
    )
    if not any(is_kind(array.type) for is_kind in kinds):
        return None
    values = np.empty(len(array), dtype=np.object_)
    values[:] = [b"" if value is None else value for value in array.to_pylist()]
    return values, []


_CONVERTERS: dict[str, Callable[[DType, pa.Array], Converted | None]] = {
    "float64": _from_float,
    "float32": _from_float,
    "int64": _from_integer,
    "int32": _from_integer,
    "bool": _from_bool,
    "timestamp": _from_timestamp,
    "decimal": _from_decimal,
    "string": _from_string,
    "binary": _from_binary,
}


def _type_name(type_: pa.DataType) -> str:
    if pa.types.is_timestamp(type_) and type_.tz is None:
        return f"{type_} without a time zone"
    return str(type_)


def column_to_arrow(declared: Field, column: Column) -> pa.Array:
    """Return the column as an Arrow array of `arrow_type(declared.dtype)`, null where it is null (NaN stays NaN)."""
    values: Any = column.values if isinstance(column, Nullable) else column
    mask = ~column.valid if isinstance(column, Nullable) else None
    target = arrow_type(declared.dtype)
    if isinstance(values, Strings):
        indices = pa.array(values.codes, mask=mask)
        encoded = pa.DictionaryArray.from_arrays(indices, pa.array(values.categories, pa.string()))
        return encoded.dictionary_decode()
    if declared.dtype.kind == "decimal":
        values = [decimal.Decimal(v).scaleb(-declared.dtype.scale, _WIDE) for v in values.tolist()]
        return pa.array(values, target, mask=mask)
    if declared.dtype.kind == "timestamp":
        return pa.array(values, pa.int64(), mask=mask).cast(target)
    return pa.array(values, target, mask=mask)
