"""Time that is nearly over begins nothing."""

from __future__ import annotations

import threading

import pytest

from feature_pipelines.errors import ContractError
from jobs.serverless.deadline import Deadline, Pace


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


def test_call_that_does_not_return_in_time_is_refused_and_left_to_itself() -> None:
    may_end = threading.Event()
    ended = threading.Event()

    def slow() -> None:
        may_end.wait(60)
        ended.set()

    with pytest.raises(ContractError, match="nearly over") as refused:
        Deadline(lambda: 510, 500).within(slow)
    assert refused.value.evidence["code"] == "OUT_OF_TIME"
    may_end.set()
    assert ended.wait(60)


def test_call_that_returns_or_raises_in_time_is_as_it_is() -> None:
    deadline = Deadline(lambda: 60_000, 500)
    assert deadline.within(lambda: None) is None
    assert deadline.within(lambda: 7) == 7

    def broken() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        deadline.within(broken)
    called = []
    with pytest.raises(ContractError, match="nearly over"):
        Deadline(lambda: 500, 500).within(lambda: called.append(1))
    assert called == []


def is_begun(pace: Pace, n_rows: int, left_ms: float) -> bool:
    try:
        pace.require(n_rows, Deadline(lambda: left_ms, 0))
    except ContractError:
        return False
    return True


def test_piece_is_expected_to_take_as_long_as_the_slowest_of_no_more_rows() -> None:
    pace = Pace(1_000)
    assert is_begun(pace, 1_000, 1)
    pace.took(1, 20)
    pace.took(1_000, 800)
    pace.took(1, 10)
    assert [is_begun(pace, n, 700) for n in (1, 100, 1_000)] == [True, True, False]
    assert not is_begun(Pace(1_000), 1, 0)
    pace = Pace(1_000)
    pace.took(1, 800)
    assert not is_begun(pace, 1_000, 700)


def test_process_that_was_slow_once_does_not_refuse_for_ever() -> None:
    pace = Pace(1_000)
    pace.took(5, 10_000)
    assert [is_begun(pace, 5, 3_000) for _ in range(4)] == [False, False, True, True]
    one = Deadline(lambda: 3_000, 0)
    pace.took(5, 10_000)
    for _ in range(9):
        with pytest.raises(ContractError, match="nearly over"):
            pace.require(5, one)
    for _ in range(30):
        pace.took(5, 10)
    assert is_begun(pace, 5, 500)
