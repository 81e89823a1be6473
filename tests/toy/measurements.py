"""Ten measurements, as they are: what real estimators are fitted on in tests, with scikit-learn's own data sets as rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Columns, Float64, Int64
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.schema import Field, Schema

__all__ = ["FEATURES", "measurement_columns", "real_rows"]


def f0(m0: Float64) -> Float64:
    """The measurement, null where it is."""
    return m0


def f1(m1: Float64) -> Float64:
    """The measurement, null where it is."""
    return m1


def f2(m2: Float64) -> Float64:
    """The measurement, null where it is."""
    return m2


def f3(m3: Float64) -> Float64:
    """The measurement, null where it is."""
    return m3


def f4(m4: Float64) -> Float64:
    """The measurement, null where it is."""
    return m4


def f5(m5: Float64) -> Float64:
    """The measurement, null where it is."""
    return m5


def f6(m6: Float64) -> Float64:
    """The measurement, null where it is."""
    return m6


def f7(m7: Float64) -> Float64:
    """The measurement, null where it is."""
    return m7


def f8(m8: Float64) -> Float64:
    """The measurement, null where it is."""
    return m8


def f9(m9: Float64) -> Float64:
    """The measurement, null where it is."""
    return m9


FEATURES = FeatureSet(
    name="measurements",
    request=Schema((Field("row", Int64), *(Field(f"m{i}", Float64) for i in range(10)))),
    features=(f0, f1, f2, f3, f4, f5, f6, f7, f8, f9),
    row_id=("row",),
)


def real_rows(task: str) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return 400 rows of ten measurements, and their labels or values: breast cancers, a year of diabetes, or handwritten digits.

    Args:
        task: "classification", "regression" or "multiclass" (ten classes; ten pixels that tell them apart).
    """
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

    loads = {"classification": load_breast_cancer, "regression": load_diabetes, "multiclass": load_digits}
    rows, outcome = loads[task](return_X_y=True)
    columns = np.argsort(-rows.var(axis=0), kind="stable")[:10] if task == "multiclass" else np.arange(10)
    return np.ascontiguousarray(rows[:400, columns], dtype=np.float64), outcome[:400]


def measurement_columns(rows: NDArray[np.float64]) -> Columns:
    """Return rows of shape (n, 10) as the set's columns."""
    return {"row": np.arange(len(rows)), **{f"m{i}": rows[:, i].copy() for i in range(10)}}
