"""LightGBM's fitted models into flat trees (see trees), from the text in which LightGBM saves a model.

What LightGBM does, read from its source and held against it by `certify_trees`: everything is float64; what is nearly 0 is
read as 0; sums start at 0; a missing value is NaN, or 0, or nothing (NaN counts as 0), as each split says; a category is the
whole part of a number; the exponential is the C library's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from feature_pipelines.errors import ModelError
from udfs.trees import FlatTrees
from udfs.trees_nodes import Tree, assemble, bounds_of

__all__ = ["EXPORTS"]

_ZERO: Final = float(np.float32(1e-35))  # up to here LightGBM takes a number for 0, wherever it reads a row
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_NONE, _ZERO_MISSING, _NAN = 0, 1, 2
_LINKS: Final = {
    "regression": "identity",
    "regression_l1": "identity",
    "huber": "identity",
    "fair": "identity",
    "quantile": "identity",
    "mape": "identity",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
    "binary": "logit",
    "cross_entropy": "logit",
    "multiclass": "softmax_c",
    "multiclassova": "logit",
}


def _export(estimator: Any, name: str) -> FlatTrees:
    if not getattr(estimator, "fitted_", False):
        raise ModelError(f"{name} is not fitted; fit it before exporting its trees")
    if estimator.get_params().get("pred_early_stop"):
        raise ModelError(
            f"{name} stops early when it predicts (pred_early_stop); flat trees add up all trees"
        )
    head, *parts = estimator.booster_.model_to_string().split("\nTree=")
    header = _entries(head)
    objective, *options = header.get("objective", "none").split()
    if objective not in _LINKS:
        raise ModelError(f"{name} has the objective {objective}; flat trees know {', '.join(_LINKS)}")
    link, slope = _LINKS[objective], 1.0
    for option in options:
        key, _, value = option.partition(":")
        if key == "sigmoid":
            slope = float(value)
        elif key == "sqrt":
            link = "square"
    trees = [_tree(_entries(part), name) for part in parts]
    n_outputs = int(header["num_tree_per_iteration"])
    is_averaged = "average_output" in head.splitlines()
    return assemble(
        trees,
        np.zeros(n_outputs),
        output=(np.arange(len(trees)) % n_outputs).astype(np.int32),
        link=link,
        slope=slope,
        divisor=float(len(trees) // n_outputs) if is_averaged else 1.0,
        n_features=int(header["max_feature_idx"]) + 1,
    )


def _entries(text: str) -> dict[str, str]:
    """Return the "key=value" lines of a section, up to the first that says that trees end."""
    lines = text.partition("end of trees")[0].splitlines()
    return {key: value for key, separator, value in (line.partition("=") for line in lines) if separator}


def _tree(entries: Mapping[str, str], name: str) -> Tree:
    if int(entries.get("is_linear", "0")):
        raise ModelError(f"{name} has linear models in its leaves; flat trees know constants only")
    n_leaves = int(entries["num_leaves"])
    n_splits = n_leaves - 1

    def splits(key: str, dtype: Any) -> Any:
        return np.array(entries[key].split() if n_splits else [], dtype)

    decision, threshold = splits("decision_type", np.int64), splits("threshold", np.float64)
    left, right = splits("left_child", np.int64), splits("right_child", np.int64)
    values = np.array(entries["leaf_value"].split(), np.float64)
    is_categorical = (decision & _CATEGORICAL) > 0
    kind, default_left = (decision >> 2) & 3, (decision & _DEFAULT_LEFT) > 0
    missing_left = np.where(kind == _NONE, threshold >= 0.0, default_left) & ~is_categorical
    bounds = {}
    for k in np.flatnonzero(is_categorical).tolist():
        bounds[k] = _category_bounds(_categories(entries, int(threshold[k])))
    for k in np.flatnonzero((kind == _ZERO_MISSING) & ~is_categorical).tolist():
        bounds[k] = _zero_bounds(float(threshold[k]), bool(default_left[k]))
    threshold = np.where((threshold >= 0.0) & (threshold < _ZERO), _ZERO, threshold)
    threshold = np.where((threshold < 0.0) & (threshold >= -_ZERO), np.nextafter(-_ZERO, -1.0), threshold)
    of_leaves = np.zeros(n_leaves, np.int64)
    return Tree(
        left=np.concatenate([np.where(left < 0, n_splits + ~left, left), of_leaves - 1]),
        right=np.concatenate([np.where(right < 0, n_splits + ~right, right), of_leaves - 1]),
        feature=np.concatenate([splits("split_feature", np.int64), of_leaves]),
        threshold=np.concatenate([threshold, of_leaves]),
        missing_left=np.concatenate([missing_left, of_leaves]),
        value=np.concatenate([np.zeros(n_splits), values]),
        bounds=bounds,
    )


def _categories(entries: Mapping[str, str], number: int) -> list[int]:
    """Return the categories that go left at a tree's categorical split of this number."""
    limits = [int(word) for word in entries["cat_boundaries"].split()]
    words = [int(word) for word in entries["cat_threshold"].split()][limits[number] : limits[number + 1]]
    return [32 * w + bit for w, word in enumerate(words) for bit in range(32) if word >> bit & 1]


def _category_bounds(categories: list[int]) -> list[float]:
    """What is cut off to one of the categories goes left; all else right: other categories, negative numbers, NaN."""
    edges: list[float] = []
    is_left = [False]
    for category in categories:  # 0 is what lies between -1 and 1
        start = float(category) if category else float(np.nextafter(-1.0, 0.0))
        if edges and edges[-1] == start:
            edges.pop()
            is_left.pop()
        edges += [start, category + 1.0]
        is_left += [True, False]
    return bounds_of(edges, is_left)


def _zero_bounds(threshold: float, default_left: bool) -> list[float]:
    """What counts as 0 goes with the missing ones, all else by the threshold."""
    after = float(np.nextafter(threshold, np.inf))
    edges = sorted({after, -_ZERO, float(np.nextafter(_ZERO, np.inf))})
    starts = [-np.inf, *edges]
    return bounds_of(edges, [default_left if abs(x) <= _ZERO else x <= threshold for x in starts])


EXPORTS: Final[dict[str, Callable[[Any, str], FlatTrees]]] = {
    "LGBMClassifier": _export,
    "LGBMRegressor": _export,
}
"""By the name of the class, what exports a fitted instance of it."""
