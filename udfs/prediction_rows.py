"""Answered requests as rows of the prediction log's table: one stable, flat schema, and what becomes of personal data there.

The request's fields, features and views are maps, so that the schema is the same for every model and version. It knows nothing
of files, queues or threads.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any

import numpy as np
import pyarrow as pa

from feature_pipelines.columns import Column, length, take
from feature_pipelines.errors import ConfigurationError
from feature_pipelines.lookup import Status
from feature_pipelines.schema import to_wire
from udfs.answered import Answered, LoggedModel

__all__ = ["PII_POLICIES", "SCHEMA", "PiiPolicy", "detached", "is_sampled", "to_columns"]

_TIME = pa.timestamp("us", tz="UTC")
_TEXT = pa.string()
SCHEMA = pa.schema(
    [
        ("process", _TEXT),
        ("process_started_ts", _TIME),
        ("sequence", pa.int64()),
        ("served_ts", _TIME),
        ("as_of_ts", _TIME),
        ("model", _TEXT),
        ("model_version", _TEXT),
        ("model_digest", _TEXT),
        ("feature_fingerprint", _TEXT),
        ("configuration_digest", _TEXT),
        ("platform_id", _TEXT),
        ("request", pa.map_(_TEXT, _TEXT)),
        ("stored", pa.map_(_TEXT, _TEXT)),
        ("features", pa.map_(_TEXT, pa.float64())),
        ("statuses", pa.map_(_TEXT, _TEXT)),
        ("event_ts", pa.map_(_TEXT, _TIME)),
        ("overrides", pa.list_(_TEXT)),
        ("score", pa.float64()),
        ("label", pa.bool_()),
        ("class_label", _TEXT),
        ("class_scores", pa.map_(_TEXT, pa.float64())),
        ("error_code", _TEXT),
        ("error_field", _TEXT),
        ("request_rows", pa.int32()),
        ("lookup_us", pa.int64()),
        ("features_us", pa.int64()),
        ("model_us", pa.int64()),
    ]
)
"""One row an answer. `request` has the JSON text of each declared field that the row carried, `stored` that of each stored field as
the model read it, in the wire form. `label` is of models of two classes; `class_label` and `class_scores` (by class, in the model's
order) are of models of several, and null in rows of others. Logs of older versions lack `stored`, or these two. Latencies are of the
whole request."""

PII_POLICIES = ("drop", "hash", "keep")
_STATUS_NAMES = {int(status): status.name for status in Status}
_IMMUTABLE = frozenset({str, int, float, bool, type(None)})
_JSON: dict[type, Callable[[Any], str]] = {  # json.dumps of these, without what it takes to begin
    str: encode_basestring_ascii,
    float: float.__repr__,
    int: int.__repr__,
    type(None): lambda _: "null",
}


class PiiPolicy:
    """What becomes of fields tagged "pii": left out, written as a keyed hash, or kept as they are.

    The hash is HMAC-SHA256 of the value's JSON text: equal values have equal hashes under one key, and without the key nobody can
    try values out. Features computed from such a field are numbers, which cannot be hashed: they are left out unless all is kept.

    Args:
        policy: "drop", "hash" or "keep".
        key: for "hash".

    Raises:
        ConfigurationError: no such policy, or "hash" without a key.
    """

    def __init__(self, policy: str = "drop", key: bytes | None = None) -> None:
        if policy not in PII_POLICIES:
            raise ConfigurationError(
                f"the prediction log's policy for personal data is {policy!r}; use one of {', '.join(PII_POLICIES)}"
            )
        if policy == "hash" and not key:
            raise ConfigurationError(
                "the prediction log is to hash personal data, but has no key to hash it with"
            )
        self.policy, self._key = policy, key or b""

    def request(self, model: LoggedModel, row: Any) -> list[tuple[str, str]]:
        """Return the JSON text of each declared field that the row carries."""
        if not isinstance(row, Mapping):
            return []
        found = []
        for name in (*model.fields, *(() if "as_of_ts" in model.fields else ("as_of_ts",))):
            if name not in row:
                continue
            text = _text(row[name])
            if name not in model.pii_fields or self.policy == "keep":
                found.append((name, text))
            elif self.policy == "hash":
                found.append((name, self._hash(text)))
        return found

    def stored(
        self, model: LoggedModel, columns: Mapping[str, Column], kept: Sequence[int]
    ) -> list[list[tuple[str, str]]]:
        """Return of each kept row the JSON text of each stored field as the model read it; null where a row never came so far."""
        pairs: list[list[tuple[str, str]]] = [[] for _ in kept]
        index = np.array(kept, dtype=np.int64)
        for declared in model.stored if columns else ():
            name = declared.name
            is_personal = name in model.pii_fields and self.policy != "keep"
            if is_personal and self.policy == "drop":
                continue
            column = columns[name]
            part = column if len(index) == length(column) else take(column, index)
            for of_row, value in zip(pairs, to_wire(declared, part), strict=True):
                text = _JSON.get(type(value), json.dumps)(value)
                of_row.append((name, self._hash(text) if is_personal else text))
        return pairs

    def _hash(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    def features(self, model: LoggedModel, values: Sequence[float]) -> list[tuple[str, float]]:
        """Return the features that may be written."""
        pairs = zip(model.feature_names, values, strict=True)
        if not model.pii_features or self.policy == "keep":
            return list(pairs)
        return [(name, value) for name, value in pairs if name not in model.pii_features]


def _text(value: Any) -> str:
    """Return the JSON text of whatever a caller sent; NaN, which is none, as the standard library writes it."""
    to_text = None if type(value) is float else _JSON.get(type(value))
    return json.dumps(value, default=_type_name) if to_text is None else to_text(value)


def _type_name(value: Any) -> str:
    return f"<{type(value).__name__}>"


def is_sampled(model: LoggedModel, row: Any, share: float) -> bool:
    """Return whether a row belongs to the logged share: decided by a hash of its id, so the same row always is or never is.

    Args:
        model: names the id's fields.
        row: as it came.
        share: 0 to 1.
    """
    if share >= 1:
        return True
    names = model.row_id or model.fields
    values = [str(row.get(name)) for name in names] if isinstance(row, Mapping) else []
    digest = hashlib.sha256(json.dumps(values).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def detached(answered: Answered, kept: Sequence[int]) -> Answered:
    """Return the request with copies of what is logged of the kept rows and their answers: both are the caller's, to change at will.

    What JSON cannot write of a row is logged by the name of its type.
    """
    rows: list[Any] = [None] * len(answered.rows)
    answers: list[dict[str, Any]] = [{}] * len(answered.rows)
    for i in kept:
        row, answer = answered.rows[i], answered.answers[i]
        if isinstance(row, Mapping):
            rows[i] = copied = dict(row)
            if not _IMMUTABLE.issuperset(map(type, copied.values())):
                logged = {*answered.model.fields, "as_of_ts"}
                rows[i] = {name: _frozen(value) for name, value in copied.items() if name in logged}
        error = answer.get("error")
        if error is None:
            answers[i] = dict(answer, overrides=list(answer.get("overrides", ())))
        else:  # a field's name is whatever the caller sent
            field = error["field"].encode(errors="replace").decode()
            answers[i] = {"error": {"code": error["code"], "field": field}}
    return Answered(  # not dataclasses.replace: this is on the way of every request, and that takes twice as long
        answered.model,
        answered.served_ts,
        answered.as_of,
        rows,
        answers,
        answered.features,
        answered.index,
        answered.statuses,
        answered.event_ts,
        answered.latency_us,
        answered.stored,
    )


def _frozen(value: Any) -> Any:
    """Return a value that nobody can change, or a copy, whose JSON text is that of the given one."""
    if type(value) in _IMMUTABLE:
        return value
    try:
        return json.loads(json.dumps(value, default=_type_name))
    except Exception:  # noqa: BLE001 - a caller's value: it holds itself, is too deep, or a method of its own raises
        return _type_name(value)


def _labels(model: LoggedModel, answers: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the labels, and of a model of several classes each class's score; null where a row was refused."""
    labels, nothing = [answer.get("label") for answer in answers], [None] * len(answers)
    if not model.class_scores:
        return {"label": labels, "class_label": nothing, "class_scores": nothing}
    scores = [
        [(of_class, answer[name]) for of_class, name in model.class_scores] if "label" in answer else None
        for answer in answers
    ]
    return {"label": nothing, "class_label": labels, "class_scores": scores}


