"""A fitted estimator into flat trees (see trees), and the proof that they give its bits.

Not exportable: categorical splits, several classes, other libraries; the caller falls back to the estimator.
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
from udfs.trees import DTYPES, FlatTrees, check_matrix
from udfs.trees_loop import Floats, load_loop

__all__ = ["TreeCertificate", "certify_trees", "export_trees"]

_LINKS: Final = {"IdentityLink": "identity", "LogitLink": "logit", "LogLink": "log"}
_EXPORTABLE: Final = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")


@dataclass(frozen=True)
class TreeCertificate:
    """What `certify_trees` found: per way of evaluation and batch size, how many rows have other bits.

    Args:
        n_rows: rows compared.
        mismatches: rows with other bits than the estimator's, by "way, batches of n rows".
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
    of 1, 7, 256, 257 and all rows. The estimator predicts all rows at once.

    Args:
        trees: what `export_trees(estimator)` returned, possibly saved and loaded.
        estimator: the fitted estimator.
        matrix: float64 of shape (n_features, n_rows), at least one row; a few thousand rows take about a second.

    Raises:
        ContractError: the matrix is not one that `FlatTrees.score` takes.
    """
    check_matrix(matrix, trees.n_features)
    n_rows = matrix.shape[1]
    if n_rows == 0:
        return TreeCertificate(0, {})
    expected = _predict(estimator, trees.link, np.ascontiguousarray(matrix.T)).view(np.uint64)
    ways: dict[str, Callable[[Floats], Floats]] = {"interpreted": trees._score_interpreted}
    loop = load_loop()
    if loop is not None:
        ways["compiled"] = functools.partial(trees._score_compiled, loop=loop)
    mismatches = {}
    for way, score in ways.items():
        for size in sorted({min(size, n_rows) for size in (1, 7, 256, 257, n_rows)}):
            scores = [score(matrix[:, begin : begin + size]) for begin in range(0, n_rows, size)]
            differs = np.concatenate(scores).view(np.uint64) != expected
            mismatches[f"{way}, batches of {size} rows"] = int(np.count_nonzero(differs))
    return TreeCertificate(n_rows, mismatches)


def _predict(estimator: Any, link: str, rows: Floats) -> Floats:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "X does not have valid feature names")
        scores = estimator.predict_proba(rows)[:, 1] if link == "logit" else estimator.predict(rows)
    return np.ascontiguousarray(scores, dtype=np.float64)


def export_trees(estimator: Any) -> FlatTrees:
    """Return a fitted estimator's trees as flat arrays.

    Exportable: scikit-learn's HistGradientBoostingClassifier of two classes, and HistGradientBoostingRegressor, both
    without categorical features. Whether the scores are the same bits is for `certify_trees` to say.

    Raises:
        ModelError: the estimator is of another class, not fitted, has categorical features or several classes, or its
            scikit-learn stores trees in another way than those known here. The message says which.
    """
    kind = type(estimator)
    if kind.__name__ not in _EXPORTABLE or not kind.__module__.startswith("sklearn.ensemble."):
        raise ModelError(
            f"{kind.__module__}.{kind.__qualname__} has no export to flat trees; exportable are scikit-learn's "
            f"{' and '.join(_EXPORTABLE)} (not their subclasses)",
            estimator=kind.__qualname__,
        )
    try:
        return _export_hist_gradient_boosting(estimator, kind.__name__)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ModelIntegrityError) as exc:
        raise ModelError(
            f"{kind.__name__}: this scikit-learn stores its trees in an unknown way: {exc}"
        ) from exc


def _export_hist_gradient_boosting(estimator: Any, name: str) -> FlatTrees:
    if not hasattr(estimator, "_predictors"):
        raise ModelError(f"{name} is not fitted; fit it before exporting its trees")
    if estimator.is_categorical_ is not None:
        positions = np.flatnonzero(estimator.is_categorical_).tolist()
        raise ModelError(f"{name} has categorical features (at {positions}); flat trees know thresholds only")
    if estimator.n_trees_per_iteration_ != 1:
        n_classes = len(estimator.classes_)
        raise ModelError(f"{name} has {n_classes} classes; flat trees give one score per row, of two classes")
    link = type(estimator._loss.link).__name__
    if link not in _LINKS:
        raise ModelError(f"{name} has a loss with {link}; flat trees know {', '.join(_LINKS)}")
    trees = [predictor.nodes for (predictor,) in estimator._predictors]
    starts = np.cumsum([0, *map(len, trees)])
    parts = [_flatten_nodes(nodes, start) for nodes, start in zip(trees, starts[:-1], strict=True)]
    (baseline,) = estimator._baseline_prediction.ravel().tolist()
    return FlatTrees(
        **{
            field: np.concatenate([part[field] for part in parts]).astype(DTYPES[field]) for field in parts[0]
        },
        root=starts[:-1].astype(np.int32),
        depth=np.array([nodes["depth"].max() for nodes in trees], np.int32),
        baseline=0.0 + baseline,  # as the library does: -0.0 becomes 0.0
        link=_LINKS[link],
        n_features=int(estimator.n_features_in_),
    )


def _flatten_nodes(nodes: npt.NDArray[Any], start: int) -> dict[str, npt.NDArray[Any]]:
    """One tree of scikit-learn, stored in depth-first order, left before right: splits first, then leaves."""
    is_leaf = nodes["is_leaf"] == 1
    order = np.argsort(is_leaf, kind="stable")
    position = np.empty_like(order)
    position[order] = own = start + np.arange(order.size)
    nodes, is_leaf = nodes[order], is_leaf[order]
    if nodes["is_categorical"].any():
        raise ModelError("a tree has categorical splits; flat trees know thresholds only")
    right, left = (np.where(is_leaf, own, position[nodes[side]]) for side in ("right", "left"))
    return {
        "feature": np.where(is_leaf, 0, nodes["feature_idx"]),
        "threshold": np.where(is_leaf, np.inf, nodes["num_threshold"]),
        "child": np.column_stack([right, left]).ravel(),
        "missing_left": np.where(is_leaf, 0, nodes["missing_go_to_left"]),
        "value": np.where(is_leaf, nodes["value"], 0.0),
    }
