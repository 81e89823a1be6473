"""The arrays of flat trees (see trees) as the ways of evaluation take them, derived once and never stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from udfs.trees_check import first_leaves, leaf_ranges
from udfs.trees_finish import LINKS_IN_LOOP
from udfs.trees_loop import ALL_LEAVES, Floats, Nodes, Numbers, Recipe, Sets, Trees

if TYPE_CHECKING:
    from udfs.trees import FlatTrees

__all__ = ["SetTables", "pack_nodes", "pack_recipe", "pack_sets", "pack_trees", "set_codes", "set_tables"]


class SetTables(NamedTuple):
    """The set splits as tables: a value of a feature becomes a code, and each split says of each code whether it goes left.

    Args:
        feature: the features that set splits look at.
        edges: per such feature, all bounds of its splits, ascending. NaN has code 0, other values 1 + how many edges are <= it.
        nodes: the set splits, ascending.
        row: per set split, the place of its feature.
        start: per set split, where its entries start in `left`.
        left: 1 where a code goes left.
    """

    feature: Numbers
    edges: list[Floats]
    nodes: Numbers
    row: Numbers
    start: Numbers
    left: npt.NDArray[np.uint8]


def set_tables(trees: FlatTrees) -> SetTables:
    """Return the tables of all set splits."""
    begin = np.concatenate([[0], trees.bounds_stop[:-1]]).astype(np.int64)
    nodes = np.flatnonzero(trees.bounds_stop > begin)
    bounds = [trees.bounds[begin[k] : trees.bounds_stop[k]] for k in nodes.tolist()]
    feature, row = np.unique(trees.feature[nodes].astype(np.int64), return_inverse=True)
    edges = [
        np.unique(np.concatenate([bounds[s] for s in np.flatnonzero(row == c).tolist()]))
        for c in range(feature.size)
    ]
    left = []
    for s, (node, c) in enumerate(zip(nodes.tolist(), row.tolist(), strict=True)):
        of_numbers = np.searchsorted(bounds[s], np.concatenate([[-np.inf], edges[c]]), side="right") & 1
        left.append(np.concatenate([[trees.missing_left[node]], of_numbers]).astype(np.uint8))
    start = np.cumsum([0, *(len(entries) for entries in left)])[:-1].astype(np.int64)
    return SetTables(feature, edges, nodes, row, start, np.concatenate([*left, np.zeros(1, np.uint8)]))


def set_codes(tables: SetTables, block: Floats) -> Numbers:
    """Return the codes of a block's values, shape (features with set splits, n_rows)."""
    codes = np.zeros((tables.feature.size, block.shape[1]), np.int64)
    for c, feature in enumerate(tables.feature.tolist()):
        x = block[feature]
        codes[c] = np.where(np.isnan(x), 0, np.searchsorted(tables.edges[c], x, side="right") + 1)
    return codes


def pack_nodes(trees: FlatTrees) -> Nodes:
    """Return the nodes as the compiled loop takes them.

    A split looks at a column of the block: a feature as it is if NaN goes right (`NaN <= t` is false), or with NaN
    replaced by -inf if NaN goes left; the columns of a tree's set splits follow, in their order. `keep` has, as bits, the
    leaves that remain when a row goes right; it means something in trees of up to 64 leaves.
    """
    is_split = trees.child[0::2] != trees.child[1::2]
    is_set = np.diff(trees.bounds_stop, prepend=0) > 0
    is_plain = is_split & ~is_set
    wanted = trees.feature.astype(np.int64) * 2 + trees.missing_left
    column, slots = np.unique(wanted[is_plain], return_inverse=True)
    slot = np.zeros(trees.feature.size, np.uint32)
    slot[is_plain] = slots
    before: Numbers = np.cumsum(is_set) - is_set
    n_nodes = np.diff(np.append(trees.root, trees.feature.size))
    slot[is_set] = column.size + (before - np.repeat(before[trees.root], n_nodes))[is_set]
    first, n_leaves = leaf_ranges(trees)
    split = np.flatnonzero(is_split)
    low, high = first[split], first[split] + n_leaves[trees.child[2 * split + 1]]
    bit = np.uint64(1) << np.minimum([low, high], 63).astype(np.uint64)
    keep = np.full(trees.feature.size, ALL_LEAVES)
    keep[split] = ~(bit[1] - bit[0])
    nodes: Nodes = _freeze(column, slot, trees.threshold, keep, trees.value, trees.child.astype(np.uint32))
    return nodes


def pack_trees(trees: FlatTrees, tables: SetTables) -> Trees:
    """Return root, first leaf, depth, output and the end of the set splits of each tree."""
    last_set = np.searchsorted(tables.nodes, np.append(trees.root[1:], trees.feature.size))
    packed: tuple[Trees] = _freeze(
        np.array([trees.root, first_leaves(trees), trees.depth, trees.output, last_set], np.uint32)
    )
    return packed[0]


def pack_sets(tables: SetTables) -> Sets:
    """Return the set splits as the compiled loop takes them: their tables as words of 64 bits."""
    stop = np.cumsum([len(edges) for edges in tables.edges], dtype=np.int64)
    coded = np.column_stack([tables.feature, np.concatenate([[0], stop])[:-1].astype(np.int64), stop])
    words, splits = [np.zeros(1, np.uint64)], []
    n_words = 1
    for c, start in zip(tables.row.tolist(), tables.start.tolist(), strict=True):
        entries = tables.left[start : start + len(tables.edges[c]) + 2]
        padded = np.zeros(-(-len(entries) // 64) * 64, np.uint8)
        padded[: len(entries)] = entries
        words.append(np.packbits(padded, bitorder="little").view("<u8").astype(np.uint64))
        splits.append((c, n_words))
        n_words += len(words[-1])
    edges = np.concatenate([np.empty(0), *tables.edges])
    packed: Sets = _freeze(coded, edges, np.array(splits, np.uint32).reshape(-1, 2), np.concatenate(words))
    return packed


def pack_recipe(trees: FlatTrees, *, has_exact_exp: bool) -> tuple[Recipe, bool]:
    """Return what the compiled loop does with leaves and margins, and whether nothing is left to do after it."""
    link = LINKS_IN_LOOP.get(trees.link, 0) if has_exact_exp else 0
    is_done = link > 0 or trees.link == "identity"
    divisor, slope = (trees.divisor, trees.slope) if is_done else (1.0, 1.0)
    return (trees.n_values, int(trees.is_single), link, divisor, slope), is_done


def _freeze(*arrays: npt.NDArray[Any]) -> Any:
    """Return the arrays contiguous and read-only, as the loop's signature wants them."""
    frozen = tuple(np.ascontiguousarray(array) for array in arrays)
    for array in frozen:
        array.setflags(write=False)
    return frozen
