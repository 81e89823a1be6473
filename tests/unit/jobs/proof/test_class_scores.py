"""Scores of several classes in one form, whichever version gave them, and how far apart two of them are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jobs.proof.class_scores import CLASS_SCORES, ClassScores, compared_form, in_form_of, ulps_apart
from udfs.scorer import OutputSpec

BANDS = OutputSpec("classification", classes=("cheap", "dear", "fair"))
LARGEST = np.iinfo(np.uint64).max


def scores(*rows: list[float]) -> ClassScores:
    return ClassScores(BANDS.classes, np.array(rows))


@pytest.mark.parametrize("refused", [[False, False], [True, False], [True, True]])
def test_scores_survive_arrow_and_refused_rows_are_null(refused: list[bool]) -> None:
    given = scores([0.1, 0.2, 0.7], [0.5, 0.25, 0.25])
    array = given.to_arrow(np.array(refused))
    assert array.type == CLASS_SCORES
    assert array.is_null().to_pylist() == refused
    again = ClassScores.of_arrow(BANDS.classes, array)
    for row, is_refused in enumerate(refused):
        assert np.isnan(again.values[row]).all() == is_refused
        assert is_refused or again.values[row].tobytes() == given.values[row].tobytes()


def test_class_that_a_map_lacks_or_has_beyond_is_none() -> None:
    array = scores([0.1, 0.2, 0.7]).to_arrow(np.array([False]))
    other = ClassScores.of_arrow(("fair", "usual"), array)
    assert other.values[0, 0] == 0.7
    assert math.isnan(other.values[0, 1])


def test_what_is_compared_is_the_score_and_each_class_behind_it() -> None:
    score = np.array([0.7, 0.5])
    assert compared_form(score, None) is score
    assert compared_form(score, scores([0.1, 0.2, 0.7], [0.5, 0.3, 0.2])).tolist() == [
        [0.7, 0.1, 0.2, 0.7],
        [0.5, 0.5, 0.3, 0.2],
    ]


@pytest.mark.parametrize(
    ("output", "given", "expected"),
    [
        (BANDS, [[0.1, 0.2, 0.7]], [0.7, 0.1, 0.2, 0.7]),
        (
            OutputSpec("classification", classes=("fair", "cheap", "dear")),
            [[0.7, 0.1, 0.2]],
            [0.7, 0.1, 0.2, 0.7],
        ),
        (
            OutputSpec("classification", classes=("cheap", "dear", "usual")),
            [[0.1, 0.2, 0.7]],
            [0.7, 0.1, 0.2, None],
        ),
        (OutputSpec("classification", 0.5), [0.25], [0.25, None, None, None]),
        (OutputSpec("regression"), [12.5], [12.5, None, None, None]),
    ],
    ids=["the same", "in another order", "another class", "two classes", "a value"],
)
def test_any_version_is_compared_in_the_form_of_the_reference(
    output: OutputSpec, given: list, expected: list[float | None]
) -> None:
    (row,) = in_form_of(BANDS, output, np.array(given)).tolist()
    assert [None if math.isnan(value) else value for value in row] == expected


def test_reference_of_one_score_compares_the_score_alone() -> None:
    assert in_form_of(OutputSpec("classification", 0.5), BANDS, np.array([[0.1, 0.2, 0.7]])).tolist() == [0.7]


def test_rows_are_as_far_apart_as_the_class_that_is_furthest() -> None:
    online = np.array([[0.5, 0.5, 0.25, 0.25], [0.5, 0.5, 0.5, 0.0], [0.5, 0.5, math.nan, 0.5]])
    offline = online.copy()
    offline[0, 3] = np.nextafter(np.nextafter(0.25, 1), 1)
    offline[1, 3] = -0.0
    offline[2, 2] = 0.25
    distance, place = ulps_apart(online, offline)
    assert distance.tolist() == [2, 0, 0]  # a class that one side lacks is no distance
    assert place.tolist() == [3, 3, 2]
    distance, _ = ulps_apart(np.array([[math.nan] * 4]), online[:1])
    assert distance.tolist() == [LARGEST]  # a side without a score


def test_single_scores_are_as_far_apart_as_ever() -> None:
    distance, place = ulps_apart(np.array([1.0, math.nan]), np.array([np.nextafter(1.0, 2.0), 1.0]))
    assert distance.tolist() == [1, LARGEST]
    assert place.tolist() == [0, 0]
    assert [len(one) for one in ulps_apart(np.empty((0, 4)), np.empty((0, 4)))] == [0, 0]
