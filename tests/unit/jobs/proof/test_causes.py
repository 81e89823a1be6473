"""What is wrong with a row is found by replay: each fault alone, every two together, on rows whose fault nobody tells."""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from feature_pipelines.columns import Float64, Int64, Nullable
from feature_pipelines.evaluate import evaluate
from feature_pipelines.lookup import Status
from feature_pipelines.parity import differing_bits
from jobs.proof.causes import Cause, Explained, explain
from jobs.proof.pairs import Pairs, Side
from jobs.proof.worlds import World
from tests.toy.house_bundle import house_columns
from tests.toy.houses import FEATURES
from tests.toy.skewed_houses import DAY_US, Answered, SkewedHouses, mapped, only, other_features
from udfs.scorer import OutputSpec
from udfs.trees_export import export_trees

HOUR_US = 3_600_000_000


@functools.cache
def other_version(houses: SkewedHouses) -> World:
    """Another fit of the same features."""
    columns = house_columns(200, seed=77)
    matrix = evaluate(FEATURES, columns, houses.scorer.constants, 200)
    fitted = fit(matrix, matrix[0] ** 0.5 * 3)
    scorer = replace(houses.scorer, evaluator=export_trees(fitted))
    return World(scorer, "1", "digest-1", "print-2", "here")


def fit(matrix: Any, target: Any) -> HistGradientBoostingRegressor:
    with threadpool_limits(1):
        return HistGradientBoostingRegressor(max_iter=5, random_state=0).fit(matrix.T, target)


def new_code(houses: SkewedHouses) -> World:
    """The same estimator behind features of which one was rewritten, under a fingerprint of its own."""
    scorer = replace(houses.scorer, feature_set=other_features())
    return World(scorer, "3", "digest-3", "print-3", "here")


# Faults: each changes the online side of some rows and says no more


def stale(houses: SkewedHouses, side: Answered) -> Answered:
    columns, statuses, event_ts = houses.looked_up(houses.as_of - 2 * DAY_US, side.columns["town"])
    was_there = statuses == Status.PRESENT
    return replaced_view(side, was_there, columns, statuses, event_ts)


def future(houses: SkewedHouses, side: Answered) -> Answered:
    columns, statuses, event_ts = houses.looked_up(houses.as_of + 3 * DAY_US, side.columns["town"])
    return replaced_view(side, event_ts > houses.as_of, columns, statuses, event_ts)


def missing(houses: SkewedHouses, side: Answered) -> Answered:
    nothing = {name: np.full(houses.n, np.nan) for name in ("rate_pct", "rate_pct_floor")}
    rows = np.arange(houses.n) % 3 > 0
    return replaced_view(side, rows, nothing, np.full(houses.n, Status.NOT_FOUND, np.int8), side.event_ts)


def expired(houses: SkewedHouses, side: Answered) -> Answered:
    nothing = {name: np.full(houses.n, np.nan) for name in ("rate_pct", "rate_pct_floor")}
    rows = (np.arange(houses.n) % 3 > 0) & (side.statuses == Status.PRESENT)
    return replaced_view(side, rows, nothing, np.full(houses.n, Status.EXPIRED, np.int8), side.event_ts)


def replaced_view(
    side: Answered, rows: NDArray[np.bool_], columns: dict[str, Any], statuses: Any, event_ts: Any
) -> Answered:
    taken = {name: only(side.columns[name], column, rows) for name, column in columns.items()}
    return replace(
        side,
        columns={**side.columns, **taken},
        statuses=np.where(rows, statuses, side.statuses),
        event_ts=np.where(rows, event_ts, side.event_ts),
    )


def with_column(side: Answered, name: str, column: Any) -> Answered:
    return replace(side, columns={**side.columns, name: column})


def float32(houses: SkewedHouses, side: Answered) -> Answered:
    return with_column(side, "area_m2", side.columns["area_m2"].astype(np.float32).astype(np.float64))  # type: ignore[union-attr]


def local_time(houses: SkewedHouses, side: Answered) -> Answered:
    return with_column(side, "asked_ts", side.columns["asked_ts"] + np.int64(345 * 60_000_000))  # type: ignore[operator]


def null_filled(houses: SkewedHouses, side: Answered) -> Answered:
    rooms: Any = side.columns["rooms"]
    return with_column(side, "rooms", Nullable(rooms.values, np.ones(houses.n, dtype=np.bool_)))


def extracted(houses: SkewedHouses, side: Answered) -> Answered:
    rooms: Any = side.columns["rooms"]
    return with_column(side, "rooms", Nullable(rooms.values + 1, rooms.valid))


