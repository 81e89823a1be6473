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
    "Recipe",
    "Sets",
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
# What the compiled loop takes: columns; per node slot, threshold, leaves kept, values; children.
Nodes = tuple[Numbers, Indices, Floats, Bits, Floats, Indices]
Trees = Indices  # (5, n_trees): root, first leaf, depth, output, where the set splits up to this tree end
# Per feature with codes: its number, where its edges start and stop; edges; per set split its row of codes, and where its
# words start; words.
Sets = tuple[Numbers, Floats, Indices, Bits]
Recipe = tuple[int, int, int, float, float]  # values per leaf; 1 = float32; link (0 = none); divisor; slope


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
    for function in _PARTS:
        numba.extending.register_jitable(function)

    def frozen(dtype: Any, n_dimensions: int = 1, layout: str = "C") -> Any:
        return numba.types.Array(dtype, n_dimensions, layout, readonly=True)

    f8, u4, i8, u8 = frozen(numba.float64), frozen(numba.uint32), frozen(numba.int64), frozen(numba.uint64)
    nodes = numba.types.Tuple((i8, u4, f8, u8, f8, u4))
    trees = frozen(numba.uint32, 2)
    sets = numba.types.Tuple((frozen(numba.int64, 2), f8, frozen(numba.uint32, 2), u8))
    recipe = numba.types.Tuple((numba.int64, numba.int64, numba.int64, numba.float64, numba.float64))
    matrix = frozen(numba.float64, 2, "A")
    signature = numba.void(matrix, nodes, trees, sets, f8, recipe, numba.float64[:, ::1])
    options = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    try:
        evaluate = numba.njit(signature, cache=True, **options)(_evaluate)
    except _NO_CACHE:
        evaluate = numba.njit(signature, **options)(_evaluate)
    return Loop(evaluate, has_exact_exp=not numba.config.USING_SVML)


# From here on: what numba compiles. No fastmath: additions stay in order.


