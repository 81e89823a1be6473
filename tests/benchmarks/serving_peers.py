"""What the served model is compared to: the same estimator on `mlflow models serve`, in the plain ways to put it there.

    pandas      features and estimator as one scikit-learn pipeline with a DataFrame signature, the features written in pandas:
                what one would serve instead
    numpy       the same pipeline, its features by our own numpy functions: as fast as it can get
    estimator   the estimator alone, sent finished features: what remains if somebody else computes them

None looks anything up: they are sent the stored values beside the request, or all features, which favours them. All give the same
bits, and take their code along in the model.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from sklearn.pipeline import Pipeline

import feature_pipelines
from feature_pipelines.features.flights import FEATURES
from feature_pipelines.online_lookup import assemble, plan
from feature_pipelines.request_rows import AS_OF_TS, RequestReader
from feature_pipelines.schema import to_wire
from feature_pipelines.stores.base import OnlineStore

_PEERS = Path(__file__).parent / "peers"
_CODE = ("numpy_pipeline.py", "pandas_pipeline.py")
sys.path.append(str(_PEERS))  # as the model's code has it, by its own name

from numpy_pipeline import INPUTS, NumpyFeatures  # noqa: E402 - after the path is set
from pandas_pipeline import PandasFeatures  # noqa: E402


def log_peers(home: Path, scratch: Path, rows: Sequence[Mapping[str, Any]], features: pd.DataFrame) -> None:
    """Save them as MLflow models, each in the directory of its name.

    Args:
        home: the benchmark's, with the peer model.
        scratch: where they go.
        rows: of `with_stored_values`: an example.
        features: finished ones of the same rows.
    """
    estimator = joblib.load(home / "peer_model" / "estimator.joblib")
    constants = json.loads((home / "peer_model" / "model.json").read_text())["constants"]
    steps = {"numpy": NumpyFeatures(constants), "pandas": PandasFeatures(constants, list(features.columns))}
    for name, step in steps.items():
        if name == "pandas":  # from here on as if fitted on a frame: else it warns at each
            estimator.feature_names_in_ = np.array(features.columns, dtype=object)
        pipeline = Pipeline([("features", step), ("model", estimator)])
        _save(pipeline, _frame(rows), scratch / name)
    _save(estimator, features.astype("float64"), scratch / "estimator")


def _save(model: Any, example: pd.DataFrame, path: Path) -> None:
    mlflow.sklearn.save_model(
        model,
        str(path),
        signature=infer_signature(example, model.predict_proba(example)),
        pyfunc_predict_fn="predict_proba",
        serialization_format="cloudpickle",
        code_paths=[str(Path(feature_pipelines.__file__).parent), *(str(_PEERS / name) for name in _CODE)],
        pip_requirements=[],
    )


def with_stored_values(store: OnlineStore, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return of each request the columns that the pipeline reads: its own, and what the store holds for it."""
    read = RequestReader(FEATURES).read(requests)
    planned = plan(FEATURES, read, has_store=True)
    found = assemble(planned, store.read(planned.wanted()), [row[AS_OF_TS] for row in requests])
    columns = {**read.columns, **found.columns}
    wire = {f.name: to_wire(f, columns[f.name]) for f in FEATURES.sources if f.name in INPUTS}
    wire |= {f.name: [row[f.name] for row in requests] for f in FEATURES.request if f.name in INPUTS}
    return [dict(zip(wire, values, strict=True)) for values in zip(*wire.values(), strict=True)]


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows as a user would hold them: whole numbers that are never missing as integers, all other numbers as floats."""
    frame = pd.DataFrame(list(rows))
    for field in FEATURES.sources:
        if field.name in INPUTS and field.dtype.kind != "string":
            kind = "float64" if field.nullable or field.dtype.is_float else "int64"
            frame[field.name] = frame[field.name].astype(kind)
    return frame


def body_of(records: Mapping[str, Any]) -> bytes:
    """Return the body of one row, as records."""
    kept = {name: None if _is_nan(value) else value for name, value in records.items()}
    return json.dumps({"dataframe_records": [kept]}).encode()


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
