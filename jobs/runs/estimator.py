"""The estimator that the configuration names: made with its arguments and ours, fitted, and asked on one thread.

What scikit-learn refuses becomes an error that names the setting. This module knows nothing of tables, views or MLflow.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import StackingClassifier

from feature_pipelines.errors import ConfigurationError, did_you_mean
from jobs.runs.settings import TrainSettings
from udfs.scorer import use_one_thread

__all__ = ["fit_estimator", "make_estimator", "predict"]

_DEFAULTS = {
    "classification": "sklearn.ensemble:HistGradientBoostingClassifier",
    "multiclass": "sklearn.ensemble:HistGradientBoostingClassifier",
    "regression": "sklearn.ensemble:HistGradientBoostingRegressor",
}
_VERBOSE = {"verbose", "verbosity"}


def make_estimator(settings: TrainSettings) -> Any:
    """Return the estimator that `train.estimator` names, with `train.params`, not fitted.

    It gets `random_state` from `train.seed` if it has such an argument and the params do not set it; LightGBM is told to print
    nothing. A param that is null is left out where the estimator has no such argument, so that `--set` can take away what a
    file sets for another estimator.

    Raises:
        ConfigurationError: it cannot be imported, the params do not fit it, or it gives no probability and the task needs one.
    """
    reference = _reference(settings)
    factory = _imported(reference)
    arguments, takes_any = _arguments_of(factory)
    params = {
        name: value for name, value in settings.params.items() if value is not None or name in arguments
    }
    unknown = [] if takes_any else sorted(set(params) - set(arguments))
    if unknown:
        raise ConfigurationError(
            f"train.params: {reference} has no argument {unknown[0]!r}.{did_you_mean(unknown[0], arguments)} To take away what "
            f"a file sets: {' '.join(f'--set train.params.{name}=null' for name in unknown)}"
        )
    ours: dict[str, Any] = {"random_state": settings.seed}
    if settings.estimator is None:
        ours["early_stopping"] = False
    known = {name: value for name, value in ours.items() if name in arguments}
    if reference.startswith("lightgbm") and takes_any and not _VERBOSE & params.keys():
        known["verbosity"] = -1
    try:
        estimator = factory(**{**known, **params})
    except (TypeError, ValueError) as exc:
        raise ConfigurationError(f"train.params do not fit {reference}: {exc}") from exc
    if settings.task != "regression" and not isinstance(estimator, StackingClassifier):
        _demand_probability(estimator, reference)  # stacking has it once its last estimator is fitted
    return estimator


def _demand_probability(estimator: Any, reference: str) -> None:
    if not hasattr(estimator, "predict_proba"):
        raise ConfigurationError(
            f"train.estimator: a classification needs predict_proba, which {reference} does not have with these train.params"
        )


def fit_estimator(
    settings: TrainSettings,
    estimator: Any,
    rows: NDArray[np.float64],
    label: NDArray[Any],
    names: Sequence[str],
) -> None:
    """Fit, on as many threads as its params say; from then on it uses one.

    Args:
        settings: what the estimator was made from.
        estimator: of `make_estimator`; changed.
        rows: features, shape (n, n_features).
        label: shape (n,): values, or numbers of classes.
        names: the features, in the order of the columns.

    Raises:
        ConfigurationError: the estimator refuses its params or these values.
    """
    with _refusals_named(settings, rows, names):
        estimator.fit(rows, label)
    if settings.task != "regression":
        _demand_probability(estimator, _reference(settings))
    use_one_thread(estimator)


def predict(
    settings: TrainSettings, estimator: Any, rows: NDArray[np.float64], names: Sequence[str]
) -> NDArray[np.float64]:
    """Return the probability of the positive class, shape (n,), of each class, shape (n, n_classes), or the value; see `fit_estimator`."""
    with _refusals_named(settings, rows, names):
        if settings.task != "regression":
            probabilities: NDArray[np.float64] = estimator.predict_proba(rows)
            return probabilities[:, 1] if settings.task == "classification" else probabilities
        value: NDArray[np.float64] = estimator.predict(rows)
        return value


def _reference(settings: TrainSettings) -> str:
    return settings.estimator or _DEFAULTS[settings.task]


def _imported(reference: str) -> Any:
    module_name, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as exc:
        raise ConfigurationError(f"train.estimator: {reference!r} cannot be imported: {exc}") from exc


def _arguments_of(factory: Any) -> tuple[list[str], bool]:
    """Return the names of what an estimator takes, and whether it takes any other besides."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # written in another language
        return [], True
    kinds = inspect.Parameter
    names = [p.name for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    return names, any(p.kind is kinds.VAR_KEYWORD for p in parameters)


@contextmanager
def _refusals_named(
    settings: TrainSettings, rows: NDArray[np.float64], names: Sequence[str]
) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        if not isinstance(exc, TypeError | ValueError) and not type(exc).__module__.startswith("lightgbm"):
            raise  # LightGBM's error is a plain Exception, XGBoost's a ValueError
        said = str(exc).strip().partition("\n")[0][:300].rstrip(".")
        null = [name for name, column in zip(names, rows.T, strict=True) if np.isnan(column).any()]
        among = f" Features that are null in some rows ({len(null)}): {', '.join(null[:5])}." if null else ""
        raise ConfigurationError(
            f"train.estimator: {_reference(settings)} refuses these features or its train.params: {said}.{among}"
        ) from exc
