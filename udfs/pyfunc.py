"""The registered model as an MLflow pyfunc: rows in, answers out. MLflow runs this file as the model's code.

A row carries the request's fields, optionally `as_of_ts`, and optionally stored fields; what it does not send is looked up in the
store that the environment names (see udfs.serving for every variable; the model holds none of it). The store is opened lazily,
so one that is down does not stop the model from loading. `predict` never raises: a row that breaks the contract gets an error
object, the rows beside it are scored. `params={"features": true}` adds the feature values to the answers.

On `mlflow models serve`, JSON comes as {"inputs": [rows], "params": {...}}, CSV as text/csv and Parquet as
application/vnd.apache.parquet. What MLflow answers before, or instead of, this code is listed in the README.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import mlflow
import yaml
from mlflow.pyfunc.model import PythonModel

from feature_pipelines.reasons import Reason, RowError
from udfs.online import OnlineScorer
from udfs.prediction_log import PredictionLog
from udfs.serving import ServingSettings, open_scorer

__all__ = ["OnescoreModel"]

_META = "registered_model_meta"


class _Answers:
    """`predict` stands here because MLflow wraps a PythonModel's own: the wrapper keeps of a CSV or Parquet body its first column only."""

    online: OnlineScorer

    def predict(self, context: Any, model_input: list[Any], params: dict[str, Any] | None = None) -> Any:
        """Return one answer per row, in order.

        Args:
            context: MLflow's; unused after loading.
            model_input: rows in the wire form (see feature_pipelines.schema), or a DataFrame, whose columns are the fields.
            params: {"features": true} for the feature values; what cannot be read is every row's error.

        Returns:
            Per row what `OnlineScorer.answer` says. What is no list of rows (nor a DataFrame) gets one error.
        """
        given: Any = model_input
        rows: list[Any] = [None]
        refused: list[RowError] = []
        try:
            if isinstance(given, list):
                rows = given
            elif hasattr(given, "iloc") and hasattr(given, "columns"):
                from udfs.frames import rows_of_frame

                rows = [None] * len(given)
                rows, refused = rows_of_frame(given, self.online.scorer.feature_set)
        except Exception as exc:  # noqa: BLE001 - whatever a caller's object raises is an answer
            return self.online.failed(exc, rows)
        with_features, message = _asked_features(params)
        if message:
            refused = [RowError(i, Reason.BAD_VALUE, "params", message) for i in range(len(rows))]
        return self.online.answer(rows, with_features=with_features, refused=refused)


class OnescoreModel(_Answers, PythonModel):
    """Loads the model's directory once, replays its golden rows, and answers."""

    def load_context(self, context: Any) -> None:
        """Load and verify the packaged model, and open what the environment names."""
        bundle = Path(context.artifacts["bundle"])
        self.online = open_scorer(
            bundle, ServingSettings.read(os.environ), _now, model_version=_registered_version(bundle)
        )
        if self.online.log is not None:
            _drain_on_sigterm(self.online.log)


def _asked_features(params: Any) -> tuple[bool, str]:
    """Return whether features are asked for, and what is wrong with the parameters; "" = nothing."""
    if params is None:
        return False, ""
    if not isinstance(params, dict):
        return False, "params is not an object"
    if set(params) - {"features"}:
        return False, "the only parameter is features"
    value = params.get("features", False)
    return (value, "") if isinstance(value, bool) else (False, "the parameter features is not true or false")


def _now() -> int:
    return time.time_ns() // 1000


def _registered_version(bundle: Path) -> str | None:
    """Return the version that MLflow writes beside a model fetched from a registry; None for one loaded from elsewhere."""
    meta = bundle.parent.parent / _META
    if not meta.is_file():
        return None
    version = (yaml.safe_load(meta.read_text()) or {}).get("model_version")
    return None if version is None else str(version)


def _drain_on_sigterm(log: PredictionLog) -> None:
    """Write the log's last rows when the process is told to end: uvicorn ends itself by the signal, so no exit handler runs."""
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        log.drain()
        if callable(before):
            before(number, frame)
        elif before is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    signal.signal(signal.SIGTERM, end)


mlflow.models.set_model(OnescoreModel())
