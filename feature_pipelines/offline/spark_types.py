"""Spark's name of a declared type, for schemas as text. This module imports no Spark."""

from __future__ import annotations

from feature_pipelines.columns import DType

__all__ = ["spark_type"]

_NAMES = {
    "float64": "double",
    "float32": "float",
    "int64": "bigint",
    "int32": "int",
    "bool": "boolean",
    "timestamp": "timestamp",
    "string": "string",
    "binary": "binary",
}


def spark_type(dtype: DType) -> str:
    """Return the type as Spark DDL.

    >>> spark_type(DType("decimal", 9, 2))
    'decimal(9,2)'
    """
    return f"decimal({dtype.precision},{dtype.scale})" if dtype.kind == "decimal" else _NAMES[dtype.kind]