def _evaluate(
    matrix: Floats, nodes: Nodes, trees: Trees, sets: Sets, baseline: Floats, recipe: Recipe, scores: Floats
) -> None:
    n_rows, column = matrix.shape[1], nodes[0]
    is_single = recipe[1]
    most_sets, last = np.int64(0), np.int64(0)
    for stop in trees[4]:
        most_sets, last = np.int64(max(most_sets, stop - last)), np.int64(stop)
    lanes = min(BLOCK_ROWS, (n_rows + 7) // 8 * 8)
    block = np.empty((column.size + most_sets, lanes))
    codes = np.empty((sets[0].shape[0], lanes), np.uint64)
    alive = np.empty(lanes, np.uint64)
    at = np.empty(max(lanes, trees.shape[1]), np.uint32)
    for begin in range(0, n_rows, BLOCK_ROWS):
        width = min(BLOCK_ROWS, n_rows - begin)
        for k in range(baseline.size):
            scores[k, begin : begin + width] = baseline[k]
        _fill_block(matrix, begin, width, column, block)
        _fill_codes(matrix, begin, width, sets, codes)
        if width < 8 and most_sets == 0:
            for r in range(width):
                _walk_trees(block[:, r], nodes, trees, at, is_single, scores, begin + r)
        else:
            for t in range(trees.shape[1]):
                _fill_sets(codes, width, sets, trees[4], t, column.size, block)
                _add_tree(block, begin, width, nodes, trees[:, t], alive, at, recipe, scores)
        _finish(scores, begin, width, recipe)


def _add_tree(
    block: Floats,
    begin: int,
    width: int,
    nodes: Nodes,
    tree: Indices,
    alive: Bits,
    at: Indices,
    recipe: Recipe,
    scores: Floats,
) -> None:
    """Add a tree's values for a block of rows."""
    root, first_leaf, depth, output, _ = tree
    n_values, is_single, _, _, _ = recipe
    if first_leaf - root >= 64:
        _walk_rows(block, nodes, root, depth, at, width)
    else:
        _strike_leaves(block, width, nodes, root, first_leaf, alive)
        if n_values == 1 and is_single == 0:
            _add_leftmost(alive, nodes[4][first_leaf:], scores[output, begin : begin + width])
            return
        _find_leftmost(alive, first_leaf, at, width)
    for r in range(width):
        for k in range(n_values):
            total = scores[output + k, begin + r] + nodes[4][at[r] * n_values + k]
            scores[output + k, begin + r] = np.float64(np.float32(total)) if is_single else total


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


def _fill_codes(matrix: Floats, begin: int, width: int, sets: Sets, codes: Bits) -> None:
    """Number the interval between edges that a value of a feature with set splits lies in, from 1; NaN is 0."""
    coded, edges = sets[0], sets[1]
    for c in range(coded.shape[0]):
        feature, start, stop = coded[c]
        for r in range(width):
            x = matrix[feature, begin + r]
            low, high = start, stop
            while low < high:
                middle = (low + high) >> 1
                if edges[middle] <= x:
                    low = middle + 1
                else:
                    high = middle
            codes[c, r] = np.uint64(low - start + 1 if x == x else 0)


def _fill_sets(codes: Bits, width: int, sets: Sets, stop: Indices, t: int, begin: int, block: Floats) -> None:
    """Fill a column for each set split of a tree: below 0 where a row goes left, above where it goes right."""
    first = np.int64(stop[t - 1]) if t else np.int64(0)
    coded, _, splits, words = sets
    for s in range(first, np.int64(stop[t])):
        c, first_word = splits[s]
        column = block[begin + s - first]
        if coded[c, 2] - coded[c, 1] < 63:  # and two codes more: all in one word
            word = words[first_word]
            for r in range(width):
                column[r] = -1.0 if (word >> codes[c, r]) & np.uint64(1) else 1.0
        else:
            for r in range(width):
                word = words[first_word + (codes[c, r] >> np.uint64(6))]
                column[r] = -1.0 if (word >> (codes[c, r] & np.uint64(63))) & np.uint64(1) else 1.0


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


def _leftmost(alive: np.uint64) -> np.uint64:
    """Number the lowest bit: count the ones below it, which LLVM turns into one instruction."""
    one, two, four = np.uint64(1), np.uint64(2), np.uint64(4)
    below = (alive - one) & ~alive
    below -= (below >> one) & np.uint64(0x5555555555555555)
    below = (below & np.uint64(0x3333333333333333)) + ((below >> two) & np.uint64(0x3333333333333333))
    below = (below + (below >> four)) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (below * np.uint64(0x0101010101010101)) >> np.uint64(56)


def _add_leftmost(alive: Bits, leaves: Floats, margins: Floats) -> None:
    for r in range(margins.size):
        margins[r] += leaves[_leftmost(alive[r])]


def _find_leftmost(alive: Bits, first_leaf: int, at: Indices, width: int) -> None:
    for r in range(width):
        at[r] = first_leaf + _leftmost(alive[r])


def _walk_rows(block: Floats, nodes: Nodes, root: int, depth: int, at: Indices, width: int) -> None:
    """Move all rows one level down one tree, `depth` times."""
    _, slot, threshold, _, _, child = nodes
    for r in range(width):
        at[r] = root
    for _level in range(depth):
        for r in range(width):
            k = at[r]
            at[r] = child[2 * k + (1 if block[slot[k], r] <= threshold[k] else 0)]


def _walk_trees(
    row: Floats, nodes: Nodes, trees: Trees, at: Indices, is_single: int, scores: Floats, r: int
) -> None:
    """Move one row one level down all trees, until it is through the deepest: no tree waits for another."""
    _, slot, threshold, _, value, child = nodes
    root, depth, output = trees[0], trees[2], trees[3]
    n_values = value.size // slot.size
    deepest = 0
    for t in range(root.size):
        at[t] = root[t]
        deepest = max(deepest, depth[t])
    for _level in range(deepest):
        for t in range(root.size):
            k = at[t]
            at[t] = child[2 * k + (1 if row[slot[k]] <= threshold[k] else 0)]
    for t in range(root.size):
        for v in range(n_values):
            total = scores[output[t] + v, r] + value[at[t] * n_values + v]
            scores[output[t] + v, r] = np.float64(np.float32(total)) if is_single else total


def _finish(scores: Floats, begin: int, width: int, recipe: Recipe) -> None:
    """Divide, multiply, and apply the links that take the exponential from the C library (see trees_finish)."""
    _, is_single, link, divisor, slope = recipe
    for k in range(scores.shape[0]):
        for r in range(begin, begin + width):
            if divisor != 1.0 or slope != 1.0:
                scores[k, r] = scores[k, r] / divisor * slope
            if link == 1:
                scores[k, r] = _logistic_single(scores[k, r]) if is_single else _logistic(scores[k, r])
            elif link == 2:
                scores[k, r] = _exp_single(scores[k, r]) if is_single else math.exp(scores[k, r])
    if link == 3:
        for r in range(begin, begin + width):
            _finish_softmax(scores[:, r], is_single)


def _logistic(margin: float) -> float:
    return 1.0 / (1.0 + math.exp(-margin))


def _logistic_single(margin: float) -> float:
    power = _exp_single(min(-margin, np.float64(np.float32(88.7))))
    return np.float64(np.float32(1.0 / np.float64(np.float32(power + 1.0))))


def _exp_single(x: float) -> float:
    return np.float64(math.exp(np.float32(x)))


def _finish_softmax(margins: Floats, is_single: int) -> None:
    largest, total = margins.max(), 0.0
    for k in range(margins.size):
        x = margins[k] - largest
        margins[k] = _exp_single(x) if is_single else math.exp(x)
        total += margins[k]
    if is_single:
        total = np.float64(np.float32(total))
    for k in range(margins.size):
        share = margins[k] / total
        margins[k] = np.float64(np.float32(share)) if is_single else share


_PARTS: Final = (
    _fill_block,
    _fill_codes,
    _fill_sets,
    _strike_leaves,
    _leftmost,
    _add_leftmost,
    _find_leftmost,
    _walk_rows,
    _walk_trees,
    _add_tree,
    _exp_single,
    _logistic,
    _logistic_single,
    _finish_softmax,
    _finish,
)
