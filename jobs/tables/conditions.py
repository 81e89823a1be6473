"""Which rows of a table a person asks for: `column=value`, the value read by the column's type. Nothing here opens a table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from feature_pipelines.errors import ConfigurationError, did_you_mean

__all__ = ["rows_where"]


def rows_where(schema: pa.Schema, conditions: Sequence[str]) -> pc.Expression | None:
    """Return which rows have all of the values; None where no condition is given.

    Text is compared as it stands, numbers by value, times as instants. A null equals nothing.

    Args:
        schema: the table's.
        conditions: `column=value` each; a time in RFC 3339, with an offset where the column has a zone.

    Raises:
        ConfigurationError: no `=`, no such column, a column whose type has no single values, or a value that is none of its type.

    >>> rows_where(pa.schema([("origin", pa.string()), ("late", pa.int64())]), ["origin=EWR", "late=15"])
    <pyarrow.compute.Expression ((origin == "EWR") and (late == 15))>
    """
    tests = [_equal(schema, text) for text in conditions]
    return reduce(lambda one, other: one & other, tests) if tests else None


def _equal(schema: pa.Schema, text: str) -> pc.Expression:
    name, separator, value = text.partition("=")
    if not separator:
        raise ConfigurationError(f"--where {text}: expected column=value")
    if name not in schema.names:
        raise ConfigurationError(
            f"--where {text}: the table has no column {name!r}.{did_you_mean(name, schema.names)} "
            f"It has: {', '.join(schema.names)}"
        )
    type_ = schema.field(name).type
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_nested(type_) or pa.types.is_binary(type_):
        raise ConfigurationError(f"--where {text}: column {name!r} is {type_}, which cannot be compared here")
    try:
        wanted = pa.scalar(value).cast(type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        hint = " (such as 2013-06-01T10:15:00Z)" if pa.types.is_timestamp(type_) else ""
        raise ConfigurationError(
            f"--where {text}: column {name!r} is {type_}, and {value!r} is no value of it{hint}"
        ) from None
    return pc.field(name) == wanted
