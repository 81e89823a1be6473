"""Flat trees (see trees) evaluated without a compiler: a row or a few by plain Python lists, more by numpy.

What this gives are margins: the sums of leaf values. It knows nothing of links, files or libraries, and needs numpy alone.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from udfs.trees_finish import to_single
from udfs.trees_loop import BLOCK_ROWS, Floats
from udfs.trees_packed import SetTables, set_codes

if TYPE_CHECKING:
    from udfs.trees import FlatTrees

__all__ = ["Walker"]

_PLAIN_ROWS: Final = 4  # up to here Python lists beat numpy


class Walker:
    """Trees prepared for walking; holds no state between calls."""

    def __init__(self, trees: FlatTrees, tables: SetTables) -> None:
        self.trees = trees
        self._tables = tables
        self._place = np.full(trees.feature.size, -1, np.int64)
        self._place[tables.nodes] = np.arange(tables.nodes.size)
        right, left = trees.child[0::2], trees.child[1::2]
        threshold = trees.threshold.copy()
        threshold[tables.nodes] = np.nan  # of which no number is a side
        arrays = (
            np.where(left == right, -1, trees.feature),
            threshold,
            left,
            right,
            np.where(trees.missing_left == 1, left, right),
            trees.value,
            trees.root,
            trees.output,
        )
        self._lists: tuple[Any, ...] = tuple(array.tolist() for array in arrays)
        stops = trees.bounds_stop[tables.nodes].tolist()
        starts = [0, *stops][:-1]
        self._bounds = {
            node: trees.bounds[start:stop].tolist()
            for node, start, stop in zip(tables.nodes.tolist(), starts, stops, strict=True)
        }
        self._is_plain = trees.n_outputs == 1 and not trees.is_single and not self._bounds

    def margins(self, matrix: Floats) -> Floats:
        """Return the margins of a matrix's rows, shape (n_outputs, n_rows)."""
        n_rows = matrix.shape[1]
        margins = np.repeat(self.trees.baseline[:, None], n_rows, axis=1)
        if n_rows <= _PLAIN_ROWS:
            for r in range(n_rows):
                row = matrix[:, r].tolist()
                margins[:, r] = self._sum_of_row(row) if self._is_plain else self._sums_of_row(row)
        else:
            for begin in range(0, n_rows, BLOCK_ROWS):
                stop = begin + BLOCK_ROWS
                self._walk_block(matrix[:, begin:stop], margins[:, begin:stop])
        return margins

    def _sum_of_row(self, row: list[float]) -> float:
        """The margin where there is one output, in double precision, of thresholds alone."""
        feature, threshold, left, right, missing, value, root, _ = self._lists
        total: float = self.trees.baseline.item()
        for k in root:
            while (f := feature[k]) >= 0:
                x = row[f]
                k = left[k] if x <= threshold[k] else right[k] if x == x else missing[k]
            total += value[k]
        return total

    def _sums_of_row(self, row: list[float]) -> list[float]:
        value, _, output = self._lists[-3:]
        n_values = self.trees.n_values
        totals: list[float] = self.trees.baseline.tolist()
        added: list[list[float]] = [[total] for total in totals]
        for leaf, first in zip(self._leaves_of_row(row), output, strict=True):
            for v in range(n_values):
                added[first + v].append(value[leaf * n_values + v])
        dtype = np.float32 if self.trees.is_single else np.float64
        return [float(np.add.accumulate(np.array(numbers, dtype))[-1]) for numbers in added]

    def _leaves_of_row(self, row: list[float]) -> list[int]:
        feature, threshold, left, right, missing, _, root, _ = self._lists
        bounds, leaves = self._bounds, []
        for k in root:
            while (f := feature[k]) >= 0:
                x = row[f]
                if x <= threshold[k]:
                    k = left[k]
                elif x != x:
                    k = missing[k]
                elif k in bounds:
                    k = left[k] if bisect.bisect_right(bounds[k], x) & 1 else right[k]
                else:
                    k = right[k]
            leaves.append(k)
        return leaves

    def _walk_block(self, block: Floats, margins: Floats) -> None:
        trees, tables = self.trees, self._tables
        rows = np.arange(block.shape[1])
        node = np.repeat(trees.root.astype(np.intp)[:, None], rows.size, axis=1)
        codes = set_codes(tables, block)
        for _ in range(trees.depth.max()):
            x = block[trees.feature[node], rows]
            go_left = (x <= trees.threshold[node]) | (np.isnan(x) & (trees.missing_left[node] == 1))
            if len(codes):
                place = self._place[node]
                entry = tables.start[place] + codes[tables.row[place], rows]
                go_left = np.where(place >= 0, tables.left[entry] == 1, go_left)
            node = trees.child[2 * node + go_left].astype(np.intp)
        for leaf, first in zip(node, trees.output.tolist(), strict=True):
            for v in range(trees.n_values):
                total = margins[first + v] + trees.value[leaf * trees.n_values + v]
                margins[first + v] = to_single(total) if trees.is_single else total
