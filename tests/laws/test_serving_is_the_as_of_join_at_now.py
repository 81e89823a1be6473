"""L3: what a store materialised through W gives at T is what the as-of look-up gives at T.

For T >= W, when no row of the key became visible in (W, T]; where the newest row stored is not visible at T, the answer is FUTURE
and never a value. A loop over all rows is the judge beside AsOfIndex, because it knows tombstones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from feature_pipelines.columns import Float64, Int64, Nullable, String, Strings
from feature_pipelines.lookup import AsOfIndex, Status
from feature_pipelines.packed import row_digests
from feature_pipelines.schema import Field, Schema, to_wire
from feature_pipelines.stores.base import OnlineStore, resolve
from feature_pipelines.stores.encoding import decode_rows
from feature_pipelines.stores.opening import open_store
from feature_pipelines.views import FeatureView
from jobs.online.view_batch import concat_rows, newest, read_batch, stored
from tests.toy.redis_servers import RedisServer
from tests.toy.stored import columns_of

SECOND = 1_000_000
VIEW = FeatureView(
    "station",
    {"city": "city", "number": "number"},
    Schema((Field("wind", Float64), Field("n_seen", Nullable[Int64]), Field("note", Nullable[String]))),
    ttl_seconds=4,
)
CITIES, NUMBERS = ("a", "b"), (1, 2)
KEYS = [(city, number) for city in CITIES for number in NUMBERS]


class Row(NamedTuple):
    """One row of the view's table."""

    city: str | None
    number: int | None
    event_ts: int
    created_ts: int
    is_deleted: bool | None
    values: tuple[float | None, int | None, str | None]

    @property
    def visible_ts(self) -> int:
        return max(self.event_ts, self.created_ts)

    def digest(self) -> bytes:
        return row_digests(VIEW.fields, columns_of(VIEW, [self.values]), [bool(self.is_deleted)])[0]


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineStore]:
    """A store, emptied by each example."""
    url = f"sqlite:///{tmp_path}/online.db"
    if request.param == "redis":
        running: RedisServer = request.getfixturevalue("redis_server")
        running.flush()
        url = running.url
    opened = open_store(url, timeout_ms=10_000)
    yield opened
    opened.close()


TIMES = st.integers(-6, 6).map(lambda seconds: seconds * SECOND) | st.integers(-SECOND, SECOND)
VALUES = st.tuples(
    st.sampled_from([None, 0.0, -0.0, 1.5, 5e-324]),
    st.sampled_from([None, 2**63 - 1, -(2**63), 0]),
    st.sampled_from([None, "", "é", "e\u0301"]),
)


def worlds(tombstones: bool) -> st.SearchStrategy[list[Row]]:
    row = st.builds(
        Row,
        city=st.sampled_from([*CITIES, None]),
        number=st.sampled_from([*NUMBERS, None]),
        event_ts=TIMES,
        created_ts=TIMES,
        is_deleted=st.sampled_from([None, False, True] if tombstones else [None, False]),
        values=VALUES,
    )
    return st.lists(row, max_size=14)


def materialise(store: OnlineStore, rows: list[Row], through_ts: int, parts: int) -> None:
    """Do what a run of jobs.materialize_features does, in so many parts, last part first."""
    store.reset(VIEW)
    cuts = np.array_split(np.arange(len(rows)), parts)
    for cut in reversed(cuts):
        batch = arrow([rows[i] for i in cut])
        good, n_bad, _ = read_batch(VIEW, batch, after_ts=None, through_ts=through_ts)
        assert n_bad == 0
        keys, values = stored(VIEW, newest(concat_rows([newest(good), newest(good)])))
        store.write(VIEW, keys, values)
    store.advance(VIEW, through_ts)


