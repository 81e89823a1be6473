"""What a model URI names, and what is said where it names nothing or nobody answers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from feature_pipelines.errors import ConfigurationError, ModelError, UnavailableError
from tests.toy.processes import free_port
from tests.toy.workspace import Workspace
from udfs import registry as registry_module
from udfs.bundle import bundle_digest, load_bundle
from udfs.registry import ModelVersion, connect, fetch, resolve


@pytest.fixture(autouse=True)
def _mlflow_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a test points MLflow at outlives it."""
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    yield
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)


@pytest.fixture
def client(trained_workspace: Workspace) -> MlflowClient:
    return trained_workspace.connect()


@pytest.fixture
def own_client(workspace: Workspace) -> MlflowClient:
    """A registry that may be changed; the files of version 1 are those of the shared one."""
    return workspace.connect()


def add_version(client: MlflowClient, **changed_tags: str | None) -> str:
    """Register version 1's files once more, with other tags (None: without), and return the version."""
    first = client.get_model_version("houses", "1")
    tags = {name.replace("onescore.", ""): value for name, value in first.tags.items()} | changed_tags
    kept = {f"onescore.{name}": value for name, value in tags.items() if value is not None}
    return str(client.create_model_version("houses", first.source, tags=kept).version)


# --- what a served model needs


