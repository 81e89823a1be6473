"""JSON texts of the prediction log as canonical columns.

Text goes through Arrow's own readers where these give the same value as the wire form's (numbers, UTC times, plain strings), and all
other text through the wire form, each distinct text once.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_pipelines.columns import Column, take
from feature_pipelines.reasons import RowError
from feature_pipelines.schema import Field, build_column
from feature_pipelines.schema_arrow import column_from_arrow

__all__ = ["column_from_texts", "is_hashed"]

_NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$"
_INTEGER = r"^-?[0-9]{1,19}$"
_UTC = r'^"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z"$'
_PLAIN = r'^"[^"\\]*"$'
_HASHED = r"^[0-9a-f]{64}$"
_UNREADABLE = object()


def column_from_texts(declared: Field, texts: pa.Array) -> tuple[Column, list[RowError]]:
    """Return the column of JSON texts (one a row; null and "null" are null), as `build_column` makes it of what they say.

    A text that is no JSON is refused as a value of a wrong type.
    """
    texts = pc.if_else(pc.equal(texts, "null"), pa.scalar(None, texts.type), texts)
    typed = _typed(declared.dtype.kind, texts)
    if typed is not None:
        return column_from_arrow(declared, typed)
    encoded = texts.dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    column, broken = build_column(declared, [*map(_parsed, distinct), None])
    codes = encoded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False).astype(np.int64)
    errors = [
        error._replace(row=row) for error in broken for row in np.flatnonzero(codes == error.row).tolist()
    ]
    return take(column, codes), sorted(errors, key=lambda error: error.row)


def is_hashed(texts: pa.Array) -> NDArray[np.bool_]:
    """Return which texts are keyed hashes of personal data: 64 hex digits, which no JSON value of a field is."""
    found = pc.fill_null(pc.match_substring_regex(texts, _HASHED), False)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return _UNREADABLE


def _typed(kind: str, texts: pa.Array) -> pa.Array | None:
    """Return the texts read by Arrow, if all have a form that it reads as the wire form does."""
    try:
        if kind in ("float64", "float32") and _all_match(texts, _NUMBER):
            return texts.cast(pa.float64())
        if kind in ("int64", "int32") and _all_match(texts, _INTEGER):
            return texts.cast(pa.int64())
        if kind == "timestamp":
            if _all_match(texts, _INTEGER):
                return texts.cast(pa.int64())
            if _all_match(texts, _UTC):
                return pc.utf8_slice_codeunits(texts, 1, -1).cast(pa.timestamp("us", tz="UTC"))
        if kind == "string" and _all_match(texts, _PLAIN):
            return pc.utf8_slice_codeunits(texts, 1, -1)
        if kind == "bool" and _all_match(texts, "^(true|false)$"):
            return pc.equal(texts, "true")
    except pa.ArrowInvalid:  # out of range, no such date: the wire form says what is wrong with which row
        return None
    return None


def _all_match(texts: pa.Array, pattern: str) -> bool:
    return pc.all(pc.match_substring_regex(texts, pattern)).as_py() is not False
