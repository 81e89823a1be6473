"""The flights example has five views, two of them under one key, and 39 features: faults that touch many inputs have one cause."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from feature_pipelines.columns import Nullable, Strings
from feature_pipelines.evaluate import constants_from_json, evaluate, fit_constants
from feature_pipelines.features.flights import FEATURES
from feature_pipelines.lookup import Status
from jobs.proof.causes import Cause, explain
from jobs.proof.pairs import NO_TIME, Pairs, Side
from jobs.proof.worlds import World
from udfs.scorer import OutputSpec, Scorer
from udfs.trees_export import export_trees

N = 300
HOUR = 3_600_000_000
BY_PLANE = ("plane", "plane_history")
VIEWS = tuple(view.name for view in FEATURES.views)


def drawn(seed: int) -> dict[str, Any]:
    """Rows of every field, as random as the contract allows."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {}
    for f in FEATURES.sources:
        low, high = f.minimum, f.maximum
        if f.dtype.kind == "string":
            values: Any = Strings.of([f"{f.name[:2]}{i}" for i in rng.integers(0, 9, N)])
        elif f.dtype.is_float:
            values = rng.uniform(low if low is not None else -50.0, high if high is not None else 90.0, N)
            values[rng.random(N) < 0.03] = np.nan
        else:
            values = rng.integers(int(low or 1), int(high or 500), N, endpoint=True).astype(f.dtype.numpy)
        columns[f.name] = Nullable(values, rng.random(N) > 0.05) if f.nullable else values
    dep = 1_370_000_000_000_000 + rng.integers(0, 90 * 24 * 12, N) * (HOUR // 12)
    columns |= {"sched_dep_ts": dep, "sched_arr_ts": dep + rng.integers(40, 400, N) * 60_000_000}
    columns["sched_dep_utc_offset_minutes"] = np.full(N, -240, dtype=np.int32)
    tailnum = Strings.of([f"N{i}" for i in rng.integers(0, 99, N)])
    return columns | {"tailnum": Nullable(tailnum, np.ones(N, dtype=np.bool_))}


class Flights:
    """The batch's side, the model, and whatever an online side makes of both."""

    def __init__(self) -> None:
        self.columns, self.later = drawn(1), drawn(2)
        constants = constants_from_json(fit_constants(FEATURES, self.columns))
        matrix = evaluate(FEATURES, self.columns, constants, N)
        rng = np.random.default_rng(3)
        fitted = HistGradientBoostingClassifier(max_iter=15, min_samples_leaf=5, random_state=0)
        with threadpool_limits(1):
            fitted.fit(np.nan_to_num(matrix.T), rng.random(N) < 0.4)
        self.scorer = Scorer(
            FEATURES, constants, export_trees(fitted), OutputSpec("classification", threshold=0.5), {}
        )
        self.world = World(self.scorer, "4", "d4", "f4", "here")
        self.as_of = self.columns["sched_dep_ts"]
        self.event_ts = {view: self.as_of - rng.integers(1, 24, N) * HOUR for view in VIEWS}
        self.statuses = {view: np.zeros(N, dtype=np.int8) for view in VIEWS}

    def side(self, columns: Any = None, statuses: Any = None, event_ts: Any = None) -> Side:
        columns = {**self.columns, **(columns or {})}
        scores = self.scorer.score(columns, N)
        return Side(
            columns,
            scores.matrix,
            scores.outputs["score"],
            scores.outputs["label"],
            {**self.statuses, **(statuses or {})},
            {**self.event_ts, **(event_ts or {})},
            np.full(N, None, dtype=np.object_),
        )

    def pairs(self, online: Side, **changes: Any) -> Pairs:
        facts = {
            "version": "4",
            "digest": "d4",
            "fingerprint": "f4",
            "configuration": "c",
            "platform": "here",
        }
        made = Pairs(
            row_id=[""] * N,
            as_of=self.as_of,
            served_ts=self.as_of,
            online=online,
            offline=self.side(),
            request_in_table=np.ones(N, dtype=np.bool_),
            sent={},
            process=["p"] * N,
            sequence=np.arange(N),
            **{name: [value] * N for name, value in facts.items()},
        )
        return replace(made, **changes)

    def late(self, *views: str) -> dict[str, Any]:
        """Another, older row of these views."""
        names = [f.name for view in FEATURES.views if view.name in views for f in view.fields]
        return {
            "columns": {name: self.later[name] for name in names},
            "event_ts": {view: self.event_ts[view] - HOUR for view in views},
        }


@pytest.fixture(scope="module")
def flights() -> Flights:
    return Flights()


def shares(flights: Flights, pairs: Pairs, cause: Cause, where: str | None = None) -> float:
    """Which share of the differing rows has that cause, there."""
    rows = np.flatnonzero(pairs.differing())
    assert rows.size >= 30
    found = explain(pairs, flights.world, None)
    right = [found.cause[i] is cause and (where is None or found.where[i] == where) for i in rows]
    assert all(found.cause[i] is None for i in np.flatnonzero(~pairs.differing()))
    return float(np.mean(right))


def test_late_store_makes_every_view_stale_and_is_one_cause(flights: Flights) -> None:
    pairs = flights.pairs(flights.side(**flights.late(*VIEWS)))
    assert shares(flights, pairs, Cause.STALE) == 1
    found = explain(pairs, flights.world, None)
    assert ", ".join(VIEWS) in found.where
    assert "3600 s older" in found.detail


def test_two_of_five_views_are_named(flights: Flights) -> None:
    pairs = flights.pairs(flights.side(**flights.late("weather", "route_history")))
    assert shares(flights, pairs, Cause.STALE, "weather, route_history") >= 0.97


def test_view_whose_difference_changes_no_feature_is_not_named(flights: Flights) -> None:
    late = flights.late("weather", "route_history")
    maker = flights.columns["plane_manufacturer"]
    late["columns"]["plane_manufacturer"] = Nullable(
        Strings(maker.values.codes, tuple(f"{name} INDUSTRIE" for name in maker.values.categories)),
        maker.valid,
    )
    late["event_ts"]["plane"] = flights.event_ts["plane"] - HOUR
    pairs = flights.pairs(flights.side(**late))
    assert shares(flights, pairs, Cause.STALE, "weather, route_history") >= 0.97


def test_local_times_taken_for_utc_are_one_cause_with_their_offset(flights: Flights) -> None:
    shifted = {name: flights.columns[name] - 4 * HOUR for name in ("sched_dep_ts", "sched_arr_ts")}
    pairs = flights.pairs(flights.side(shifted))
    assert shares(flights, pairs, Cause.DATA_TYPE, "sched_dep_ts, sched_arr_ts") >= 0.99
    assert "local time taken for UTC (-04:00)" in explain(pairs, flights.world, None).detail


def test_one_time_of_two_that_is_local_is_named_alone(flights: Flights) -> None:
    pairs = flights.pairs(flights.side({"sched_arr_ts": flights.columns["sched_arr_ts"] - 4 * HOUR}))
    assert shares(flights, pairs, Cause.DATA_TYPE, "sched_arr_ts") == 1


def test_views_found_by_another_key_are_the_keys_difference(flights: Flights) -> None:
    tailnum = flights.columns["tailnum"]
    nothing = {
        f.name: (
            Nullable(flights.columns[f.name].values, np.zeros(N, dtype=np.bool_))
            if f.nullable
            else np.full(N, np.nan)
        )
        for view in FEATURES.views
        if view.name in BY_PLANE
        for f in view.fields
    }
    online = flights.side(
        {**nothing, "tailnum": Nullable(tailnum.values, np.zeros(N, dtype=np.bool_))},
        {view: np.full(N, Status.NULL, dtype=np.int8) for view in BY_PLANE},
        {view: np.full(N, NO_TIME) for view in BY_PLANE},
    )
    assert shares(flights, flights.pairs(online), Cause.NULL_FILL, "tailnum") == 1


def test_stored_values_that_went_through_float32_are_of_types(flights: Flights) -> None:
    fields = [f.name for f in FEATURES.views[0].fields if f.dtype.kind == "float64"]
    rounded = {name: flights.columns[name].astype(np.float32).astype(np.float64) for name in fields}
    view = FEATURES.views[0].name
    assert shares(flights, flights.pairs(flights.side(rounded)), Cause.DATA_TYPE, view) == 1


def test_field_that_the_caller_sent_is_named_and_not_its_view(flights: Flights) -> None:
    columns = {"weather_temp_f": flights.columns["weather_temp_f"] + 1.0}
    sent = {"weather_temp_f": np.ones(N, dtype=np.bool_)}
    pairs = flights.pairs(flights.side(columns), overrides=sent)
    assert shares(flights, pairs, Cause.EXTRACTED, "weather_temp_f") == 1
    older = flights.late("weather")
    older["columns"] |= columns
    both = explain(flights.pairs(flights.side(**older), overrides=sent), flights.world, None)
    part = [both.parts[i] for i in range(N) if both.cause[i] is Cause.INTERACTION]
    assert set(part) == {(Cause.STALE, Cause.EXTRACTED)}
    assert len(part) > N / 2


def test_feature_that_the_log_does_not_hold_is_judged_by_the_score(flights: Flights) -> None:
    online = flights.side(**flights.late("weather"))
    hidden = [FEATURES.feature_names.index(n) for n in FEATURES.feature_names if n.startswith("origin_")]
    matrix = online.matrix.copy()
    matrix[hidden] = flights.side().matrix[hidden]
    everywhere = np.ones(N, dtype=np.bool_)
    unlogged = {FEATURES.feature_names[i]: everywhere for i in hidden}
    pairs = flights.pairs(replace(online, matrix=matrix), unlogged=unlogged)
    assert shares(flights, pairs, Cause.STALE, "weather") == 1


def test_three_causes_together_are_an_interaction_of_three(flights: Flights) -> None:
    late = flights.late("route_history")
    missing = [f.name for view in FEATURES.views if view.name == "airport_congestion" for f in view.fields]
    late["columns"] |= {"sched_dep_ts": flights.columns["sched_dep_ts"] + 345 * 60_000_000}
    for name in missing:
        column = flights.columns[name]
        late["columns"][name] = (
            Nullable(column.values, np.zeros(N, dtype=np.bool_))
            if isinstance(column, Nullable)
            else np.full(N, np.nan)
        )
    status = {"airport_congestion": np.full(N, Status.UNAVAILABLE, dtype=np.int8)}
    found = explain(flights.pairs(flights.side(**late, statuses=status)), flights.world, None)
    three = (Cause.MISSING, Cause.STALE, Cause.DATA_TYPE)
    assert np.mean([parts == three for parts in found.parts]) >= 0.95
    assert "airport_congestion, sched_dep_ts" in found.where[0]
