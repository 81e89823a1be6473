"""scikit-learn's fitted tree ensembles into flat trees (see trees).

What scikit-learn does, read from its source and held against it by `certify_trees`: gradient boosting by histograms compares
float64 numbers; all other trees round features to float32 first, and refuse infinities. Forests add up the trees' values
in order and divide; with n_jobs above 1 they do so in the order in which threads finish, which no flat trees reproduce.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from feature_pipelines.errors import ModelError
from udfs.trees import FlatTrees
from udfs.trees_loop import Numbers
from udfs.trees_nodes import LARGEST_SINGLE, Tree, assemble, at_most_single, bounds_of

__all__ = ["EXPORTS"]

_LARGEST: Final = float(np.finfo(np.float64).max)
_LINKS: Final = {
    "IdentityLink": ("identity", 1.0),
    "LogitLink": ("logit", 1.0),
    "HalfLogitLink": ("logit", 2.0),
    "LogLink": ("log", 1.0),
}


def _link(estimator: Any, name: str, softmax: str) -> tuple[str, float]:
    link = getattr(type(estimator._loss.link), "__name__", "")
    if link == "MultinomialLogit":
        return softmax, 1.0
    if link not in _LINKS:
        known = ", ".join([*_LINKS, "MultinomialLogit"])
        raise ModelError(f"{name} has a loss with {link}; flat trees know {known}")
    return _LINKS[link]


def _outputs(n_trees: int, n_outputs: int) -> npt.NDArray[np.int32]:
    """Return the outputs of trees that take turns."""
    return (np.arange(n_trees) % n_outputs).astype(np.int32)


# Gradient boosting by histograms


def _export_histogram(estimator: Any, name: str) -> FlatTrees:
    _demand_fitted(estimator, "_predictors", name)
    link, slope = _link(estimator, name, "softmax")
    n_features = int(estimator.n_features_in_)
    order, categories = _categories(estimator, name, n_features)
    known = estimator._bin_mapper.make_known_categories_bitsets() if categories else None
    predictors = [predictor for iteration in estimator._predictors for predictor in iteration]
    trees = [_histogram_tree(predictor, order, categories, known) for predictor in predictors]
    n_outputs = int(estimator.n_trees_per_iteration_)
    limit = np.full(n_features, np.inf)
    limit[[int(order[column]) for column in categories]] = _LARGEST
    return assemble(
        trees,
        0.0 + estimator._baseline_prediction.ravel(),  # as the library does: -0.0 becomes 0.0
        output=_outputs(len(trees), n_outputs),
        link=link,
        slope=slope,
        n_features=n_features,
        limit=limit,
    )


def _categories(
    estimator: Any, name: str, n_features: int
) -> tuple[Numbers, dict[int, npt.NDArray[np.float64]]]:
    """Return the feature of each of the library's columns, which has categorical ones first, and the categories of these."""
    if estimator.is_categorical_ is None:
        return np.arange(n_features), {}
    is_categorical = np.asarray(estimator.is_categorical_)
    order = np.concatenate([np.flatnonzero(is_categorical), np.flatnonzero(~is_categorical)])
    found = {}
    encoder = estimator._preprocessor.named_transformers_["encoder"]
    for column, categories in enumerate(encoder.categories_):
        if not np.issubdtype(categories.dtype, np.number):
            raise ModelError(
                f"{name} has categories of {categories.dtype} (feature {order[column]}); flat trees know numbers only"
            )
        found[column] = categories.astype(np.float64)
    return order, found


def _histogram_tree(
    predictor: Any, order: Numbers, categories: dict[int, npt.NDArray[np.float64]], known: Any
) -> Tree:
    nodes = predictor.nodes
    is_leaf = nodes["is_leaf"] == 1
    bounds = {}
    for k in np.flatnonzero((nodes["is_categorical"] == 1) & ~is_leaf).tolist():
        column = int(nodes["feature_idx"][k])
        left = predictor.raw_left_cat_bitsets[nodes["bitset_idx"][k]]
        known_here = known[0][known[1][column]]
        bounds[k] = _category_bounds(
            categories[column], left, known_here, bool(nodes["missing_go_to_left"][k])
        )
    return Tree(
        left=np.where(is_leaf, -1, nodes["left"].astype(np.int64)),
        right=nodes["right"].astype(np.int64),
        feature=order[np.where(is_leaf, 0, nodes["feature_idx"])],
        threshold=nodes["num_threshold"],
        missing_left=nodes["missing_go_to_left"],
        value=nodes["value"],
        bounds=bounds,
    )


