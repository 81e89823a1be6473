"""The estimator that the configuration names; flights.yaml sets max_iter and learning_rate for the one it uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, StackingClassifier
from sklearn.linear_model import RidgeClassifier
from sklearn.naive_bayes import GaussianNB

from feature_pipelines.errors import ConfigurationError
from jobs.runs.conf import load
from jobs.runs.estimator import fit_estimator, make_estimator, predict
from jobs.runs.settings import TrainSettings

NAMES = ("area", "rooms")
NO_FLIGHTS_PARAMS = {"max_iter": "null", "learning_rate": "null"}


def settings(tmp_path: Path, estimator: str | None = None, **params: Any) -> TrainSettings:
    named = [] if estimator is None else [f"train.estimator={estimator}"]
    given = [f"train.params.{name}={value}" for name, value in params.items()]
    return load("local", "flights", [*named, *given], root=tmp_path).train


def rows(n: int = 60) -> tuple[Any, Any]:
    matrix = np.random.default_rng(1).normal(size=(n, 2))
    return matrix, (matrix[:, 0] > 0).astype(np.float64)


def test_default_is_boosted_trees_with_the_seed_and_without_early_stopping(tmp_path: Path) -> None:
    made = make_estimator(settings(tmp_path))

    assert type(made).__name__ == "HistGradientBoostingClassifier"
    assert (made.random_state, made.early_stopping, made.max_iter) == (20130101, False, 100)


@pytest.mark.parametrize(
    ("estimator", "taken_away"),
    [
        ("sklearn.neighbors:KNeighborsClassifier", ["max_iter", "learning_rate"]),
        ("sklearn.naive_bayes:GaussianNB", ["max_iter", "learning_rate"]),
        ("sklearn.ensemble:RandomForestClassifier", ["max_iter", "learning_rate"]),
        ("sklearn.ensemble:GradientBoostingClassifier", ["max_iter"]),
        ("sklearn.linear_model:LogisticRegression", ["learning_rate"]),
    ],
)
def test_common_estimators_fit_and_predict(tmp_path: Path, estimator: str, taken_away: list[str]) -> None:
    """With a random_state and without; with the arguments that flights.yaml sets, and without."""
    given = settings(tmp_path, estimator, **dict.fromkeys(taken_away, "null"))
    made = make_estimator(given)
    matrix, label = rows()

    fit_estimator(given, made, matrix, label, NAMES)

    assert predict(given, made, matrix, NAMES).tolist() == made.predict_proba(matrix)[:, 1].tolist()
    assert getattr(made, "random_state", given.seed) == given.seed


def stacked(last: str | None = None) -> StackingClassifier:
    """A factory, as a person writes one beside the features."""
    members = [("trees", HistGradientBoostingClassifier(max_iter=2)), ("bayes", GaussianNB())]
    return StackingClassifier(members, RidgeClassifier() if last else None, cv=2)


def test_stacked_classifiers_give_probabilities_once_they_are_fitted(tmp_path: Path) -> None:
    matrix, label = rows()
    given = settings(tmp_path, f"{__name__}:stacked", **NO_FLIGHTS_PARAMS)
    made = make_estimator(given)
    fit_estimator(given, made, matrix, label, NAMES)
    assert predict(given, made, matrix, NAMES).tolist() == made.predict_proba(matrix)[:, 1].tolist()
    without = settings(tmp_path, f"{__name__}:stacked", **NO_FLIGHTS_PARAMS, last="ridge")
    with pytest.raises(ConfigurationError, match="a classification needs predict_proba"):
        fit_estimator(without, make_estimator(without), matrix, label, NAMES)


def test_own_params_win_over_the_seed(tmp_path: Path) -> None:
    made = make_estimator(settings(tmp_path, random_state=7))
    assert made.random_state == 7


def test_null_is_kept_where_the_estimator_has_the_argument(tmp_path: Path) -> None:
    """Among the params of boosted trees a null means no bound."""
    assert make_estimator(settings(tmp_path, max_leaf_nodes="null")).max_leaf_nodes is None


def test_argument_that_the_estimator_does_not_have_is_named_and_how_to_take_it_away(tmp_path: Path) -> None:
    message = (
        r"train.params: sklearn.neighbors:KNeighborsClassifier has no argument 'learning_rate'\. .*n_neighbors.* "
        "--set train.params.learning_rate=null --set train.params.max_iter=null$"
    )
    with pytest.raises(ConfigurationError, match=message):
        make_estimator(settings(tmp_path, "sklearn.neighbors:KNeighborsClassifier"))


def test_misspelt_argument_has_a_close_match(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no argument 'max_itr'. Did you mean 'max_iter'"):
        make_estimator(settings(tmp_path, max_itr=3))


def test_value_that_the_estimator_refuses_is_said_in_one_line(tmp_path: Path) -> None:
    given = settings(tmp_path, max_iter=-1)
    with pytest.raises(ConfigurationError, match="HistGradientBoostingClassifier refuses .*'max_iter'"):
        fit_estimator(given, make_estimator(given), *rows(), NAMES)


def test_features_that_are_null_are_named_where_the_estimator_takes_none(tmp_path: Path) -> None:
    given = settings(tmp_path, "sklearn.neighbors:KNeighborsClassifier", **NO_FLIGHTS_PARAMS)
    made = make_estimator(given)
    matrix, label = rows()
    fit_estimator(given, made, matrix, label, NAMES)
    matrix[3, 1] = np.nan

    for refused in (
        lambda: fit_estimator(given, made, matrix, label, NAMES),
        lambda: predict(given, made, matrix, NAMES),
    ):
        with pytest.raises(
            ConfigurationError, match=r"NaN\. Features that are null in some rows \(1\): rooms\."
        ):
            refused()


@pytest.mark.parametrize("estimator", ["sklearn.linear_model:LinearRegression", "sklearn.svm:LinearSVC"])
def test_classification_without_probabilities_is_refused(tmp_path: Path, estimator: str) -> None:
    given = settings(tmp_path, estimator, **NO_FLIGHTS_PARAMS)
    with pytest.raises(
        ConfigurationError, match=f"a classification needs predict_proba, which {estimator} does not have"
    ):
        make_estimator(given)


def test_estimator_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'sklearn.ensemble:NoSuchThing' cannot be imported"):
        make_estimator(settings(tmp_path, "sklearn.ensemble:NoSuchThing"))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("builtins:dict", "a classification needs predict_proba, which builtins:dict does not have"),
        ("math:pi", "train.params do not fit math:pi: 'float' object is not callable"),
    ],
)
def test_what_is_no_estimator_is_refused_though_it_does_not_say_what_it_takes(
    tmp_path: Path, reference: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_estimator(settings(tmp_path, reference))


def test_fitted_estimator_uses_one_thread_whatever_it_was_fitted_on(tmp_path: Path) -> None:
    given = settings(
        tmp_path, "sklearn.ensemble:RandomForestClassifier", n_estimators=3, n_jobs=2, **NO_FLIGHTS_PARAMS
    )
    made = make_estimator(given)
    assert made.n_jobs == 2

    fit_estimator(given, made, *rows(), NAMES)

    assert made.n_jobs == 1
