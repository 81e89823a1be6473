"""Features that break the rule of portable arithmetic: `np.exp` and `np.log1p`, whose last bits depend on the processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.linear_model import LinearRegression

from feature_pipelines.columns import Float64, Int64
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.schema import Field, Schema
from udfs.bundle import write_bundle
from udfs.scorer import OutputSpec

__all__ = ["FEATURES", "write_not_portable"]


def decay(distance_km: Float64) -> Float64:
    """Falls to a third every 40 km. Null where the distance is."""
    return np.exp(-distance_km / 40.0)


def decay_slow(distance_km: Float64) -> Float64:
    """Falls to a third every 90 km. Null where the distance is."""
    return np.exp(-distance_km / 90.0)


def log_distance(distance_km: Float64) -> Float64:
    """Logarithm of one more than the distance in km. Null where the distance is."""
    return np.log1p(distance_km)


def distance_squared(distance_km: Float64) -> Float64:
    """The one portable feature. Null where the distance is."""
    return distance_km * distance_km


FEATURES = FeatureSet(
    name="not_portable",
    request=Schema((Field("row", Int64), Field("distance_km", Float64, required=True, minimum=0))),
    features=(decay, decay_slow, log_distance, distance_squared),
    row_id=("row",),
)


def write_not_portable(directory: Path, *, scored: str, tolerance_ulps: int) -> None:
    """Write a bundle whose score is one of the features, exactly: what BLAS makes of it adds nothing of its own."""
    n = 500
    estimator = LinearRegression().fit(np.eye(4), np.zeros(4))
    estimator.coef_ = np.array([float(name == scored) for name in FEATURES.feature_names])
    estimator.intercept_ = 0.0
    columns, _ = FEATURES.sources.from_rows([{"row": i, "distance_km": 0.37 * i} for i in range(n)])
    write_bundle(
        directory,
        name="not_portable",
        reference="tests.toy.not_portable:FEATURES",
        constants={},
        estimator=estimator,
        output=OutputSpec("regression"),
        columns=columns,
        n_rows=n,
        tolerance_ulps=tolerance_ulps,
    )
