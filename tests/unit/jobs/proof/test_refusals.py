"""A row that one side refused is explained by its reason, by what became of its look-ups, or by replaying the refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from feature_pipelines.columns import Float64, Int64, Nullable
from feature_pipelines.lookup import Status
from jobs.proof.causes import Cause, Explained, explain
from jobs.proof.worlds import World
from tests.toy.houses import FEATURES
from tests.toy.skewed_houses import SkewedHouses, mapped


def refused(houses: SkewedHouses, code: str, rows: int = 20, **changes: Any) -> Explained:
    """Why the first rows are refused online."""
    online = replace(houses.answered(), error=dict.fromkeys(range(rows), code), **changes)
    return explain(houses.pairs_of(online), houses.reference, None)


def statuses(houses: SkewedHouses, status: Status) -> Any:
    return np.full(houses.n, status, dtype=np.int8)


def present(houses: SkewedHouses, rows: int = 20) -> list[int]:
    return [i for i in range(rows) if houses.answered().statuses[i] == Status.PRESENT]


@pytest.mark.parametrize(
    ("status", "code", "cause"),
    [
        (Status.NOT_FOUND, "STORED_FEATURES_MISSING", Cause.MISSING),
        (Status.NULL, "STORED_FEATURES_MISSING", Cause.MISSING),
        (Status.UNAVAILABLE, "STORE_UNAVAILABLE", Cause.MISSING),
        (Status.UNAVAILABLE, "STORED_VALUE_UNREADABLE", Cause.MISSING),
        (Status.EXPIRED, "STORED_FEATURES_MISSING", Cause.EXPIRED),
        (Status.FUTURE, "AS_OF_BEFORE_STORE", Cause.FUTURE),
    ],
)
def test_status_of_the_view_says_why_it_refused(
    houses: SkewedHouses, status: Status, code: str, cause: Cause
) -> None:
    found = refused(houses, code, statuses=statuses(houses, status))
    rows = present(houses)
    assert len(rows) >= 5
    assert {(found.cause[i], found.where[i]) for i in rows} == {(cause, "rates")}
    assert {found.detail[i] for i in rows} == {f"refused online: {code}"}


def test_refusal_of_what_the_batch_found_missing_too_is_the_policys(houses: SkewedHouses) -> None:
    found = refused(houses, "STORED_FEATURES_MISSING")
    alike = [i for i in range(20) if i not in present(houses)]
    assert alike
    assert {(found.cause[i], found.where[i]) for i in alike} == {(Cause.CONFIGURATION, "rates")}


def test_process_that_could_not_reproduce_the_model_is_another_platform(houses: SkewedHouses) -> None:
    found = refused(houses, "MODEL_NOT_REPRODUCED")
    assert set(found.cause[:20]) == {Cause.PLATFORM}
    assert set(found.where[:20]) == {"compiled loop"}


def test_view_that_no_store_could_answer_for_is_missing(houses: SkewedHouses) -> None:
    found = refused(houses, "STORED_FEATURES_MISSING")
    assert {(found.cause[i], found.where[i]) for i in present(houses)} == {(Cause.MISSING, "rates")}


def test_view_refused_under_another_key_is_the_keys_doing(houses: SkewedHouses) -> None:
    side = houses.answered()
    columns = {**side.columns, "town": mapped(side.columns["town"], str.upper)}
    found = refused(
        houses,
        "STORED_FEATURES_MISSING",
        columns={**columns, **houses.looked_up(houses.as_of, columns["town"])[0]},
        statuses=statuses(houses, Status.NOT_FOUND),
    )
    assert {(found.cause[i], found.where[i]) for i in present(houses)} == {(Cause.EXTRACTED, "town")}


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("WRONG_TYPE", Cause.DATA_TYPE),
        ("BAD_TIMESTAMP", Cause.DATA_TYPE),
        ("NULL_NOT_ALLOWED", Cause.NULL_FILL),
    ],
)
def test_contract_refuses_a_type_or_a_null(houses: SkewedHouses, code: str, cause: Cause) -> None:
    side = houses.answered()
    columns = {**side.columns, "area_m2": np.full(houses.n, np.nan)}
    found = refused(houses, code, columns=columns)
    assert {(found.cause[i], found.where[i]) for i in range(20)} == {(cause, "area_m2")}
    assert found.cause[20:] != [None] * (houses.n - 20)


def raised_with(houses: SkewedHouses, rooms: Any, served: World | None = None) -> Explained:
    """Why rows are refused of which a feature raised on these rooms."""
    pairs = houses.pairs()
    columns = {**pairs.online.columns, "rooms": rooms}
    error = np.full(houses.n, "FEATURE_ERROR", dtype=np.object_)
    pairs = replace(pairs, online=replace(pairs.online, columns=columns, error=error))
    if served is not None:
        pairs = replace(pairs, digest=[served.digest] * houses.n)
    return explain(pairs.take(np.arange(20)), houses.reference, served)


def test_feature_that_raised_on_a_logged_value_is_replayed(houses: SkewedHouses) -> None:
    was_valid = houses.request["rooms"].valid[:20]  # type: ignore[union-attr]
    found = raised_with(houses, Nullable(np.full(houses.n, 2**53 + 100), np.ones(houses.n, dtype=np.bool_)))
    assert set(found.where) == {"rooms"}
    expected = [Cause.EXTRACTED if valid else Cause.NULL_FILL for valid in was_valid]
    assert found.cause == expected


def test_feature_that_raised_for_no_reason_that_replay_finds_is_unexplained(houses: SkewedHouses) -> None:
    found = refused(houses, "FEATURE_ERROR", rows=5)
    assert {(found.cause[i], found.where[i]) for i in range(5)} == {(Cause.UNEXPLAINED, "")}
    assert refused(houses, "WHATEVER", rows=1).cause[0] is Cause.UNEXPLAINED


def area_squared(area_m2: Float64) -> Float64:
    """A function that refuses every house."""
    raise ValueError(area_m2)


def rooms_or_minus_one(rooms: Nullable[Int64]) -> Int64:
    """A function that refuses large houses. Never null."""
    if (rooms.values > 100).any():
        raise ValueError(rooms)
    return np.where(rooms.valid, rooms.values, -1)


def served_by(houses: SkewedHouses, function: Any) -> World:
    functions = [function if f.__name__ == function.__name__ else f for f in FEATURES.features]
    scorer = replace(houses.scorer, feature_set=replace(FEATURES, features=tuple(functions)))
    return World(scorer, "7", "digest-7", "print-7", "here")


def test_refusal_of_the_served_version_is_the_versions(houses: SkewedHouses) -> None:
    served = served_by(houses, area_squared)
    online = replace(houses.answered(), error=dict.fromkeys(range(3), "FEATURE_ERROR"), world=served)
    found = explain(houses.pairs_of(online), houses.reference, served)
    assert found.cause[:3] == [Cause.MODEL_VERSION] * 3
    assert found.where[:3] == ["version 7"] * 3


def test_refusal_of_the_served_version_for_a_logged_value_is_both(houses: SkewedHouses) -> None:
    served = served_by(houses, rooms_or_minus_one)
    rooms: Any = houses.request["rooms"]
    found = raised_with(houses, Nullable(rooms.values + 1_000, rooms.valid), served)
    valid = int(np.flatnonzero(rooms.valid)[0])
    assert found.parts[valid] == (Cause.MODEL_VERSION, Cause.EXTRACTED)
    assert found.where[valid] == "version 7, rooms"


# The other side


def test_row_that_the_batch_refused_is_explained_by_what_differs(houses: SkewedHouses) -> None:
    offline = houses.answered()
    offline.columns = {**offline.columns, "area_m2": np.full(houses.n, np.nan)}
    offline.error = dict.fromkeys(range(20), "NULL_NOT_ALLOWED")
    pairs = houses.pairs_of(houses.answered(), offline)
    found = explain(pairs, houses.reference, None)
    assert {(found.cause[i], found.where[i]) for i in range(20)} == {(Cause.NULL_FILL, "area_m2")}


def test_stored_row_that_the_table_no_longer_has_is_stale_and_one_of_the_future_is_not(
    houses: SkewedHouses,
) -> None:
    online, offline = houses.answered(), houses.answered()
    offline.statuses = statuses(houses, Status.NOT_FOUND)
    nothing = {name: np.full(houses.n, np.nan) for name in ("rate_pct", "rate_pct_floor")}
    offline.columns = {**offline.columns, **nothing}
    rows = present(houses)
    found = explain(houses.pairs_of(online, offline), houses.reference, None)
    assert {(found.cause[i], found.where[i]) for i in rows} == {(Cause.STALE, "rates")}
    online.event_ts = houses.as_of + 1
    found = explain(houses.pairs_of(online, offline), houses.reference, None)
    assert {(found.cause[i], found.where[i]) for i in rows} == {(Cause.FUTURE, "rates")}
