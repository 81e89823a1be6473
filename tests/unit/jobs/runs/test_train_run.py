from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest

from feature_pipelines.fingerprint import fingerprint
from jobs.runs.command import run
from jobs.runs.tracking import connect_from, training_metrics
from jobs.train_model import main
from tests.toy.bands import BANDS, band_rows
from tests.toy.houses import FEATURES
from tests.toy.workspace import CONF_DIR, Workspace, house_rows
from udfs.registry import resolve


def test_first_version_is_champion_and_the_next_is_challenger(workspace: Workspace) -> None:
    trained = workspace.train("train.params.max_iter=5")

    client = connect_from(workspace.conf())
    aliases = {k: str(v) for k, v in client.get_registered_model("houses").aliases.items()}
    assert trained.version.alias == "challenger"
    assert aliases == {"champion": "1", "challenger": "2"}
    assert resolve("models:/houses@champion", client).version == "1"


def test_version_carries_what_serving_it_needs(trained_workspace: Workspace) -> None:
    client = connect_from(trained_workspace.conf())
    version = client.get_model_version("houses", "1")
    directory = Path(mlflow.artifacts.download_artifacts(artifact_uri="models:/houses/1"))
    model = json.loads((directory / "artifacts/bundle/model.json").read_text())

    assert (
        version.tags["onescore.feature_fingerprint"] == model["feature_fingerprint"] == fingerprint(FEATURES)
    )
    assert {
        "onescore.digest",
        "onescore.format_version",
        "onescore.contract_version",
        "onescore.platform_id",
    } <= set(version.tags)
    assert model["certification"]["evaluator"] == "trees"
    requirements = (directory / "requirements.txt").read_text().split()
    assert all("==" in line for line in requirements)
    assert not any(line.startswith("pyspark") for line in requirements)
    assert (directory / "artifacts/bundle/features/houses.py").exists()


def test_run_has_metrics_plots_and_the_configuration(trained_workspace: Workspace) -> None:
    client = connect_from(trained_workspace.conf())
    version = resolve("models:/houses/1", client)
    run_id = client.get_model_version("houses", "1").run_id

    quality = training_metrics(client, version)
    assert quality["r2"] > 0.9
    assert 0 < quality["r2_without_views"] != quality["r2"]
    artifacts = {a.path for a in client.list_artifacts(run_id)} | {
        a.path for a in client.list_artifacts(run_id, "plots")
    }
    assert {
        "configuration.json",
        "feature_importance.json",
        "plots/predicted_against_true.png",
        "plots/feature_importance.png",
    } <= artifacts


def test_dry_run_shows_the_training_set_and_registers_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONESCORE_HOME", str(workspace.root))
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(CONF_DIR))

    assert run(main, ["--model", "houses", "--dry-run"]) == 0

    said = capsys.readouterr().out
    assert "nothing was written" in said
    assert "rows to learn from" in said
    assert len(connect_from(workspace.conf()).search_model_versions("name = 'houses'")) == 1


def test_a_model_without_outcomes_configured_ends_with_code_two(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ONESCORE_HOME", str(workspace.root))
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(CONF_DIR))

    assert run(main, ["--model", "houses", "--set", "train.outcomes=''"]) == 2

    assert "train.outcomes: not set" in capsys.readouterr().err


def test_run_of_several_classes_has_their_table_and_plots(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.write("house_bands", band_rows(house_rows()))
    for name, value in workspace.env().items():
        monkeypatch.setenv(name, value)

    assert run(main, ["--model", "bands", "--dry-run"]) == 0
    assert run(main, ["--model", "bands"]) == 0

    planned, _, trained = capsys.readouterr().out.partition("feature fingerprint")
    assert "classes" in planned
    assert "macro_auc_without_views" in trained
    assert "recall" in trained.partition("held-out classes")[2]
    client = connect_from(workspace.conf())
    version = resolve("models:/bands@champion", client)
    run_id = client.get_model_version("bands", "1").run_id
    quality = training_metrics(client, version)
    assert quality["accuracy"] > 0.9
    assert {"macro_auc", "macro_recall", "log_loss"} < set(quality)
    table = json.loads(
        Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="classes.json")).read_text()
    )
    assert [one["class"] for one in table["classes"]] == list(BANDS)
    assert sum(one["rows"] for one in table["classes"]) > 500
    plots = {a.path for a in client.list_artifacts(run_id, "plots")}
    assert plots == {"plots/confusion.png", "plots/roc.png", "plots/feature_importance.png"}
