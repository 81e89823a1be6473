"""Metrics and plots of a fitted model on its held-out rows. Draws without a display; knows nothing of MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jobs.reports.class_report import class_metrics, class_plots, class_table
from jobs.reports.figures import axes_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["class_table", "feature_importance", "main_metric", "metrics", "plots"]

_SAMPLE = 5_000
_MAIN = {"classification": "auc", "multiclass": "macro_auc", "regression": "r2"}


def main_metric(task: str) -> str:
    """Return the metric by which models of a task are compared; more is better."""
    return _MAIN[task]


def metrics(task: str, truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, float]:
    """Return the metrics of held-out rows.

    Args:
        task: "classification": auc, average precision, log loss, Brier score, share of positives; "regression": mean absolute
            error, root mean squared error, r2; "multiclass": see `class_metrics`.
        truth, predicted: float64, shape (n,); for a classification 0/1 and the probability of 1; for several classes the class's
            number and, of shape (n, n_classes), the probability of each.
    """
    if task == "multiclass":
        return class_metrics(truth, predicted)
    from sklearn import metrics as m

    if task == "regression":
        return {
            "mean_absolute_error": float(m.mean_absolute_error(truth, predicted)),
            "root_mean_squared_error": float(m.root_mean_squared_error(truth, predicted)),
            "r2": float(m.r2_score(truth, predicted)),
        }
    return {
        "auc": float(m.roc_auc_score(truth, predicted)),
        "average_precision": float(m.average_precision_score(truth, predicted)),
        "log_loss": float(m.log_loss(truth, predicted)),
        "brier_score": float(m.brier_score_loss(truth, predicted)),
        "share_positive": float(truth.mean()),
    }


def feature_importance(
    task: str,
    estimator: Any,
    names: Sequence[str],
    matrix: NDArray[np.float64],
    truth: NDArray[np.float64],
    rng: np.random.Generator,
) -> dict[str, float]:
    """Return by how much the main metric (AUC, macro AUC or r2) falls when one feature's held-out values are shuffled; largest first.

    Args:
        task: see `metrics`.
        estimator: the fitted estimator.
        names: the features, in the matrix's order.
        matrix: held-out features, shape (n_features, n); at most 5,000 rows of it are used.
        truth: float64, shape (n,).
        rng: chooses the rows and shuffles.

    Source: Breiman, Random Forests (2001), section 10: permutation importance.
    """
    rows = rng.permutation(matrix.shape[1])[:_SAMPLE]
    sample, expected = np.ascontiguousarray(matrix[:, rows].T), truth[rows]

    def quality(values: NDArray[np.float64]) -> float:
        predicted = estimator.predict(values) if task == "regression" else estimator.predict_proba(values)
        predicted = predicted[:, 1] if task == "classification" else predicted
        return metrics(task, expected, predicted)[main_metric(task)]

    best = quality(sample)
    falls = {}
    for i, name in enumerate(names):
        shuffled = sample.copy()
        shuffled[:, i] = rng.permutation(shuffled[:, i])
        falls[name] = best - quality(shuffled)
    return dict(sorted(falls.items(), key=lambda item: -item[1]))


def plots(
    task: str,
    truth: NDArray[np.float64],
    predicted: NDArray[np.float64],
    importance: dict[str, float],
    classes: Sequence[str] = (),
) -> dict[str, Figure]:
    """Return figures by file name: ROC and calibration, confusion and ROC, or predicted against true; and feature importance."""
    figures = {"feature_importance.png": _importance(importance)}
    if task == "multiclass":
        return {**class_plots(classes, truth, predicted), **figures}
    if task == "classification":
        return {
            "roc.png": _roc(truth, predicted),
            "calibration.png": _calibration(truth, predicted),
            **figures,
        }
    return {"predicted_against_true.png": _scatter(truth, predicted), **figures}


def _roc(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> Figure:
    from sklearn.metrics import roc_auc_score, roc_curve

    false_positive, true_positive, _ = roc_curve(truth, predicted)
    figure, axes = axes_of("ROC, held-out rows", "false positive rate", "true positive rate")
    axes.plot(false_positive, true_positive, label=f"model (AUC {roc_auc_score(truth, predicted):.3f})")
    axes.plot([0, 1], [0, 1], linestyle="--", color="grey", label="chance")
    axes.legend(loc="lower right")
    return figure


def _calibration(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> Figure:
    from sklearn.calibration import calibration_curve

    observed, mean_predicted = calibration_curve(truth, predicted, n_bins=20, strategy="quantile")
    figure, axes = axes_of("Calibration, held-out rows", "predicted probability", "observed share")
    axes.plot(mean_predicted, observed, marker="o", label="model, 20 equal groups")
    axes.plot([0, 1], [0, 1], linestyle="--", color="grey", label="perfect")
    axes.legend(loc="upper left")
    return figure


def _scatter(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> Figure:
    figure, axes = axes_of("Predicted against true, held-out rows", "true value", "predicted value")
    step = max(1, len(truth) // _SAMPLE)
    axes.scatter(truth[::step], predicted[::step], s=4, alpha=0.3)
    low, high = float(truth.min()), float(truth.max())
    axes.plot([low, high], [low, high], linestyle="--", color="grey")
    return figure


def _importance(importance: dict[str, float]) -> Figure:
    names = list(importance)[:25][::-1]
    figure, axes = axes_of(
        "Permutation importance, held-out rows", "fall of the metric", "", 1.5 + 0.25 * len(names)
    )
    axes.barh(names, [importance[name] for name in names])
    return figure
