"""What of a comparison exceeds the budget: shares of the rows that each limit is about."""

from __future__ import annotations

import pytest

from jobs.proof.reconcile_report import budget_of
from jobs.runs.conf import load


@pytest.mark.parametrize(
    ("limit", "lost", "uncompared", "exceeded"),
    [
        ("0", 0, 0, []),
        ("0", 1, 0, ["max_lost_share"]),
        ("0", 0, 1, ["max_uncompared_share"]),
        ("0.1", 10, 10, []),
        ("0.1", 11, 11, ["max_lost_share", "max_uncompared_share"]),
    ],
)
def test_rows_lost_or_left_out_exceed_the_budget_unless_it_allows_them(
    limit: str, lost: int, uncompared: int, exceeded: list[str]
) -> None:
    overrides = [f"skew.{name}={limit}" for name in ("max_lost_share", "max_uncompared_share")]
    limits = load("local", "flights", overrides).skew
    found = {"max_lost_share": (lost, 100), "max_uncompared_share": (uncompared, 100)}
    assert budget_of(limits, found) == {**dict.fromkeys(found, float(limit)), "exceeded": exceeded}


def test_by_default_no_row_may_be_lost_or_left_out() -> None:
    limits = load("local", "flights", []).skew
    assert (limits.max_lost_share, limits.max_uncompared_share) == (0, 0)