@pytest.mark.parametrize("installed", ["xgboost", "xgboost-cpu"])
def test_the_estimators_library_is_pinned_as_it_was_installed(
    installed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {installed: "3.2.0", "lightgbm": "4.7.0"}

    def version(name: str) -> str:
        if name in ("xgboost", "xgboost-cpu", "lightgbm", "redis") and name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions.get(name, "1.0")

    monkeypatch.setattr(registry_module.metadata, "version", version)
    plain = registry_module._requirements()
    assert not [line for line in plain if "gb" in line]
    pinned = registry_module._requirements(["lightgbm", "xgboost"])
    assert pinned == [*plain, "lightgbm==4.7.0", f"{installed}==3.2.0"]


def test_what_features_import_is_pinned() -> None:
    plain = registry_module._requirements()
    assert registry_module._requirements((), ["numpy", "scipy"]) == plain
    pillow = f"pillow=={registry_module.metadata.version('pillow')}"
    assert [line for line in registry_module._requirements((), ["numpy", "PIL"]) if line not in plain] == [
        pillow
    ]


def test_a_library_of_no_known_distribution_is_refused() -> None:
    with pytest.raises(ModelError, match="the model needs catboost, of which no installed distribution says"):
        registry_module._requirements(["catboost"])


# --- resolve


def test_alias_and_number_name_the_same_version(client: MlflowClient) -> None:
    by_alias, by_number = resolve("models:/houses@champion", client), resolve("models:/houses/1", client)
    assert (by_alias.name, by_alias.version, by_alias.alias) == ("houses", "1", "champion")
    assert (by_number.name, by_number.version, by_number.alias) == ("houses", "1", None)
    assert by_alias.digest == by_number.digest
    assert by_alias.uri == by_number.uri == "models:/houses/1"


def test_client_is_made_where_none_is_given(client: MlflowClient) -> None:
    assert resolve("models:/houses@champion") == resolve("models:/houses@champion", client)


@pytest.mark.parametrize(
    "uri",
    [
        "houses",
        "models:/houses",
        "models:/houses@",
        "models:/houses/latest",
        "models:/a/b@c",
        "runs:/1/model",
        "models:/houses/1\n",
    ],
)
def test_anything_else_is_no_model_uri(uri: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"is no model URI; expected models:/<name>@<alias> or models:/"
    ):
        resolve(uri)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "models:/hauses@champion",
            r"no model 'hauses' is registered\. Did you mean 'houses'\? Available: houses\. Train it:",
        ),
        (
            "models:/houses@champoin",
            r"model 'houses' has no alias 'champoin'\. Did you mean 'champion'\? Available: champion\.",
        ),
        ("models:/houses/9", r"model 'houses' has no version 9\. Available: 1\."),
        ("models:/o'hare@champion", r"no model|refused"),
    ],
)
def test_unknown_name_is_refused_with_what_there_is(client: MlflowClient, uri: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve(uri, client)


def test_empty_registry_is_no_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model 'houses' is registered\. Available: nothing\."):
        resolve("models:/houses@champion", connect(f"sqlite:///{tmp_path}/mlflow.db"))


def test_version_of_another_tool_is_refused(own_client: MlflowClient) -> None:
    version = add_version(own_client, digest=None)
    with pytest.raises(ModelError, match=rf"'houses' version {version} was not registered by this project"):
        resolve(f"models:/houses/{version}", own_client)


def test_version_that_was_registered_by_half_is_refused(own_client: MlflowClient) -> None:
    version = add_version(own_client, feature_fingerprint=None)
    with pytest.raises(ModelError, match=rf"'houses' version {version}"):
        resolve(f"models:/houses/{version}", own_client)


def test_alias_moved_after_it_was_resolved_changes_nothing(own_client: MlflowClient, tmp_path: Path) -> None:
    before = resolve("models:/houses@champion", own_client)
    own_client.set_registered_model_alias("houses", "champion", add_version(own_client, digest="f" * 64))
    assert resolve("models:/houses@champion", own_client).version == "2"
    assert before.uri == "models:/houses/1"
    assert bundle_digest(fetch(before, tmp_path)) == before.digest
    own_client.delete_registered_model_alias("houses", "champion")
    assert bundle_digest(fetch(before, tmp_path / "other")) == before.digest


def test_deleted_alias_is_unknown(own_client: MlflowClient) -> None:
    own_client.delete_registered_model_alias("houses", "champion")
    with pytest.raises(ModelError, match=r"model 'houses' has no alias 'champion'\. Available: nothing\."):
        resolve("models:/houses@champion", own_client)


# --- fetch


def test_fetched_files_are_those_whose_digest_the_registry_holds(
    client: MlflowClient, tmp_path: Path
) -> None:
    version = resolve("models:/houses@champion", client)
    directory = fetch(version, tmp_path)
    assert directory.name == version.digest
    assert load_bundle(directory, expected_digest=version.digest).verified == "verified"
    assert [path.name for path in directory.parent.iterdir()] == [version.digest]  # no half-fetched rest


def test_fetched_files_are_not_fetched_again(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = resolve("models:/houses@champion", client)
    directory = fetch(version, tmp_path)

    def refuse(**_: Any) -> None:
        raise AssertionError("asked the artifact store again")

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", refuse)
    assert fetch(version, tmp_path) == directory


def test_fetch_that_another_process_finished_first_uses_its_files(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = resolve("models:/houses@champion", client)
    download = mlflow.artifacts.download_artifacts

    def overtaken(**arguments: Any) -> str:
        got = download(**arguments)
        monkeypatch.setattr(mlflow.artifacts, "download_artifacts", download)
        fetch(version, tmp_path)
        return got

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", overtaken)
    assert bundle_digest(fetch(version, tmp_path)) == version.digest


def test_fetch_that_fails_leaves_nothing_that_looks_like_a_model(
    client: MlflowClient, tmp_path: Path
) -> None:
    missing = ModelVersion("houses", "9", None, "0" * 64, "0" * 64)
    with pytest.raises(ModelError, match="the artifact store refused: .*version"):
        fetch(missing, tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


# --- nobody answers


@pytest.fixture
def closed(tmp_path: Path) -> str:
    """The address of a port of the loopback interface on which nothing listens."""
    return f"http://127.0.0.1:{free_port()}"


def test_registry_that_does_not_answer_is_named(closed: str) -> None:
    client = connect(closed, timeout_seconds=1)
    with pytest.raises(UnavailableError, match=rf"the model registry at {re.escape(closed)} ") as caught:
        resolve("models:/houses@champion", client)
    assert caught.value.retryable
    assert "Traceback" not in str(caught.value)


def test_tracking_server_that_does_not_answer_is_named(closed: str) -> None:
    with pytest.raises(UnavailableError, match=rf"the tracking server at {re.escape(closed)} "):
        connect(closed, timeout_seconds=1, experiment="onescore")


def test_artifact_store_that_does_not_answer_is_named(closed: str, tmp_path: Path) -> None:
    connect(closed, timeout_seconds=1)
    with pytest.raises(UnavailableError, match=rf"the artifact store at {re.escape(closed)} "):
        fetch(ModelVersion("houses", "1", None, "0" * 64, "0" * 64), tmp_path)
    assert list((tmp_path / "models").iterdir()) == []


def test_token_is_in_no_message(closed: str) -> None:
    client = connect(closed, timeout_seconds=1, token="canary-5d1e")
    with pytest.raises(UnavailableError) as caught:
        resolve("models:/houses@champion", client)
    assert "canary-5d1e" not in str(caught.value)


def test_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database, but a file with text in it\n" * 100)
    with pytest.raises(UnavailableError, match=r"mlflow\.db"):
        resolve("models:/houses@champion", connect(f"sqlite:///{tmp_path}/mlflow.db"))
