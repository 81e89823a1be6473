"""The compiled loop over flat trees (see trees): loaded once per process, and only by who has rows enough to repay it.

No fastmath: additions stay in order. This module imports numba when `load_loop` is called, and nothing else beside numpy.
"""

from __future__ import annotations

import functools
import importlib
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "ALL_LEAVES",
    "BLOCK_ROWS",
    "Bits",
    "Floats",
    "Indices",
    "Loop",
    "Nodes",
    "Numbers",
    "Trees",
    "load_loop",
]

BLOCK_ROWS: Final = 256
ALL_LEAVES: Final = np.uint64(0xFFFFFFFFFFFFFFFF)
# What numba raises where it finds no place for compiled code, cannot write there, or finds it damaged.
_NO_CACHE: Final = (RuntimeError, OSError, EOFError, pickle.UnpicklingError)
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.uint32]
Bits = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
# What the compiled loop takes: columns; per node slot, threshold, leaves kept, value; children.
Nodes = tuple[Numbers, Indices, Floats, Bits, Floats, Indices]
Trees = tuple[Indices, Indices, Indices]  # root, first leaf, depth


@dataclass(frozen=True)
class Loop:
    """The compiled loop, and whether its exponential is the C library's (Intel's SVML rounds in another way)."""

    evaluate: Callable[..., None]
    has_exact_exp: bool


@functools.cache
def load_loop() -> Loop | None:
    """Return the compiled loop; None where numba is not installed or its compiler is switched off."""
    try:
        numba: Any = importlib.import_module("numba")
    except ImportError:
        return None
    if numba.config.DISABLE_JIT:
        return None
    for function in (_fill_block, _strike_leaves, _add_leftmost, _walk_rows, _walk_trees):
        numba.extending.register_jitable(function)

    def frozen(dtype: Any, n_dimensions: int = 1, layout: str = "C") -> Any:
        return numba.types.Array(dtype, n_dimensions, layout, readonly=True)

    f8, u4 = frozen(numba.float64), frozen(numba.uint32)
    nodes = numba.types.Tuple((frozen(numba.int64), u4, f8, frozen(numba.uint64), f8, u4))
    trees = numba.types.UniTuple(u4, 3)
    matrix = frozen(numba.float64, 2, "A")
    signature = numba.void(matrix, nodes, trees, numba.float64, numba.boolean, numba.float64[::1])
    options = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    try:
        evaluate = numba.njit(signature, cache=True, **options)(_evaluate)
    except _NO_CACHE:
        evaluate = numba.njit(signature, **options)(_evaluate)
    return Loop(evaluate, has_exact_exp=not numba.config.USING_SVML)


# From here on: what numba compiles. No fastmath: additions stay in order.


def _evaluate(
    matrix: Floats, nodes: Nodes, trees: Trees, baseline: float, is_logit: bool, scores: Floats
) -> None:
    n_rows = matrix.shape[1]
    column, (root, first_leaf, depth) = nodes[0], trees
    lanes = min(BLOCK_ROWS, (n_rows + 7) // 8 * 8)
    block = np.empty((column.size, lanes))
    alive = np.empty(lanes, np.uint64)
    at = np.empty(max(lanes, root.size), np.uint32)
    for begin in range(0, n_rows, BLOCK_ROWS):
        width = min(BLOCK_ROWS, n_rows - begin)
        margins = scores[begin : begin + width]
        margins[:] = baseline
        _fill_block(matrix, begin, width, column, block)
        if width < 8:
            for r in range(width):
                _walk_trees(block[:, r], nodes, root, depth, at, margins[r:])
        else:
            for t in range(root.size):
                if first_leaf[t] - root[t] < 64:
                    _strike_leaves(block, width, nodes, root[t], first_leaf[t], alive)
                    _add_leftmost(alive, nodes[4][first_leaf[t] :], margins)
                else:
                    _walk_rows(block, nodes, root[t], depth[t], at, margins)
        if is_logit:
            for r in range(width):
                margins[r] = 1.0 / (1.0 + math.exp(-margins[r]))


def _fill_block(matrix: Floats, begin: int, width: int, column: Numbers, block: Floats) -> None:
    """Copy the columns that splits look at: even as they are, odd with -inf for NaN."""
    for c in range(column.size):
        feature = column[c] >> 1
        if column[c] & 1:
            for r in range(width):
                x = matrix[feature, begin + r]
                block[c, r] = x if x == x else -np.inf
        else:
            for r in range(width):
                block[c, r] = matrix[feature, begin + r]


def _strike_leaves(block: Floats, width: int, nodes: Nodes, begin: int, stop: int, alive: Bits) -> None:
    """Leave, per row, the bits of the leaves that no split of the tree has struck out.

    Three splits at a time, eight rows at least: the last splits may be leaves (a tree has one more of them than
    splits), which strike out nothing; the last rows may be leftovers in the block, which nobody reads.
    """
    _, slot, threshold, keep, _, _ = nodes
    alive[:] = ALL_LEAVES
    for k in range(begin, stop, 3):
        x0, x1, x2 = block[slot[k]], block[slot[k + 1]], block[slot[k + 2]]
        t0, t1, t2 = threshold[k], threshold[k + 1], threshold[k + 2]
        keep0, keep1, keep2 = keep[k], keep[k + 1], keep[k + 2]
        for r in range((width + 7) // 8 * 8):
            kept = ALL_LEAVES if x0[r] <= t0 else keep0
            kept &= ALL_LEAVES if x1[r] <= t1 else keep1
            kept &= ALL_LEAVES if x2[r] <= t2 else keep2
            alive[r] &= kept


def _add_leftmost(alive: Bits, leaves: Floats, margins: Floats) -> None:
    """Add the leaf of each row's lowest bit: count the ones below it, which LLVM turns into one instruction."""
    one, two, four = np.uint64(1), np.uint64(2), np.uint64(4)
    for r in range(margins.size):
        below = (alive[r] - one) & ~alive[r]
        below -= (below >> one) & np.uint64(0x5555555555555555)
        below = (below & np.uint64(0x3333333333333333)) + ((below >> two) & np.uint64(0x3333333333333333))
        below = (below + (below >> four)) & np.uint64(0x0F0F0F0F0F0F0F0F)
        margins[r] += leaves[(below * np.uint64(0x0101010101010101)) >> np.uint64(56)]


def _walk_rows(block: Floats, nodes: Nodes, root: int, depth: int, at: Indices, margins: Floats) -> None:
    """Move all rows one level down one tree, `depth` times."""
    _, slot, threshold, _, value, child = nodes
    for r in range(margins.size):
        at[r] = root
    for _level in range(depth):
        for r in range(margins.size):
            k = at[r]
            at[r] = child[2 * k + (1 if block[slot[k], r] <= threshold[k] else 0)]
    for r in range(margins.size):
        margins[r] += value[at[r]]


def _walk_trees(
    row: Floats, nodes: Nodes, root: Indices, depth: Indices, at: Indices, margin: Floats
) -> None:
    """Move one row one level down all trees, until it is through the deepest: no tree waits for another."""
    _, slot, threshold, _, value, child = nodes
    deepest = 0
    for t in range(root.size):
        at[t] = root[t]
        deepest = max(deepest, depth[t])
    for _level in range(deepest):
        for t in range(root.size):
            k = at[t]
            at[t] = child[2 * k + (1 if row[slot[k]] <= threshold[k] else 0)]
    for t in range(root.size):
        margin[0] += value[at[t]]
