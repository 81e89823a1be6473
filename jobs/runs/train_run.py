"""Training as a whole: training set, fit, certification, MLflow run, registration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.packaged import load_reference
from feature_pipelines.reasons import RowsRefused
from feature_pipelines.schema import to_wire
from jobs.reports.model_report import class_table, feature_importance, main_metric, metrics, plots
from jobs.runs.conf import Conf
from jobs.runs.held_out import describe_split
from jobs.runs.progress import say
from jobs.runs.session import session_for, spark_log
from jobs.runs.tracking import connect_from
from jobs.runs.training import FittedModel, TrainingSet, build_training_set, fit_model, without_views
from udfs.bundle import read_golden, write_bundle
from udfs.registry import ModelVersion, asking, register

__all__ = ["TrainedModel", "describe_training", "train", "training_sources"]

_CERTIFICATION_ROWS = 10_000


@dataclass(frozen=True)
class TrainedModel:
    """What training gave.

    Args:
        version: the registered version and the alias it got.
        metrics: of the held-out rows; `auc_without_views` (or macro_auc, r2) is of the features that read no stored view.
        rows_trained, rows_held_out: how many requests.
        model: what the version's model.json says, and what certification measured.
        classes: of several classes, how well each is told from the others: see `class_table`.
    """

    version: ModelVersion
    metrics: dict[str, float]
    rows_trained: int
    rows_held_out: int
    model: dict[str, Any]
    classes: tuple[dict[str, Any], ...] = ()


def train(conf: Conf) -> TrainedModel:
    """Build the training set, fit, certify, log and register, as the configuration says."""
    feature_set = load_reference(conf.model.feature_set)
    say("reading requests, outcomes and stored features, point in time")
    with session_for(conf, training_sources(conf), spark_log(conf)) as spark:
        data = build_training_set(conf, feature_set, spark)
    data, fitted = _fit(conf, feature_set, data)
    quality = metrics(conf.train.task, fitted.truth, fitted.predicted)
    quality |= _without_stored_views(conf, feature_set, data)
    classes = class_table(fitted.output.classes, fitted.truth, fitted.predicted)
    with TemporaryDirectory(prefix="onescore-") as scratch:
        bundle = Path(scratch) / "bundle"
        say("certifying: flat trees against the library, batch sizes, golden rows")
        _write(conf, feature_set, data, fitted, bundle)
        model = dict(read_golden(bundle).info)
        client = connect_from(conf, create=True)
        say("logging and registering")
        with asking("the tracking server"), mlflow.start_run(run_name=f"train {conf.model.name}"):
            _log(conf, feature_set, data, fitted, quality)
            if classes:
                mlflow.log_dict({"classes": classes}, "classes.json")
            version = register(client, conf.model.name, bundle, _example(feature_set, data), model)
    held_out = int(data.held_out.sum())
    return TrainedModel(version, quality, len(data) - held_out, held_out, model, tuple(classes))


def _fit(conf: Conf, feature_set: FeatureSet, data: TrainingSet) -> tuple[TrainingSet, FittedModel]:
    """Fit, and return what was learned from: where a feature refuses rows, begin anew without them."""
    while True:
        say(f"fitting on {int((~data.held_out).sum()):,} rows")
        try:
            return data, fit_model(conf, feature_set, data)
        except RowsRefused as exc:
            data = data.without(exc.errors)
            say(f"leaving out {len(exc.errors):,} rows that a feature refuses")


def training_sources(conf: Conf) -> list[str]:
    """Return the tables that training reads, as the configuration names them."""
    return [conf.train.requests, conf.train.outcomes, *conf.views.values()]


def _without_stored_views(conf: Conf, feature_set: FeatureSet, data: TrainingSet) -> dict[str, float]:
    """Return how good the same estimator is with the request's own features alone: what the stored views are worth."""
    alone = without_views(feature_set)
    if alone is None:
        return {}
    say(
        f"fitting again without the stored views, on {len(alone.feature_names)} of {len(feature_set.feature_names)} features"
    )
    fitted = fit_model(conf, alone, data)
    name = main_metric(conf.train.task)
    return {f"{name}_without_views": metrics(conf.train.task, fitted.truth, fitted.predicted)[name]}


def _write(conf: Conf, feature_set: FeatureSet, data: TrainingSet, fitted: FittedModel, bundle: Path) -> None:
    rng = np.random.default_rng(conf.train.seed)
    rows = np.sort(rng.permutation(len(data))[:_CERTIFICATION_ROWS])
    write_bundle(
        bundle,
        name=conf.model.name,
        reference=conf.model.feature_set,
        constants=fitted.constants,
        estimator=fitted.estimator,
        output=fitted.output,
        columns=data.part(rows),
        n_rows=len(rows),
        tolerance_ulps=conf.train.tolerance_ulps,
    )


def _log(
    conf: Conf, feature_set: FeatureSet, data: TrainingSet, fitted: FittedModel, quality: dict[str, float]
) -> None:
    rng = np.random.default_rng(conf.train.seed)
    names = feature_set.feature_names
    importance = feature_importance(
        conf.train.task, fitted.estimator, names, fitted.matrix, fitted.truth, rng
    )
    mlflow.log_params(
        {key: str(value)[:500] for key, value in describe_training(conf, feature_set, data).items()}
    )
    mlflow.log_metrics(quality)
    mlflow.log_dict(conf.resolved(), "configuration.json")
    mlflow.log_dict(importance, "feature_importance.json")
    classes = fitted.output.classes
    for name, figure in plots(conf.train.task, fitted.truth, fitted.predicted, importance, classes).items():
        mlflow.log_figure(figure, f"plots/{name}")


def describe_training(conf: Conf, feature_set: FeatureSet, data: TrainingSet) -> dict[str, Any]:
    """Return what is learned from, for people: what --dry-run prints and the MLflow run records."""
    held_out = int(data.held_out.sum())
    return {
        "model": conf.model.name,
        "task": conf.train.task,
        **({"classes": dict(zip(data.classes, _rows_by_class(data), strict=True))} if data.classes else {}),
        "features": len(feature_set.feature_names),
        "rows to learn from": len(data) - held_out,
        "rows held out": held_out,
        "held out": describe_split(conf.train),
        "rows left out": dict(data.left_out),
        "tables": dict(data.tables),
    }


def _rows_by_class(data: TrainingSet) -> list[int]:
    """Return of how many rows learned from each class is the outcome."""
    counts: list[int] = np.bincount(
        data.label[~data.held_out].astype(np.int64), minlength=len(data.classes)
    ).tolist()
    return counts


def _example(feature_set: FeatureSet, data: TrainingSet) -> list[dict[str, Any]]:
    """Return two rows in the wire form, with their stored fields."""
    columns = data.part(np.arange(2))
    wire = {f.name: to_wire(f, columns[f.name]) for f in feature_set.sources}
    return [{name: values[i] for name, values in wire.items()} for i in range(2)]
