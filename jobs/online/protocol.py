"""The body of a request into rows: MLflow's four JSON forms, every number exact, a field written twice found.

    {"inputs": [row, ...]}   {"instances": [row, ...]}   {"dataframe_records": [row, ...]}
    {"dataframe_split": {"columns": [name, ...], "data": [[value, ...], ...]}}          each with "params": {"features": true}

orjson reads the body. It silently rounds integers beyond 64 bit and keeps the last of two equal fields, so whatever might
hold either (told by counting bytes, with no false negatives) is read again by the standard library, which shows both. Literals
that are not JSON (NaN, Infinity) are refused by either. Where orjson is not installed, as in the package of a serverless function,
the standard library reads and writes all. This module knows nothing of models, stores or servers.
"""

from __future__ import annotations

import json
from collections import Counter as Tally
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple, NoReturn
from urllib.parse import parse_qsl

from feature_pipelines.errors import ContractError
from feature_pipelines.reasons import Reason, RowError

__all__ = [
    "FORMS",
    "Asked",
    "asks_for_features",
    "read_body",
    "read_content",
    "read_object",
    "refuse",
    "repeated_fields",
    "require_json",
    "write_body",
]

FORMS = ("inputs", "instances", "dataframe_split", "dataframe_records")


def _orjson() -> Any:
    try:
        return import_module("orjson")
    except ModuleNotFoundError:
        return None


_ORJSON = _orjson()
_PARAMS = "params"
_JSON = b"application/json"
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19  # the shortest integer beyond int64 has 19 digits
_SPACED_COLONS = (b" :", b"\n:", b"\t:", b"\r:")


class Asked(NamedTuple):
    """One request: its rows in the wire form, what is wrong with some of them already, and whether features are asked for."""

    rows: Sequence[Any]
    refused: Sequence[RowError]
    with_features: bool


class _Repeated(dict[str, Any]):
    """An object in which `name` stands more than once."""

    name: str


def refuse(status: int, code: str, message: str) -> NoReturn:
    """Raise the error that refuses a whole request; its message goes to the client and holds no data."""
    raise ContractError(message, status=status, code=code)


def read_body(body: bytes, *, max_rows: int) -> Asked:
    """Return the rows of a request's body.

    Args:
        body: UTF-8 JSON.
        max_rows: more are refused.

    Raises:
        ContractError: evidence `status` (400 or 413) and `code`: it is not JSON, or none of the forms, or has too many rows.
    """
    return read_content(_parse(body), max_rows=max_rows)


def read_content(content: Any, *, max_rows: int) -> Asked:
    """Return the rows of a request's body that was read already.

    Args:
        content: JSON values.
        max_rows: more are refused.

    Raises:
        ContractError: see `read_body`.
    """
    if not isinstance(content, dict):
        refuse(400, "UNKNOWN_FORM", f"the body is not an object with one of {', '.join(FORMS)}")
    _require_once(content, "the body")
    forms = [name for name in FORMS if name in content]
    if len(forms) != 1:
        given = "none" if not forms else " and ".join(forms)
        refuse(400, "UNKNOWN_FORM", f"the body must have exactly one of {', '.join(FORMS)}; it has {given}")
    if len(content) > 1 + (_PARAMS in content):
        refuse(
            400,
            "UNKNOWN_FORM",
            f"the body has an unknown key; beside {forms[0]} there may be {_PARAMS} alone",
        )
    given = content[forms[0]]
    refused: list[RowError] = []
    rows = _split_rows(given, refused) if forms[0] == "dataframe_split" else given
    if not isinstance(rows, list):
        rows = [None]  # as the registered model answers what is no list: one row that is no object
    if len(rows) > max_rows:
        refuse(413, "TOO_MANY_ROWS", f"{len(rows)} rows; at most {max_rows} are taken at once")
    if type(content) is not _Plain and forms[0] != "dataframe_split":
        refused = repeated_fields(rows)
    return Asked(rows, refused, _with_features(content.get(_PARAMS)))


def read_object(body: bytes) -> dict[str, Any]:
    """Return a body that is one JSON object, every number exact; `repeated_fields` tells its rows in which a field stands twice.

    Raises:
        ContractError: evidence `status` 400 and `code`: it is no JSON, no object, or has a key twice.
    """
    content = _parse(body)
    if not isinstance(content, dict):
        refuse(400, "UNKNOWN_FORM", "the body is not an object")
    _require_once(content, "the body")
    return content


def repeated_fields(rows: Sequence[Any]) -> list[RowError]:
    """Return the errors of rows, of a body that was read here, in which a field stands more than once."""
    return [
        RowError(i, Reason.BAD_VALUE, row.name, "the field stands more than once in the row")
        for i, row in enumerate(rows)
        if isinstance(row, _Repeated)
    ]


