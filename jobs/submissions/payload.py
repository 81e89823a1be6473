"""What a client sends into what is kept: rows in the wire form, or a reference to a table as it is now.

    application/json      {"rows": [...]} | {"reference": "table"}, optionally "notify": {...}
    text/csv              a header and rows, read as a function and a stream read them (see jobs.serverless.csv_text)
    multipart/form-data   image files, a row each: its name is the row's id, its bytes the binary field

Equal content has an equal hash, however a client wraps it, so that a repeated request is told from another one. This module knows
nothing of HTTP beyond content types, and nothing of where submissions are kept.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError, did_you_mean
from feature_pipelines.reasons import RowError
from jobs.online.protocol import read_object, refuse, repeated_fields
from jobs.serverless.csv_text import rows_of_csv

__all__ = ["KeptRows", "Payload", "read_csv", "read_images", "read_json", "read_kept"]

_KEYS = ("rows", "reference", "notify")


@dataclass(frozen=True)
class Payload:
    """One submission as it is kept.

    Args:
        kind: "json", "csv", "images" or "reference".
        body: JSON: an object with `rows` and, where some were refused on the way, `refused`; of a reference the pinned table.
        n_rows: how many rows.
        hash: SHA-256 (hex) of what was sent, notification included.
        notify: who is to be told, as it was sent; None = nobody.
    """

    kind: str
    body: bytes = field(repr=False)
    n_rows: int
    hash: str
    notify: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class KeptRows:
    """The rows of a kept payload, and what was found wrong with some of them when they came."""

    rows: Sequence[Any]
    refused: Sequence[RowError]


def read_json(body: bytes, max_rows: int) -> tuple[Payload | None, str | None, Mapping[str, Any] | None]:
    """Return the payload of a JSON body; or, where it refers to a table, None and the reference; and who is to be told.

    Raises:
        ContractError: evidence `status` and `code`: it is neither form, or has no or too many rows.
    """
    content = read_object(body)
    unknown = [name for name in content if name not in _KEYS]
    if unknown:
        refuse(422, "UNKNOWN_FORM", f"unknown key {unknown[0][:80]!r}.{did_you_mean(unknown[0], _KEYS)}")
    if ("rows" in content) == ("reference" in content):
        refuse(422, "UNKNOWN_FORM", "the body must have either rows or reference")
    notify = content.get("notify")
    if notify is not None and not isinstance(notify, dict):
        refuse(422, "UNKNOWN_FORM", "notify is not an object")
    if "reference" in content:
        if not isinstance(content["reference"], str):
            refuse(422, "UNKNOWN_FORM", "reference is not a text")
        return None, content["reference"], notify
    rows = content["rows"]
    if not isinstance(rows, list):
        refuse(422, "UNKNOWN_FORM", "rows is not a list")
    _check_rows(len(rows), max_rows)
    return Payload("json", body, len(rows), _hash("json", body), notify), None, notify


def read_csv(body: bytes, feature_set: FeatureSet, max_rows: int) -> Payload:
    """Return the payload of a CSV body.

    Args:
        body: UTF-8, a header and rows.
        feature_set: declares the fields, by which cells are told to be numbers.
        max_rows: more are refused.

    Raises:
        ContractError: evidence `status` and `code`: it is no CSV with a header and rows as long as that.
    """
    try:
        asked = rows_of_csv(body, feature_set, max_rows=max_rows)
    except ContractError as exc:
        too_many = exc.evidence["status"] == 413
        refuse(413 if too_many else 422, "TOO_LARGE" if too_many else "MALFORMED_CSV", str(exc))
    if asked.refused:
        first = asked.refused[0]
        refuse(422, "MALFORMED_CSV", f"row {first.row + 1}: {first.message}")
    _check_rows(len(asked.rows), max_rows)
    return Payload("csv", _kept(asked.rows, []), len(asked.rows), _hash("csv", body))


def read_images(files: Sequence[tuple[str, bytes]], feature_set: FeatureSet, max_rows: int) -> Payload:
    """Return the payload of image files: of each the row with its name as id and its bytes in the one binary field.

    Args:
        files: (name, content) in order; no name twice.
        feature_set: has one row id, a string, and one binary field.
        max_rows: more files are refused.

    Raises:
        ContractError: evidence `status` and `code`: the model takes no images, or a name is missing or stands twice.
    """
    binary = [f.name for f in feature_set.request if f.dtype.kind == "binary"]
    ids = [name for name in feature_set.row_id if feature_set.request[name].dtype.kind == "string"]
    if len(binary) != 1 or len(ids) != 1 or len(feature_set.row_id) != 1:
        refuse(415, "UNSUPPORTED_MEDIA_TYPE", "this model takes no files; send application/json or text/csv")
    _check_rows(len(files), max_rows)
    digest = hashlib.sha256(b"images\0")
    seen: set[str] = set()
    rows = []
    for name, content in files:
        if not name or name in seen:
            refuse(422, "FILE_NAMES", "each file needs a name of its own, by which its answer is found")
        seen.add(name)
        said = name.encode("utf-8", "surrogatepass")
        digest.update(b"%d\0%s%d\0" % (len(said), said, len(content)) + content)
        rows.append({ids[0]: name, binary[0]: base64.b64encode(content).decode()})
    return Payload("images", _kept(rows, []), len(rows), digest.hexdigest())


def read_kept(body: bytes) -> KeptRows:
    """Return the rows of a payload that is no reference."""
    content = read_object(body)
    rows = content["rows"]
    refused = [RowError(*error) for error in content.get("refused", ())]
    return KeptRows(rows, refused or repeated_fields(rows))


def _kept(rows: Sequence[Any], errors: Sequence[RowError]) -> bytes:
    content = {"rows": rows, "refused": [list(error) for error in errors]}
    try:
        return orjson.dumps(content)
    except TypeError:  # a header or a name that is not valid Unicode
        return json.dumps(content).encode()


def _check_rows(n: int, max_rows: int) -> None:
    if n == 0:
        refuse(422, "NO_ROWS", "there is no row")
    if n > max_rows:
        refuse(413, "TOO_LARGE", f"{n} rows; at most {max_rows} are taken at once")


def _hash(kind: str, body: bytes) -> str:
    return hashlib.sha256(kind.encode() + b"\0" + body).hexdigest()