def to_columns(answered: Answered, kept: Sequence[int], pii: PiiPolicy) -> dict[str, list[Any]]:
    """Return the columns of a request's logged rows, but for those that name process and sequence.

    Args:
        answered: the request.
        kept: which of its rows, ascending.
        pii: what becomes of personal data.
    """
    model, features = answered.model, answered.features
    position = {row: i for i, row in enumerate(answered.index)}
    columns: dict[str, list[Any]] = {
        "served_ts": [answered.served_ts] * len(kept),
        "as_of_ts": [answered.as_of[row] for row in kept],
        "request": [pii.request(model, answered.rows[row]) for row in kept],
        "stored": pii.stored(model, answered.stored, kept),
        "features": [
            pii.features(model, features[:, position[row]].tolist()) if row in position else []
            for row in kept
        ],
        "statuses": [
            [(name, _STATUS_NAMES[of_view[row]]) for name, of_view in answered.statuses.items()]
            for row in kept
        ],
        "event_ts": [
            [(name, of_view[row]) for name, of_view in answered.event_ts.items() if of_view[row] is not None]
            for row in kept
        ],
    }
    errors = [answered.answers[row].get("error", {}) for row in kept]
    columns["overrides"] = [answered.answers[row].get("overrides", []) for row in kept]
    columns["score"] = [answered.answers[row].get("score") for row in kept]
    columns |= _labels(model, [answered.answers[row] for row in kept])
    columns["error_code"] = [error.get("code") for error in errors]
    columns["error_field"] = [error.get("field") for error in errors]
    constants = {
        "model": model.name,
        "model_version": model.version,
        "model_digest": model.digest,
        "feature_fingerprint": model.fingerprint,
        "configuration_digest": model.configuration_digest,
        "platform_id": model.platform_id,
        "request_rows": len(answered.rows),
        **dict(zip(("lookup_us", "features_us", "model_us"), answered.latency_us, strict=True)),
    }
    return columns | {name: [value] * len(kept) for name, value in constants.items()}
