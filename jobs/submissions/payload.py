"""What a client sends into what is kept: rows in the wire form, or a reference to a table as it is now.

    application/json      {"rows": [...]} | {"reference": "table"}, optionally "notify": {...}
    text/csv              a header and rows, read as a function and a stream read them (see jobs.online.csv_text)
    multipart/form-data   image files, a row each: its name is the row's id, its bytes the binary field

Equal rows have an equal hash, however a client writes them (white space, the order of fields, quotes, line ends), so that a repeated
request is told from another one. CSV is read in blocks, so that it costs little more memory than what is kept of it. This module knows
nothing of HTTP beyond content types, and nothing of where submissions are kept.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import orjson

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import did_you_mean
from feature_pipelines.reasons import RowError
from feature_pipelines.request_rows import AS_OF_TS
from jobs.online.csv_text import CsvText, cell_value, kinds_of
from jobs.online.protocol import read_object, refuse, repeated_fields

__all__ = [
    "KeptRows",
    "Payload",
    "csv_header",
    "read_csv",
    "read_images",
    "read_json",
    "read_kept",
    "write_kept",
]

_KEYS = ("rows", "reference", "notify")
_BLOCK_CELLS = 5_000
_HEADER_BYTES = 1 << 20  # more than any that is taken has
_NULL = re.compile(rb"[:,\[]null")
_INFINITY = re.compile(r'("(?:[^"\\]|\\.)*")|Infinity')


@dataclass(frozen=True)
class Payload:
    """One submission as it is kept.

    Args:
        kind: "json", "csv", "images" or "reference".
        body: JSON: an object with `rows` and, where some were refused on the way, `refused`; of a reference the pinned table.
        n_rows: how many rows.
        hash: SHA-256 (hex) of the rows that were sent, or of the reference.
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
        ContractError: evidence `status` and `code`: it is neither form, nested too deeply, or has no or too many rows.
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
    said = [[error.row, error.field] for error in repeated_fields(rows)]
    return Payload("json", body, len(rows), _hash(len(rows), chain(rows, said)), notify), None, notify


def read_csv(body: bytes, feature_set: FeatureSet, max_rows: int, max_kept: int) -> Payload:
    """Return the payload of a CSV body.

    Args:
        body: UTF-8, a header and rows.
        feature_set: declares the fields, by which cells are told to be numbers.
        max_rows: more are refused.
        max_kept: bytes; what is kept names the fields in each row, and may be larger than what was sent.

    Raises:
        ContractError: evidence `status` and `code`: it is no CSV with a header, each name once and a field's, and rows as long as that.
    """
    digest, n, size = hashlib.sha256(b"csv\0"), 0, 0
    kept: list[bytes] = []
    table = _table(body, feature_set)
    kinds = kinds_of(table.names, feature_set)
    lines = iter(table)
    while block := list(islice(lines, max(1, _BLOCK_CELLS // len(table.names)))):
        _check_rows(n + len(block), max_rows)
        rows = []
        for number, line in enumerate(block, n + 1):
            if line.problem:
                refuse(422, "MALFORMED_CSV", f"row {number}: {line.problem}")
            named = dict(zip(table.names, line.cells, strict=True))
            digest.update(_canonical(named))
            rows.append({name: cell_value(kinds.get(name), cell) for name, cell in named.items()})
        kept.append(write_kept(rows)[1:-1])
        n, size = n + len(block), size + len(kept[-1])
        _check_kept(size, max_kept)
    _check_rows(n, max_rows)
    kept[0] = b'{"rows":[' + kept[0]  # copied once, as what is kept may be large
    kept[-1] += b"]}"
    return Payload("csv", b",".join(kept), n, digest.hexdigest())


def csv_header(body: bytes, feature_set: FeatureSet) -> Sequence[str]:
    """Return the names of a CSV body's columns, without looking at its rows; errors as of `read_csv`."""
    return _table(body[:_HEADER_BYTES], feature_set).names


def _table(body: bytes, feature_set: FeatureSet) -> CsvText:
    table = CsvText(body)
    if table.problem:
        refuse(422, "MALFORMED_CSV", table.problem)
    known = (*feature_set.sources.names, AS_OF_TS)
    for name in table.names:  # else each row would be refused for it, one by one
        if name not in known:
            said = f"column {name[:80]!r} is no field of the model.{did_you_mean(name[:80], known)}"
            refuse(422, "UNKNOWN_FIELD", said)
    return table


def read_images(
    files: Sequence[tuple[str, bytes]], feature_set: FeatureSet, max_rows: int, max_kept: int
) -> Payload:
    """Return the payload of image files: of each the row with its name as id and its bytes in the one binary field.

    Args:
        files: (name, content) in order; no name twice.
        feature_set: has one row id, a string, and one binary field.
        max_rows: more files are refused.
        max_kept: see `read_csv`.

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
    kept = write_kept({"rows": rows})
    _check_kept(len(kept), max_kept)
    return Payload("images", kept, len(rows), digest.hexdigest())


def read_kept(body: bytes) -> KeptRows:
    """Return the rows of a payload that is no reference."""
    content = read_object(body)
    rows = content["rows"]
    refused = [RowError(*error) for error in content.get("refused", ())]
    return KeptRows(rows, refused or repeated_fields(rows))


def write_kept(content: Any) -> bytes:
    """Return JSON that reads back as the same values, for `read_kept`; a number beyond all doubles is written as one that is that, too."""
    try:
        written = orjson.dumps(content)
    except TypeError:  # text that is not valid Unicode, or an integer beyond 64 bit
        written = b"[null"
    if not _NULL.search(written):  # which orjson writes for an infinity, too
        return written
    text = json.dumps(content, separators=(",", ":"))
    return (_INFINITY.sub(lambda found: found[1] or "1e999", text) if "Infinity" in text else text).encode()


def _canonical(row: Any) -> bytes:
    """Return JSON that is the same for equal values, whatever the order of members, and for no others."""
    try:
        written = orjson.dumps(row, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # text that is not valid Unicode, an integer beyond 64 bit, or deep nesting
        written = b"null"
    if b"null" in written:  # which orjson writes for a number beyond all others, too
        written = json.dumps(row, sort_keys=True).encode()
    return written + b"\n"


def _check_kept(size: int, max_kept: int) -> None:
    if size > max_kept:
        refuse(413, "TOO_LARGE", f"what is to be kept of the body has more than {max_kept} bytes")


def _check_rows(n: int, max_rows: int) -> None:
    if n == 0:
        refuse(422, "NO_ROWS", "there is no row")
    if n > max_rows:
        refuse(413, "TOO_LARGE", f"more than {max_rows} rows, which is the most that is taken at once")


def _hash(n_rows: int, values: Iterable[Any]) -> str:
    digest = hashlib.sha256(b"json\0%d\0" % n_rows)
    try:
        for value in values:
            digest.update(_canonical(value))
    except RecursionError:
        refuse(400, "MALFORMED_JSON", "the body is nested too deeply")
    return digest.hexdigest()
