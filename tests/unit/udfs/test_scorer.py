from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from feature_pipelines.errors import DefinitionError, ModelError
from feature_pipelines.evaluate import FeatureRaised
from tests.toy.houses import FEATURES
from udfs.scorer import LibraryEvaluator, OutputSpec, Scorer


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
