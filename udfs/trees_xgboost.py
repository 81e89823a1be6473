"""XGBoost's fitted models into flat trees (see trees), from the JSON in which XGBoost saves a model.

What XGBoost does, read from its source and held against it by `certify_trees`: features, sums and links are float32; a row goes
left if x < threshold; at a categorical split the listed categories go right and any other number left; a category is the
whole part of a number; sums start at the base score, put through the inverse link; the exponential is the C library's expf.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from feature_pipelines.errors import ModelError
from udfs.trees import FlatTrees
from udfs.trees_finish import c_function
from udfs.trees_loop import Floats
from udfs.trees_nodes import Tree, assemble, below_single, bounds_of, from_single

__all__ = ["EXPORTS"]

_LINKS: Final = {
    "reg:squarederror": "identity",
    "reg:absoluteerror": "identity",
    "reg:pseudohubererror": "identity",
    "reg:squaredlogerror": "identity",
    "reg:quantileerror": "identity",
    "reg:logistic": "logit",
    "binary:logistic": "logit",
    "count:poisson": "exp",
    "reg:gamma": "exp",
    "reg:tweedie": "exp",
    "multi:softprob": "softmax_c",
}
_NO_LESS: Final = np.float32(1e-6)  # a base score that is a probability is kept this far from 0 and 1


def _export(estimator: Any, name: str) -> FlatTrees:
    if not estimator.__sklearn_is_fitted__():
        raise ModelError(f"{name} is not fitted; fit it before exporting its trees")
    if not np.isnan(estimator.missing):
        raise ModelError(f"{name} takes {estimator.missing} for missing; flat trees know NaN only")
    learner = json.loads(estimator.get_booster().save_raw("json"))["learner"]
    booster, parameters = learner["gradient_booster"], learner["learner_model_param"]
    objective = learner["objective"]["name"]
    _demand_known(name, booster, parameters, objective)
    model = booster["model"]
    try:
        stop = model["iteration_indptr"][int(estimator.best_iteration) + 1]
    except AttributeError:  # it was not stopped early: all trees count
        stop = len(model["trees"])
    link, n_outputs = _LINKS[objective], max(int(parameters["num_class"]), 1)
    base = np.array(parameters["base_score"].strip("[]").split(","), np.float32)
    return assemble(
        [_tree(tree, name) for tree in model["trees"][:stop]],
        np.broadcast_to(_margins(base, link), (n_outputs,)).tolist(),
        output=np.array(model["tree_info"][:stop], np.int32),
        link=link,
        n_features=int(parameters["num_feature"]),
        precision="single",
    )


def _demand_known(
    name: str, booster: Mapping[str, Any], parameters: Mapping[str, str], objective: str
) -> None:
    if booster["name"] != "gbtree":
        raise ModelError(f"{name} is a {booster['name']} model; flat trees know gbtree")
    if objective not in _LINKS:
        raise ModelError(f"{name} has the objective {objective}; flat trees know {', '.join(_LINKS)}")
    if int(parameters["num_target"]) != 1 or int(parameters["num_class"]) == 2:
        raise ModelError(f"{name} gives several scores, but not one per class of three or more")
    if booster["model"]["cats"]["enc"]:
        raise ModelError(f"{name} has categories that it numbers itself; flat trees know numbers only")


def _margins(base: Any, link: str) -> Floats:
    """Return base scores put through the inverse link, in the C library's float32 arithmetic."""
    if link in ("identity", "softmax_c"):
        return np.asarray(base, np.float64)
    log, one = c_function("logf"), np.float32(1.0)
    if link == "exp":
        return np.array([log(float(number)) for number in base])
    kept = np.minimum(np.maximum(base, _NO_LESS), one - _NO_LESS)
    return np.array([-log(float(one / number - one)) for number in kept])


def _tree(tree: Mapping[str, Any], name: str) -> Tree:
    if int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise ModelError(f"{name} has leaves with several values; flat trees know one output per tree")
    left = np.array(tree["left_children"], np.int64)
    number = np.array(tree["split_conditions"], np.float64).astype(np.float32).astype(np.float64)
    is_plain = (left >= 0) & (np.array(tree["split_type"]) == 0)
    if (number[is_plain] == -np.inf).any():
        raise ModelError(
            f"{name} has a threshold of -inf, below which nothing lies; flat trees know none such"
        )
    categories = {}
    for node, begin, size in zip(
        tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True
    ):
        categories[node] = _category_bounds(tree["categories"][begin : begin + size])
    return Tree(
        left=left,
        right=np.array(tree["right_children"], np.int64),
        feature=np.array(tree["split_indices"], np.int64),
        threshold=below_single(np.where(is_plain, number, 0.0)),
        missing_left=np.array(tree["default_left"], np.uint8),
        value=number,
        bounds=categories,
    )


def _category_bounds(categories: list[int]) -> list[float]:
    edges: list[float] = []
    is_left = [True]
    for category in sorted(categories):
        start, stop = from_single(np.array([category, category + 1.0])).tolist()
        if edges and edges[-1] == start:
            edges.pop()
            is_left.pop()
        edges += [start, stop]
        is_left += [False, True]
    return bounds_of(edges, is_left)


EXPORTS: Final[dict[str, Callable[[Any, str], FlatTrees]]] = {
    "XGBClassifier": _export,
    "XGBRegressor": _export,
    "XGBRFClassifier": _export,
    "XGBRFRegressor": _export,
}
"""By the name of the class, what exports a fitted instance of it."""
