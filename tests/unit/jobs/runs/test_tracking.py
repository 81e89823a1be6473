"""What MLflow is told of a scoring run: once per run, everything needed to judge it, no secret."""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import UTC, datetime

import mlflow
import pytest

from feature_pipelines.errors import ModelError, UnavailableError
from jobs.runs.batch import score_table
from jobs.runs.tracking import connect_from, log_score_run
from tests.toy.runs import InThisProcess, dies_at
from tests.toy.workspace import house_rows

CANARY = "canary-7f3a9c"


def runs_of(workspace):
    client = connect_from(workspace.conf())
    experiment = client.get_experiment_by_name("onescore")
    found = client.search_runs(
        [experiment.experiment_id], filter_string="tags.`onescore.job` = 'score_batch'"
    )
    return client, found


def artifact(client, run, name):
    return mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{name}")


def test_run_is_logged_with_counts_rates_environment_and_configuration(workspace, spark):
    workspace.write("houses", house_rows(bad=(5, 6)), rows_per_file=200)
    summary, plan = score_table(InThisProcess(spark), workspace.conf())
    client, (run,) = runs_of(workspace)
    assert run.data.tags["onescore.run_id"] == summary.run_id
    assert run.data.tags["onescore.resumed"] == "False"
    metrics = run.data.metrics
    assert (metrics["rows_in"], metrics["rows_scored"], metrics["rows_quarantined"]) == (2_000, 1_998, 2)
    assert metrics["quarantined.NULL_NOT_ALLOWED"] == 2
    assert metrics["rows_per_second"] > 0
    assert {"task_seconds.read", "task_seconds.score", "task_seconds.write"} <= set(metrics)
    assert run.data.params["model"] == "houses version 1 (alias champion)"
    assert run.data.params["configuration digest"] == plan.conf.digest()
    assert json.loads(artifact(client, run, "configuration.json")) == plan.conf.resolved()
    assert json.loads(artifact(client, run, "summary.json"))["rows_scored"] == 1_998
    assert json.loads(artifact(client, run, "platform.json"))


def test_run_is_logged_once_however_often_it_is_reported(workspace, spark):
    session = InThisProcess(spark)
    score_table(session, workspace.conf())
    score_table(session, workspace.conf())
    assert len(runs_of(workspace)[1]) == 1
    score_table(session, workspace.conf(), new_run=True)
    assert len(runs_of(workspace)[1]) == 2


def test_run_whose_process_died_before_it_was_logged_is_logged_by_the_next(workspace, spark, monkeypatch):
    session = InThisProcess(spark)
    with dies_at(monkeypatch, "run.after_complete"):
        score_table(session, workspace.conf())
    assert runs_of(workspace)[1] == []
    summary, _ = score_table(session, workspace.conf())
    _, (run,) = runs_of(workspace)
    assert summary.did_nothing
    assert run.data.tags["onescore.run_id"] == summary.run_id


def test_no_run_is_left_active(workspace, spark):
    score_table(InThisProcess(spark), workspace.conf())
    assert mlflow.active_run() is None


def test_secret_is_nowhere_in_what_is_logged(workspace, spark, monkeypatch):
    monkeypatch.setenv("CANARY_OF_TEST", CANARY)
    overrides = (
        "mlflow.token=env:CANARY_OF_TEST",
        "spark.conf.spark.hadoop.fs.s3a.secret.key=env:CANARY_OF_TEST",
    )
    summary, plan = score_table(InThisProcess(spark), workspace.conf(*overrides))
    client, (run,) = runs_of(workspace)
    assert "env:CANARY_OF_TEST" in artifact(client, run, "configuration.json")
    files = [path for path in workspace.root.rglob("*") if path.is_file()]
    assert len(files) > 50
    leaks = [path for path in files if CANARY.encode() in path.read_bytes()]
    assert leaks == []
    for shown in (plan.describe(), plan.identity(), plan.group_key(), summary.__dict__):
        assert CANARY not in json.dumps(shown)


def test_registry_that_does_not_answer_is_named_in_time(workspace):
    began = time.monotonic()
    conf = workspace.conf("mlflow.tracking_uri=http://127.0.0.1:9", "mlflow.timeout_seconds=2")
    summary = None
    with pytest.raises(
        UnavailableError,
        match=r"the tracking server at http://127.0.0.1:9 (did not answer|cannot be reached)",
    ) as caught:
        log_score_run(conf, None, summary, datetime.now(UTC))
    assert caught.value.retryable
    assert time.monotonic() - began < 30


def test_only_a_job_that_may_create_a_registry_does(workspace, tmp_path):
    conf = workspace.conf(f"mlflow.tracking_uri=sqlite:///{tmp_path}/new/mlflow.db")
    with pytest.raises(ModelError, match="no model is registered yet"):
        connect_from(conf)
    assert not (tmp_path / "new").exists()
    connect_from(conf, create=True)
    assert (tmp_path / "new" / "mlflow.db").exists()


def test_summary_with_odd_reasons_and_stages_is_logged_too(workspace, spark):
    summary, plan = score_table(InThisProcess(spark), workspace.conf())
    odd = dataclasses.replace(summary, run_id="another", reasons={}, stages={}, rows_per_second=0.0)
    log_score_run(workspace.conf(), plan, odd, datetime.now(UTC))
    assert {run.data.tags["onescore.run_id"] for run in runs_of(workspace)[1]} == {summary.run_id, "another"}
