"""How well a model tells several classes apart, on its held-out rows: metrics, a table by class, plots. Knows nothing of MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jobs.reports.figures import axes_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["class_metrics", "class_plots", "class_table"]

_SHOWN = 10  # curves in one plot
_SMALLEST = np.finfo(
    np.float64
).eps  # a probability of 0 counts as this in the log loss, as in scikit-learn's


def class_metrics(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> dict[str, float]:
    """Return accuracy, log loss, the mean AUC of each class against all others, and the mean of the classes' recalls.

    A class that no held-out row has, or all have, has no AUC and no recall; the means are of the others (NaN if there are none).

    Args:
        truth: float64, shape (n,): the number of each row's class.
        predicted: float64, shape (n, n_classes): probabilities; where they do not add up to 1, log loss is of their shares.
    """
    rows = np.arange(len(truth))
    number = truth.astype(np.int64)
    share = predicted[rows, number] / np.maximum(predicted.sum(axis=1), _SMALLEST)
    table = _by_class(number, predicted)
    return {
        "accuracy": float((predicted.argmax(axis=1) == number).mean()),
        "macro_auc": _mean([one["auc"] for one in table]),
        "macro_recall": _mean([one["recall"] for one in table]),
        "log_loss": float(-np.log(np.maximum(share, _SMALLEST)).mean()),
    }


def class_table(
    classes: Sequence[str], truth: NDArray[np.float64], predicted: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Return a row by class, in order: {"class", "rows", "predicted", "precision", "recall", "auc"}; None where one is undefined.

    Args:
        classes: their names; without any, the table is empty.
        truth, predicted: see `class_metrics`.
    """
    if not classes:
        return []
    table = _by_class(truth.astype(np.int64), predicted)
    return [{"class": name, **one} for name, one in zip(classes, table, strict=True)]


def _by_class(number: NDArray[np.int64], predicted: NDArray[np.float64]) -> list[dict[str, Any]]:
    from sklearn.metrics import roc_auc_score

    n_classes = predicted.shape[1]
    chosen = predicted.argmax(axis=1)
    rows = np.bincount(number, minlength=n_classes).tolist()
    said = np.bincount(chosen, minlength=n_classes).tolist()
    right = np.bincount(number[chosen == number], minlength=n_classes).tolist()
    return [
        {
            "rows": rows[c],
            "predicted": said[c],
            "precision": right[c] / said[c] if said[c] else None,
            "recall": right[c] / rows[c] if rows[c] else None,
            "auc": float(roc_auc_score(number == c, predicted[:, c])) if 0 < rows[c] < len(number) else None,
        }
        for c in range(n_classes)
    ]


def _mean(values: Sequence[float | None]) -> float:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else float("nan")


def class_plots(
    classes: Sequence[str], truth: NDArray[np.float64], predicted: NDArray[np.float64]
) -> Mapping[str, Figure]:
    """Return figures by file name: the confusion matrix, and the ROC of the classes with the most rows.

    Args:
        classes, truth, predicted: see `class_table`.
    """
    number = truth.astype(np.int64)
    return {
        "confusion.png": _confusion(classes, number, predicted.argmax(axis=1)),
        "roc.png": _roc(classes, number, predicted),
    }


def _confusion(classes: Sequence[str], number: NDArray[np.int64], chosen: NDArray[np.int64]) -> Figure:
    n_classes = len(classes)
    counts = np.bincount(number * n_classes + chosen, minlength=n_classes**2).reshape(n_classes, n_classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = axes_of("Confusion, held-out rows (share of the true class)", "predicted", "true", 5.0)
    axes.grid(visible=False)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, ax=axes, shrink=0.8)
    if n_classes <= 2 * _SHOWN:
        axes.set_xticks(range(n_classes), classes, rotation=45, ha="right")
        axes.set_yticks(range(n_classes), classes)
        for i, j in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=7, color=color)
    return figure


def _roc(classes: Sequence[str], number: NDArray[np.int64], predicted: NDArray[np.float64]) -> Figure:
    from sklearn.metrics import roc_auc_score, roc_curve

    figure, axes = axes_of(
        "ROC of a class against the others, held-out rows", "false positive rate", "true positive rate"
    )
    rows = np.bincount(number, minlength=len(classes))
    shown = [c for c in np.argsort(-rows, kind="stable").tolist()[:_SHOWN] if 0 < rows[c] < len(number)]
    for c in sorted(shown):
        false_positive, true_positive, _ = roc_curve(number == c, predicted[:, c])
        auc = roc_auc_score(number == c, predicted[:, c])
        axes.plot(false_positive, true_positive, label=f"{classes[c]} (AUC {auc:.3f})")
    axes.plot([0, 1], [0, 1], linestyle="--", color="grey", label="chance")
    axes.legend(loc="lower right", fontsize=8)
    return figure