def write_body(answers: Sequence[Any]) -> bytes:
    """Return the body of an answer; numbers are written so that reading them gives the same bits."""
    content = {"predictions": answers}
    if _ORJSON is not None:
        try:
            written: bytes = _ORJSON.dumps(content)
        except TypeError:  # a client's own field name that is not valid Unicode, or an integer beyond 64 bit
            pass
        else:
            return written
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def require_json(content_type: bytes, encoding: bytes) -> None:
    """Refuse a body that its headers do not call JSON in UTF-8, as it is.

    Raises:
        ContractError: evidence `status` 415.
    """
    kind, _, parameters = content_type.lower().partition(b";")
    charset = parameters.strip().removeprefix(b"charset=").strip(b'"')
    if kind.strip() != _JSON or charset not in (b"", b"utf-8", b"utf8") or encoding not in (b"", b"identity"):
        refuse(
            415,
            "UNSUPPORTED_MEDIA_TYPE",
            "send application/json, in UTF-8, not compressed; mlflow models serve takes CSV and Parquet",
        )


def asks_for_features(query: bytes) -> bool:
    """Return what a URL's query says of the features; without one, false.

    Raises:
        ContractError: evidence `status` 400: it says anything else.
    """
    if not query:
        return False
    try:
        given = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=8)
    except ValueError:
        given = [("", "")]
    values = [value for _, value in given]
    if [name for name, _ in given] != ["features"] or values[0] not in ("true", "false"):
        refuse(400, "BAD_PARAMS", "the query may be ?features=true or ?features=false")
    return values[0] == "true"


class _Plain(dict[str, Any]):
    """A body that needed no second look."""


def _parse(body: bytes) -> Any:
    if _ORJSON is None:
        return _parse_exactly(body)
    try:
        content = _ORJSON.loads(body)
    except _ORJSON.JSONDecodeError:
        return _parse_exactly(body)
    if (
        _LONG_NUMBER in body.translate(_DIGITS)
        or any(spaced in body for spaced in _SPACED_COLONS)
        or body.count(b'":') != _n_members(content)
    ):
        return _parse_exactly(body)
    return _Plain(content) if isinstance(content, dict) else content


def _n_members(content: Any) -> int:
    """Return how many members the objects have that a good body consists of: too few where others are nested deeper."""
    if not isinstance(content, dict):
        return 0
    n = len(content)
    for value in content.values():
        if isinstance(value, dict):
            n += len(value)
        elif isinstance(value, list):
            n += sum(len(row) for row in value if type(row) is dict)
    return n


def _parse_exactly(body: bytes) -> Any:
    try:
        return json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        refuse(400, "MALFORMED_JSON", "the body is not valid UTF-8 JSON, or nested too deeply")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    repeated = _Repeated(members)
    repeated.name = Tally(name for name, _ in pairs).most_common(1)[0][0]
    return repeated


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _require_once(content: dict[str, Any], what: str) -> None:
    if isinstance(content, _Repeated):
        refuse(400, "DUPLICATE_FIELD", f"{what} has a key more than once")


def _split_rows(given: Any, refused: list[RowError]) -> list[Any]:
    """Return the rows of the form that writes names once; a row of another length is refused alone."""
    if not isinstance(given, dict) or not isinstance(given.get("data"), list):
        refuse(400, "UNKNOWN_FORM", "dataframe_split is not an object with columns and data")
    _require_once(given, "dataframe_split")
    columns = given.get("columns")
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        refuse(400, "UNKNOWN_FORM", "dataframe_split has no list of column names")
    if len(set(columns)) != len(columns):
        refuse(400, "DUPLICATE_FIELD", "dataframe_split names a column more than once")
    unknown = given.keys() - {"columns", "data", "index"}
    if unknown:
        refuse(400, "UNKNOWN_FORM", "dataframe_split has a key beside columns, data and index")
    rows: list[Any] = []
    n = len(columns)
    for i, values in enumerate(given["data"]):
        if isinstance(values, list) and len(values) == n:
            rows.append(dict(zip(columns, values, strict=True)))
            continue
        rows.append(None)
        got = f"{len(values)} values" if isinstance(values, list) else "no list"
        refused.append(RowError(i, Reason.UNREADABLE_ROW, "", f"the row is {got}, and there are {n} columns"))
    return rows


def _with_features(params: Any) -> bool:
    if params is None:
        return False
    if not isinstance(params, dict):
        refuse(400, "BAD_PARAMS", "params is not an object")
    _require_once(params, "params")
    if params.keys() - {"features"}:
        refuse(400, "BAD_PARAMS", "params has an unknown key; there may be features alone")
    value = params.get("features", False)
    if not isinstance(value, bool):
        refuse(400, "BAD_PARAMS", "the parameter features is not true or false")
    return value