def _category_bounds(
    categories: npt.NDArray[np.float64], left: Any, known: Any, missing_left: bool
) -> list[float]:
    """A number that is no category goes where missing ones go; so does a category that no row had when trees were grown."""
    edges: list[float] = []
    is_left = [missing_left]
    for code, category in enumerate(categories.tolist()):
        if category != category:
            continue
        if edges and edges[-1] == category:
            edges.pop()
            is_left.pop()
        edges += [category, float(np.nextafter(category, np.inf))]
        goes_left = _has(left, code) or (not _has(known, code) and missing_left)
        is_left += [goes_left, missing_left]
    return bounds_of(edges, is_left)


def _has(bitset: Any, code: int) -> bool:
    return bool(int(bitset[code // 32]) >> (code % 32) & 1)


# Trees over float32


def _demand_fitted(estimator: Any, attribute: str, name: str) -> None:
    if not hasattr(estimator, attribute):
        raise ModelError(f"{name} is not fitted; fit it before exporting its trees")


def _single_tree(tree: Any, value: npt.NDArray[np.float64]) -> Tree:
    return Tree(
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=at_most_single(np.where(tree.children_left < 0, 0.0, tree.threshold)),
        missing_left=tree.missing_go_to_left,
        value=value,
    )


def _export_gradient_boosting(estimator: Any, name: str) -> FlatTrees:
    _demand_fitted(estimator, "estimators_", name)
    link, slope = _link(estimator, name, "softmax_by_row")
    init, n_features = estimator.init_, int(estimator.n_features_in_)
    kind = init if isinstance(init, str) else type(init).__name__
    is_prior = kind == "DummyClassifier" and init.strategy == "prior"
    if not (is_prior or kind in ("zero", "DummyRegressor")):
        raise ModelError(f"{name} starts from {kind}; flat trees start from a constant")
    n_outputs = int(estimator.n_trees_per_iteration_)
    grown = [tree.tree_ for stage in estimator.estimators_ for tree in stage]
    trees = [_single_tree(tree, float(estimator.learning_rate) * tree.value[:, 0, 0]) for tree in grown]
    return assemble(
        trees,
        estimator._raw_predict_init(np.zeros((1, n_features), np.float32)).ravel(),
        output=_outputs(len(trees), n_outputs),
        link=link,
        slope=slope,
        n_features=n_features,
        limit=np.full(n_features, LARGEST_SINGLE),
        takes_nan=np.zeros(n_features, np.uint8),
    )


def _export_forest(estimator: Any, name: str) -> FlatTrees:
    _demand_fitted(estimator, "estimators_", name)
    if estimator.n_outputs_ != 1:
        raise ModelError(f"{name} predicts {estimator.n_outputs_} targets; flat trees know one")
    n_features = int(estimator.n_features_in_)
    n_classes = int(estimator.n_classes_) if hasattr(estimator, "classes_") else 0
    if n_classes == 1:
        raise ModelError(f"{name} has one class; flat trees give the probability of a second")
    values = slice(0, n_classes) if n_classes > 2 else 1 if n_classes == 2 else 0
    trees = [_single_tree(tree.tree_, tree.tree_.value[:, 0, values]) for tree in estimator.estimators_]
    takes_nan = estimator.estimators_[0]._support_missing_values(np.zeros((1, n_features), np.float32))
    return assemble(
        trees,
        np.zeros(max(n_classes, 1) if n_classes > 2 else 1),
        link="identity",
        divisor=float(len(trees)),
        n_features=n_features,
        limit=np.full(n_features, LARGEST_SINGLE),
        takes_nan=np.full(n_features, takes_nan, np.uint8),
    )


EXPORTS: Final[dict[str, Callable[[Any, str], FlatTrees]]] = {
    "HistGradientBoostingClassifier": _export_histogram,
    "HistGradientBoostingRegressor": _export_histogram,
    "GradientBoostingClassifier": _export_gradient_boosting,
    "GradientBoostingRegressor": _export_gradient_boosting,
    "RandomForestClassifier": _export_forest,
    "RandomForestRegressor": _export_forest,
    "ExtraTreesClassifier": _export_forest,
    "ExtraTreesRegressor": _export_forest,
}
"""By the name of the class, what exports a fitted instance of it."""
