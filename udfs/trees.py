"""Tree ensembles as flat arrays: exported once, saved as npz, evaluated to the bits of the library that grew them.

Scoring with the library costs most of a batch run and needs the library in every process. The same trees as a few
arrays need numpy alone for a handful of rows, and one compiled loop (numba) for millions. Bits are equal because the
arithmetic is: start at the baseline, add one leaf value per tree in order, apply the link function of the library.
Which leaf that is depends on comparisons alone, so any way of finding it is allowed:

- one row or a few: plain Python lists;
- more rows without numba: numpy, all trees of a block of rows at once;
- compiled, trees of up to 64 leaves: every split is tested for a whole block of rows, without branches or gathers, and
  strikes out the leaves to its left where a row goes right; the leftmost leaf that remains is the answer (Source:
  Lucchese et al., "QuickScorer", SIGIR 2015);
- compiled, other trees: from node to child, `depth` times for every row of the block. Leaves loop to themselves.

numba is imported by the first large batch, scikit-learn and scipy never. This module knows nothing of features, MLflow
or Spark. Not exportable: categorical splits, several classes, other libraries; the caller falls back to the estimator.
"""

from __future__ import annotations

import functools
import io
import math
import os
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_pipelines.errors import ContractError, ModelIntegrityError
from udfs.trees_loop import ALL_LEAVES, BLOCK_ROWS, Floats, Loop, Nodes, Numbers, Trees, load_loop

__all__ = ["DTYPES", "FlatTrees", "check_matrix", "warm_up"]

_FORMAT_VERSION: Final = 1
_COMPILE_FROM_ROWS: Final = 4096  # a batch worth the seconds that importing numba takes
_PLAIN_ROWS: Final = 4  # up to here Python lists beat numpy
_UNREADABLE: Final = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
_LINKS: Final = ("identity", "logit", "log")
DTYPES: Final = {
    "feature": np.int32,
    "threshold": np.float64,
    "child": np.int32,
    "missing_left": np.uint8,
    "value": np.float64,
    "root": np.int32,
    "depth": np.int32,
}


