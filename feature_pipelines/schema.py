"""The data contract: declared fields, and columns from JSON rows.

A row that breaks the contract yields RowErrors and no exception, so the good rows beside it are still scored. This module knows
nothing of Arrow (see schema_arrow), stores or models; `wire` has the form of each value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import (
    Column,
    DType,
    Nullable,
    Strings,
    declared_type,
    freeze,
    values_and_valid,
)
from feature_pipelines.errors import DefinitionError, did_you_mean
from feature_pipelines.reasons import Reason, Refused, RowError
from feature_pipelines.wire import encode, parse, parse_timestamp, parser_of

__all__ = [
    "Field",
    "Reason",
    "Refused",
    "RowError",
    "Schema",
    "build_column",
    "null_value",
    "parse_timestamp",
    "parse_value",
    "range_errors",
    "to_wire",
]


@dataclass(frozen=True)
class Field:
    """One declared column.

    Args:
        name: lower_snake, with its unit where it has one.
        type: an annotation from `columns`, such as `Float64` or `Nullable[String]`.
        doc: meaning, unit, null rule.
        required: a float may be null (NaN) unless required; other types may be null only if declared Nullable.
        minimum, maximum: inclusive bounds of the value (of the unscaled value for decimals), None = none.
        infinite: whether a float may be infinite.
        tags: free labels, such as "pii".
    """

    name: str
    type: Any
    doc: str = ""
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    infinite: bool = False
    tags: tuple[str, ...] = ()
    dtype: DType = field(init=False)
    nullable: bool = field(init=False)

    def __post_init__(self) -> None:
        declared = declared_type(self.type)
        if declared is None:
            raise DefinitionError(
                f"field {self.name!r}: {self.type!r} is not a column type; use one of "
                "feature_pipelines.columns (Float64, Int64, String, Nullable[...], ...)"
            )
        dtype, nullable = declared
        if dtype.size:
            raise DefinitionError(
                f"field {self.name!r}: a {dtype} is what a feature returns, no field holds one"
            )
        if nullable and (dtype.is_float or self.required):
            why = "null is NaN in a float already" if dtype.is_float else "it is required as well"
            raise DefinitionError(f"field {self.name!r}: do not declare it Nullable, {why}")
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "nullable", nullable)
        self._check_bounds()

    def _check_bounds(self) -> None:
        bounds = [bound for bound in (self.minimum, self.maximum) if bound is not None]
        if bounds and self.dtype.kind in ("bool", "string", "binary"):
            raise DefinitionError(f"field {self.name!r}: a {self.dtype} has no minimum or maximum")
        if not all(math.isfinite(bound) for bound in bounds) or bounds != sorted(bounds):
            raise DefinitionError(
                f"field {self.name!r}: minimum={self.minimum} and maximum={self.maximum} must be finite and in order"
            )

    @cached_property
    def accepts_null(self) -> bool:
        """Whether null is a legal value."""
        return self.nullable or (self.dtype.is_float and not self.required)

    @cached_property
    def is_bounded(self) -> bool:
        """Whether some value of its type is refused: one out of bounds, or an infinity."""
        has_bounds = self.minimum is not None or self.maximum is not None
        return has_bounds or (self.dtype.is_float and not self.infinite)

    def describe(self) -> dict[str, Any]:
        """Return the declaration as JSON; part of a fingerprint."""
        return {
            "name": self.name,
            "type": str(self.dtype),
            "nullable": self.nullable,
            "required": self.required,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "infinite": self.infinite,
            "tags": list(self.tags),
        }


@dataclass(frozen=True)
class Schema:
    """Declared fields, in order, with distinct names."""

    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        names = self.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DefinitionError(f"schema declares more than once: {', '.join(twice)}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Field names, in order."""
        return tuple(f.name for f in self.fields)

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Field:
        for candidate in self.fields:
            if candidate.name == name:
                return candidate
        raise DefinitionError(f"no field {name!r}.{did_you_mean(name, self.names)}")

    def from_rows(self, rows: Sequence[Any]) -> tuple[dict[str, Column], list[RowError]]:
        """Turn JSON rows into columns by the wire form.

        Args:
            rows: mappings of field name to JSON value; anything else is an UNREADABLE_ROW.

        Returns:
            The columns, each with len(rows) rows in order (a broken value stands as the null value and must not be used), and
            the errors in row order, none for a good row.
        """
        errors: list[RowError] = []
        readable = [row if isinstance(row, Mapping) else {} for row in rows]
        for i, row in enumerate(rows):
            if not isinstance(row, Mapping):
                errors.append(RowError(i, Reason.UNREADABLE_ROW, "", "the row is not an object"))
                continue
            for name in row:
                if name not in self:
                    hint = did_you_mean(str(name), self.names)
                    errors.append(RowError(i, Reason.UNKNOWN_FIELD, str(name), f"unknown field.{hint}"))
        columns: dict[str, Column] = {}
        unreadable = {error.row for error in errors if error.code is Reason.UNREADABLE_ROW}
        for declared in self.fields:
            columns[declared.name], broken = build_column(declared, [r.get(declared.name) for r in readable])
            errors.extend(error for error in broken if error.row not in unreadable)
        return columns, sorted(errors, key=lambda error: error.row)


