"""Decisions of libraries as float64 comparisons, and nodes in flat order."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feature_pipelines.errors import ModelIntegrityError
from udfs.trees_nodes import (
    LARGEST_SINGLE,
    Tree,
    assemble,
    at_most_single,
    below_single,
    bounds_of,
    from_single,
)

SINGLE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def as_single(x):
    with np.errstate(all="ignore"):
        return float(np.float32(x))


@given(st.floats(allow_nan=False))
@example(0.0)
@example(-0.0)
@example(7e-46)
@example(-7e-46)
@example(1e-45)
@example(-1.401298464324817e-45)
@example(3.4028234663852886e38)
@example(-3.4028234663852886e38)
@example(-3.5e38)
@example(float("inf"))
def test_at_most_is_where_rounding_to_float32_passes_the_threshold(threshold):
    (last,) = at_most_single(np.array([threshold]))
    assert as_single(last) <= threshold
    following = np.nextafter(last, np.inf)
    assert following == last or as_single(following) > threshold


@given(SINGLE)
@example(0.0)
@example(-0.0)
@example(1.401298464324817e-45)
@example(-1.401298464324817e-45)
@example(3.4028234663852886e38)
@example(-3.4028234663852886e38)
def test_below_and_from_meet_where_rounding_to_float32_reaches_the_number(number):
    (last,), (first,) = below_single(np.array([number])), from_single(np.array([number]))
    assert as_single(last) < number <= as_single(first)
    assert first == np.nextafter(last, np.inf)


def test_largest_single_is_the_last_before_infinity():
    assert np.isfinite(as_single(LARGEST_SINGLE))
    assert np.isinf(as_single(np.nextafter(LARGEST_SINGLE, np.inf)))
    assert Fraction(LARGEST_SINGLE) < 2**128


@pytest.mark.parametrize(
    ("edges", "is_left", "bounds"),
    [
        ([1.0, 2.0], [False, True, False], [1.0, 2.0]),
        ([1.0, 2.0], [True, False, True], [-np.inf, 1.0, 2.0]),
        ([1.0, 2.0, 3.0], [False, True, True, False], [1.0, 3.0]),
        ([1.0], [True, True], [-np.inf]),
        ([1.0], [False, False], [np.inf, np.inf]),
        ([], [True], [-np.inf]),
    ],
)
def test_bounds_say_where_the_direction_changes(edges, is_left, bounds):
    assert bounds_of(edges, is_left) == bounds
    counts = np.searchsorted(bounds, [-np.inf, *edges], side="right")
    assert (counts % 2 == 1).tolist() == is_left
    assert np.searchsorted(bounds, np.inf, side="right") % 2 == is_left[-1]


# Nodes: the tree (x0 <= 1: (x1 <= 2: 10, 20), 30) in an order of its own, with a node that nothing leads to

LEFT = np.array([3, -1, -1, 1, -1, -1])
RIGHT = np.array([2, -1, -1, 5, -1, -1])
FEATURE = np.array([0, 9, 9, 1, 9, 9])
THRESHOLD = np.array([1.0, np.nan, 7.0, 2.0, 7.0, 7.0])
VALUE = np.array([5.0, 10.0, 30.0, 5.0, 99.0, 20.0])


def tree(**changes):
    arrays = {"left": LEFT, "right": RIGHT, "feature": FEATURE, "threshold": THRESHOLD, "value": VALUE}
    return Tree(**{**arrays, "missing_left": np.ones(6, np.uint8), **changes})


def test_nodes_in_any_order_become_splits_then_leaves_from_left_to_right():
    flat = assemble([tree(), tree()], [0.0], link="identity", n_features=2)
    assert flat.value.tolist() == [0.0, 0.0, 10.0, 20.0, 30.0] * 2
    assert flat.child[:10].reshape(-1, 2).tolist() == [[4, 1], [3, 2], [2, 2], [3, 3], [4, 4]]
    assert flat.root.tolist() == [0, 5]
    assert flat.depth.tolist() == [2, 2]
    matrix = np.array([[1.0, 1.0, 1.5, np.nan], [2.0, 2.5, 0.0, np.nan]])
    assert flat.score(matrix).tolist() == [20.0, 40.0, 60.0, 20.0]


def test_bounds_go_with_their_split():
    flat = assemble([tree(), tree(bounds={3: [-1.0, 4.0]})], [0.0], link="identity", n_features=2)
    assert flat.bounds.tolist() == [-1.0, 4.0]
    assert flat.bounds_stop.tolist() == [0] * 6 + [2] * 4
    assert flat.threshold[6] == 0.0
    assert flat.score(np.array([[0.0, 0.0, 0.0], [-2.0, -1.0, 4.0]])).tolist() == [30.0, 20.0, 40.0]


@pytest.mark.parametrize("left", [[3, -1, -1, 0, -1, -1], [3, -1, -1, 6, -1, -1], [3, 3, -1, 1, -1, -1]])
def test_what_is_no_tree_is_refused(left):
    with pytest.raises(ModelIntegrityError, match="every node but a root must be the child of one node"):
        assemble([tree(left=np.array(left))], [0.0], link="identity", n_features=10)
