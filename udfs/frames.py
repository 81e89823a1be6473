"""DataFrames, as MLflow makes them of CSV and Parquet bodies, into rows in the wire form: exactly, or refused with a reason.

MLflow reads CSV as text, because the logged signature names every field as a string; so numbers arrive as they were written. What
CSV cannot say is refused: an empty cell of a string or of base64 may be null or empty, and an integer that pandas made a float beside
nulls may have been another one beyond 2^53. This module needs pandas; it knows nothing of models and stores.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.reasons import Reason, Refused, RowError
from feature_pipelines.request_rows import fields_of_row
from feature_pipelines.schema import Field

__all__ = ["rows_of_frame"]

_EXACT = 2**53
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_FLOATED = re.compile(r"-?[0-9]+\.0+")
_INTEGER = re.compile(r"-?[0-9]+")
_REPEATED = "the field stands more than once in the row"
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def rows_of_frame(frame: Any, feature_set: FeatureSet) -> tuple[list[dict[str, Any]], list[RowError]]:
    """Return a DataFrame's rows in the wire form, and the errors of the cells of which that cannot be said for certain.

    A column that is there is taken to be sent, nulls included, as in a batch: one of a stored field overrides the look-up.

    Args:
        frame: a pandas DataFrame.
        feature_set: declares the fields; other columns are passed on, to be refused as unknown.

    Returns:
        A row each, in order. Where columns stand more than once, every row is refused for the first of them, as a JSON row is
        whose field does.
    """
    declared = fields_of_row(feature_set)
    columns: dict[str, list[Any]] = {}
    errors: list[RowError] = []
    repeated = None
    for position, name in enumerate(map(str, frame.columns)):
        if name not in columns:
            columns[name] = _cells(declared.get(name), frame.iloc[:, position].tolist(), errors)
        elif repeated is None:
            repeated = name
    if repeated is not None:
        errors += [RowError(i, Reason.BAD_VALUE, repeated, _REPEATED) for i in range(len(frame))]
    names = list(columns)
    rows = [dict(zip(names, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return rows if names else [{} for _ in range(len(frame))], sorted(errors)


def _cells(declared: Field | None, values: Sequence[Any], errors: list[RowError]) -> list[Any]:
    convert = _CONVERTERS.get(declared.dtype.kind, _as_it_is) if declared is not None else _as_it_is
    cells = []
    for i, value in enumerate(values):
        try:
            cells.append(convert(_plain(value)))
        except Refused as refused:
            errors.append(RowError(i, refused.code, declared.name if declared else "", str(refused)))
            cells.append(None)
    return cells


def _plain(value: Any) -> Any:
    """Return a cell as a Python value; pandas' NA and NaT are None, NaN stays."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    return value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _as_it_is(value: Any) -> Any:
    return None if _is_nan(value) else value


def _float(value: Any) -> Any:
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value) else value
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _integer(value: Any) -> Any:
    if isinstance(value, str) and _FLOATED.fullmatch(value):
        value = float(value)
    if not isinstance(value, float) or isinstance(value, bool):
        return value
    if math.isnan(value):
        return None
    if abs(value) >= _EXACT:
        message = "an integer beyond 2^53 beside nulls became a float on its way here; send JSON, or no nulls beside it"
        raise Refused(Reason.PRECISION_LOST, message)
    return int(value) if value.is_integer() else value


def _bool(value: Any) -> Any:
    if isinstance(value, str):
        return _TRUTH.get(value, value)
    return None if _is_nan(value) else value


def _text(value: Any) -> Any:
    """Return a cell of a type whose empty value is an empty text; base64 may also read "null"."""
    if _is_nan(value):
        raise Refused(
            Reason.BAD_VALUE,
            "an empty cell or NA of CSV may be null or that text; send JSON or Parquet to say which",
        )
    return value


def _binary(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else _text(value)


def _decimal(value: Any) -> Any:
    return format(value, "f") if isinstance(value, decimal.Decimal) else _as_it_is(value)


def _timestamp(value: Any) -> Any:
    if isinstance(value, str):
        return int(value) if _INTEGER.fullmatch(value) else value
    if not isinstance(value, datetime.datetime):
        return _integer(value)
    if value.tzinfo is None:
        raise Refused(Reason.BAD_TIMESTAMP, "a time without an offset is refused; add 'Z' or an offset")
    if getattr(value, "nanosecond", 0):
        raise Refused(Reason.BAD_TIMESTAMP, "finer than a microsecond")
    exact = value.to_pydatetime() if hasattr(value, "to_pydatetime") else value
    return (exact - _EPOCH) // datetime.timedelta(microseconds=1)


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "float64": _float,
    "float32": _float,
    "int64": _integer,
    "int32": _integer,
    "bool": _bool,
    "string": _text,
    "binary": _binary,
    "decimal": _decimal,
    "timestamp": _timestamp,
}
