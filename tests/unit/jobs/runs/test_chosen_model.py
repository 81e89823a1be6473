"""The model that a job is about: a directory that --bundle names is of the configured model, or is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from feature_pipelines.errors import ConfigurationError, ModelError
from jobs.online.serve_conf import worker_spec
from jobs.proof.path_bench import Bench
from jobs.runs.chosen_model import chosen_model, registered_model
from jobs.runs.conf import Conf
from tests.toy.workspace import Workspace


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that says which model it is of, and no more."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.json").write_text(json.dumps({"name": "houses"}))
    return tmp_path / "model"


def conf(tmp_path: Path, name: str) -> Conf:
    return Workspace(tmp_path).conf(f"model.name={name}")


def test_directory_is_the_model_that_is_configured(tmp_path: Path, directory: Path) -> None:
    assert chosen_model(conf(tmp_path, "houses"), directory) == (None, directory.resolve())


@pytest.mark.parametrize(
    "ask",
    [
        chosen_model,
        worker_spec,
        lambda conf, bundle: Bench(lambda more: conf, [], bundle=bundle),
    ],
)
def test_directory_of_another_model_is_refused_by_whoever_takes_one(
    tmp_path: Path, directory: Path, ask: Callable[[Conf, Path], object]
) -> None:
    message = r"--bundle .*model: it is of model 'houses', not of 'castles'"
    with pytest.raises(ConfigurationError, match=message):
        ask(conf(tmp_path, "castles"), directory)


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff", b"{}"])
def test_directory_that_is_no_models_is_refused(
    tmp_path: Path, directory: Path, content: bytes | None
) -> None:
    (directory / "model.json").unlink()
    if content is not None:
        (directory / "model.json").write_bytes(content)
    said = "there is no model.json in it" if content is None else "its model.json is damaged"
    with pytest.raises(ConfigurationError, match=said):
        chosen_model(conf(tmp_path, "houses"), directory)


def test_registry_is_asked_without_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model is registered yet"):
        chosen_model(conf(tmp_path, "houses"), None)
    with pytest.raises(ModelError, match="no model is registered yet"):
        registered_model(conf(tmp_path, "houses"))


def test_mlflow_is_not_imported_for_a_directory() -> None:
    code = "import sys, jobs.online.serve_conf; assert 'mlflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
