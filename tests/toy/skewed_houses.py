"""Requests of the toy model answered online and in batch, with something wrong on the online side; and what is wrong with which row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, Float64, Nullable, Strings, take, values_and_valid
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.evaluate import evaluate
from feature_pipelines.lookup import Status
from jobs.proof.pairs import NO_TIME, Pairs, Side
from jobs.proof.worlds import World
from tests.toy.house_bundle import house_columns
from tests.toy.houses import FEATURES, RATES
from tests.toy.workspace import rate_rows
from udfs.scorer import OutputSpec, Scorer

__all__ = ["DAY_US", "Answered", "Fault", "SkewedHouses", "other_features"]

DAY_US = 86_400_000_000
Fault = Callable[["SkewedHouses", "Answered"], "Answered"]


def area_squared(area_m2: Float64) -> Float64:
    """Area squared as somebody rewrote it, m^4. Never null."""
    return area_m2**1.5 * np.sqrt(area_m2) + 10.0


def other_features() -> FeatureSet:
    """Return the toy model's features with one function rewritten."""
    return replace(FEATURES, features=(area_squared, *FEATURES.features[1:]))


@dataclass
class Answered:
    """What one side works with: columns, look-ups, and the code and model that score them."""

    columns: dict[str, Column]
    statuses: NDArray[np.int8]
    event_ts: NDArray[np.int64]
    world: World
    feature_set: FeatureSet = FEATURES
    nudge_features: tuple[str, ...] = ()
    nudges_score: bool = False
    threshold: float | None = None
    platform: str = ""
    error: dict[int, str] = field(default_factory=dict)

    def side(self, n: int) -> Side:
        """Score."""
        scorer = self.world.scorer
        matrix = evaluate(self.feature_set, self.columns, scorer.constants, n)
        for name in self.nudge_features:
            row = self.feature_set.feature_names.index(name)
            matrix[row] = np.nextafter(matrix[row], np.inf)
        score = scorer.evaluator.score(matrix)
        if self.nudges_score:
            score = np.nextafter(score, np.inf)
        threshold = scorer.output.threshold if self.threshold is None else self.threshold
        error = np.array([self.error.get(i) for i in range(n)], dtype=np.object_)
        refused = np.array([code is not None for code in error])
        matrix[:, refused], score[refused] = np.nan, np.nan
        return Side(
            self.columns,
            matrix,
            score,
            None if threshold is None else score >= threshold,
            {"rates": self.statuses},
            {"rates": self.event_ts},
            error,
        )


class SkewedHouses:
    """n requests, their rates as of then, and the pairs that a fault on the online side makes of them."""

    def __init__(self, scorer: Scorer, n: int = 400, seed: int = 5) -> None:
        self.n = n
        self.scorer = replace(scorer, output=OutputSpec("classification", threshold=450.0))
        self.reference = World(self.scorer, "2", "digest-2", "print-2", "here")
        drawn = house_columns(n, seed)
        self.request = {f.name: drawn[f.name] for f in FEATURES.request}
        rates = rate_rows(400)
        times = np.stack(
            [rates.column("town").to_numpy(zero_copy_only=False), rates.column("event_ts").cast("int64")]
        )
        first = np.unique([f"{town} {time}" for town, time in times.T], return_index=True)[1]
        rates = rates.take(np.sort(first))  # no corrections: a late store then has rows of another event_ts
        self._rates = {name: rates.column(name).to_numpy(zero_copy_only=False) for name in rates.column_names}
        for name in ("event_ts", "created_ts"):
            self._rates[name] = rates.column(name).cast("int64").to_numpy()
        self._known: dict[Any, Any] = {}
        self.as_of = np.asarray(drawn["asked_ts"])

    def answered(self, lookup_shift: int = 0, town: Column | None = None) -> Answered:
        """Return what a side works with that looks its rates up as of so many microseconds later."""
        columns, statuses, event_ts = self.looked_up(self.as_of + lookup_shift, town)
        return Answered({**self.request, **columns}, statuses, event_ts, self.reference)

    def looked_up(
        self, as_of: NDArray[np.int64], town: Column | None = None
    ) -> tuple[dict[str, Column], NDArray[np.int8], NDArray[np.int64]]:
        """Return rates as of a time, row by row."""
        key = (as_of.tobytes(), () if town is None else tuple(values_and_valid(town)[0].tolist()))
        if key not in self._known:
            self._known[key] = self._look_up(as_of, town)
        return self._known[key]

    def _look_up(
        self, as_of: NDArray[np.int64], town: Column | None
    ) -> tuple[dict[str, Column], NDArray[np.int8], NDArray[np.int64]]:
        values, valid = values_and_valid(self.request["town"] if town is None else town)
        towns = values.tolist()
        statuses = np.full(self.n, Status.NOT_FOUND, dtype=np.int8)
        event_ts = np.full(self.n, NO_TIME, dtype=np.int64)
        found = {f.name: np.full(self.n, np.nan) for f in RATES.fields}
        rates = self._rates
        for i in range(self.n):
            if valid is not None and not valid[i]:
                statuses[i] = Status.NULL
                continue
            visible = (rates["town"] == towns[i]) & (rates["event_ts"] <= as_of[i])
            rows = np.flatnonzero(visible & (rates["created_ts"] <= as_of[i]))
            if not rows.size:
                continue
            newest = rows[np.lexsort((rates["created_ts"][rows], rates["event_ts"][rows]))[-1]]
            event_ts[i] = rates["event_ts"][newest]
            is_fresh = event_ts[i] >= as_of[i] - RATES.ttl_seconds * 1_000_000
            statuses[i] = Status.PRESENT if is_fresh else Status.EXPIRED
            for name in found if is_fresh else ():
                found[name][i] = rates[name][newest]
        return dict(found), statuses, event_ts

    def pairs(self, *faults: Fault) -> Pairs:
        """Return the pairs with these faults on the online side."""
        return self.pairs_of(self.online(*faults))

    def online(self, *faults: Fault) -> Answered:
        """Return the online side with these faults."""
        answered = self.answered()
        for fault in faults:
            answered = fault(self, answered)
        return answered

    def pairs_of(self, online: Answered, offline: Answered | None = None) -> Pairs:
        """Return the pairs of two sides."""
        n, world = self.n, online.world
        names = [str(i) for i in range(n)]
        return Pairs(
            row_id=names,
            as_of=self.as_of,
            served_ts=self.as_of,
            online=online.side(n),
            offline=(offline or self.answered()).side(n),
            version=[world.version] * n,
            digest=[world.digest] * n,
            fingerprint=[world.fingerprint] * n,
            configuration=["c"] * n,
            platform=[online.platform or world.platform_id] * n,
            request_in_table=np.ones(n, dtype=np.bool_),
            sent={f.name: np.ones(n, dtype=np.bool_) for f in FEATURES.request},
            process=["p"] * n,
            sequence=np.arange(n),
        )


def mapped(column: Any, change: Callable[[str], str]) -> Nullable[Strings]:
    """Return a column of nullable strings with each changed."""
    texts = [change(text) for text in column.values.tolist()]
    return Nullable(Strings.of(texts), column.valid)


def only(column: Column, other: Column, rows: NDArray[np.bool_]) -> Column:
    """Return the other column's values in those rows, the column's own elsewhere."""
    from feature_pipelines.columns import concat

    n = len(rows)
    return take(concat([column, other]), np.arange(n) + n * rows)
