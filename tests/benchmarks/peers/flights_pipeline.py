"""The model as the peers have it: scikit-learn's estimator behind the flights features, on Arrow columns.

The fastest features known to us for any of the peers are the project's own numpy functions on dictionary-encoded strings, so all
peers get them (without the contract's checks: types are trusted), and differ in how rows come, go and are scored.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.pipeline import Pipeline

from feature_pipelines.columns import Nullable, Strings
from feature_pipelines.evaluate import constants_from_json, evaluate
from feature_pipelines.features.flights import FEATURES

_READ = {name for step in FEATURES.steps for name in step.inputs}
INPUTS = [field.name for field in FEATURES.sources if field.name in _READ]
"""The columns that the features read."""
STORED = {field.name for view in FEATURES.views for field in view.fields}
"""Those of them that come from the stored views in workload B."""
COPIED = ["tailnum", "origin", "sched_dep_ts", "carrier", "dest"]
"""The columns of the request that the output repeats, after row_id and as_of_ts."""
REQUEST = list(dict.fromkeys(["flight_id", *COPIED, *(name for name in INPUTS if name not in STORED)]))
"""The columns to read in workload B; in workload A also those in STORED."""


@dataclass(frozen=True)
class Model:
    estimator: Any
    constants: dict[str, Any]
    threshold: float

    @classmethod
    @functools.cache
    def load(cls, directory: str) -> Model:
        facts = json.loads((Path(directory) / "model.json").read_text())
        estimator = joblib.load(Path(directory) / "estimator.joblib")
        return cls(estimator, constants_from_json(facts["constants"]), facts["threshold"])

    def score(self, rows: pa.RecordBatch | pa.Table) -> np.ndarray:
        return self.estimator.predict_proba(features(rows, self.constants))[:, 1]

    def scored(self, rows: pa.RecordBatch | pa.Table) -> pa.Table:
        """Return the output columns of request rows with their stored fields."""
        score = self.score(rows)
        outputs = {"row_id": rows["flight_id"], "as_of_ts": rows["sched_dep_ts"]}
        outputs |= {name: rows[name] for name in COPIED}
        return pa.table({**outputs, "score": score, "label": score >= self.threshold})


class FlightsPipeline(Pipeline):
    """A scikit-learn pipeline from a pandas frame of INPUTS to scores: mlflow calls predict, which would give labels."""

    def predict(self, frame: Any) -> np.ndarray:
        return self.predict_proba(frame)[:, 1]


def frame_features(frame: Any, constants: dict[str, Any]) -> np.ndarray:
    return features(pa.RecordBatch.from_pandas(frame[INPUTS], preserve_index=False), constants)


def features(rows: pa.RecordBatch | pa.Table, constants: dict[str, Any]) -> np.ndarray:
    """Return scikit-learn's matrix, shape (rows, features)."""
    columns = {f.name: _column(f, rows[f.name]) for f in FEATURES.sources if f.name in INPUTS}
    return evaluate(FEATURES, columns, constants, rows.num_rows).T


def _column(field: Any, array: pa.Array | pa.ChunkedArray) -> Any:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if field.dtype.kind == "string":
        if pa.types.is_null(array.type):  # a batch of pandas in which no row has a value
            array = array.cast(pa.string())
        encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
        codes = encoded.indices.fill_null(0).to_numpy().astype(np.int32)
        strings = Strings(codes, tuple(encoded.dictionary.to_pylist()) or ("",))
        return (
            Nullable(strings, pc.is_valid(array).to_numpy(zero_copy_only=False))
            if field.nullable
            else strings
        )
    if field.dtype.kind == "timestamp":
        return array.cast(pa.timestamp("us", tz=array.type.tz)).cast(pa.int64()).to_numpy()
    if field.nullable:
        valid = pc.is_valid(array).to_numpy(zero_copy_only=False)
        return Nullable(pc.fill_null(array, 0).to_numpy().astype(field.dtype.numpy), valid)
    return array.to_numpy(zero_copy_only=False).astype(field.dtype.numpy, copy=False)
