"""Small worlds of stored rows and requests, and the law of as-of look-ups said as a loop over all rows."""

from __future__ import annotations

import functools
import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from feature_pipelines.columns import Column, Float64, Int64, Nullable, String, Strings
from feature_pipelines.definitions import FeatureView
from feature_pipelines.lookup import AsOfIndex, Status
from feature_pipelines.schema import Field, Schema

S = 1_000_000
LOW, HIGH = -(2**63), 2**63 - 1
MAX_TTL = 2**63 // S
FIELDS = Schema(
    (Field("f", Float64, infinite=True), Field("i", Nullable[Int64]), Field("s", Nullable[String]))
)

NAMES = st.sampled_from(["", "A", "B", "\u00e9", "e\u0301"])
NUMBERS = st.sampled_from([0, 1, -1, 2**53 + 1, 2**53, LOW, HIGH])
TIMES = {
    "seconds": st.integers(0, 6).map(lambda second: second * S),
    "edges": st.sampled_from([LOW, LOW + 1, LOW + S, -1, 0, 1, HIGH - S, HIGH - 1, HIGH]),
    "any": st.integers(LOW, HIGH),
}
VALUES = st.tuples(
    st.sampled_from([0.0, -0.0, 1.5, None, float("inf")]),
    st.one_of(st.none(), st.integers(0, 2)),
    st.one_of(st.none(), st.sampled_from(["", "x"])),
)


@dataclass(frozen=True)
class Row:
    key: tuple[Any, ...]
    event_ts: int
    created_ts: int
    values: tuple[Any, ...]
    is_deleted: bool = False


def key_column(parts: Sequence[Any], is_text: bool) -> Column:
    valid = np.array([part is not None for part in parts], dtype=np.bool_)
    if is_text:
        return Nullable(Strings.of(part if part is not None else "" for part in parts), valid)
    return Nullable(np.array([part if part is not None else 0 for part in parts], dtype=np.int64), valid)


def key_columns(keys: Sequence[tuple[Any, ...]], kinds: Sequence[bool]) -> list[Column]:
    return [key_column([key[i] for key in keys], is_text) for i, is_text in enumerate(kinds)]


def field_columns(rows: Sequence[tuple[Any, ...]]) -> dict[str, Column]:
    floats, integers, texts = ([row[i] for row in rows] for i in range(3))
    nan = float("nan")
    return {
        "f": np.array([nan if v is None else v for v in floats], dtype=np.float64),
        "i": key_column(integers, is_text=False),
        "s": key_column(texts, is_text=True),
    }


def index_of(view: FeatureView, rows: Sequence[Row], kinds: Sequence[bool]) -> AsOfIndex:
    times = np.array([(row.event_ts, row.created_ts) for row in rows], dtype=np.int64).reshape(-1, 2)
    fields = field_columns([row.values for row in rows])
    deleted = np.array([row.is_deleted for row in rows], dtype=np.bool_)
    keys = key_columns([row.key for row in rows], kinds)
    return AsOfIndex.build(view, keys, times[:, 0], times[:, 1], fields, deleted if deleted.any() else None)


def answers(
    index: AsOfIndex, requests: Sequence[tuple[tuple[Any, ...], int]], kinds: Sequence[bool]
) -> list[tuple[Status, Any]]:
    """Return each request's status and the bits of the row found."""
    as_of = np.array([time for _, time in requests], dtype=np.int64)
    columns, statuses = index.lookup(key_columns([key for key, _ in requests], kinds), as_of)
    return [
        (Status(status), row) for status, row in zip(statuses.tolist(), bits_of_rows(columns), strict=True)
    ]


def bits_of_rows(columns: Mapping[str, Column]) -> list[Any]:
    """Return each row of columns of FIELDS as `as_bits` does."""
    f: Any
    i: Any
    s: Any
    f, i, s = (columns[name] for name in FIELDS.names)
    bits = (
        f.view(np.uint64).tolist(),
        i.values.tolist(),
        i.valid.tolist(),
        s.values.tolist(),
        s.valid.tolist(),
    )
    return list(zip(*bits, strict=True))


def as_bits(values: tuple[Any, ...]) -> Any:
    f, i, s = values
    number = np.array([float("nan") if f is None else f]).view(np.uint64).tolist()[0]
    return number, 0 if i is None else i, i is not None, s or "", s is not None


@functools.cache
def digest(bits: Any) -> str:
    """The last word on order: SHA-256 of the row as bytes: the float, the integer, the text's length, the null flags, the text."""
    number, integer, is_integer, text, is_text = bits
    encoded = text.encode()
    fixed = struct.pack("<QqI??", number, integer, len(encoded), is_integer, is_text)
    return hashlib.sha256(fixed + encoded).hexdigest()


def digest_of(row: Row) -> str:
    return hashlib.sha256(b"tombstone").hexdigest() if row.is_deleted else digest(as_bits(row.values))


def by_loop(view: FeatureView, rows: Sequence[Row], key: tuple[Any, ...], as_of: int) -> tuple[Status, Any]:
    """The law, word for word, in Python's unbounded integers."""

    visible = [row for row in rows if row.key == key and row.event_ts <= as_of and row.created_ts <= as_of]
    if None in key:
        return Status.NULL, as_bits((None, None, None))
    if not visible:
        return Status.NOT_FOUND, as_bits((None, None, None))
    newest = max(visible, key=lambda row: (row.event_ts, row.created_ts, digest_of(row)))
    if newest.is_deleted:
        return Status.NOT_FOUND, as_bits((None, None, None))
    if view.ttl_seconds is not None and newest.event_ts < as_of - view.ttl_seconds * S:
        return Status.EXPIRED, as_bits((None, None, None))
    return Status.PRESENT, as_bits(newest.values)


KINDS = {"text": (True,), "number": (False,), "text and number": (True, False), "three": (True, True, False)}
TTLS = (None, 0, 1, 3, MAX_TTL)


@st.composite
def worlds(
    draw: st.DrawFn, kinds_of_keys: Sequence[str] = tuple(KINDS), ttls: Sequence[int | None] = TTLS
) -> tuple[FeatureView, list[Row], list[tuple[tuple[Any, ...], int]], tuple[bool, ...]]:
    """Draw a view, its rows and requests, from few keys and few times, so that they meet."""
    kinds = KINDS[draw(st.sampled_from(list(kinds_of_keys)))]
    parts = [draw(st.lists(NAMES if is_text else NUMBERS, min_size=1, max_size=2)) for is_text in kinds]
    key = st.tuples(*(st.sampled_from([*part, *part, *part, None]) for part in parts))
    pool = draw(st.lists(TIMES[draw(st.sampled_from(list(TIMES)))], min_size=1, max_size=4, unique=True))
    times = st.sampled_from(pool)
    deleted = st.sampled_from([False, False, False, True])
    rows = draw(st.lists(st.builds(Row, key, times, times, VALUES, deleted), max_size=12))
    near = st.builds(
        lambda time, by: min(max(time + by, LOW), HIGH), times, st.sampled_from([0, 0, -1, 1, S, 3 * S + 1])
    )
    requests = draw(st.lists(st.tuples(key, near), min_size=1, max_size=12))
    ttl = draw(st.sampled_from(list(ttls)))
    names = {f"k{i}": f"k{i}" for i in range(len(kinds))}
    return FeatureView("v", names, FIELDS, ttl_seconds=ttl), rows, requests, kinds
