"""The features of rows where some have none: a function raises on them, or refuses them."""

from __future__ import annotations

import numpy as np
import pytest

from feature_pipelines.columns import Float64, Vector, freeze
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.evaluate import FeatureRaised
from feature_pipelines.reasons import Reason, RowError, RowsRefused
from feature_pipelines.schema import Field, Schema
from jobs.proof.worlds import features_of


def pair(x: Float64) -> Vector[Float64, 2]:
    refused = np.flatnonzero(x == 3)
    if len(refused):
        raise RowsRefused(RowError(int(i), Reason.BAD_VALUE, "", "") for i in refused)
    return np.stack([x, -x])


def raising(x: Float64) -> Float64:
    if (x == 5).any():
        raise ValueError
    return x / 2


FEATURES = FeatureSet("toy", Schema((Field("x", Float64),)), (pair, raising))


@pytest.mark.parametrize(
    ("x", "without"),
    [
        ([0, 1, 2], []),
        ([3, 0, 3, 1], [0, 2]),
        ([3], [0]),
        ([5], [0]),
        ([1, 5, 3, 2, 5, 3, 4], [1, 2, 4, 5]),
        ([], []),
    ],
)
def test_rows_that_a_function_refuses_or_raises_on_have_no_features(
    x: list[float], without: list[int]
) -> None:
    values = np.array(x, dtype=np.float64)
    matrix, raised = features_of(FEATURES, {"x": freeze(values)}, {}, len(x))

    expected = np.stack([values, -values, values / 2])
    expected[:, without] = np.nan
    assert np.flatnonzero(raised).tolist() == without
    assert np.array_equal(matrix, expected, equal_nan=True)


def test_a_function_that_raises_without_rows_is_not_hidden() -> None:
    def always(x: Float64) -> Float64:
        raise ValueError

    feature_set = FeatureSet("toy", FEATURES.request, (always,))
    with pytest.raises(FeatureRaised, match="always"):
        features_of(feature_set, {"x": freeze(np.zeros(0))}, {}, 0)
