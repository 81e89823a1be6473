"""How a hot key is split: slices cover all time once, and each is told exactly what came before it."""

from __future__ import annotations

import pytest

from feature_pipelines.offline.hot_keys import HotKey, _split


def test_quantiles_become_bounds_and_an_instant_that_fills_slices_is_dealt_out() -> None:
    assert _split(("a",), 40, 10, [1, 2, 3]) == HotKey(("a",), 40, (1, 2, 3), (1, 1, 1))
    assert _split(("a",), 40, 10, [1, 1, 3]) == HotKey(("a",), 40, (1, 3), (3, 1))
    assert _split(("a",), 40, 10, [5, 5, 5]) == HotKey(("a",), 40, (5,), (4,))


def test_a_cooler_key_takes_fewer_of_the_quantiles() -> None:
    assert _split(("a",), 20, 10, [1, 2, 3]) == HotKey(("a",), 20, (2,), (1,))


def test_a_key_without_times_is_one_slice() -> None:
    assert _split(("a",), 20, 10, []).slices() == [(0, 0, 0)]


def slice_of(key: HotKey, time: int, salt: int) -> int:
    """The rule of `with_slices`, in Python."""
    if time in key.bounds and key.parts[place := key.bounds.index(time)] > 1:
        return key.offsets[place] + salt % key.parts[place]
    return sum(bound < time for bound in key.bounds)


@pytest.mark.parametrize(
    "key", [HotKey((), 9, (10, 20, 30), (1, 3, 2)), HotKey((), 9, (10,), (4,)), HotKey((), 9, (), ())]
)
def test_a_slice_and_its_carry_hold_what_a_request_may_see(key: HotKey) -> None:
    rows = [(time, salt) for time in range(5, 35) for salt in range(5)]
    slices = {number: (place, before) for number, place, before in key.slices()}
    assert len(slices) == len(key.slices())
    for asked, dealt in rows:
        number = slice_of(key, asked, dealt)
        carried = [row for row in rows if slices[slice_of(key, *row)][0] < slices[number][1]]
        inside = [row for row in rows if slice_of(key, *row) == number and row[0] <= asked]
        assert all(time <= asked for time, _ in carried)
        assert {*carried, *inside} == {row for row in rows if row[0] <= asked}