def measured_anew(houses: SkewedHouses, side: Answered) -> Answered:
    """Some areas are ordinary other values: of one part whole ones, as if cut to integers."""
    area: Any = side.columns["area_m2"]
    other = np.where(np.arange(houses.n) % 2 == 0, np.trunc(area), np.round(area * 1.07, 2))
    return with_column(side, "area_m2", np.where(np.arange(houses.n) % 3 == 0, other, area))


def asked_again(houses: SkewedHouses, side: Answered) -> Answered:
    """Some asked at another time: of one part an hour later to the microsecond, as if in another zone."""
    asked: Any = side.columns["asked_ts"]
    rows = np.arange(houses.n)
    later = np.where(rows % 2 == 0, HOUR_US, HOUR_US + 60_000_000 * (1 + rows % 13))
    return with_column(side, "asked_ts", np.where(rows % 3 == 0, asked + later, asked))


def key_shouted(houses: SkewedHouses, side: Answered) -> Answered:
    town = mapped(side.columns["town"], str.upper)
    columns, statuses, event_ts = houses.looked_up(houses.as_of, town)
    everywhere = np.ones(houses.n, dtype=np.bool_)
    return with_column(replaced_view(side, everywhere, columns, statuses, event_ts), "town", town)


def changed_code(houses: SkewedHouses, side: Answered) -> Answered:
    return replace(side, feature_set=other_features())


def new_fingerprint(houses: SkewedHouses, side: Answered) -> Answered:
    return replace(side, feature_set=other_features(), world=new_code(houses))


def old_version(houses: SkewedHouses, side: Answered) -> Answered:
    return replace(side, world=other_version(houses))


def threshold(houses: SkewedHouses, side: Answered) -> Answered:
    return replace(side, threshold=400.0)


def platform_features(houses: SkewedHouses, side: Answered) -> Answered:
    return replace(side, nudge_features=("area_squared",), platform="there")


def platform_score(houses: SkewedHouses, side: Answered) -> Answered:
    return replace(side, nudges_score=True, platform="there")


FAULTS = {
    stale: Cause.STALE,
    future: Cause.FUTURE,
    missing: Cause.MISSING,
    expired: Cause.EXPIRED,
    float32: Cause.DATA_TYPE,
    local_time: Cause.DATA_TYPE,
    null_filled: Cause.NULL_FILL,
    extracted: Cause.EXTRACTED,
    measured_anew: Cause.EXTRACTED,
    asked_again: Cause.EXTRACTED,
    key_shouted: Cause.EXTRACTED,
    changed_code: Cause.FEATURE_CODE,
    new_fingerprint: Cause.FEATURE_CODE,
    old_version: Cause.MODEL_VERSION,
    threshold: Cause.CONFIGURATION,
    platform_features: Cause.PLATFORM,
    platform_score: Cause.PLATFORM,
}
WHERE = {
    stale: "rates",
    future: "rates",
    missing: "rates",
    expired: "rates",
    float32: "area_m2",
    local_time: "asked_ts",
    null_filled: "rooms",
    extracted: "rooms",
    measured_anew: "area_m2",
    asked_again: "asked_ts",
    key_shouted: "town",
    changed_code: "area_squared",
    new_fingerprint: "area_squared",
    old_version: "version 1",
    threshold: "threshold",
    platform_features: "area_squared",
    platform_score: "score",
}
ONE_PLACE = (
    {stale, future, missing, expired},
    {null_filled, extracted},
    {float32, measured_anew},
    {local_time, asked_again},
    {changed_code, new_fingerprint, platform_features},
    {platform_features, platform_score},
    {key_shouted, stale, future, missing, expired},
    {new_fingerprint, old_version, platform_score},
)
"""Faults of which one hides the other: both change the same value, or the same version answers."""

PAIRS = [
    (one, other)
    for one, other in itertools.combinations(FAULTS, 2)
    if not any({one, other} <= place for place in ONE_PLACE)
]


def explained(houses: SkewedHouses, pairs: Pairs, *faults: Any) -> Explained:
    worlds = {new_fingerprint: new_code, old_version: other_version}
    served = next((worlds[fault](houses) for fault in faults if fault in worlds), None)
    return explain(pairs, houses.reference, served)


def same(one: Side, other: Side) -> NDArray[np.bool_]:
    found = ~differing_bits(one.matrix, other.matrix).any(axis=0) & ~differing_bits(one.score, other.score)
    return found if one.label is None or other.label is None else found & (one.label == other.label)


def share_right(found: Explained, rows: NDArray[np.int64], expected: list[tuple[Cause, ...]]) -> float:
    right = [
        (found.parts[row] or (found.cause[row],)) == causes
        for row, causes in zip(rows.tolist(), expected, strict=True)
    ]
    return float(np.mean(right))