def arrow(rows: list[Row]) -> pa.RecordBatch:
    time = pa.timestamp("us", tz="UTC")
    columns: dict[str, Any] = {
        "city": pa.array([row.city for row in rows], pa.string()),
        "number": pa.array([row.number for row in rows], pa.int64()),
        "event_ts": pa.array([row.event_ts for row in rows], time),
        "created_ts": pa.array([row.created_ts for row in rows], time),
        "is_deleted": pa.array([row.is_deleted for row in rows], pa.bool_()),
        "wind": pa.array([row.values[0] for row in rows], pa.float64()),
        "n_seen": pa.array([row.values[1] for row in rows], pa.int64()),
        "note": pa.array([row.values[2] for row in rows], pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns)


def online(store: OnlineStore, as_of: int) -> list[tuple[Status, tuple[Any, ...]]]:
    """Return status and values (wire form, exact but for the sign of zero, which repr keeps) of each key."""
    (rows,) = store.read([(VIEW, KEYS)])
    statuses = [resolve(VIEW, row, as_of) for row in rows]
    present = [
        row.payload if row is not None and status is Status.PRESENT else None
        for row, status in zip(rows, statuses, strict=True)
    ]
    return answers(statuses, decode_rows(VIEW, present))


def answers(statuses: list[Status], columns: Any) -> list[tuple[Status, tuple[Any, ...]]]:
    wire = [list(map(repr, to_wire(f, columns[f.name]))) for f in VIEW.fields]
    return list(zip(statuses, zip(*wire, strict=True), strict=True))


def by_loop(rows: list[Row], as_of: int) -> list[tuple[Status, tuple[Any, ...]]]:
    found = []
    for city, number in KEYS:
        visible = [r for r in rows if (r.city, r.number) == (city, number) and r.visible_ts <= as_of]
        best = max(visible, key=lambda r: (r.event_ts, r.created_ts, r.digest()), default=None)
        if best is None or best.is_deleted:
            found.append((Status.NOT_FOUND, (None, None, None)))
        elif best.event_ts < as_of - 4 * SECOND:
            found.append((Status.EXPIRED, (None, None, None)))
        else:
            found.append((Status.PRESENT, best.values))
    return answers([status for status, _ in found], columns_of(VIEW, [values for _, values in found]))


def by_index(rows: list[Row], as_of: int) -> list[tuple[Status, tuple[Any, ...]]]:
    index = AsOfIndex.build(
        VIEW,
        [
            Nullable(
                Strings.of([row.city or "" for row in rows]),
                np.array([row.city is not None for row in rows], bool),
            ),
            Nullable(
                np.array([row.number or 0 for row in rows], np.int64),
                np.array([row.number is not None for row in rows], bool),
            ),
        ],
        np.array([row.event_ts for row in rows], np.int64),
        np.array([row.created_ts for row in rows], np.int64),
        columns_of(VIEW, [row.values for row in rows]),
    )
    asked = [Strings.of([city for city, _ in KEYS]), np.array([number for _, number in KEYS], np.int64)]
    columns, statuses = index.lookup(asked, np.full(len(KEYS), as_of, np.int64))
    return answers([Status(status) for status in statuses], columns)


SETTINGS = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)


@SETTINGS
@given(rows=worlds(tombstones=True), w=TIMES, later=st.integers(0, 8 * SECOND), parts=st.integers(1, 3))
def test_at_w_or_later_the_store_answers_as_the_join_does(
    store: OnlineStore, rows: list[Row], w: int, later: int, parts: int
) -> None:
    materialise(store, rows, w, parts)
    given_online, joined = online(store, w + later), by_loop(rows, w + later)
    for key, mine, theirs in zip(KEYS, given_online, joined, strict=True):
        stale = any((r.city, r.number) == key and w < r.visible_ts <= w + later for r in rows)
        assert stale or mine == theirs
    assert online(store, w) == by_loop(rows, w)


@SETTINGS
@given(rows=worlds(tombstones=False), w=TIMES, parts=st.integers(1, 3))
def test_the_store_at_w_answers_as_the_index_of_batch_scoring_does(
    store: OnlineStore, rows: list[Row], w: int, parts: int
) -> None:
    assume(rows)
    materialise(store, rows, w, parts)
    assert online(store, w) == by_index(rows, w)


@SETTINGS
@given(rows=worlds(tombstones=True), w=TIMES, earlier=st.integers(1, 8 * SECOND))
def test_before_w_an_answer_is_future_or_the_join_s(
    store: OnlineStore, rows: list[Row], w: int, earlier: int
) -> None:
    """FUTURE exactly where the newest row at W was not visible yet; no value is ever taken from it."""
    materialise(store, rows, w, 1)
    as_of = w - earlier
    for key, mine, theirs in zip(KEYS, online(store, as_of), by_loop(rows, as_of), strict=True):
        at_w = [r for r in rows if (r.city, r.number) == key and r.visible_ts <= w]
        top = max(at_w, key=lambda r: (r.event_ts, r.created_ts, r.digest()), default=None)
        if top is not None and top.visible_ts > as_of:
            assert mine[0] is Status.FUTURE
            assert set(mine[1]) == {"None"}
        else:
            assert mine == theirs


@SETTINGS
@given(rows=worlds(tombstones=True), w=TIMES, step=st.integers(0, 4 * SECOND), late=worlds(tombstones=True))
def test_incremental_runs_leave_what_one_run_leaves(
    store: OnlineStore, rows: list[Row], w: int, step: int, late: list[Row]
) -> None:
    """What a run adds: rows of (W, T] of files it has seen, and of new files everything visible at T, late rows too."""
    materialise(store, [*rows, *late], w + step, 1)
    at_once = store.read([(VIEW, KEYS)])
    materialise(store, rows, w, 2)
    for part, after in ((rows, w), (late, None)):
        good, _, _ = read_batch(VIEW, arrow(part), after_ts=after, through_ts=w + step)
        store.write(VIEW, *stored(VIEW, newest(good)))
    assert store.read([(VIEW, KEYS)]) == at_once
