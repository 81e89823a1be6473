from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from jobs.reports.model_report import feature_importance, metrics, plots


def test_classification_metrics_of_a_perfect_and_a_random_prediction() -> None:
    truth = np.array([0.0, 1.0, 0.0, 1.0])

    assert metrics("classification", truth, np.array([0.1, 0.9, 0.2, 0.8]))["auc"] == 1.0
    assert metrics("classification", truth, np.full(4, 0.5))["auc"] == 0.5
    assert metrics("classification", truth, np.full(4, 0.5))["brier_score"] == pytest.approx(0.25)


def test_regression_metrics_by_hand() -> None:
    quality = metrics("regression", np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 6.0]))

    assert quality["mean_absolute_error"] == 1.0
    assert quality["root_mean_squared_error"] == pytest.approx(3**0.5)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_feature_that_decides_is_the_most_important(task: str) -> None:
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(3, 500))
    value = matrix[1]
    truth = (value > 0).astype(float) if task == "classification" else value
    model = LogisticRegression() if task == "classification" else LinearRegression()
    model.fit(matrix.T, truth)

    importance = feature_importance(task, model, ["a", "b", "c"], matrix, truth, rng)

    assert next(iter(importance)) == "b"
    assert importance["b"] > 0.2
    assert abs(importance["a"]) < 0.1


@pytest.mark.parametrize(
    ("task", "first"), [("classification", "roc.png"), ("regression", "predicted_against_true.png")]
)
def test_plots_are_drawn_without_a_display(task: str, first: str, tmp_path) -> None:
    truth = np.array([0.0, 1.0] * 50)

    figures = plots(task, truth, np.linspace(0, 1, 100), {"a": 0.2, "b": 0.1})

    assert next(iter(figures)) == first
    for name, figure in figures.items():
        figure.savefig(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5_000