@dataclass(frozen=True, eq=False)
class FlatTrees:
    """Binary trees in flat arrays; an instance is valid by construction and its arrays are read-only.

    The nodes of tree t are `root[t]` up to the next root: first its splits, each before its children, then its leaves
    from left to right. A row goes left at a split if `x <= threshold`, or if x is NaN and `missing_left` is 1.

    Args:
        feature: int32 per node, the row of the matrix that a split looks at; 0 in leaves.
        threshold: float64 per node, never NaN; +inf in leaves.
        child: int32, two per node: `child[2k]` right, `child[2k + 1]` left; a leaf is its own child.
        missing_left: uint8 per node, 0 or 1.
        value: float64 per node, finite; what a leaf adds to the margin.
        root: int32 per tree, ascending from 0.
        depth: int32 per tree, the number of splits on its longest path.
        baseline: the margin before the first tree.
        link: "identity", "logit" (probability of the positive class) or "log", from margin to score.
        n_features: rows of the matrix to score.

    Raises:
        ModelIntegrityError: the arrays are not trees as described (so no evaluation can read out of bounds).

    >>> stump = FlatTrees(
    ...     feature=np.array([1, 0, 0], np.int32), threshold=np.array([0.5, np.inf, np.inf]),
    ...     child=np.array([2, 1, 1, 1, 2, 2], np.int32), missing_left=np.array([1, 0, 0], np.uint8),
    ...     value=np.array([0.0, -1.0, 3.0]), root=np.array([0], np.int32), depth=np.array([1], np.int32),
    ...     baseline=0.25, link="identity", n_features=2)
    >>> stump.score(np.array([[9.0, 9.0, 9.0], [0.5, 0.75, np.nan]]))
    array([-0.75,  3.25, -0.75])
    """

    feature: npt.NDArray[np.int32]
    threshold: Floats
    child: npt.NDArray[np.int32]
    missing_left: npt.NDArray[np.uint8]
    value: Floats
    root: npt.NDArray[np.int32]
    depth: npt.NDArray[np.int32]
    baseline: float
    link: str
    n_features: int

    def __post_init__(self) -> None:
        for name, dtype in DTYPES.items():
            array = np.array(getattr(self, name))
            _demand(array.dtype == dtype and array.ndim == 1, f"{name} must be a vector of {np.dtype(dtype)}")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        _check_scalars(self.baseline, self.link, self.n_features)
        _check_nodes(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trees as an uncompressed npz without pickled objects; equal trees give equal bytes."""
        content: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        with open(path, "wb") as file:
            np.savez(file, format_version=_FORMAT_VERSION, **content)

    @classmethod
    def load(cls, source: str | os.PathLike[str] | bytes) -> FlatTrees:
        """Return the trees that `save` wrote, from a path or from the file's content.

        Raises:
            ModelIntegrityError: the file is missing, damaged, of another format version, or holds no valid trees.
        """
        where = "the content" if isinstance(source, bytes) else os.fspath(source)
        try:
            raw = source if isinstance(source, bytes) else Path(source).read_bytes()
            with np.load(io.BytesIO(raw), allow_pickle=False) as file:
                content = {name: file[name] for name in file.files}
            version = content.pop("format_version").item()
            if version != _FORMAT_VERSION:
                raise ModelIntegrityError(f"format version {version!r}, this code reads {_FORMAT_VERSION}")
            scalars = {name: content.pop(name).item() for name in ("baseline", "link", "n_features")}
            return cls(**content, **scalars)
        except (*_UNREADABLE, ModelIntegrityError) as exc:
            message = f"{where} is not a file of flat trees: {type(exc).__name__}: {exc}"
            raise ModelIntegrityError(message, path=where) from exc

    def score(self, matrix: Floats) -> Floats:
        """Return one score per row, bit for bit what the exported estimator predicts, at every batch size.

        Args:
            matrix: float64, feature-major: shape (n_features, n_rows). C order is fastest, any layout is correct. NaN is
                a missing value; infinities are numbers.

        Returns:
            float64 of shape (n_rows,): the probability of the positive class (`classes_[1]`) or the prediction.

        Raises:
            ContractError: the matrix has another type, dtype or number of features.
        """
        check_matrix(matrix, self.n_features)
        if matrix.shape[1] >= _COMPILE_FROM_ROWS or load_loop.cache_info().currsize:
            loop = load_loop()
            if loop is not None:
                return self._score_compiled(matrix, loop)
        return self._score_interpreted(matrix)

    def _score_compiled(self, matrix: Floats, loop: Loop) -> Floats:
        margins = np.empty(matrix.shape[1])
        is_linked = loop.has_exact_exp and self.link == "logit"
        aligned = matrix if matrix.flags.aligned else matrix.copy()
        loop.evaluate(aligned, *self._packed, self.baseline, is_linked, margins)
        return margins if is_linked else _apply_link(self.link, margins)

    def _score_interpreted(self, matrix: Floats) -> Floats:
        n_rows = matrix.shape[1]
        margins = np.full(n_rows, self.baseline)
        if n_rows <= _PLAIN_ROWS:
            for r in range(n_rows):
                margins[r] = self._walk_row(matrix[:, r].tolist())
        else:
            for begin in range(0, n_rows, BLOCK_ROWS):
                stop = begin + BLOCK_ROWS
                self._walk_block(matrix[:, begin:stop], margins[begin:stop])
        return _apply_link(self.link, margins)

    def _walk_row(self, row: list[float]) -> float:
        feature, threshold, left, right, missing, value, root = self._lists
        total = self.baseline
        for k in root:
            while (f := feature[k]) >= 0:
                x = row[f]
                k = left[k] if x <= threshold[k] else right[k] if x == x else missing[k]
            total += value[k]
        return total

    def _walk_block(self, block: Floats, margins: Floats) -> None:
        rows = np.arange(block.shape[1])
        node = np.repeat(self.root.astype(np.intp)[:, None], rows.size, axis=1)
        for _ in range(self.depth.max()):
            x = block[self.feature[node], rows]
            go_left = (x <= self.threshold[node]) | (np.isnan(x) & (self.missing_left[node] == 1))
            node = self.child[2 * node + go_left].astype(np.intp)
        for leaf in node:
            margins += self.value[leaf]

    @functools.cached_property
    def _lists(self) -> tuple[list[Any], ...]:
        """The nodes as Python lists: feature (-1 in leaves), threshold, left, right, child of a NaN, value; roots."""
        right, left = self.child[0::2], self.child[1::2]
        feature = np.where(left == right, -1, self.feature)
        missing = np.where(self.missing_left == 1, left, right)
        arrays = (feature, self.threshold, left, right, missing, self.value, self.root)
        return tuple(array.tolist() for array in arrays)

    @functools.cached_property
    def _packed(self) -> tuple[Nodes, Trees]:
        """The nodes as the compiled loop takes them.

        A split looks at a column of the block: a feature as it is if NaN goes right (`NaN <= t` is false), or with NaN
        replaced by -inf if NaN goes left. `keep` has, as bits, the leaves that remain when a row goes right; it means
        something in trees of up to 64 leaves.
        """
        is_split = self.child[0::2] != self.child[1::2]
        wanted = self.feature.astype(np.int64) * 2 + self.missing_left
        column, slots = np.unique(wanted[is_split], return_inverse=True)
        slot = np.zeros(self.feature.size, np.uint32)
        slot[is_split] = slots
        first, n_leaves = _leaf_ranges(self)
        split = np.flatnonzero(is_split)
        low, high = first[split], first[split] + n_leaves[self.child[2 * split + 1]]
        bit = np.uint64(1) << np.minimum([low, high], 63).astype(np.uint64)
        keep = np.full(self.feature.size, ALL_LEAVES)
        keep[split] = ~(bit[1] - bit[0])
        root, first_leaf = self.root.astype(np.uint32), _first_leaves(self).astype(np.uint32)
        nodes = (column, slot, self.threshold, keep, self.value, self.child.astype(np.uint32))
        trees = (root, first_leaf, self.depth.astype(np.uint32))
        for array in (*nodes, *trees):
            array.setflags(write=False)
        return nodes, trees


def warm_up() -> bool:
    """Load the compiled loop now, so that no later `score` has to; False where numba is not installed.

    Takes 1 to 2 seconds, and some more the first time on a machine, when it is compiled. From then on every batch of
    this process is scored by it, single rows too.
    """
    return load_loop() is not None


def check_matrix(matrix: Any, n_features: int) -> None:
    """Refuse, as a ContractError, what is no float64 matrix of that many features, a row each."""
    if getattr(matrix, "dtype", None) != np.float64 or matrix.ndim != 2 or matrix.shape[0] != n_features:
        got = f"{getattr(matrix, 'dtype', type(matrix).__name__)} {getattr(matrix, 'shape', '')}"
        raise ContractError(
            f"flat trees score a feature-major float64 matrix of shape ({n_features}, n_rows), got {got}"
        )


def _check_scalars(baseline: Any, link: Any, n_features: Any) -> None:
    _demand(isinstance(baseline, float) and math.isfinite(baseline), "baseline must be a finite float")
    _demand(link in _LINKS, f"link must be one of {', '.join(_LINKS)}, got {link!r}")
    _demand(
        isinstance(n_features, int) and n_features > 0, f"n_features must be an int > 0, got {n_features!r}"
    )


def _check_nodes(trees: FlatTrees) -> None:
    """Refuse arrays that are not trees as `FlatTrees` describes them; the order of the checks matters."""
    n_nodes, root, child = trees.feature.size, trees.root, trees.child
    sizes = {name: getattr(trees, name).size for name in ("threshold", "missing_left", "value")}
    _demand(
        all(size == n_nodes for size in sizes.values()),
        f"all node arrays must have {n_nodes} entries: {sizes}",
    )
    _demand(child.size == 2 * n_nodes, f"child must have {2 * n_nodes} entries, got {child.size}")
    _demand(0 < root.size == trees.depth.size, "root and depth must have one entry per tree, at least one")
    _demand(
        root[0] == 0 and root[-1] < n_nodes and bool((np.diff(root) > 0).all()), "root must ascend from 0"
    )
    own = np.arange(n_nodes)
    right, left = child[0::2], child[1::2]
    is_leaf = (right == own) & (left == own)
    tree = np.searchsorted(root, own, side="right") - 1
    stop = np.append(root, n_nodes)[tree + 1]
    in_order = (right > own) & (left > own) & (right < stop) & (left < stop)
    _demand((is_leaf | in_order).all(), "a child must be a later node of its tree, or a leaf its own child")
    parents = np.bincount(np.concatenate([root, right[~is_leaf], left[~is_leaf]]), minlength=n_nodes)
    _demand((parents == 1).all(), "every node but a root must be the child of one node")
    first_leaf = _first_leaves(trees)[tree]
    _demand((is_leaf == (own >= first_leaf)).all(), "the splits of a tree must come before its leaves")
    depth = np.zeros(root.size, np.int64)
    for splits in _levels(trees):
        depth[tree[splits]] += 1  # once per tree and level, however many splits
    _demand((depth == trees.depth).all(), "depth must be the number of splits on the longest path")
    left_to_right = first_leaf + _leaf_ranges(trees)[0]
    _demand((left_to_right[is_leaf] == own[is_leaf]).all(), "leaves must be stored from left to right")
    is_known = (trees.feature >= 0) & (trees.feature < trees.n_features) & (trees.missing_left <= 1)
    _demand(is_known.all(), f"feature must be in 0..{trees.n_features - 1}, missing_left 0 or 1")
    _demand(not np.isnan(trees.threshold).any(), "threshold must not be NaN")
    _demand((trees.threshold[is_leaf] == np.inf).all(), "the threshold of a leaf must be inf")
    _demand(np.isfinite(trees.value).all(), "value must be finite")


def _demand(holds: bool | np.bool_, rule: str) -> None:
    if not holds:
        raise ModelIntegrityError(f"flat trees: {rule}")


def _first_leaves(trees: FlatTrees) -> Numbers:
    """The first leaf of each tree."""
    is_split = trees.child[0::2] != trees.child[1::2]
    n_splits: Numbers = np.add.reduceat(is_split.astype(np.int64), trees.root)
    return trees.root + n_splits


def _levels(trees: FlatTrees) -> list[Numbers]:
    """The splits of all trees by their distance from the root."""
    pairs = trees.child.astype(np.int64).reshape(-1, 2)
    levels, nodes = [], trees.root.astype(np.int64)
    while (splits := nodes[pairs[nodes, 0] != pairs[nodes, 1]]).size:
        levels.append(splits)
        nodes = pairs[splits].ravel()
    return levels


def _leaf_ranges(trees: FlatTrees) -> tuple[Numbers, Numbers]:
    """Per node, the number of its leftmost leaf, counted from the left of its tree, and how many leaves it has."""
    levels = _levels(trees)
    right, left = trees.child[0::2], trees.child[1::2]
    first, n_leaves = np.zeros(right.size, np.int64), np.ones(right.size, np.int64)
    for splits in reversed(levels):
        n_leaves[splits] = n_leaves[left[splits]] + n_leaves[right[splits]]
    for splits in levels:
        first[left[splits]] = first[splits]
        first[right[splits]] = first[splits] + n_leaves[left[splits]]
    return first, n_leaves


def _apply_link(link: str, margins: Floats) -> Floats:
    if link == "logit":
        return np.array([_logistic(margin) for margin in margins.tolist()], np.float64)
    return np.exp(margins) if link == "log" else margins


def _logistic(margin: float) -> float:
    """scipy's expit, bit for bit: both take the exponential from the C library, which np.exp need not do."""
    try:
        return 1.0 / (1.0 + math.exp(-margin))
    except OverflowError:
        return 0.0