def test_rows_that_are_equal_have_no_cause(houses: SkewedHouses) -> None:
    found = explain(houses.pairs(), houses.reference, None)
    assert set(found.cause) == {None}
    assert set(found.where) == {""}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_one_fault_is_named_where_it_is(houses: SkewedHouses, fault: Any) -> None:
    pairs = houses.pairs(fault)
    rows = np.flatnonzero(pairs.differing())
    found = explained(houses, pairs, fault)
    assert rows.size >= 15
    assert [row for row, cause in enumerate(found.cause) if cause is not None] == rows.tolist()
    assert share_right(found, rows, [(FAULTS[fault],)] * rows.size) >= 0.99
    assert np.mean([found.where[row] == WHERE[fault] for row in rows]) >= 0.99


@pytest.mark.parametrize("faults", PAIRS, ids=lambda faults: " and ".join(fault.__name__ for fault in faults))
def test_two_faults_are_told_apart_row_by_row(houses: SkewedHouses, faults: tuple[Any, Any]) -> None:
    pairs = houses.pairs(*faults)
    rows = np.flatnonzero(pairs.differing())
    by_itself = [same(pairs.online, houses.online(fault).side(houses.n)) for fault in faults]
    both = tuple(sorted({FAULTS[fault] for fault in faults}, key=list(Cause).index))
    expected = [
        next(((FAULTS[fault],) for fault, alone in zip(faults, by_itself, strict=True) if alone[row]), both)
        for row in rows
    ]
    assert share_right(explained(houses, pairs, *faults), rows, expected) >= 0.99


# What is not a fault of the list


def test_version_that_cannot_be_loaded_leaves_only_what_needs_it_unexplained(houses: SkewedHouses) -> None:
    pairs = houses.pairs(old_version)
    found = explain(pairs, houses.reference, None)
    rows = np.flatnonzero(pairs.differing())
    assert {found.cause[row] for row in rows} == {Cause.UNEXPLAINED}
    assert "version 1 cannot be loaded" in found.detail[rows[0]]
    unlike = replace(houses.pairs(float32), digest=["of a version that is gone"] * houses.n)
    rows = np.flatnonzero(unlike.differing())
    found = explain(unlike, houses.reference, None)
    assert {found.cause[row] for row in rows} == {Cause.DATA_TYPE}


def test_version_of_other_features_is_one_thing(houses: SkewedHouses) -> None:
    others = replace(FEATURES, features=(*other_features().features[:-1], large))
    columns = house_columns(200, seed=77)
    matrix = evaluate(others, columns, houses.scorer.constants, 200)
    fitted = fit(matrix, columns["area_m2"])
    scorer = replace(houses.scorer, feature_set=others, evaluator=export_trees(fitted))
    served = World(scorer, "9", "digest-9", "print-9", "here")
    side = replace(houses.answered(), world=served, feature_set=others)
    logged = side.side(houses.n)
    offline = houses.answered().side(houses.n)
    matrix = np.concatenate([logged.matrix[:-1], offline.matrix[-1:]])
    pairs = houses.pairs_of(replace(side, world=houses.reference, feature_set=FEATURES))
    pairs = replace(
        pairs,
        online=replace(logged, matrix=matrix),
        digest=["digest-9"] * houses.n,
        unlogged={"asked_hour": np.ones(houses.n, dtype=np.bool_)},
    )
    found = explain(pairs, houses.reference, served)
    rows = np.flatnonzero(pairs.differing())
    assert rows.size > houses.n * 0.9
    assert {(found.cause[row], found.where[row]) for row in rows} == {(Cause.MODEL_VERSION, "version 9")}


def large(area_m2: Float64, rooms: Nullable[Int64]) -> Float64:
    """Whether a house is large. Never null."""
    return np.where((area_m2 > 100.0) & rooms.valid, area_m2, 0.0)


def test_version_that_changed_code_and_model_is_both(houses: SkewedHouses) -> None:
    both = replace(
        new_code(houses), scorer=replace(other_version(houses).scorer, feature_set=other_features())
    )
    side = replace(houses.answered(), world=both, feature_set=other_features())
    pairs = houses.pairs_of(side)
    found = explain(pairs, houses.reference, both)
    assert set(found.parts) == {(Cause.MODEL_VERSION, Cause.FEATURE_CODE)}
    assert set(found.where) == {"version 3, area_squared"}


