"""Distributions of scores: exact counts in aligned bins that add up, whatever was seen first and however wide it became."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.dashboard.score_bins import ScoreBins

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)
BATCHES = st.lists(st.lists(NUMBERS, min_size=1, max_size=20), min_size=1, max_size=6)


def seen(*batches: list[float]) -> ScoreBins:
    bins = ScoreBins()
    for batch in batches:
        bins.add(np.array(batch))
    return bins


@given(BATCHES)
def test_every_score_is_in_its_bin_and_bins_are_few(batches: list[list[float]]) -> None:
    scores = np.array([score for batch in batches for score in batch])
    found = seen(*batches).bins()
    assert len(found) <= 32
    with np.errstate(over="ignore"):
        counted = [int(((scores >= one["from"]) & (scores < one["to"])).sum()) for one in found]
    assert counted == [one["rows"] for one in found]
    assert sum(counted) == len(scores)


@given(BATCHES)
def test_distributions_add_up_in_any_order(batches: list[list[float]]) -> None:
    merged = ScoreBins()
    for batch in reversed(batches):
        merged.merge(seen(batch))
    at_once = seen([score for batch in batches for score in batch])
    assert merged.n == at_once.n
    assert (merged.smallest, merged.largest) == (at_once.smallest, at_once.largest)
    assert sum(one["rows"] for one in merged.bins()) == at_once.n
    width = merged.bins()[0]["to"] - merged.bins()[0]["from"]
    assert width >= at_once.bins()[0]["to"] - at_once.bins()[0]["from"] or not math.isfinite(width)


def test_shares_are_counted_in_twentieths_and_one_belongs_to_the_last() -> None:
    found = seen([0.0, 0.05, 0.15, 0.1499999999, 1.0]).bins(is_share=True)
    assert [one["rows"] for one in found] == [1, 1, 1, 1, *[0] * 15, 1]
    assert (found[3]["from"], found[3]["to"]) == (0.15, 0.2)


def test_scores_beyond_one_are_not_shown_as_shares() -> None:
    assert len(seen([0.5, 1.5]).bins(is_share=True)) != 20


def test_scores_that_are_close_together_keep_bins_of_their_own() -> None:
    found = seen([1000.0]), seen([1000.0, 1000.5, 1001.0])
    assert [len([one for one in bins.bins() if one["rows"]]) for bins in found] == [1, 3]


def test_what_is_not_finite_is_counted_apart() -> None:
    bins = seen([math.nan, math.inf, -math.inf, 2.0])
    assert (bins.n, bins.not_finite, bins.summary()["mean"]) == (1, 3, 2.0)
    assert seen([math.nan]).bins() == []


@pytest.mark.parametrize("extreme", [5e-324, 1.7e308, -1.7e308])
def test_extremes_are_counted(extreme: float) -> None:
    assert sum(one["rows"] for one in seen([extreme], [0.0, 1.0]).bins()) == 3


def test_sum_beyond_the_doubles_in_both_directions_leaves_no_mean() -> None:
    largest = 1.7e308
    scores = [largest, -largest, *[0.0] * 6] * 2  # numpy adds every eighth up by itself
    assert seen(scores).summary()["mean"] is None
