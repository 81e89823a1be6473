from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as m

from jobs.reports.class_report import class_metrics, class_plots, class_table

CLASSES = ("a", "b", "c")
TRUTH = np.array([0.0, 0.0, 1.0, 1.0, 2.0])
PREDICTED = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.2, 0.6, 0.2], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])


def test_metrics_are_those_of_the_field() -> None:
    found = class_metrics(TRUTH, PREDICTED)
    assert found["accuracy"] == 0.8
    assert found["log_loss"] == pytest.approx(m.log_loss(TRUTH, PREDICTED, labels=[0, 1, 2]))
    auc = m.roc_auc_score(TRUTH, PREDICTED, multi_class="ovr", average="macro")
    assert found["macro_auc"] == pytest.approx(auc)
    assert found["macro_recall"] == pytest.approx(m.balanced_accuracy_score(TRUTH, [0, 1, 1, 1, 2]))


def test_table_says_by_class_how_well_it_is_told_from_the_others() -> None:
    table = class_table(CLASSES, TRUTH, PREDICTED)
    assert [one["class"] for one in table] == list(CLASSES)
    assert [one["rows"] for one in table] == [2, 2, 1]
    assert [one["predicted"] for one in table] == [1, 3, 1]
    assert [one["recall"] for one in table] == [0.5, 1.0, 1.0]
    assert [one["precision"] for one in table] == [1.0, pytest.approx(2 / 3), 1.0]
    assert table[1]["auc"] == 1.0


def test_class_that_no_row_has_and_none_is_said_to_be_is_in_no_mean() -> None:
    keep = TRUTH < 2
    table = class_table(CLASSES, TRUTH[keep], PREDICTED[keep])
    assert table[2] == {
        "class": "c",
        "rows": 0,
        "predicted": 0,
        "precision": None,
        "recall": None,
        "auc": None,
    }
    found = class_metrics(TRUTH[keep], PREDICTED[keep])
    assert found["macro_recall"] == 0.75
    assert np.isfinite(found["macro_auc"])


def test_held_out_rows_of_one_class_have_no_auc() -> None:
    assert np.isnan(class_metrics(TRUTH[:2], PREDICTED[:2])["macro_auc"])


def test_a_probability_of_zero_and_shares_that_do_not_add_up_have_a_log_loss() -> None:
    sure = np.array([[1.0, 0.0, 0.0]])
    assert class_metrics(np.array([1.0]), sure)["log_loss"] == pytest.approx(36.04, abs=0.01)
    assert class_metrics(np.array([0.0]), np.array([[0.5, 0.25, 0.25]]) * 3)["log_loss"] == pytest.approx(
        np.log(2)
    )


def test_no_classes_are_no_table() -> None:
    assert class_table((), TRUTH, PREDICTED[:, 0]) == []


def test_plots_are_drawn_for_few_classes_and_for_many(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for n_classes in (3, 40):
        truth = rng.integers(0, n_classes, 200).astype(float)
        predicted = rng.dirichlet(np.ones(n_classes), 200)
        figures = class_plots([f"c{i}" for i in range(n_classes)], truth, predicted)
        assert list(figures) == ["confusion.png", "roc.png"]
        for name, figure in figures.items():
            figure.savefig(tmp_path / name)
            assert (tmp_path / name).stat().st_size > 5_000
