"""A feature whose last bits are the platform's: numpy has several kernels for the exponential."""

from __future__ import annotations

import numpy as np

from feature_pipelines.columns import Float64, Int64
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.schema import Field, Schema

__all__ = ["FEATURES"]


def growth(rate: Float64) -> Float64:
    """e to the rate. Never null."""
    return np.exp(rate)


FEATURES = FeatureSet(
    name="exponents",
    request=Schema((Field("row", Int64), Field("rate", Float64, required=True))),
    features=(growth,),
    row_id=("row",),
)
