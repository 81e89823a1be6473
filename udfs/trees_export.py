"""A fitted estimator into flat trees (see trees), and the proof that they give its bits.

What has no export, or gives other bits, is scored by its own library: the caller falls back to the estimator. The libraries
are not imported here; whoever has a fitted estimator has imported its own.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_pipelines.errors import ModelError, ModelIntegrityError
from udfs import trees_lightgbm, trees_sklearn, trees_xgboost
from udfs.trees import FlatTrees, check_matrix
from udfs.trees_loop import Floats, load_loop

__all__ = ["TreeCertificate", "certify_trees", "export_trees"]

_LIBRARIES: Final = {
    "sklearn": ("scikit-learn", trees_sklearn.EXPORTS),
    "lightgbm": ("LightGBM", trees_lightgbm.EXPORTS),
    "xgboost": ("XGBoost", trees_xgboost.EXPORTS),
}
_DECISIVE_ROWS: Final = 1024
_REFUSED_ROWS: Final = (
    16  # of the rows that flat trees refuse, so many are offered to the library, each alone
)


@dataclass(frozen=True)
class TreeCertificate:
    """What `certify_trees` found: per way of evaluation and batch size, how many rows have other bits.

    Args:
        n_rows: rows compared.
        mismatches: rows with other bits than the estimator's, by "way, batches of n rows"; and rows that one of both refuses
            while the other scores them.
    """

    n_rows: int
    mismatches: Mapping[str, int]

    @property
    def is_identical(self) -> bool:
        """True if at least one row was compared and no bit differed."""
        return self.n_rows > 0 and not any(self.mismatches.values())


def certify_trees(trees: FlatTrees, estimator: Any, matrix: Floats) -> TreeCertificate:
    """Return how the flat trees compare to the estimator they were exported from, by raw bits, on the given rows.

    Both ways that `FlatTrees.score` may take are compared (the compiled one where numba is installed), each in batches
    of 1, 7, 256, 257 and all rows; and all at once on rows made of these and of the numbers at which trees decide, with the
    numbers just below and above, where two readings of a split part. The estimator predicts all rows at once. Rows with a
    value that the trees refuse must be refused by the estimator too, which is tried with some of them; they are not among
    the rows compared.

    Args:
        trees: what `export_trees(estimator)` returned, possibly saved and loaded.
        estimator: the fitted estimator.
        matrix: float64 of shape (n_features, n_rows), at least one row; a few thousand rows take about a second.

    Raises:
        ContractError: the matrix is not one that `FlatTrees.score` takes.
    """
    check_matrix(matrix, trees.n_features)
    refused = trees.refused(matrix)
    mismatches: dict[str, int] = {}
    if refused is not None and refused.any():
        mismatches["refused by flat trees alone"] = _not_refused(estimator, matrix[:, refused])
        matrix = matrix[:, ~refused]
    n_rows = matrix.shape[1]
    if n_rows == 0:
        return TreeCertificate(0, mismatches)
    decisive = _decisive_rows(trees, matrix)
    try:
        expected, of_decisive = (
            _predict(estimator, np.ascontiguousarray(rows.T)).view(np.uint64) for rows in (matrix, decisive)
        )
    except ValueError:
        return TreeCertificate(n_rows, {**mismatches, "refused by the library alone": n_rows})
    ways: dict[str, Callable[[Floats], Floats]] = {"interpreted": trees._score_interpreted}
    loop = load_loop()
    if loop is not None:
        ways["compiled"] = functools.partial(trees._score_compiled, loop=loop)
    for way, score in ways.items():
        for size in sorted({min(size, n_rows) for size in (1, 7, 256, 257, n_rows)}):
            scores = [score(matrix[:, begin : begin + size]) for begin in range(0, n_rows, size)]
            mismatches[f"{way}, batches of {size} rows"] = _count_differing(np.concatenate(scores), expected)
        mismatches[f"{way}, {_DECISIVE_ROWS} rows at decisions"] = _count_differing(
            score(decisive), of_decisive
        )
    return TreeCertificate(n_rows, mismatches)


def _decisive_rows(trees: FlatTrees, matrix: Floats) -> Floats:
    """Return rows like those of the matrix, with about a third of the values at or beside a decision, or missing."""
    rng = np.random.default_rng(0)
    rows = matrix[:, rng.integers(0, matrix.shape[1], _DECISIVE_ROWS)]
    owner = np.repeat(trees.feature, np.diff(trees.bounds_stop, prepend=0))
    is_plain = (trees.child[0::2] != trees.child[1::2]) & np.isfinite(trees.threshold)
    for f in range(trees.n_features):
        at = np.concatenate([trees.threshold[is_plain & (trees.feature == f)], trees.bounds[owner == f]])
        with np.errstate(all="ignore"):
            at = np.concatenate([at, np.nextafter(at, -np.inf), np.nextafter(at, np.inf)])
        at = np.concatenate([at[np.abs(at) <= trees.limit[f]], [np.nan] if trees.takes_nan[f] else []])
        chosen = rng.random(_DECISIVE_ROWS) < 1 / 3
        if at.size:
            rows[f, chosen] = rng.choice(at, np.count_nonzero(chosen))
    return rows


def _count_differing(scores: Floats, expected: npt.NDArray[np.uint64]) -> int:
    if scores.shape != expected.shape:
        return len(expected)
    differs = np.ascontiguousarray(scores).view(np.uint64) != expected
    return int(np.count_nonzero(differs.reshape(len(expected), -1).any(axis=1)))


def _predict(estimator: Any, rows: Floats) -> Floats:
    """Return what the library predicts, in the shape of `FlatTrees.score`, float32 as float64."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):  # as where rows are scored
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        if not hasattr(estimator, "predict_proba"):
            return np.ascontiguousarray(estimator.predict(rows), dtype=np.float64)
        scores = estimator.predict_proba(rows)
    return np.ascontiguousarray(scores[:, 1] if scores.shape[1] == 2 else scores, dtype=np.float64)


def _not_refused(estimator: Any, refused: Floats) -> int:
    """Return how many of some rows the library predicts."""
    rows = np.unique(np.linspace(0, refused.shape[1] - 1, _REFUSED_ROWS).astype(np.int64))
    n_predicted = 0
    for row in rows.tolist():
        try:
            _predict(estimator, np.ascontiguousarray(refused[:, row : row + 1].T))
        except ValueError:
            continue
        n_predicted += 1
    return n_predicted


def export_trees(estimator: Any) -> FlatTrees:
    """Return a fitted estimator's trees as flat arrays.

    Exportable: scikit-learn's gradient boosting (by histograms, with categorical features, and the other), random forests and
    extra trees; LightGBM's and XGBoost's models in the form of scikit-learn's; classifiers of two and more classes, regressors.
    Whether the scores are the same bits is for `certify_trees` to say.

    Raises:
        ModelError: the estimator is of another class, not fitted, does something that flat trees cannot, or its library stores
            trees in another way than those known here. The message says which.
    """
    kind = type(estimator)
    library, exports = _LIBRARIES.get(kind.__module__.partition(".")[0], ("", {}))
    if kind.__name__ not in exports:
        known = "; ".join(f"{of}'s {', '.join(names)}" for of, names in _LIBRARIES.values())
        raise ModelError(
            f"{kind.__module__}.{kind.__qualname__} has no export to flat trees; exportable are {known} (not their subclasses)",
            estimator=kind.__qualname__,
        )
    try:
        return exports[kind.__name__](estimator, kind.__name__)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ModelIntegrityError) as exc:
        raise ModelError(
            f"{kind.__name__}: this {library} stores its trees in an unknown way: {exc}"
        ) from exc
