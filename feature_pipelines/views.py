"""Stored features: what a view's table holds, how old a row may be, and what a request gets where there is none.

A view is read as of a time, and its rows have one total order everywhere: (event_ts, created_ts, digest of the row's canonical
bytes), newest wins. A view is either given, its table filled by whoever knows, or declares windowed history over a source of
events, which `jobs.build_features` computes. This module reads no data.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from feature_pipelines.columns import Bool, Float64, Int64, Nullable
from feature_pipelines.errors import DefinitionError, did_you_mean
from feature_pipelines.reasons import Refused
from feature_pipelines.schema import Field, Schema, parse_value

__all__ = ["FeatureView", "History", "window_seconds"]

_NO_FIELDS = Schema(())
_MAX_TTL = 2**63 // 1_000_000
_WINDOW = re.compile(r"([1-9][0-9]{0,3})(h|d)")
_SECONDS = {"h": 3_600, "d": 86_400}
_LONGEST = 90 * 86_400
_EXACT = ("int64", "int32", "bool", "decimal")
_OPS = ("count", "sum", "mean", "min", "max", "std", "last", "share")


@dataclass(frozen=True)
class History:
    """Windowed history of one column of a view's source: a field `{prefix}{column}_{op}_{window}` for each op and window.

    A row of event_ts t and created_ts c aggregates the source rows of its key with t - window < event_ts <= t and
    created_ts <= c. Nulls (and NaN) are left out.

    - count: how many values. Never null.
    - sum: null if there is none. Of exact columns it is exact; of floats the correctly rounded sum, whatever the order.
    - mean: sum over count, rounded once for exact columns; null if there is none.
    - min, max: null if there is none.
    - std: sample standard deviation (n - 1); null below two values.
    - last: the newest value in the total order of the source's rows; null if there is none.
    - share: of True among the values of a Bool column; null if there is none.

    Args:
        column: a field of the view's source.
        ops: of the above.
        windows: "1h" to "90d": a whole number of hours or days.
        prefix: what the names of the fields begin with, where several views of a set aggregate a column of one name.
    """

    column: str
    ops: tuple[str, ...]
    windows: tuple[str, ...]
    prefix: str = ""

    def named(self) -> Iterator[tuple[str, str, str]]:
        """Yield (op, window, name of the field), windows in order within ops in order."""
        for op in self.ops:
            for window in self.windows:
                yield op, window, f"{self.prefix}{self.column}_{op}_{window}"

    def fields(self, declared: Field) -> list[Field]:
        """Return the fields this gives over a source column, windows in order within ops in order."""
        return [
            Field(
                name,
                _result_type(op, declared),
                f"{op} of {self.column} over {window}. {declared.doc}".strip(),
                infinite=declared.infinite and op in ("min", "max", "last"),
            )
            for op, window, name in self.named()
        ]

    def problems(self, source: Schema) -> list[str]:
        """Return what does not hold together, in words."""
        if self.column not in source:
            return [
                f"history of {self.column!r}, which no source field is.{did_you_mean(self.column, source.names)}"
            ]
        kind = source[self.column].dtype.kind
        found = [
            f"history of {self.column!r}: no op {op!r}.{did_you_mean(op, _OPS)}"
            for op in self.ops
            if op not in _OPS
        ]
        found += [
            f"history of {self.column!r}: {op} needs a {'Bool' if op == 'share' else 'number'}, it is {kind}"
            for op in self.ops
            if (op == "share" and kind != "bool")
            or (op in ("sum", "mean", "std") and kind not in (*_EXACT, "float64", "float32"))
            or (op in ("min", "max") and kind in ("string", "binary"))
        ]
        found += [
            f"history of {self.column!r}: window {window!r} must be whole hours or days from 1h to 90d, such as 7d"
            for window in self.windows
            if _WINDOW.fullmatch(window) is None or window_seconds(window) > _LONGEST
        ]
        if not self.ops or not self.windows:
            found.append(f"history of {self.column!r} names no op or no window")
        return found


def window_seconds(window: str) -> int:
    """Return a window's length.

    >>> window_seconds("7d")
    604800
    """
    match = _WINDOW.fullmatch(window)
    if match is None:
        raise DefinitionError(f"window {window!r} must be whole hours or days, such as 6h or 7d")
    return int(match[1]) * _SECONDS[match[2]]


def _result_type(op: str, declared: Field) -> Any:
    dtype = declared.dtype
    if op == "count":
        return Nullable[Int64]
    if op in ("mean", "std", "share"):
        return Float64
    if op == "sum" and not dtype.is_float:
        return Nullable[dtype] if dtype.kind == "decimal" else Nullable[Int64]  # type: ignore[valid-type]
    if op == "sum" or dtype.is_float:
        return Float64
    return Nullable[Bool] if dtype.kind == "bool" else Nullable[dtype]  # type: ignore[valid-type]


@dataclass(frozen=True)
class FeatureView:
    """Stored features of an entity, read as of a request's time.

    A row is visible at T when event_ts <= T and created_ts <= T, and fresh when event_ts >= T - ttl_seconds (all inclusive).
    The answer is the newest visible row, whole, or nothing: then what `missing` says. A tombstone is a row that deletes: where
    it is the newest visible, there is nothing.

    Args:
        name: the view's name; conf maps it to a table.
        keys: the view's key columns, each with the request field that holds its value. A null in any of them finds nothing.
        fields: the stored columns; of a view with history, leave it out. Each must accept null (there may be no row), unless
            `missing` is "reject" or "defaults".
        ttl_seconds: how old a row may be, None = any age.
        missing: where there is no fresh row, "null" (the default): the request is scored with nulls; "defaults": with
            `defaults`; "reject": it is refused.
        defaults: for missing="defaults", each field's value in the wire form; a field that is not named is null.
        unavailable: where the online store does not answer in time, "fail" (the default): the request is refused, retryable;
            "missing": as `missing` says, with the status UNAVAILABLE.
        source: for a view with history, the columns of the events beside the keys and the two times.
        history: what to compute over the source.
    """

    name: str
    keys: Mapping[str, str]
    fields: Schema = _NO_FIELDS
    ttl_seconds: int | None = None
    missing: str = "null"
    defaults: Mapping[str, Any] | None = None
    unavailable: str = "fail"
    source: Schema | None = None
    history: tuple[History, ...] = ()

    def __post_init__(self) -> None:
        if self.missing not in ("null", "defaults", "reject"):
            raise DefinitionError(
                f"view {self.name!r}: missing={self.missing!r} must be 'null', 'defaults' or 'reject'"
            )
        if self.unavailable not in ("fail", "missing"):
            raise DefinitionError(
                f"view {self.name!r}: unavailable={self.unavailable!r} must be 'fail' or 'missing'"
            )
        if not self.keys:
            raise DefinitionError(f"view {self.name!r} has no key column")
        if self.ttl_seconds is not None and not (
            type(self.ttl_seconds) is int and 0 <= self.ttl_seconds <= _MAX_TTL
        ):
            raise DefinitionError(
                f"view {self.name!r}: ttl_seconds={self.ttl_seconds!r} must be whole seconds from 0 to {_MAX_TTL}, or None"
            )
        if self.history or self.source is not None:
            object.__setattr__(self, "fields", self._history_fields())
        self._check_fields()
        self._check_defaults()

    def _history_fields(self) -> Schema:
        if self.source is None or not self.history or len(self.fields.fields):
            raise DefinitionError(
                f"view {self.name!r}: history needs a source, and gives the fields itself; declare source and history, no fields"
            )
        problems = [
            f"view {self.name!r}: {problem}" for one in self.history for problem in one.problems(self.source)
        ]
        reserved = sorted({*self.keys, "event_ts", "created_ts"} & set(self.source.names))
        if reserved:
            problems.append(
                f"view {self.name!r}: {', '.join(reserved)} is a key or a time of every source; do not list it"
            )
        if problems:
            raise DefinitionError("\n".join(problems), problems=problems)
        source = self.source
        return Schema(tuple(f for one in self.history for f in one.fields(source[one.column])))

    def _check_fields(self) -> None:
        if not len(self.fields.fields):
            raise DefinitionError(f"view {self.name!r} has no field")
        binary = [f.name for f in self.fields if f.dtype.kind == "binary"]
        if binary:
            raise DefinitionError(
                f"view {self.name!r}: {', '.join(binary)} is binary, which cannot be a stored feature"
            )
        strict = [f.name for f in self.fields if not f.accepts_null and f.name not in (self.defaults or {})]
        if strict and self.missing != "reject":
            raise DefinitionError(
                f"view {self.name!r}: {', '.join(strict)} cannot be null, yet a request may find no row; "
                "declare them Nullable[...], give them defaults, or declare the view missing='reject'"
            )

    def _check_defaults(self) -> None:
        if (self.defaults is not None) != (self.missing == "defaults"):
            raise DefinitionError(
                f"view {self.name!r}: defaults go with missing='defaults', and only with it"
            )
        for name, value in (self.defaults or {}).items():
            if name not in self.fields:
                raise DefinitionError(
                    f"view {self.name!r}: a default for {name!r}, which no field is.{did_you_mean(name, self.fields.names)}"
                )
            try:
                if value is not None:
                    parse_value(self.fields[name], value)
            except Refused as refused:
                raise DefinitionError(f"view {self.name!r}: the default of {name!r}: {refused}") from refused

    @property
    def longest_window_seconds(self) -> int:
        """The longest window of its history; 0 without one."""
        return max((window_seconds(w) for one in self.history for w in one.windows), default=0)

    def describe(self) -> dict[str, Any]:
        """Return the declaration as JSON; part of the fingerprint."""
        described: dict[str, Any] = {
            "name": self.name,
            "keys": dict(self.keys),
            "fields": [f.describe() for f in self.fields],
            "ttl_seconds": self.ttl_seconds,
            "missing": self.missing,
        }
        if self.defaults is not None:
            described["defaults"] = dict(self.defaults)
        if self.unavailable != "fail":
            described["unavailable"] = self.unavailable
        if self.source is not None:
            described["source"] = [f.describe() for f in self.source]
            described["history"] = [
                [one.column, list(one.ops), list(one.windows), *([one.prefix] if one.prefix else [])]
                for one in self.history
            ]
        return described

    def schema_digest(self) -> str:
        """Return 16 hex digits that name what a stored value holds: keys and fields by name, type and order.

        Neither ttl nor policies nor bounds are part of it: they say how to read a value, not what it is.
        """
        held = [list(self.keys), [[f.name, str(f.dtype), f.nullable] for f in self.fields]]
        return hashlib.sha256(json.dumps(held).encode()).hexdigest()[:16]
