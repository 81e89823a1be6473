"""An uploaded file as rows: JSON in any form of the protocol or as a bare list, JSON lines, CSV, or, where a model takes one, an image.

An image, or any other file of a model whose request has one binary field, is one row: the file's bytes in that field, and its name in
the field that identifies a row, if that is one text. This module knows nothing of where files come from.
"""

from __future__ import annotations

import base64
import sys
from typing import Any

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError
from feature_pipelines.reasons import Reason, RowError
from jobs.online.csv_text import rows_of_csv
from jobs.online.protocol import Asked, read_body, refuse

__all__ = ["rows_of_file"]


def rows_of_file(name: str, content: bytes, feature_set: FeatureSet, *, max_rows: int) -> Asked:
    """Return the rows of a file.

    Args:
        name: of the file; what follows its last dot says what it is.
        content: of the file.
        feature_set: declares the fields.
        max_rows: more are refused.

    Raises:
        ContractError: evidence `status` (400, 413 or 415) and `code`: it holds no rows that can be read.
    """
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    if ending == "json":
        is_list = content.lstrip()[:1] == b"["
        return read_body(b'{"inputs":' + content + b"}" if is_list else content, max_rows=max_rows)
    if ending in ("ndjson", "jsonl"):
        return _json_lines(content, max_rows)
    if ending == "csv":
        return rows_of_csv(content, feature_set, max_rows=max_rows)
    return _one_row(name, content, feature_set)


def _json_lines(content: bytes, max_rows: int) -> Asked:
    """Return the rows of JSON lines; one that is not one JSON value costs its row and no other, unless no line is one."""
    lines = [line for line in content.splitlines() if line.strip()]
    if len(lines) > max_rows:
        refuse(413, "TOO_MANY_ROWS", f"{len(lines)} rows; at most {max_rows} are taken at once")
    asked = _values(lines)
    if asked is not None:
        return asked
    rows: list[Any] = []
    refused: list[RowError] = []
    n_read = 0
    for i, line in enumerate(lines):
        one = _values([line])
        n_read += one is not None
        if one is None:
            refused.append(RowError(i, Reason.UNREADABLE_ROW, "", "the line is not one JSON value"))
        else:
            refused += [error._replace(row=i) for error in one.refused]
        rows.append(one.rows[0] if one is not None else None)
    if not n_read:
        refuse(400, "MALFORMED_JSON", "no line is one JSON value")
    return Asked(rows, refused, False)


def _values(lines: list[bytes]) -> Asked | None:
    """Return the values of lines as rows; None if a line is not one value."""
    try:
        asked = read_body(b'{"inputs":[' + b",".join(lines) + b"]}", max_rows=sys.maxsize)
    except ContractError:
        return None
    return asked if len(asked.rows) == len(lines) else None


def _one_row(name: str, content: bytes, feature_set: FeatureSet) -> Asked:
    binary = [f.name for f in feature_set.request if f.dtype.kind == "binary"]
    if len(binary) != 1:
        refuse(
            415,
            "UNSUPPORTED_FILE",
            f"the model takes files that end in .json, .ndjson, .jsonl or .csv; its request has {len(binary)} binary fields",
        )
    row = {binary[0]: base64.b64encode(content).decode()}
    ids = feature_set.row_id
    if len(ids) == 1 and feature_set.request[ids[0]].dtype.kind == "string":
        row[ids[0]] = name.rpartition("/")[2]
    return Asked([row], [], False)
