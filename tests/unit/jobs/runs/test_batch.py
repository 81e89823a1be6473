"""The batch job as a whole: which model is scored with, and that a run is logged."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_pipelines.errors import ConfigurationError, ModelError, ModelIntegrityError
from jobs.runs.batch import plan_from, score_table
from jobs.runs.conf import load
from tests.toy.runs import InThisProcess, move_alias, register_again


def planned(workspace, *overrides):
    conf = workspace.conf(*overrides)
    return plan_from(conf, Path(conf.storage.cache))


def test_alias_is_resolved_to_the_version_it_names_now(workspace):
    second = register_again(workspace)
    assert (planned(workspace).model.version, planned(workspace).model.alias) == ("1", "champion")
    move_alias(workspace, second)
    assert (planned(workspace).model.version, planned(workspace).model.alias) == ("2", "champion")


def test_version_wins_over_the_alias(workspace):
    register_again(workspace)
    plan = planned(workspace, "model.version=2")
    assert (plan.model.version, plan.model.alias) == ("2", None)


def test_alias_moved_during_a_run_changes_nothing_in_it(workspace, spark, monkeypatch):
    second = register_again(workspace)

    def reached(point):
        if point == "chunk.after_scored_commit":
            move_alias(workspace, second)

    monkeypatch.setattr("jobs.runs.score_run.reached", reached)
    summary, plan = score_table(InThisProcess(spark), workspace.conf())
    rows = workspace.rows("houses_scored")
    assert (rows.num_rows, summary.rows_scored) == (2_000, 2_000)
    assert set(rows.column("model_version").to_pylist()) == {"1"} == {plan.model.version}


def test_what_is_missing_in_the_configuration_is_named(home):
    with pytest.raises(
        ConfigurationError, match=r"model.name, input.source, output.scored, output.quarantine: not set"
    ):
        plan_from(load("local"), home)


def test_without_a_registry_the_way_to_one_is_shown(tmp_path, workspace):
    conf = workspace.conf(f"mlflow.tracking_uri=sqlite:///{tmp_path}/none.db")
    with pytest.raises(
        ModelError,
        match=r"no model is registered yet: there is no .*none.db. Train one: python -m jobs.train_model",
    ):
        plan_from(conf, tmp_path)
    assert not (tmp_path / "none.db").exists()


def test_model_changed_in_the_cache_is_refused(workspace):
    planned(workspace)
    (file,) = (workspace.root / ".onescore" / "cache" / "models").glob("*/features/houses.py")
    file.write_text(file.read_text().replace("area_m2 * area_m2", "area_m2 * area_m2 * 1.0"))
    with pytest.raises(ModelIntegrityError, match="changed: features/houses.py"):
        planned(workspace)


def test_a_person_is_told_what_is_scored_and_how_far_it_is(workspace, spark, capsys):
    score_table(InThisProcess(spark), workspace.conf())
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert lines[0].startswith("scoring 2,000 rows of ")
    assert lines[0].endswith("houses with houses version 1")
    assert "2,000 of 2,000 rows (100%)" in lines[-1]
