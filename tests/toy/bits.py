"""What tests compare: the bits of scores by row, whatever path they came by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["bits_by_row", "bits_of", "outcomes"]


def bits_of(score: float) -> str:
    """Return the 64 bits of a score as hex digits."""
    return f"{np.float64(score).view(np.uint64):016x}"


def bits_by_row(table: pa.Table, key: str = "row_id") -> dict[int, str]:
    """Return the bits of each row's score; every row once, none without a score."""
    rows = [int(value) for value in table.column(key).to_pylist()]
    bits = dict(zip(rows, map(bits_of, table.column("score").to_pylist()), strict=True))
    if len(bits) < len(rows):
        raise AssertionError("a row came twice")
    return bits


def outcomes(rows: list[Mapping[str, Any]], key: str) -> dict[int, str]:
    """Return what became of each row of a scored struct: the bits of its score, or its error code and field."""
    found = {}
    for row in rows:
        scored = row["score"] is not None
        if scored == (row["error_code"] is not None):
            raise AssertionError(f"neither or both: {row}")
        found[row[key]] = bits_of(row["score"]) if scored else f"{row['error_code']} {row['error_field']}"
    if len(found) < len(rows):
        raise AssertionError("a row came twice")
    return found
