"""What a job tells MLflow. The registry itself is `udfs.registry`; this module knows the configuration and the runs."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient

from feature_pipelines.errors import ModelError
from jobs.runs.conf import Conf
from jobs.runs.plan import ScorePlan
from jobs.runs.run_summary import RunSummary
from udfs.platform import describe_platform
from udfs.registry import ModelVersion, asking, connect

__all__ = ["connect_from", "log_score_run", "training_metrics"]


def connect_from(conf: Conf, *, create: bool = False) -> MlflowClient:
    """Connect as the configuration says.

    Args:
        conf: its `mlflow` section.
        create: whether a local registry may be created; a job that only reads one must not.

    Raises:
        ModelError: there is no local registry yet. UnavailableError: the server does not answer.
    """
    settings = conf.mlflow
    uri = settings.tracking_uri
    if uri is not None and uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        if create:
            file.parent.mkdir(parents=True, exist_ok=True)
        elif not file.exists():
            raise ModelError(
                f"no model is registered yet: there is no {file}. Train one: python -m jobs.train_model"
            )
    return connect(
        uri,
        settings.registry_uri,
        timeout_seconds=settings.timeout_seconds,
        token=settings.token.reveal() if settings.token is not None else None,
        experiment=settings.experiment if create else None,
        artifact_root=settings.artifact_root,
    )


def training_metrics(client: MlflowClient, version: ModelVersion) -> dict[str, float]:
    """Return the held-out metrics that the version's training run logged."""
    with asking("the tracking server"):
        run_id = client.get_model_version(version.name, version.version).run_id
        return dict(client.get_run(run_id).data.metrics) if run_id else {}


def log_score_run(conf: Conf, plan: ScorePlan, summary: RunSummary, started: datetime) -> None:
    """Log counts, rates, environment and resolved configuration of a scoring run, once per run however often it is called."""
    client = connect_from(conf, create=True)
    with asking("the tracking server"):
        experiment = client.get_experiment_by_name(conf.mlflow.experiment)
        ids = [experiment.experiment_id] if experiment else []
        if client.search_runs(
            ids, filter_string=f"tags.`onescore.run_id` = '{summary.run_id}'", max_results=1
        ):
            return
        with mlflow.start_run(run_name=f"score {plan.model.name} {summary.run_id}"):
            mlflow.set_tags(
                {
                    "onescore.run_id": summary.run_id,
                    "onescore.job": "score_batch",
                    "onescore.resumed": str(summary.resumed),
                }
            )
            mlflow.log_params({key: str(value)[:500] for key, value in plan.describe().items()})
            mlflow.log_metrics(_metrics(summary))
            mlflow.log_dict(conf.resolved(), "configuration.json")
            mlflow.log_dict(describe_platform(), "platform.json")
            mlflow.log_text(json.dumps(summary.__dict__, indent=1), "summary.json")


def _metrics(summary: RunSummary) -> dict[str, float]:
    counts: dict[str, Any] = {
        "rows_in": summary.rows_in,
        "rows_scored": summary.rows_scored,
        "rows_quarantined": summary.rows_quarantined,
        "rows_per_second": summary.rows_per_second,
        "seconds": summary.seconds,
    }
    counts |= {f"quarantined.{reason}": count for reason, count in summary.reasons.items()}
    counts |= {f"task_seconds.{stage}": seconds for stage, seconds in summary.stages.items()}
    return {name: float(value) for name, value in counts.items()}
