"""Estimators that `train.estimator` names: fitted, registered without a pickle, and scored with the same bits however rows come."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import skops.io
from pyspark.sql import SparkSession

from feature_pipelines.lookup_arrow import index_from_arrow
from jobs.runs.batch import score_table
from tests.toy import houses
from tests.toy.bits import bits_by_row, bits_of
from tests.toy.pickles import pickles_in
from tests.toy.workspace import Workspace, house_rows
from udfs.kernel import Kernel
from udfs.scorer import LibraryEvaluator

N = 300
CLASSIFICATION = ("train.task=classification", "train.label_above=400")
FOREST = ("train.params.n_estimators=10", "train.params.n_jobs=2")
NEVER_NULL = ("model.feature_set=tests.toy.houses:NEVER_NULL",)
CASES = {
    "sklearn.linear_model:LinearRegression": NEVER_NULL,
    "sklearn.neighbors:KNeighborsRegressor": (*NEVER_NULL, "train.params.n_jobs=2"),
    "sklearn.ensemble:RandomForestRegressor": FOREST,
    "sklearn.ensemble:RandomForestClassifier": (*FOREST, "train.params.max_leaf_nodes=4", *CLASSIFICATION),
    "lightgbm:LGBMClassifier": (*FOREST, "train.params.colsample_bytree=0.5", *CLASSIFICATION),
    "xgboost:XGBRegressor": FOREST,
}


@pytest.mark.parametrize("estimator", CASES)
def test_estimator_is_fitted_registered_and_scores_the_same_bits_in_batch_and_alone(
    workspace: Workspace, spark: SparkSession, estimator: str
) -> None:
    settings = (
        "model.name=other",
        f"train.estimator={estimator}",
        "train.params.max_iter=null",  # which conf/houses.yaml sets for boosted trees
        *CASES[estimator],
    )
    trained = workspace.train(*settings)
    assert (trained.version.name, trained.version.alias) == ("other", "champion")
    assert trained.metrics["auc" if "task=classification" in str(settings) else "r2"] > 0.9
    certification = trained.model["certification"]
    assert certification["rows"] == trained.rows_trained + trained.rows_held_out
    assert certification["estimator"] == estimator.partition(":")[2]
    assert certification["invariant"] is True
    library = estimator.partition(":")[0]
    others = [library] if library in ("lightgbm", "xgboost") else []
    assert certification["libraries"] == others
    only_trusted_and_no_pickle(trained.version.uri, others)

    requests = house_rows(N, seed=4)
    workspace.write("requests", requests, rows_per_file=100)
    summary, plan = score_table(
        spark, workspace.conf(*settings, "input.source=requests", "output.scored=other_scored")
    )
    assert (summary.rows_scored, summary.rows_quarantined) == (N, 0)
    batch = bits_by_row(workspace.rows("other_scored"))
    assert len(set(batch.values())) > (5 if "task=classification" in str(settings) else 10)

    evaluator = plan.scorer.evaluator
    if isinstance(evaluator, LibraryEvaluator):
        assert type(evaluator.estimator) is class_of(estimator)
        assert evaluator.estimator.n_jobs == 1
        assert evaluator.strategy.to_json() == certification["strategy"]
    else:
        assert certification["evaluator"] == "trees"
    views = {v.name: index_from_arrow(v, workspace.rows(v.name)) for v in plan.scorer.feature_set.views}
    assert list(views) == ([] if NEVER_NULL[0] in settings else [houses.RATES.name])
    kernel = Kernel(plan.scorer, views)
    (rows,) = requests.combine_chunks().to_batches()
    for size in (1, 7, N):
        scores = [kernel.score(rows.slice(start, size)).outputs["score"] for start in range(0, N, size)]
        assert dict(enumerate(map(bits_of, np.concatenate(scores).tolist()))) == batch


def class_of(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


def only_trusted_and_no_pickle(uri: str, others: list[str]) -> None:
    directory = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri))
    assert pickles_in(directory) == []
    (file,) = directory.rglob("estimator.skops")
    outside = {t for t in skops.io.get_untrusted_types(file=file) if not t.startswith("sklearn.")}
    assert {t.partition(".")[0] for t in outside - {"collections.OrderedDict"}} == set(others)
    assert not any("Booster" in t for t in outside)
    pins = (directory / "requirements.txt").read_text().split()
    boosters = [line for line in pins if line.startswith(("lightgbm==", "xgboost==", "xgboost-cpu=="))]
    assert len(boosters) == len(others)
