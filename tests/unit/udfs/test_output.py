"""What scores mean: the columns of each kind of output, ties, missing values, and outputs that make no sense."""

from __future__ import annotations

import json

import numpy as np
import pytest

from feature_pipelines.errors import DefinitionError
from udfs.output import MOST_CLASSES, OutputSpec

BANDS = OutputSpec("classification", classes=("cheap", "fair", "dear"))


def test_output_of_a_classification_has_a_score_and_a_label() -> None:
    spec = OutputSpec("classification", 0.25)
    assert {name: dtype.kind for name, dtype in spec.fields.items()} == {"score": "float64", "label": "bool"}
    below, at, above = np.nextafter(0.25, 0), 0.25, np.nextafter(0.25, 1)
    assert spec.columns(np.array([below, at, above]))["label"].tolist() == [False, True, True]


def test_output_of_a_regression_is_the_score_alone() -> None:
    spec = OutputSpec("regression")
    assert list(spec.fields) == ["score"]
    assert list(spec.columns(np.array([1.0]))) == ["score"]


def test_output_of_several_classes_has_the_highest_its_class_and_each() -> None:
    assert {name: dtype.kind for name, dtype in BANDS.fields.items()} == {
        "score": "float64",
        "label": "string",
        "score_cheap": "float64",
        "score_fair": "float64",
        "score_dear": "float64",
    }
    columns = BANDS.columns(np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]))
    assert list(columns) == list(BANDS.fields)
    assert columns["score"].tolist() == [0.7, 0.5]
    assert columns["label"].tolist() == ["dear", "cheap"]
    assert columns["score_fair"].tolist() == [0.2, 0.3]


@pytest.mark.parametrize(
    ("scores", "label"),
    [
        ([0.4, 0.4, 0.2], "cheap"),
        ([0.2, 0.4, 0.4], "fair"),
        ([1 / 3] * 3, "cheap"),
        ([-0.0, 0.0, 0.0], "cheap"),
    ],
)
def test_a_tie_goes_to_the_first_class(scores: list[float], label: str) -> None:
    assert BANDS.columns(np.array([scores]))["label"].tolist() == [label]


@pytest.mark.parametrize("output", [BANDS, OutputSpec("classification", 0.5), OutputSpec("regression")])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_what_the_evaluator_gave_is_in_the_columns_bit_for_bit(output: OutputSpec, n: int) -> None:
    shape = (n, output.n_classes) if output.classes else n
    given = np.random.default_rng(0).random(shape)
    again = output.scores(output.columns(given))
    assert (again.shape, again.tobytes()) == (given.shape, given.tobytes())
    assert all(len(column) == n for column in output.columns(given).values())


@pytest.mark.parametrize("output", [BANDS, OutputSpec("classification", 0.5), OutputSpec("regression")])
def test_output_survives_json(output: OutputSpec) -> None:
    assert OutputSpec.from_json(json.loads(json.dumps(output.to_json()))) == output
    assert ("classes" in output.to_json()) == (output is BANDS)  # an earlier release reads the others


@pytest.mark.parametrize(
    ("task", "threshold", "classes", "message"),
    [
        ("ranking", None, (), r"task 'ranking' must be 'classification' or 'regression'"),
        ("classification", None, (), r"a classification output needs a threshold"),
        ("regression", 0.5, (), r"a regression output takes no threshold"),
        ("regression", None, ("a", "b", "c"), r"a classification without a threshold"),
        ("classification", 0.5, ("a", "b", "c"), r"a classification without a threshold"),
        ("classification", None, ("a", "b"), r"has 3 to 1,000, not 2; two classes have a threshold"),
        ("classification", None, tuple(map(str, range(MOST_CLASSES + 1))), r"3 to 1,000, not 1001"),
        (
            "classification",
            None,
            ("a", "on time", ""),
            r"2 class\(es\) cannot be part .*: 'on time', ''. Name",
        ),
        ("classification", None, ("a", "b", "a"), r"the classes 'a' and 'a' are one name"),
        ("classification", None, ("UA", "b", "ua"), r"the classes 'UA' and 'ua' are one name to Spark"),
    ],
)
def test_output_that_makes_no_sense_is_refused(
    task: str, threshold: float | None, classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DefinitionError, match=message):
        OutputSpec(task, threshold, classes)


@pytest.mark.parametrize("unfit", [*' \t\n,;{}()=.`"\\'])
def test_class_is_part_of_a_column_name_that_every_table_takes(unfit: str) -> None:
    with pytest.raises(DefinitionError, match="cannot be part of a column's name"):
        OutputSpec("classification", classes=("a", f"x{unfit}y", "c"))


def test_classes_may_be_numbers_or_of_any_script() -> None:
    assert OutputSpec("classification", classes=(0, 1, 2)).classes == ("0", "1", "2")  # type: ignore[arg-type]
    assert OutputSpec("classification", classes=("größer", "小", "on-time")).score_names[0] == "score_größer"
