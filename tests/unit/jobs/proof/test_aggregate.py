"""Counts add up whichever way the rows were cut, and quantiles are as close as they say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from jobs.proof.aggregate import WORST, FieldCounts, Totals
from jobs.proof.histogram import Histogram

HOUR = 3_600_000_000


def test_small_integers_are_exact_and_others_within_a_sixteenth() -> None:
    rng = np.random.default_rng(1)
    for values in (rng.integers(1, 32, 999).astype(float), np.exp(rng.normal(0, 20, 999)), rng.random(999)):
        seen = Histogram()
        for part in np.array_split(values, 7):
            other = Histogram()
            other.add(part)
            seen.merge(Histogram.from_json(json.loads(json.dumps(other.to_json()))))
        found = seen.quantiles()
        assert found["max"] == values.max()
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            exact = float(np.quantile(values, share, method="inverted_cdf"))
            assert exact * 15 / 16 <= found[name] <= exact
            if values.max() < 32 and values.min() >= 1:
                assert found[name] == exact
    assert Histogram().quantiles() == {}


def test_classes_are_powers_of_two() -> None:
    seen = Histogram()
    seen.add(np.array([0.0, 1.0, 2.0, 3.0, 4.0, 2.0**63]))
    assert seen.powers() == [
        {"at_least": 0.0, "below": 1.0, "rows": 1},
        {"at_least": 1.0, "below": 2.0, "rows": 1},
        {"at_least": 2.0, "below": 4.0, "rows": 2},
        {"at_least": 4.0, "below": 8.0, "rows": 1},
        {"at_least": 2.0**63, "below": 2.0**64, "rows": 1},
    ]


def test_nulls_of_one_side_are_counted_and_have_no_distance() -> None:
    counts = FieldCounts()
    nan = np.nan
    counts.add(10, np.array([nan, 1.0, 1.0]), np.array([1.0, nan, np.nextafter(1.0, 2)]))
    found = counts.skew("x")
    assert (found.compared, found.exact, found.differing) == (10, 7, 3)
    assert (found.online_only_null, found.offline_only_null) == (1, 1)
    assert found.ulps["max"] == 1.0
    assert found.absolute["max"] == np.spacing(1.0)


def totals(times: Any, differing: Any, flips: Any, ulps: Any) -> Totals:
    made = Totals()
    made.add_hours(np.array(times), np.array(differing), np.array(flips), np.array(ulps, np.uint64))
    made.counts["compared"] += len(times)
    made.add_version("1", "d", len(times), sum(differing), sum(flips))
    made.add_cause("STALE", "rates", "", sum(differing), sum(flips))
    made.add_worst([{"rank": [0, float(u)], "row_id": str(u)} for u in ulps])
    made.fields["score"].add(len(times), np.array([1.0]), np.array([2.0]))
    return made


def test_totals_of_parts_are_those_of_the_whole() -> None:
    most = np.iinfo(np.uint64).max
    one = totals([0, 1, HOUR], [True, False, True], [False, False, True], [3, 0, most])
    other = totals([HOUR + 1], [True], [True], [9])
    merged = Totals.from_json(json.loads(json.dumps(one.to_json())))
    merged.merge(Totals.from_json(json.loads(json.dumps(other.to_json()))))
    assert merged.hours == {0: [2, 1, 0, 3.0], HOUR: [2, 2, 2, 9.0]}
    assert merged.versions == {("1", "d"): [4, 3, 2]}
    assert merged.causes == {("STALE", "rates", ""): [3, 2]}
    assert merged.counts["compared"] == 4
    assert merged.fields["score"].skew("score").differing == 2


@pytest.mark.parametrize("n", [3, 50])
def test_only_the_worst_are_kept_in_order(n: int) -> None:
    made = Totals()
    for i in np.random.default_rng(1).permutation(n).tolist():
        made.add_worst([{"rank": [0, i]}])
    assert [row["rank"][1] for row in made.worst] == list(range(n - 1, -1, -1))[:WORST]
