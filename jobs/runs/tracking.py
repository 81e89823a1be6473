"""What a job tells MLflow. The registry itself is `udfs.registry`; this module knows the configuration and the runs."""

from __future__ import annotations

import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient

from feature_pipelines.errors import ConfigurationError, ModelError
from jobs.runs.conf import Conf
from jobs.runs.plan import ScorePlan
from jobs.runs.run_summary import RunSummary
from jobs.tables.files import normal_uri
from udfs.platform import describe_platform
from udfs.registry import ModelVersion, asking, connect

__all__ = ["connect_from", "log_score_run", "training_metrics"]


def connect_from(conf: Conf, *, create: bool = False) -> MlflowClient:
    """Connect as the configuration says; where `mlflow.tracking_uri` is null, as MLFLOW_TRACKING_URI or the platform says.

    Args:
        conf: its `mlflow` section.
        create: whether a local registry may be created; a job that only reads one must not.

    Raises:
        ConfigurationError: nothing says where the tracking server is. ModelError: there is no local registry yet.
        UnavailableError: the server does not answer.
    """
    settings = conf.mlflow
    for uri in (_tracking_uri(conf), _registry_uri(conf)):
        place = _local_place(uri)
        if place is None:
            continue
        if create:
            place.parent.mkdir(parents=True, exist_ok=True)
        elif not place.exists():
            raise ModelError(
                f"no model is registered yet: there is no {place}. Train one: python -m jobs.train_model"
                + ("" if settings.tracking_uri else "; or is MLFLOW_TRACKING_URI, which names it, mistaken?")
            )
    return connect(
        settings.tracking_uri,
        settings.registry_uri,
        timeout_seconds=settings.timeout_seconds,
        token=settings.token.reveal() if settings.token is not None else None,
        experiment=settings.experiment if create else None,
        artifact_root=settings.artifact_root,
    )


def _tracking_uri(conf: Conf) -> str:
    """Return the URI that MLflow will use; its own default, a database in the working directory, is refused: nobody would find it."""
    uri = conf.mlflow.tracking_uri
    is_set: bool = mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
    if uri is None and not is_set:
        raise ConfigurationError(
            f"mlflow.tracking_uri is null with --env {conf.env}, and nothing else names the tracking server: set "
            "MLFLOW_TRACKING_URI (such as http://mlflow.example:5000), or mlflow.tracking_uri in conf or by --set",
            key="mlflow.tracking_uri",
        )
    return uri if uri is not None else str(mlflow.get_tracking_uri())


def _registry_uri(conf: Conf) -> str | None:
    """Return the registry's own URI, None where it is the tracking server's."""
    if conf.mlflow.registry_uri is None and conf.mlflow.tracking_uri is None:
        return os.environ.get("MLFLOW_REGISTRY_URI")
    return conf.mlflow.registry_uri


def _local_place(uri: str | None) -> Path | None:
    """Return the SQLite file or the directory that a URI names; None for a server, a platform or another database."""
    if not uri:
        return None
    if uri.startswith("sqlite:///"):
        return Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if uri.startswith("file:"):
        return Path(normal_uri(uri))
    return None if re.match(r"[A-Za-z][\w+.\-]*:", uri) or uri.startswith("databricks") else Path(uri)


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
