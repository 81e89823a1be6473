"""The flights' features by the project's own numpy functions, for a scikit-learn pipeline that takes a DataFrame of raw columns.

The fastest features that such a pipeline can have: nobody would write them so for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from feature_pipelines.columns import Nullable, Strings
from feature_pipelines.evaluate import constants_from_json, evaluate
from feature_pipelines.features.flights import FEATURES

_READ = {name for step in FEATURES.steps for name in step.inputs}
INPUTS = [field.name for field in FEATURES.sources if field.name in _READ]
"""The columns that the features read: the fewest that such a model can ask for."""


class NumpyFeatures(BaseEstimator, TransformerMixin):
    """A transformer from a frame of INPUTS to the model's features; the fitted constants are its parameter."""

    def __init__(self, constants: dict[str, Any]) -> None:
        self.constants = constants

    def fit(self, frame: Any, y: Any = None) -> NumpyFeatures:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, frame: Any) -> np.ndarray:
        columns = {f.name: _column(f, frame[f.name]) for f in FEATURES.sources if f.name in _READ}
        return evaluate(FEATURES, columns, constants_from_json(self.constants), len(frame)).T


def _column(field: Any, series: Any) -> Any:
    if field.dtype.kind == "string":
        texts = series.tolist()
        is_text = np.array([isinstance(text, str) for text in texts])
        strings = Strings.of(text if isinstance(text, str) else "" for text in texts)
        return Nullable(strings, is_text) if field.nullable else strings
    values = series.to_numpy()
    if field.nullable:  # whole numbers that may be missing are floats in a frame
        valid = ~np.isnan(values)
        return Nullable(np.where(valid, values, 0).astype(field.dtype.numpy), valid)
    return values.astype(field.dtype.numpy, copy=False)
