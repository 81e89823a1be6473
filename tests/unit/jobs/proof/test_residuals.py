"""What no input explains may be two things at once: other code, and another platform for the features that the code left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jobs.proof.causes import Cause, explain
from tests.toy.skewed_houses import SkewedHouses, other_features


def test_code_changed_in_place_on_another_platform_is_both(houses: SkewedHouses) -> None:
    side = replace(houses.answered(), feature_set=other_features(), platform="there")
    side = replace(side, nudge_features=("rate_pct_gap",))
    pairs = houses.pairs_of(side)
    has_rate = ~np.isnan(pairs.online.columns["rate_pct"])
    found = explain(pairs, houses.reference, None)
    both = (Cause.FEATURE_CODE, Cause.PLATFORM)
    assert [found.parts[row] for row in np.flatnonzero(has_rate)] == [both] * int(has_rate.sum())
    assert {found.cause[row] for row in np.flatnonzero(~has_rate)} == {Cause.FEATURE_CODE}
    assert 50 < has_rate.sum() < len(pairs)


def test_code_changed_in_place_is_no_platform_where_every_feature_is_far_off(houses: SkewedHouses) -> None:
    pairs = houses.pairs_of(replace(houses.answered(), feature_set=other_features(), platform="there"))
    assert set(explain(pairs, houses.reference, None).cause) == {Cause.FEATURE_CODE}
