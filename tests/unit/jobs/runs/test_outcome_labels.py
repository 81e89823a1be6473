from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_pipelines.errors import ConfigurationError, ContractError
from jobs.runs.outcome_labels import has_outcome, labels, output_of
from jobs.runs.settings import TrainSettings
from tests.toy.workspace import Workspace
from udfs.scorer import OutputSpec

ALL = np.ones(4, np.bool_)


@pytest.fixture
def settings(tmp_path: Any) -> Any:
    """Make training settings: those of the toy classes, changed."""

    def make(*changes: str) -> TrainSettings:
        return Workspace(tmp_path).conf(*changes, model="bands").train

    return make


def column(*values: Any, kind: pa.DataType | None = None) -> pa.ChunkedArray:
    whole = pa.array(values, kind)
    return pa.chunked_array([whole[:1], whole[1:]])


def test_an_outcome_that_is_null_or_nan_is_none() -> None:
    assert has_outcome(column(1.0, None, float("nan"))).tolist() == [True, False, False]
    assert has_outcome(column("a", None)).tolist() == [True, False]
    assert has_outcome(column(None, None, kind=pa.int64())).tolist() == [False, False]


@pytest.mark.parametrize(
    ("outcome", "label", "classes"),
    [
        (column("b", "a", "c", "a"), [1, 0, 2, 0], ("a", "b", "c")),
        (column(10, 9, 2, 9), [2, 1, 0, 1], ("2", "9", "10")),  # by value, not by text
        (column(10, 9, 2, 9, kind=pa.int8()), [2, 1, 0, 1], ("2", "9", "10")),
        (column("b", "a", "c", "a").dictionary_encode(), [1, 0, 2, 0], ("a", "b", "c")),
        (column("b", "a", "c", "a", kind=pa.large_string()), [1, 0, 2, 0], ("a", "b", "c")),
    ],
)
def test_label_of_several_classes_is_its_place_among_them(
    settings: Any, outcome: pa.ChunkedArray, label: list[float], classes: tuple[str, ...]
) -> None:
    found, names = labels(settings(), outcome, ALL)
    assert (found.dtype, found.tolist(), names) == (np.float64, label, classes)


def test_class_that_no_row_learned_from_has_is_none(settings: Any) -> None:
    learned = np.array([True, True, False, False])
    found, names = labels(settings(), column("b", "a", "new", "b"), learned)
    assert names == ("a", "b")
    assert found[[0, 1, 3]].tolist() == [1, 0, 1]
    assert np.isnan(found[2])


def test_value_and_bound_are_as_they_were(settings: Any) -> None:
    outcome = column(1, 2, 3, 2)
    assert labels(settings("train.task=regression"), outcome, ALL)[0].tolist() == [1, 2, 3, 2]
    above = settings("train.task=classification", "train.label_above=2")
    assert labels(above, outcome, ALL)[0].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("task", "outcome", "message"),
    [
        (
            "multiclass",
            column(0.5, 1.0),
            r"'band' is double; the classes of a multiclass model are strings or",
        ),
        ("multiclass", column(True, False), r"'band' is bool; the classes"),
        ("regression", column("a", "b"), r"'band' is string, and a regression needs numbers; .*multiclass"),
    ],
)
def test_column_that_the_task_cannot_take_is_named(
    settings: Any, task: str, outcome: pa.ChunkedArray, message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        labels(settings(f"train.task={task}"), outcome, ALL[:2])


def test_output_is_that_of_the_task(settings: Any) -> None:
    assert output_of(settings(), ("a", "b", "c")) == OutputSpec("classification", classes=("a", "b", "c"))
    two = settings("train.task=classification", "train.label_above=2", "train.decision_threshold=0.25")
    assert output_of(two, ()) == OutputSpec("classification", 0.25)
    assert output_of(settings("train.task=regression"), ()) == OutputSpec("regression")


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (("a", "b"), ContractError, r"three classes or more .*; there are 2 \(a, b\). For two, set"),
        ((), ContractError, r"there are 0 \(none\)"),
        (("a", "on time", "c"), ConfigurationError, r"train.label_column: 'band': 1 class.* 'on time'"),
    ],
)
def test_classes_that_make_no_output_are_refused(
    settings: Any, classes: tuple[str, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        output_of(settings(), classes)
