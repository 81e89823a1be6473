"""The newest answers, one by one, without personal data.

Of a request only fields are shown that a feature set known here declares and does not tag "pii": of a model that is not known, none. So
it does not matter whether the log dropped, hashed or kept such fields. Names of fields that a caller made up are not shown either.
This module knows nothing of files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from feature_pipelines.definitions import FeatureSet

__all__ = ["Recent", "ShownFields", "shown_columns"]

_READ = (
    *("process", "sequence", "served_ts", "as_of_ts", "model_version", "request", "statuses", "event_ts"),
    *("overrides", "score", "label", "error_code", "error_field", "request_rows", "lookup_us", "features_us"),
    "model_us",
)
_OF_SEVERAL_CLASSES = ("class_label", "class_scores")
_LONGEST_TEXT = 80


@dataclass(frozen=True)
class ShownFields:
    """What may be shown of a model's requests.

    Args:
        row_id: fields that identify a row.
        fields: all fields, in order.
        binary: those of them whose size is shown instead.
    """

    row_id: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    binary: frozenset[str] = frozenset()

    @classmethod
    def of(cls, feature_set: FeatureSet) -> ShownFields:
        """Return the declared fields of a request that are not tagged "pii"."""
        shown = [declared for declared in feature_set.request if "pii" not in declared.tags]
        names = tuple(declared.name for declared in shown)
        return cls(
            row_id=tuple(name for name in feature_set.row_id if name in names),
            fields=names,
            binary=frozenset(declared.name for declared in shown if declared.dtype.kind == "binary"),
        )


def shown_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of a file that answers are shown by; [] if some are not there."""
    names = schema.names
    return (
        [name for name in (*_READ, *_OF_SEVERAL_CLASSES) if name in names] if set(_READ) <= set(names) else []
    )


class Recent:
    """The newest rows of one model.

    Args:
        n: how many; 0 = none.
        shown: says what may be shown of a request now: what it no longer says is not shown of rows either that were kept before.
    """

    def __init__(self, n: int, shown: Callable[[], ShownFields]) -> None:
        self._n, self._shown = n, shown
        self._rows: list[dict[str, Any]] = []

    def wants(self, newest_ts: int) -> bool:
        """Return whether rows whose newest was served then belong here."""
        return self._n > 0 and (len(self._rows) < self._n or newest_ts > self._rows[-1]["served_ts"])

    def add(self, table: pa.Table) -> None:
        """Take the newest of a table's rows, which has the columns of `shown_columns`."""
        order = table.sort_by([("served_ts", "descending"), ("sequence", "descending")]).slice(0, self._n)
        shown = self._shown()
        rows = [_shown(row, shown) for row in _plain(order).to_pylist(maps_as_pydicts="lossy")]
        ranked = sorted(
            [*self._rows, *rows], key=lambda row: (-row["served_ts"], row["process"], -row["sequence"])
        )
        self._rows = ranked[: self._n]

    def rows(self) -> list[dict[str, Any]]:
        """Return the answers, newest first."""
        shown = self._shown()
        return [_still_shown(row, shown) for row in self._rows]


def _plain(table: pa.Table) -> pa.Table:
    """Return the table with its times as integers, those of maps included."""
    time, times = pa.int64(), pa.map_(pa.string(), pa.int64())
    kinds = {"served_ts": time, "as_of_ts": time, "event_ts": times}
    return table.cast(pa.schema([(f.name, kinds.get(f.name, f.type)) for f in table.schema]))


def _shown(row: Mapping[str, Any], shown: ShownFields) -> dict[str, Any]:
    request: Mapping[str, str] = row["request"] or {}
    texts = {name: _text(request[name], name in shown.binary) for name in shown.fields if name in request}
    events: Mapping[str, int] = row["event_ts"] or {}
    label = row.get("class_label") or row["label"]
    return {
        "process": row["process"],
        "sequence": row["sequence"],
        "served_ts": row["served_ts"],
        "as_of_ts": row["as_of_ts"],
        "version": row["model_version"],
        "score": row["score"],
        "label": label if label is None or isinstance(label, str) else str(label).lower(),
        "class_scores": row.get("class_scores"),
        "error": row["error_code"],
        "error_field": row["error_field"] if row["error_field"] in shown.fields else None,
        "rows_together": row["request_rows"],
        "latency_us": {part: row[f"{part}_us"] for part in ("lookup", "features", "model")},
        "views": {
            view: {"status": status, "age_seconds": _age(row["as_of_ts"], events.get(view))}
            for view, status in (row["statuses"] or {}).items()
        },
        "overrides": len(row["overrides"] or ()),
        "id": {name: texts[name] for name in shown.row_id if name in texts},
        "request": {name: text for name, text in texts.items() if name not in shown.row_id},
    }


def _still_shown(row: Mapping[str, Any], shown: ShownFields) -> dict[str, Any]:
    texts = row["id"] | row["request"]
    return {
        **row,
        "error_field": row["error_field"] if row["error_field"] in shown.fields else None,
        "id": {name: texts[name] for name in shown.row_id if name in texts},
        "request": {
            name: text for name, text in texts.items() if name in shown.fields and name not in shown.row_id
        },
    }


def _age(as_of: int, event: int | None) -> float | None:
    return None if event is None else (as_of - event) / 1e6


def _text(logged: str, is_binary: bool) -> str:
    """Return a field's JSON text as it is shown: no quotes, not long, of bytes only how many."""
    try:
        value = json.loads(logged)
    except ValueError:
        value = logged
    if is_binary:
        return f"{len(value) * 3 // 4 - value[-2:].count('=')} bytes" if isinstance(value, str) else "null"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
