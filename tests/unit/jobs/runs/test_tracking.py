"""What MLflow is told of a scoring run: once per run, everything needed to judge it, no secret."""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import UTC, datetime

import mlflow
import pytest

from feature_pipelines.errors import ConfigurationError, ModelError, UnavailableError
from jobs.runs.batch import score_table
from jobs.runs.conf import load
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
    monkeypatch.setenv("CONNECT_URL_OF_TEST", f"sc://host:443/;token={CANARY}")
    monkeypatch.setenv("STORE_URL_OF_TEST", f"redis://:{CANARY}@host/0")
    monkeypatch.setenv("JAVA_OPTIONS_OF_TEST", f"-Dx.password={CANARY}")
    overrides = (
        "mlflow.token=env:CANARY_OF_TEST",
        "store.url=env:STORE_URL_OF_TEST",
        "spark.remote=env:CONNECT_URL_OF_TEST",
        "spark.conf.spark.hadoop.fs.s3a.secret.key=env:CANARY_OF_TEST",
        "spark.conf.spark.hadoop.fs.azure.account.key.a.dfs.core.windows.net=env:CANARY_OF_TEST",
        "spark.conf.spark.executor.extraJavaOptions=env:JAVA_OPTIONS_OF_TEST",
    )
    summary, plan = score_table(InThisProcess(spark), workspace.conf(*overrides))
    client, (run,) = runs_of(workspace)
    shown = json.loads(artifact(client, run, "configuration.json"))
    assert shown["spark"]["remote"] == "env:CONNECT_URL_OF_TEST"
    assert set(shown["spark"]["conf"].values()) == {"env:CANARY_OF_TEST", "env:JAVA_OPTIONS_OF_TEST"}
    assert (shown["mlflow"]["token"], shown["store"]["url"]) == (
        "env:CANARY_OF_TEST",
        "env:STORE_URL_OF_TEST",
    )
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


@pytest.fixture
def nothing_set(monkeypatch, home):
    """MLflow as in a process of its own in which nobody has named a server."""
    before = (mlflow.get_tracking_uri(), mlflow.get_registry_uri())
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    yield home
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("env", ["staging", "prod"])
def test_server_that_nothing_names_is_refused_and_mlflows_own_default_is_not_made(nothing_set, env, create):
    with pytest.raises(
        ConfigurationError,
        match=f"mlflow.tracking_uri is null with --env {env}, and nothing else .* set MLFLOW_TRACKING_URI",
    ):
        connect_from(load(env), create=create)
    assert list(nothing_set.iterdir()) == []


@pytest.mark.parametrize("named", ["sqlite:///db/mlflow.db", "file:///nowhere/db/mlflow", "db/mlflow"])
def test_local_registry_named_by_mlflows_variable_is_not_created_by_a_job_that_reads(
    nothing_set, monkeypatch, named
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
    with pytest.raises(
        ModelError, match="no model is registered yet: there is no .*db/mlflow.*MLFLOW_TRACKING_URI"
    ):
        connect_from(load("prod"))
    assert list(nothing_set.iterdir()) == []


def test_registry_beside_the_tracking_server_is_not_created_by_a_job_that_reads(nothing_set, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///registry.db")
    with pytest.raises(ModelError, match="there is no registry.db"):
        connect_from(load("prod"))
    with pytest.raises(ModelError, match="there is no .*/other.db"):
        connect_from(load("prod", overrides=["mlflow.registry_uri=sqlite:///other.db"]))
    assert list(nothing_set.iterdir()) == []


def test_mlflows_variable_names_the_registry_where_the_configuration_does_not(nothing_set, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{nothing_set}/db/mlflow.db")
    client = connect_from(load("prod"), create=True)
    assert client.get_experiment_by_name("onescore-prod") is not None
    assert (nothing_set / "db" / "mlflow.db").exists()
    assert connect_from(load("prod")).search_registered_models() == []


def test_summary_with_odd_reasons_and_stages_is_logged_too(workspace, spark):
    summary, plan = score_table(InThisProcess(spark), workspace.conf())
    odd = dataclasses.replace(summary, run_id="another", reasons={}, stages={}, rows_per_second=0.0)
    log_score_run(workspace.conf(), plan, odd, datetime.now(UTC))
    assert {run.data.tags["onescore.run_id"] for run in runs_of(workspace)[1]} == {summary.run_id, "another"}
