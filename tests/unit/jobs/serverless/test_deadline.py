"""Time that is nearly over begins nothing."""

from __future__ import annotations

import pytest

from feature_pipelines.errors import ContractError
from jobs.serverless.deadline import Deadline


@pytest.mark.parametrize(
    ("left", "needed", "is_refused"), [(501, 0, False), (500, 0, True), (900, 400, True)]
)
def test_what_would_not_end_before_the_reserve_is_refused(left: int, needed: int, is_refused: bool) -> None:
    deadline = Deadline(lambda: left, reserve_ms=500)
    if not is_refused:
        deadline.require(needed)
        return
    with pytest.raises(ContractError, match="time is nearly over") as refused:
        deadline.require(needed)
    assert (refused.value.evidence["status"], refused.value.evidence["code"]) == (503, "OUT_OF_TIME")


def test_deadline_of_what_begins_now_ends_by_the_clock() -> None:
    now = [100.0]
    deadline = Deadline.after(2, 500, lambda: now[0])
    now[0] = 101.4
    deadline.require()
    now[0] = 101.6
    with pytest.raises(ContractError, match="nearly over"):
        deadline.require()