def test_default_of_a_view_without_row_is_a_null_filled_otherwise(houses: SkewedHouses) -> None:
    online, offline = houses.answered(), houses.answered()
    absent = online.statuses == Status.NOT_FOUND
    for side, default in ((online, 3.0), (offline, 2.0)):
        filled = np.where(absent, default, side.columns["rate_pct"])  # type: ignore[arg-type]
        floor = np.where(absent, 1.0, side.columns["rate_pct_floor"])  # type: ignore[arg-type]
        side.columns = {**side.columns, "rate_pct": filled, "rate_pct_floor": floor}
    pairs = houses.pairs_of(online, offline)
    rows = np.flatnonzero(pairs.differing())
    assert rows.tolist() == np.flatnonzero(absent).tolist()
    found = explain(pairs, houses.reference, None)
    assert {(found.cause[row], found.where[row]) for row in rows} == {(Cause.NULL_FILL, "rates")}


def test_cause_that_only_a_feature_without_log_shows_is_not_claimed(houses: SkewedHouses) -> None:
    pairs = houses.pairs(stale, float32)
    gap = FEATURES.feature_names.index("rate_pct_gap")
    matrix = pairs.online.matrix.copy()
    matrix[gap] = pairs.offline.matrix[gap]
    pairs = replace(
        pairs,
        online=replace(pairs.online, matrix=matrix),
        unlogged={"rate_pct_gap": np.ones(houses.n, dtype=np.bool_)},
    )
    alone = houses.online(float32).side(houses.n)
    rows = np.flatnonzero(pairs.differing() & ~differing_bits(alone.score, pairs.online.score))
    assert rows.size > houses.n / 2
    found = explain(pairs, houses.reference, None)
    assert {found.cause[row] for row in rows} == {Cause.DATA_TYPE}


def test_constants_are_the_models_and_not_the_codes(houses: SkewedHouses) -> None:
    towns = tuple(reversed(houses.scorer.constants["towns"]))
    scorer = replace(houses.scorer, constants={"towns": towns})
    served = World(scorer, "8", "digest-8", "print-2", "here")
    pairs = houses.pairs_of(replace(houses.answered(), world=served))
    found = explain(pairs, houses.reference, served)
    rows = np.flatnonzero(pairs.differing())
    assert rows.size > houses.n / 2
    assert {(found.cause[row], found.where[row]) for row in rows} == {(Cause.MODEL_VERSION, "version 8")}


def test_labels_that_no_threshold_gives_are_unexplained(houses: SkewedHouses) -> None:
    pairs = houses.pairs()
    label = np.random.default_rng(1).random(houses.n) < 0.5
    pairs = replace(pairs, online=replace(pairs.online, label=label))
    found = explain(pairs, houses.reference, None)
    assert {found.cause[row] for row in np.flatnonzero(pairs.differing())} == {Cause.UNEXPLAINED}


def test_score_that_nothing_gives_is_unexplained(houses: SkewedHouses) -> None:
    pairs = houses.pairs(float32)
    pairs = replace(pairs, online=replace(pairs.online, score=pairs.online.score + 1e-3))
    assert set(explain(pairs, houses.reference, None).cause) == {Cause.UNEXPLAINED}


def test_batch_that_is_not_what_its_code_gives_explains_nothing(houses: SkewedHouses) -> None:
    pairs = houses.pairs()
    pairs = replace(pairs, offline=replace(pairs.offline, score=pairs.offline.score + 1e-3))
    found = explain(pairs, houses.reference, None)
    assert set(found.cause) == {Cause.UNEXPLAINED}
    assert set(found.detail) == {"the batch's side is not what its code gives here"}


def test_regression_has_no_labels_to_compare(houses: SkewedHouses) -> None:
    scorer = replace(houses.scorer, output=OutputSpec("regression"))
    reference = replace(houses.reference, scorer=scorer)
    pairs = houses.pairs(float32)
    pairs = replace(
        pairs, online=replace(pairs.online, label=None), offline=replace(pairs.offline, label=None)
    )
    rows = np.flatnonzero(pairs.differing())
    assert {explain(pairs, reference, None).cause[row] for row in rows} == {Cause.DATA_TYPE}


def test_rows_are_explained_alike_alone_and_among_others(houses: SkewedHouses) -> None:
    pairs = houses.pairs(stale, float32)
    whole = explain(pairs, houses.reference, None)
    for row in range(0, houses.n, 37):
        alone = explain(pairs.take(np.array([row])), houses.reference, None)
        assert (alone.cause[0], alone.where[0], alone.parts[0], alone.detail[0]) == (
            whole.cause[row],
            whole.where[row],
            whole.parts[row],
            whole.detail[row],
        )


def test_no_rows_have_no_causes(houses: SkewedHouses) -> None:
    empty = houses.pairs().take(np.array([], dtype=np.int64))
    assert explain(empty, houses.reference, None) == Explained([], [], [], [])
