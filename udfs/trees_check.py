"""What makes arrays flat trees (see trees): refused here, so that no evaluation can read out of bounds; and their shape.

This module knows the arrays, not where they come from or what is computed with them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from feature_pipelines.errors import ModelIntegrityError
from udfs.trees_finish import LINKS, LINKS_IN_LOOP
from udfs.trees_loop import Numbers

if TYPE_CHECKING:
    from udfs.trees import FlatTrees

__all__ = ["DTYPES", "check_trees", "demand", "first_leaves", "leaf_ranges", "number_leaves"]

DTYPES: Final = {
    "feature": np.int32,
    "threshold": np.float64,
    "child": np.int32,
    "missing_left": np.uint8,
    "value": np.float64,
    "root": np.int32,
    "depth": np.int32,
    "baseline": np.float64,
    "output": np.int32,
    "bounds": np.float64,
    "bounds_stop": np.int32,
    "limit": np.float64,
    "takes_nan": np.uint8,
}


def demand(holds: bool | np.bool_, rule: str) -> None:
    """Refuse, as a ModelIntegrityError, what breaks a rule of flat trees."""
    if not holds:
        raise ModelIntegrityError(f"flat trees: {rule}")


def check_trees(trees: FlatTrees) -> None:
    """Refuse arrays that are not trees as `FlatTrees` describes them; the order of the checks matters.

    Raises:
        ModelIntegrityError: with the rule that is broken.
    """
    _check_scalars(trees)
    _check_sizes(trees)
    is_leaf = _check_shape(trees)
    is_known = (trees.feature >= 0) & (trees.feature < trees.n_features) & (trees.missing_left <= 1)
    demand(is_known.all(), f"feature must be in 0..{trees.n_features - 1}, missing_left 0 or 1")
    demand(not np.isnan(trees.threshold).any(), "threshold must not be NaN")
    demand((trees.threshold[is_leaf] == np.inf).all(), "the threshold of a leaf must be inf")
    demand(np.isfinite(trees.value).all(), "value must be finite")
    _check_sets(trees, is_leaf)
    _check_outputs(trees)
    demand((trees.limit > 0).all() and (trees.takes_nan <= 1).all(), "limit must be > 0, takes_nan 0 or 1")


def _check_scalars(trees: FlatTrees) -> None:
    demand(_is_count(trees.n_features), f"n_features must be an int > 0, got {trees.n_features!r}")
    demand(
        trees.baseline.size > 0 and bool(np.isfinite(trees.baseline).all()), "baseline must be a finite float"
    )
    demand(trees.link in LINKS, f"link must be one of {', '.join(LINKS)}, got {trees.link!r}")
    demand(trees.baseline.size > 1 or not trees.link.startswith("softmax"), "a softmax needs several outputs")
    for name in ("divisor", "slope"):
        number = getattr(trees, name)
        demand(_is_number(number) and number > 0, f"{name} must be a finite float > 0, got {number!r}")
    demand(
        trees.precision in ("double", "single"),
        f"precision must be double or single, got {trees.precision!r}",
    )
    if trees.is_single:
        demand(
            trees.divisor == trees.slope == 1.0 and trees.link in ("identity", *LINKS_IN_LOOP),
            f"single precision knows no divisor, no slope, and not the link {trees.link!r}",
        )


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and number > 0


def _is_number(number: Any) -> bool:
    return isinstance(number, float) and math.isfinite(number)


def _check_sizes(trees: FlatTrees) -> None:
    n_nodes, root = trees.feature.size, trees.root
    sizes = {name: getattr(trees, name).size for name in ("threshold", "missing_left", "bounds_stop")}
    demand(
        all(size == n_nodes for size in sizes.values()),
        f"all node arrays must have {n_nodes} entries: {sizes}",
    )
    demand(trees.child.size == 2 * n_nodes, f"child must have {2 * n_nodes} entries, got {trees.child.size}")
    demand(
        0 < root.size == trees.depth.size == trees.output.size,
        "root, depth and output must have one entry per tree, at least one",
    )
    demand(root[0] == 0 and root[-1] < n_nodes and bool((np.diff(root) > 0).all()), "root must ascend from 0")
    n_values, odd = divmod(trees.value.size, n_nodes)
    demand(
        odd == 0 and n_values in (1, trees.n_outputs),
        f"value must have 1 or {trees.n_outputs} entries for each of {n_nodes} nodes, got {trees.value.size}",
    )
    for name in ("limit", "takes_nan"):
        size = getattr(trees, name).size
        demand(
            size == trees.n_features,
            f"{name} must have one entry per feature, {trees.n_features}, got {size}",
        )


def _check_shape(trees: FlatTrees) -> Any:
    """Check that the nodes are trees, in the order that is promised; return which are leaves."""
    n_nodes, root = trees.feature.size, trees.root
    own = np.arange(n_nodes)
    right, left = trees.child[0::2], trees.child[1::2]
    is_leaf = (right == own) & (left == own)
    tree = np.searchsorted(root, own, side="right") - 1
    stop = np.append(root, n_nodes)[tree + 1]
    in_order = (right > own) & (left > own) & (right < stop) & (left < stop)
    demand((is_leaf | in_order).all(), "a child must be a later node of its tree, or a leaf its own child")
    parents = np.bincount(np.concatenate([root, right[~is_leaf], left[~is_leaf]]), minlength=n_nodes)
    demand((parents == 1).all(), "every node but a root must be the child of one node")
    first_leaf = first_leaves(trees)[tree]
    demand((is_leaf == (own >= first_leaf)).all(), "the splits of a tree must come before its leaves")
    depth = np.zeros(root.size, np.int64)
    for splits in _levels(trees):
        depth[np.unique(tree[splits])] += 1
    demand((depth == trees.depth).all(), "depth must be the number of splits on the longest path")
    left_to_right = first_leaf + leaf_ranges(trees)[0]
    demand((left_to_right[is_leaf] == own[is_leaf]).all(), "leaves must be stored from left to right")
    return is_leaf


def _check_sets(trees: FlatTrees, is_leaf: Any) -> None:
    counts = np.diff(trees.bounds_stop.astype(np.int64), prepend=0)
    demand(
        bool((counts >= 0).all()) and trees.bounds_stop[-1] == trees.bounds.size,
        f"bounds_stop must ascend to the {trees.bounds.size} entries of bounds",
    )
    is_set = counts > 0
    demand(
        not (is_set & is_leaf).any() and bool((trees.threshold[is_set] == 0.0).all()),
        "a leaf has no bounds, and a split with bounds has the threshold 0",
    )
    inner = np.ones(trees.bounds.size, bool)
    inner[(trees.bounds_stop - counts)[is_set]] = False  # the first of a split is compared with none
    ascends = trees.bounds[1:] >= trees.bounds[:-1]
    demand(
        not np.isnan(trees.bounds).any() and bool((ascends | ~inner[1:]).all()),
        "the bounds of a split must ascend, and none is NaN",
    )


def _check_outputs(trees: FlatTrees) -> None:
    last = trees.n_outputs - trees.n_values
    demand(
        bool((trees.output >= 0).all() and (trees.output <= last).all()),
        f"output must be in 0..{last}, where a leaf has {trees.n_values} values",
    )


def first_leaves(trees: FlatTrees) -> Numbers:
    """Return the first leaf of each tree."""
    is_split = trees.child[0::2] != trees.child[1::2]
    n_splits: Numbers = np.add.reduceat(is_split.astype(np.int64), trees.root)
    return trees.root + n_splits


def leaf_ranges(trees: FlatTrees) -> tuple[Numbers, Numbers]:
    """Return, per node, the number of its leftmost leaf, counted from the left of its tree, and how many leaves it has."""
    return number_leaves(_levels(trees), trees.child[1::2], trees.child[0::2])


def number_leaves(
    levels: list[Numbers], left: npt.NDArray[Any], right: npt.NDArray[Any]
) -> tuple[Numbers, Numbers]:
    """Return, per node, the number of its leftmost leaf, counted from the left of its tree, and how many leaves it has.

    Args:
        levels: the splits by their distance from the root.
        left, right: the children of each node; of a leaf they are not looked at.
    """
    first, n_leaves = np.zeros(left.size, np.int64), np.ones(left.size, np.int64)
    for splits in reversed(levels):
        n_leaves[splits] = n_leaves[left[splits]] + n_leaves[right[splits]]
    for splits in levels:
        first[left[splits]] = first[splits]
        first[right[splits]] = first[splits] + n_leaves[left[splits]]
    return first, n_leaves


def _levels(trees: FlatTrees) -> list[Numbers]:
    """Return the splits of all trees by their distance from the root."""
    pairs = trees.child.astype(np.int64).reshape(-1, 2)
    levels, nodes = [], trees.root.astype(np.int64)
    while (splits := nodes[pairs[nodes, 0] != pairs[nodes, 1]]).size:
        levels.append(splits)
        nodes = pairs[splits].ravel()
    return levels
