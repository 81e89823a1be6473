from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor, VotingRegressor
from sklearn.ensemble import RandomForestClassifier as Forest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from feature_pipelines.errors import DefinitionError, ModelError
from feature_pipelines.evaluate import FeatureRaised
from tests.toy.houses import FEATURES
from udfs.scorer import LibraryEvaluator, OutputSpec, Scorer, use_one_thread


class RowSum:
    """An estimator that remembers the blocks it was given."""

    def __init__(self) -> None:
        self.blocks: list[NDArray[np.float64]] = []

    def predict(self, block: NDArray[np.float64]) -> NDArray[np.float64]:
        self.blocks.append(block)
        return block.sum(axis=1)


def columns(n: int) -> dict[str, Any]:
    from feature_pipelines.columns import Nullable, Strings

    everywhere = np.ones(n, dtype=np.bool_)
    return {
        "house_id": np.arange(n),
        "asked_ts": np.zeros(n, dtype=np.int64),
        "area_m2": np.arange(n, dtype=np.float64),
        "rooms": Nullable(np.ones(n, dtype=np.int64), everywhere),
        "town": Nullable(Strings.of(["a"] * n), everywhere),
        "rate_pct": np.full(n, 2.0),
        "rate_pct_floor": np.full(n, 0.5),
    }


def test_output_of_a_classification_has_a_score_and_a_label() -> None:
    spec = OutputSpec("classification", 0.25)
    assert {name: dtype.kind for name, dtype in spec.fields.items()} == {"score": "float64", "label": "bool"}
    below, at, above = np.nextafter(0.25, 0), 0.25, np.nextafter(0.25, 1)
    assert spec.columns(np.array([below, at, above]))["label"].tolist() == [False, True, True]


def test_output_of_a_regression_is_the_score_alone() -> None:
    spec = OutputSpec("regression")
    assert list(spec.fields) == ["score"]
    assert list(spec.columns(np.array([1.0]))) == ["score"]


@pytest.mark.parametrize(
    ("task", "threshold", "message"),
    [
        ("ranking", None, r"task 'ranking' must be 'classification' or 'regression'"),
        ("classification", None, r"a classification output needs a threshold"),
        ("regression", 0.5, r"a regression output takes no threshold"),
    ],
)
def test_output_that_makes_no_sense_is_refused(task: str, threshold: float | None, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        OutputSpec(task, threshold)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 1024, 1025, 3000])
def test_library_evaluator_pads_to_eight_rows_in_blocks_of_1024(n: int) -> None:
    estimator = RowSum()
    matrix = np.arange(3 * n, dtype=np.float64).reshape(3, n)
    scores = LibraryEvaluator(estimator, "regression").score(matrix)
    assert scores.tolist() == matrix.sum(axis=0).tolist()
    assert [len(block) for block in estimator.blocks] == [
        -(-min(1024, n - start) // 8) * 8 for start in range(0, n, 1024)
    ]
    assert all(block.flags.c_contiguous for block in estimator.blocks)


def test_library_evaluator_takes_the_positive_class() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(2, 200))
    estimator = HistGradientBoostingClassifier(max_iter=3).fit(matrix.T, matrix[0] > 0)
    scores = LibraryEvaluator(estimator, "classification").score(matrix)
    assert scores.tolist() == estimator.predict_proba(matrix.T)[:, 1].tolist()


def test_library_evaluator_refuses_three_classes() -> None:
    matrix = np.arange(12, dtype=np.float64).reshape(2, 6)
    estimator = LogisticRegression(max_iter=500).fit(matrix.T, [0, 1, 2, 0, 1, 2])
    with pytest.raises(ModelError, match=r"the classifier has 3 classes; this output is for two"):
        LibraryEvaluator(estimator, "classification").score(matrix)


def test_forest_fitted_on_two_threads_scores_in_the_order_of_its_trees() -> None:
    """Left at n_jobs=2, the last bits of some rows differ from call to call."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 2_000))
    forests = [
        RandomForestRegressor(20, random_state=0, n_jobs=n).fit(matrix[:, :400].T, matrix[0, :400])
        for n in (1, 2)
    ]
    expected = np.zeros(2_000)
    for tree in forests[0].estimators_:
        expected += tree.predict(matrix.T)
    expected /= 20

    evaluator = LibraryEvaluator(forests[1], "regression")

    assert forests[1].n_jobs == 1
    for _ in range(3):
        assert evaluator.score(matrix).tolist() == expected.tolist()


def test_one_thread_reaches_every_part_of_an_estimator() -> None:
    """Also the fitted copies, of which get_params knows nothing."""
    rows = np.random.default_rng(0).normal(size=(60, 2))
    label = rows[:, 0] > 0
    calibrated = CalibratedClassifierCV(Forest(2, n_jobs=2), cv=2).fit(rows, label).set_params(n_jobs=2)
    chained = make_pipeline(StandardScaler(), KNeighborsClassifier(n_jobs=2)).fit(rows, label)
    voting = VotingRegressor([("forest", RandomForestRegressor(2, n_jobs=2))]).fit(rows, rows[:, 0])

    for estimator in (calibrated, chained, voting):
        use_one_thread(estimator)

    parts = [one.estimator for one in calibrated.calibrated_classifiers_]
    parts += [calibrated, calibrated.estimator, chained[-1], *voting.estimators_, voting.estimators[0][1]]
    assert len(parts) == 7
    assert {part.n_jobs for part in parts} == {1}
    assert voting.n_jobs == 1


def test_one_thread_leaves_an_estimator_without_n_jobs_as_it_is() -> None:
    estimator = Ridge(alpha=2)
    estimator.itself = [estimator]
    before = dict(vars(estimator))
    use_one_thread(estimator)
    assert vars(estimator) == before


def test_scorer_returns_matrix_and_outputs_of_each_row() -> None:
    scorer = Scorer(
        FEATURES, {"towns": ("a",)}, LibraryEvaluator(RowSum(), "regression"), OutputSpec("regression"), {}
    )
    scores = scorer.score(columns(3), 3)
    assert scores.matrix.tolist() == [[0, 1, 4], [0, 0, 0], [1, 1, 1], [1.5] * 3, [0, 0, 0]]
    assert scores.outputs["score"].tolist() == [2.5, 3.5, 6.5]
    assert scorer.verified == "unverified"


def test_scorer_takes_no_rows() -> None:
    scorer = Scorer(
        FEATURES, {"towns": ("a",)}, LibraryEvaluator(RowSum(), "regression"), OutputSpec("regression"), {}
    )
    scores = scorer.score(columns(0), 0)
    assert scores.matrix.shape == (5, 0)
    assert scores.outputs["score"].shape == (0,)


def test_scorer_names_the_feature_that_raised() -> None:
    scorer = Scorer(
        FEATURES, {"towns": 3}, LibraryEvaluator(RowSum(), "regression"), OutputSpec("regression"), {}
    )
    with pytest.raises(FeatureRaised, match="feature 'town_code' raised"):
        scorer.score(columns(1), 1)