def build_column(declared: Field, values: Sequence[Any]) -> tuple[Column, list[RowError]]:
    """Return the column of JSON values (one a row, None = null), and the errors of the rows that break the contract."""
    dtype = declared.dtype
    null, parse_one = null_value(dtype), parser_of(dtype)
    is_float, accepts_null, is_bounded = dtype.is_float, declared.accepts_null, declared.is_bounded
    parsed: list[Any] = []
    valid: list[bool] = []
    errors: list[RowError] = []
    for i, value in enumerate(values):
        try:
            result = None if value is None else parse_one(dtype, value)
            if is_bounded and result is not None:
                _require_bounds(declared, result)
            if not accepts_null and (result is None or (is_float and math.isnan(result))):
                raise Refused(Reason.NULL_NOT_ALLOWED, "null where a value is required")
        except Refused as refused:
            errors.append(RowError(i, refused.code, declared.name, str(refused)))
            result = None
        valid.append(result is not None)
        parsed.append(null if result is None else result)
    return _column(declared, parsed, valid), errors


def null_value(dtype: DType) -> Any:
    """Return what stands in a null's place: NaN for floats, "", b"", False or 0."""
    return _NULLS.get(dtype.kind, 0)


_NULLS: dict[str, Any] = {
    "float64": math.nan,
    "float32": math.nan,
    "string": "",
    "binary": b"",
    "bool": False,
}


def _column(declared: Field, parsed: list[Any], valid: list[bool]) -> Column:
    kind = declared.dtype.kind
    values: Any
    if kind == "string":
        values = Strings.of(parsed)
    elif kind == "binary":
        values = np.empty(len(parsed), dtype=np.object_)
        values[:] = parsed
    else:
        values = np.array(parsed, dtype=declared.dtype.numpy)
    column: Column = Nullable(values, np.array(valid, dtype=np.bool_)) if declared.nullable else values
    return freeze(column)


def parse_value(declared: Field, value: Any) -> Any:
    """Return the in-memory value of one non-null JSON value; refuse what the wire form or the field's bounds forbid."""
    result = parse(declared.dtype, value)
    if declared.is_bounded:
        _require_bounds(declared, result)
    return result


def _require_bounds(declared: Field, result: Any) -> None:
    if declared.dtype.is_float and math.isinf(result) and not declared.infinite:
        raise Refused(Reason.NOT_FINITE, "an infinity is not allowed here")
    if declared.minimum is not None and result < declared.minimum:
        raise Refused(Reason.OUT_OF_RANGE, f"below the minimum {declared.minimum}")
    if declared.maximum is not None and result > declared.maximum:
        raise Refused(Reason.OUT_OF_RANGE, f"above the maximum {declared.maximum}")


def range_errors(declared: Field, values: NDArray[Any], valid: NDArray[np.bool_] | None) -> list[RowError]:
    """Return the errors of the numeric values that the field's bounds forbid; null and NaN never break a bound.

    Compares as `parse_value` does, by exact value: a float32 as float64, an integer with an integer.
    """
    checks: list[tuple[NDArray[np.bool_], Reason, str]] = []
    if declared.dtype.is_float and not declared.infinite:
        checks.append((np.isinf(values), Reason.NOT_FINITE, "an infinity is not allowed here"))
    if declared.minimum is not None:
        lowest = np.float64(declared.minimum) if declared.dtype.is_float else math.ceil(declared.minimum)
        checks.append((values < lowest, Reason.OUT_OF_RANGE, f"below the minimum {declared.minimum}"))
    if declared.maximum is not None:
        highest = np.float64(declared.maximum) if declared.dtype.is_float else math.floor(declared.maximum)
        checks.append((values > highest, Reason.OUT_OF_RANGE, f"above the maximum {declared.maximum}"))
    errors: list[RowError] = []
    for broken, code, message in checks:
        if valid is not None:
            broken = broken & valid
        if broken.any():
            errors.extend(RowError(int(i), code, declared.name, message) for i in np.flatnonzero(broken))
    return errors


def to_wire(declared: Field, column: Column) -> list[Any]:
    """Return the column's values in the wire form, exactly: `build_column(declared, to_wire(declared, c))` gives c again.

    Integers beyond 2^53 are strings, so that no JSON reader in between rounds them; so are timestamps of the years 1 to 9999.
    """
    values, valid = values_and_valid(column)
    wire: list[Any] = encode(declared.dtype, values.tolist())
    if valid is None:
        return wire
    return [item if ok else None for item, ok in zip(wire, valid.tolist(), strict=True)]
