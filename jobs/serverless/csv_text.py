"""CSV as rows in the wire form, exactly: a cell in quotes is a text, one with nothing in it at all is null.

So CSV can say both null and the empty text, which a reader that forgets the quotes cannot. Numbers are read from their own digits.
This module needs the standard library alone; it knows nothing of files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from feature_pipelines.columns import Nullable, Timestamp
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.reasons import Reason, RowError
from feature_pipelines.request_rows import AS_OF_TS
from feature_pipelines.schema import Field
from jobs.online.protocol import Asked, refuse

__all__ = ["rows_of_csv"]

_CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^,"\r\n]*))(,|\r\n|\n|\r|\Z)')
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"-?[0-9]+")
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def rows_of_csv(content: bytes, feature_set: FeatureSet, *, max_rows: int) -> Asked:
    """Return the rows of a CSV file whose first line names the fields.

    A column that is there is taken to be sent, nulls included: one of a stored field overrides the look-up. A line of another length
    than the first costs its row and no other; empty lines are none.

    Args:
        content: UTF-8, comma-separated, as RFC 4180 has it.
        feature_set: declares the fields.
        max_rows: more are refused.

    Raises:
        ContractError: evidence `status` (400 or 413) and `code`: it is not CSV, names a column twice, or has too many rows.
    """
    try:
        lines = _lines(content.decode("utf-8-sig"))
        names = [str(name or "") for name in next(lines, [])]
    except UnicodeDecodeError:
        refuse(400, "MALFORMED_CSV", "the file is not UTF-8")
    if len(set(names)) != len(names) or not any(names):
        refuse(
            400,
            "DUPLICATE_FIELD" if any(names) else "MALFORMED_CSV",
            "the first line names no field, or one twice",
        )
    declared = {f.name: f for f in feature_set.sources}
    declared.setdefault(AS_OF_TS, Field(AS_OF_TS, Nullable[Timestamp]))
    kinds: dict[str, str] = {name: declared[name].dtype.kind for name in names if name in declared}
    rows: list[Any] = []
    refused: list[RowError] = []
    for cells in lines:
        if len(rows) >= max_rows:
            refuse(413, "TOO_MANY_ROWS", f"more than {max_rows} rows")
        if len(cells) == len(names):
            rows.append({n: _value(kinds, n, cell) for n, cell in zip(names, cells, strict=True)})
            continue
        message = f"the row is {len(cells)} values, and there are {len(names)} columns"
        refused.append(RowError(len(rows), Reason.UNREADABLE_ROW, "", message))
        rows.append(None)
    return Asked(rows, refused, False)


def _lines(text: str) -> Iterator[list[str | None]]:
    at = 0
    line: list[str | None] = []
    while at < len(text) or line:
        cell = _CELL.match(text, at)
        if cell is None:
            refuse(400, "MALFORMED_CSV", "a quote stands where none may, or is never closed")
        quoted, plain, end = cell.groups()
        line.append(quoted.replace('""', '"') if quoted is not None else (plain or None))
        at = cell.end()
        if end != ",":
            if line != [None]:
                yield line
            line = []


def _value(kinds: Mapping[str, str], name: str, text: str | None) -> Any:
    """Return a cell in the wire form; what it cannot be is left as text, for the contract to refuse."""
    kind = kinds.get(name)
    if text is None or kind is None:
        return text
    if kind in ("float64", "float32"):
        return float(text) if _NUMBER.fullmatch(text) else text
    if kind == "bool":
        return _TRUTH.get(text, text)
    if kind == "timestamp" and _INTEGER.fullmatch(text):
        return int(text) if len(text) < 20 else text
    return text
