"""L8 for each kind of estimator: fitted, certified, stored without a pickle, loaded; a row keeps its bits alone, in any batch and order.

Which strategy keeps them depends on the processor's BLAS; that one does, and that it is recorded, does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC
from threadpoolctl import threadpool_limits
from xgboost import XGBClassifier, XGBRegressor

from tests.toy.measurements import measurement_columns, real_rows
from tests.toy.pickles import pickles_in
from udfs.bundle import load_bundle, write_bundle
from udfs.scorer import LibraryEvaluator, OutputSpec, Scorer, Strategy
from udfs.strategies import STRATEGIES
from udfs.trees import FlatTrees

N_CERTIFIED, N = 120, 400


def scaled(*steps: Any) -> Any:
    return make_pipeline(StandardScaler(), *steps)


def network(kind: Any) -> Any:
    return scaled(kind(hidden_layer_sizes=(100,), max_iter=4, random_state=0))


def classifiers() -> list[tuple[str, Any]]:
    """Members of their own: to be fitted, certified and held at one thread."""
    trees, boosted = HistGradientBoostingClassifier(max_iter=4), LGBMClassifier(n_estimators=4, verbosity=-1)
    return [("linear", scaled(LogisticRegression())), ("trees", trees), ("boosted", boosted)]


def regressors() -> list[tuple[str, Any]]:
    return [("linear", LinearRegression()), ("boosted", XGBRegressor(n_estimators=4))]


ESTIMATORS: dict[str, Any] = {
    "HistGradientBoostingClassifier": HistGradientBoostingClassifier(max_iter=8),
    "HistGradientBoostingRegressor": HistGradientBoostingRegressor(max_iter=8),
    "GradientBoostingClassifier": GradientBoostingClassifier(n_estimators=8),
    "GradientBoostingRegressor": GradientBoostingRegressor(n_estimators=8),
    "RandomForestClassifier": RandomForestClassifier(8, n_jobs=2),
    "RandomForestRegressor": RandomForestRegressor(8, n_jobs=2),
    "LogisticRegression": scaled(LogisticRegression()),
    "LinearRegression": LinearRegression(),
    "CalibratedClassifierCV(LinearSVC)": scaled(CalibratedClassifierCV(LinearSVC(), cv=2)),
    "MLPClassifier": network(MLPClassifier),
    "MLPRegressor": network(MLPRegressor),
    "KNeighborsClassifier": scaled(KNeighborsClassifier(weights="distance", n_jobs=2)),
    "KNeighborsRegressor": scaled(KNeighborsRegressor(algorithm="brute")),
    "GaussianNB": GaussianNB(),
    "Pipeline of scaler, PCA and LogisticRegression": scaled(PCA(5), LogisticRegression()),
    "Pipeline of scaler, PCA and Ridge": scaled(PCA(5), Ridge()),
    "SVC": scaled(SVC(probability=True, random_state=0)),
    "SVR": scaled(SVR()),
    "VotingClassifier": VotingClassifier(classifiers(), voting="soft"),
    "VotingRegressor": VotingRegressor(regressors()),
    "StackingClassifier": StackingClassifier(classifiers(), cv=2),
    "StackingRegressor": StackingRegressor(regressors(), cv=2),
    "LGBMClassifier": LGBMClassifier(n_estimators=8, verbosity=-1, num_threads=2),
    "LGBMRegressor": LGBMRegressor(n_estimators=8, verbosity=-1),
    "XGBClassifier": XGBClassifier(n_estimators=8, nthread=2),
    "XGBRegressor": XGBRegressor(n_estimators=8),
}


MULTICLASS = {
    name: clone(estimator)
    for name, estimator in ESTIMATORS.items()
    if is_classifier(estimator) and name != "SVC"
}
"""Copies, for a test changes what it fits; SVC with probabilities is going from scikit-learn."""

FLAT = ("HistGradientBoosting", "GradientBoosting", "RandomForest", "LGBM", "XGB")
"""What flat trees reproduce, with ten classes too; XGBoost's float32 needs the C library's expf."""

TREES = tuple(name for name in MULTICLASS if name.startswith(FLAT))
BY_BLAS = ("LogisticRegression", "MLPClassifier")
"""Ten classes of the others are for `make test-full`: there is one way in which their rows could depend on each other."""


@pytest.mark.filterwarnings("ignore:The `probability` parameter was deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_row_keeps_its_bits_alone_in_any_batch_and_order(name: str, tmp_path: Path) -> None:
    estimator = ESTIMATORS[name]
    task = "classification" if is_classifier(estimator) else "regression"
    output = OutputSpec(task, 0.5 if task == "classification" else None)
    check_estimator(estimator, task, output, tmp_path)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name not in (*TREES, *BY_BLAS) else ())
        for name in MULTICLASS
    ],
)
def test_row_keeps_the_bits_of_each_of_ten_classes(name: str, tmp_path: Path) -> None:
    estimator = MULTICLASS[name]
    output = OutputSpec("classification", classes=tuple(map(str, range(10))))
    scorer = check_estimator(estimator, "multiclass", output, tmp_path)
    assert scorer.info["format_version"] == 3
    assert isinstance(scorer.evaluator, FlatTrees) == name.startswith(FLAT)


def check_estimator(estimator: Any, task: str, output: OutputSpec, directory: Path) -> Scorer:
    rows, outcome = real_rows(task)
    estimator.fit(rows[:300], outcome[:300])

    digest = write_bundle(
        directory / "model",
        name="measurements",
        reference="tests.toy.measurements:FEATURES",
        constants={},
        estimator=estimator,
        output=output,
        columns=measurement_columns(rows[:N_CERTIFIED]),
        n_rows=N_CERTIFIED,
    )
    scorer = load_bundle(directory / "model", expected_digest=digest)

    assert pickles_in(directory) == []
    assert scorer.verified == "verified"
    check_certification(scorer.info["certification"], scorer.evaluator)

    def score(index: NDArray[Any]) -> NDArray[np.uint64]:
        outputs = scorer.score(measurement_columns(rows[index]), len(index)).outputs
        return np.ascontiguousarray(output.scores(outputs)).view(np.uint64)

    every = np.arange(N)
    whole = score(every)
    assert len(np.unique(whole)) > 8
    parts = [every[start : start + size] for size in (3, 7, 8, 9, 33, 129) for start in range(0, N, 4 * size)]
    parts += [every[i : i + 1] for i in range(0, N, 5)]
    parts += [np.random.default_rng(seed).permutation(N) for seed in range(3)]
    parts += [np.resize(every, 3_000)]
    with threadpool_limits(1):  # quick on a busy machine, and it must not matter
        for index in parts:
            assert score(index).tolist() == whole[index].tolist(), index[:3]
    said = estimator.predict(rows) if task == "regression" else estimator.predict_proba(rows)
    said = said[:, 1] if task == "classification" else said
    np.testing.assert_allclose(whole.view(np.float64), said, rtol=1e-9, atol=1e-12)
    return scorer


def check_certification(certification: dict[str, Any], evaluator: Any) -> None:
    assert certification["invariant"] is True
    measured = {one["name"]: one for one in certification["conditions"]}
    assert len(measured) == 11
    assert {one["differing"] for one in measured.values()} == {0}
    unmeasured = [name for name, one in measured.items() if not one["rows"]]
    assert unmeasured in ([], ["beside nulls"])
    assert certification["cost"]["rows_per_second"] > 0
    if not isinstance(evaluator, LibraryEvaluator):
        assert certification["evaluator"] == "trees"
        return
    assert certification["evaluator"] == "library"
    assert Strategy.from_json(certification["strategy"]) == evaluator.strategy
    assert evaluator.strategy in STRATEGIES
    assert len(certification["rejected"]) == STRATEGIES.index(evaluator.strategy)
