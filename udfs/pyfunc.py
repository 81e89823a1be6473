"""The registered model as an MLflow pyfunc: rows in, answers out. MLflow runs this file as the model's code.

A row carries the request fields, and the stored fields of each view (there is no online store behind this format yet). `predict`
never raises on data: a row that breaks the contract gets an error object, the rows beside it are scored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
from mlflow.pyfunc.model import PythonModel

from udfs.bundle import load_bundle
from udfs.rows import score_rows
from udfs.scorer import Scorer

__all__ = ["OnescoreModel"]


class OnescoreModel(PythonModel):
    """Loads the model's directory once, replays its golden rows, and answers."""

    scorer: Scorer

    def load_context(self, context: Any) -> None:
        """Load and verify the packaged model."""
        self.scorer = load_bundle(Path(context.artifacts["bundle"]))

    def predict(self, context: Any, model_input: list[Any], params: dict[str, Any] | None = None) -> Any:
        """Return one answer per row, in order.

        Args:
            context: MLflow's; unused after loading.
            model_input: rows in the wire form (see feature_pipelines.schema).
            params: none are defined.

        Returns:
            Per row {"score": ..., "label": ..., "model_version": ..., "verified": ...} or {"error": {"code", "field", "message"}}.
        """
        return score_rows(self.scorer, model_input)


mlflow.models.set_model(OnescoreModel())
