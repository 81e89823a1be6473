"""What no input explains may be two things at once: other code, and another platform for the features that the code left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

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


@pytest.mark.parametrize(("off_by", "cause"), [(0, Cause.PLATFORM), (1, Cause.UNEXPLAINED)])
@pytest.mark.parametrize("nudged", [(), ("area_squared",)])
def test_score_that_the_replayed_platform_does_not_give_is_not_its_doing(
    houses: SkewedHouses, nudged: tuple[str, ...], off_by: int, cause: Cause
) -> None:
    side = replace(houses.answered(), nudges_score=True, nudge_features=nudged, platform="there")
    pairs = houses.pairs_of(side)
    logged = pairs.online
    score = logged.score.view(np.int64) + off_by

    def replay(world: Any, platform: str, columns: Any, n: int) -> tuple[Any, Any]:
        assert (platform, n) == ("there", len(pairs))
        return logged.matrix, score.view(np.float64)

    assert set(explain(pairs, houses.reference, None, replay).cause) == {cause}
