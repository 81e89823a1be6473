"""Trees of any library into flat trees (see trees): the order of nodes, and decisions as float64 comparisons.

What an exporter has to say of a tree is a `Tree`. What a library decides in another way than `x <= threshold` in float64
becomes one here: rounding of features to float32 moves thresholds to where rounding changes the answer, and a set of
categories becomes the intervals of numbers that the library takes for them. This module knows no library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_pipelines.errors import ModelIntegrityError
from udfs.trees import FlatTrees
from udfs.trees_check import DTYPES, number_leaves
from udfs.trees_loop import Floats, Numbers

__all__ = [
    "LARGEST_SINGLE",
    "Tree",
    "assemble",
    "at_most_single",
    "below_single",
    "bounds_of",
    "from_single",
]

_OVERFLOW: Final = 2.0**128
LARGEST_SINGLE: Final = float(np.nextafter(2.0**128 - 2.0**103, 0.0))
"""The largest float64 that is finite as float32."""


@dataclass(frozen=True)
class Tree:
    """A tree as its library stores it: nodes in any order, the root first.

    Args:
        left: per node, its left child; -1 in leaves.
        right: per node, its right child.
        feature: per node; anything in leaves.
        threshold: per node, a row goes left if x <= threshold; anything in leaves.
        missing_left: per node, whether NaN goes left; anything in leaves.
        value: per node, or per node and output; anything in splits.
        bounds: of the splits that are no thresholds: see `bounds_of`.
    """

    left: npt.NDArray[Any]
    right: npt.NDArray[Any]
    feature: npt.NDArray[Any]
    threshold: npt.NDArray[Any]
    missing_left: npt.NDArray[Any]
    value: npt.NDArray[Any]
    bounds: Mapping[int, Sequence[float]] = field(default_factory=dict)


def assemble(trees: Sequence[Tree], baseline: Iterable[float], **others: Any) -> FlatTrees:
    """Return flat trees.

    Args:
        trees: in the order in which their values are added.
        baseline: the margin of each output before the first tree.
        others: the other arguments of `FlatTrees`, but for those about nodes.

    Raises:
        ModelIntegrityError: these are no trees.
    """
    sizes, parts, depth = [0], [], []
    for tree in trees:
        order, n_levels = _order(tree.left, tree.right)
        parts.append(_arrange(tree, order, sum(sizes)))
        sizes.append(order.size)
        depth.append(n_levels)
    arrays: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    arrays["bounds_stop"] = np.cumsum(arrays.pop("n_bounds"))
    arrays = {name: array.astype(DTYPES[name]) for name, array in arrays.items()}
    return FlatTrees(
        **arrays,
        root=np.cumsum(sizes)[:-1].astype(np.int32),
        depth=np.array(depth, np.int32),
        baseline=np.array([*baseline], np.float64),
        **others,
    )


def _order(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> tuple[Numbers, int]:
    """Return the nodes in flat order, splits level by level, then leaves from left to right; and the number of levels."""
    left, right = left.astype(np.int64), right.astype(np.int64)
    levels, leaves, nodes, n_seen = [], [], np.zeros(1, np.int64), 0
    while nodes.size:
        n_seen += nodes.size
        if n_seen > left.size or nodes.max() >= left.size:
            raise ModelIntegrityError("flat trees: every node but a root must be the child of one node")
        is_split = left[nodes] >= 0
        leaves.append(nodes[~is_split])
        levels.append(nodes[is_split])
        nodes = np.concatenate([left[levels[-1]], right[levels[-1]]])
    first, _ = number_leaves(levels, left, right)
    row = np.concatenate(leaves)
    return np.concatenate([*levels, row[np.argsort(first[row])]]), len(levels) - 1


def _arrange(tree: Tree, order: Numbers, start: int) -> dict[str, npt.NDArray[Any]]:
    """Return a tree's arrays in flat order, `start` being the number of its root."""
    own = start + np.arange(order.size)
    position = np.full(tree.left.size, -1, np.int64)
    position[order] = own
    is_leaf = tree.left[order] < 0
    left = np.where(is_leaf, own, position[tree.left[order]])
    right = np.where(is_leaf, own, position[tree.right[order]])
    value = tree.value[order].astype(np.float64)
    value[~is_leaf] = 0.0
    bounds: list[Sequence[float]] = [
        () if leaf else tree.bounds.get(k, ())
        for k, leaf in zip(order.tolist(), is_leaf.tolist(), strict=True)
    ]
    n_bounds = np.array([len(numbers) for numbers in bounds], np.int64)
    threshold = np.where(n_bounds > 0, 0.0, tree.threshold[order])
    return {
        "feature": np.where(is_leaf, 0, tree.feature[order]),
        "threshold": np.where(is_leaf, np.inf, threshold),
        "child": np.column_stack([right, left]).ravel(),
        "missing_left": np.where(is_leaf, 0, tree.missing_left[order]),
        "value": value.ravel(),
        "bounds": np.array([number for numbers in bounds for number in numbers], np.float64),
        "n_bounds": n_bounds,
    }


# Decisions


def bounds_of(edges: Sequence[float], is_left: Sequence[bool]) -> list[float]:
    """Return the bounds of a split that goes by the interval in which x lies (see `FlatTrees`).

    Args:
        edges: ascending, above -inf; an interval begins at each, and one at -inf.
        is_left: for each interval, whether it goes left; one more than edges.
    """
    bounds: list[float] = [-np.inf] if is_left[0] else []
    for edge, here, before in zip(edges, is_left[1:], is_left[:-1], strict=True):
        if here != before:
            bounds.append(float(edge))
    return bounds or [np.inf, np.inf]  # nothing goes left


def at_most_single(threshold: Floats) -> Floats:
    """Return the largest float64 numbers that, rounded to float32, are <= the thresholds.

    >>> bool(np.float32(at_most_single(np.array([0.1]))[0]) <= 0.1), at_most_single(np.array([np.inf]))
    (True, array([inf]))
    """
    with np.errstate(over="ignore", under="ignore"):
        single = threshold.astype(np.float32)
        above = single > threshold
        single[above] = np.nextafter(single[above], np.float32(-np.inf))
    return _last_of(single)


def below_single(threshold: Floats) -> Floats:
    """Return the largest float64 numbers that, rounded to float32, are < the thresholds, which are float32 numbers."""
    with np.errstate(over="ignore", under="ignore"):
        return _last_of(np.nextafter(threshold.astype(np.float32), np.float32(-np.inf)))


def from_single(number: Floats) -> Floats:
    """Return the smallest float64 numbers that, rounded to float32, are >= these, which are float32 numbers."""
    first: Floats = np.nextafter(below_single(number), np.inf)
    return first


def _last_of(single: npt.NDArray[np.float32]) -> Floats:
    """Return the largest float64 numbers that are rounded to these float32 numbers: ties go to the even one."""
    with np.errstate(over="ignore", under="ignore"):
        following = np.nextafter(single, np.float32(np.inf)).astype(np.float64)
    number = np.clip(single.astype(np.float64), -_OVERFLOW, _OVERFLOW)
    middle = number + (np.clip(following, -_OVERFLOW, _OVERFLOW) - number) / 2
    is_even = (single.view(np.uint32) & 1) == 0
    last = np.where(is_even, middle, np.nextafter(middle, -np.inf))
    return np.where(single == np.inf, np.inf, last)
