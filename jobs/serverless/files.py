"""An uploaded file as rows: JSON in any form of the protocol or as a bare list, JSON lines, CSV, or, where a model takes one, an image.

An image, or any other file of a model whose request has one binary field, is one row: the file's bytes in that field, and its name in
the field that identifies a row, if that is one text. This module knows nothing of where files come from.
"""

from __future__ import annotations

import base64

from feature_pipelines.definitions import FeatureSet
from jobs.online.protocol import Asked, read_body, refuse
from jobs.serverless.csv_text import rows_of_csv

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
    lines = [line for line in content.splitlines() if line.strip()]
    asked = read_body(b'{"inputs":[' + b",".join(lines) + b"]}", max_rows=max_rows)
    if len(asked.rows) != len(lines):
        refuse(400, "MALFORMED_JSON", "a line is not one JSON value")
    return asked


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
