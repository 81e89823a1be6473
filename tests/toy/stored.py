"""Views with stored rows for the tests of online stores: one with a column of every type, one that is quick to write."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from redis import Redis

from feature_pipelines.columns import (
    Bool,
    Column,
    Float32,
    Float64,
    Int32,
    Int64,
    Nullable,
    String,
    Timestamp,
    decimal,
)
from feature_pipelines.packed import row_digests
from feature_pipelines.schema import Field, Schema, build_column
from feature_pipelines.stores.base import Key, OnlineStore, StoredRow
from feature_pipelines.stores.encoding import encode_rows
from feature_pipelines.views import FeatureView

__all__ = [
    "DAY",
    "EVERY",
    "PLANE",
    "PLANE_V2",
    "ROUTE",
    "columns_of",
    "fill",
    "n_stored",
    "plane_row",
    "stored_rows",
    "tombstone",
]

Money = Annotated[NDArray[np.int64], decimal(18, 4)]
DAY = 86_400_000_000

EVERY = FeatureView(
    "every",
    {"id": "id"},
    Schema(
        (
            Field("wide", Float64, infinite=True),
            Field("narrow", Float32, infinite=True),
            Field("big", Int64),
            Field("big_null", Nullable[Int64]),
            Field("small", Int32),
            Field("small_null", Nullable[Int32]),
            Field("flag", Bool),
            Field("flag_null", Nullable[Bool]),
            Field("seen_ts", Timestamp),
            Field("seen_ts_null", Nullable[Timestamp]),
            Field("amount", Money),
            Field("amount_null", Nullable[Money]),
            Field("name", String),
            Field("name_null", Nullable[String]),
        )
    ),
    missing="reject",
)
PLANE = FeatureView(
    "plane",
    {"tail_number": "tail_number"},
    Schema((Field("age_years", Float64), Field("n_seats", Nullable[Int64]))),
    ttl_seconds=30 * 86_400,
)
PLANE_V2 = FeatureView(
    "plane",
    {"tail_number": "tail_number"},
    Schema((Field("n_seats", Nullable[Int64]), Field("age_years", Float64))),
)
ROUTE = FeatureView(
    "route",
    {"origin": "origin", "number": "number"},
    Schema((Field("late_share", Float64), Field("note", Nullable[String]))),
)


def columns_of(view: FeatureView, rows: Sequence[Sequence[Any]]) -> dict[str, Column]:
    """Return the columns of rows whose values are in the wire form, in the order of the fields."""
    columns = {}
    for i, declared in enumerate(view.fields):
        columns[declared.name], errors = build_column(declared, [row[i] for row in rows])
        assert not errors, errors
    return columns


def stored_rows(
    view: FeatureView, rows: Sequence[Sequence[Any]], times: Sequence[tuple[int, int]]
) -> list[StoredRow]:
    """Return rows as a store holds them: values in the wire form, and each row's (event_ts, created_ts)."""
    columns = columns_of(view, rows)
    payloads = encode_rows(view, columns, len(rows))
    return [
        StoredRow(event_ts, created_ts, digest, False, payload)
        for (event_ts, created_ts), digest, payload in zip(
            times, row_digests(view.fields, columns), payloads, strict=True
        )
    ]


def fill(store: OnlineStore, view: FeatureView, keys: Sequence[Key], rows: Sequence[StoredRow]) -> int:
    """Write rows and say that the view is materialised, through no time in particular; return how many changed the store."""
    changed = store.write(view, keys, rows)
    store.advance(view, -(2**63))
    return changed


def n_stored(url: str) -> int:
    """Return how many rows a store holds, of all views, whether they can be read or not."""
    if url.startswith("redis://"):
        with Redis.from_url(url) as client:
            return sum(1 for _ in client.scan_iter(match="onescore:row:*"))
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as opened:
        count: int = opened.execute("SELECT count(*) FROM rows").fetchone()[0]
        return count


def plane_row(event_ts: int, created_ts: int | None = None, age: float | None = 1.0) -> StoredRow:
    """Return a row of PLANE."""
    return stored_rows(PLANE, [(age, None)], [(event_ts, event_ts if created_ts is None else created_ts)])[0]


def tombstone(event_ts: int, created_ts: int | None = None) -> StoredRow:
    """Return a row that deletes."""
    return StoredRow(
        event_ts, event_ts if created_ts is None else created_ts, bytes.fromhex(_NOTHING), True, b""
    )


_NOTHING = "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b"  # sha256("null")
