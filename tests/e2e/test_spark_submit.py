"""`spark-submit jobs/<name>.py` and `python -m jobs.<name>` are the same job; so is spark-submit with nothing but the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, many_flags, multiset
from tests.toy.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


def run(command: list[str], env: dict[str, str], cwd: Path) -> str:
    answer = subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=420
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return answer.stdout


@pytest.fixture(scope="module")
def by_python(many: Workspace, process_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    command = [sys.executable, "-m", "jobs.score_batch", *many_flags("by_python", "spark.master=local[2]")]
    return run(command, {**process_env, **many.env()}, tmp_path_factory.mktemp("elsewhere"))


def reported(text: str) -> dict[str, str]:
    rows = (line.strip().partition("  ") for line in text.splitlines() if line.startswith("  "))
    return {
        key: value.strip()
        for key, _, value in rows
        if key in ("rows in", "scored", "quarantined", "by reason", "model")
    }


def test_spark_submit_of_the_source_equals_python(
    many: Workspace, by_python: str, process_env: dict[str, str], spark_home: Path, tmp_path: Path
) -> None:
    submit = [str(spark_home / "bin" / "spark-submit"), "--master", "local[2]"]
    command = [*submit, str(ROOT / "jobs" / "score_batch.py"), *many_flags("by_submit")]
    said = run(command, {**process_env, **many.env()}, tmp_path)
    assert multiset(many, "by_submit") == multiset(many, "by_python")
    assert reported(said) == reported(by_python)
    assert reported(said)["scored"] == "19,980"


def test_spark_submit_of_a_wheel_equals_python_and_trains_as_well(
    many: Workspace, by_python: str, bare_env: dict[str, str], wheel: Path, spark_home: Path, tmp_path: Path
) -> None:
    for name in ("score_batch.py", "train_model.py"):
        shutil.copy(ROOT / "jobs" / name, tmp_path)
    submit = [str(spark_home / "bin" / "spark-submit"), "--master", "local[2]", "--py-files", str(wheel)]
    env = {**bare_env, **many.env()}
    run([*submit, str(tmp_path / "score_batch.py"), *many_flags("by_wheel")], env, tmp_path)
    assert multiset(many, "by_wheel") == multiset(many, "by_python")
    # The feature set of the toy is not in the wheel: a user's own module comes as one more file.
    package = tmp_path / "mine"
    (package / "tests" / "toy").mkdir(parents=True)
    for file in ("tests/toy/__init__.py", "tests/toy/houses.py"):
        shutil.copy(ROOT / file, package / file)
    (package / "tests" / "__init__.py").write_text("")
    archive = shutil.make_archive(str(tmp_path / "mine"), "zip", package)
    said = run(
        [*submit[:-1], f"{wheel},{archive}", str(tmp_path / "train_model.py"), "--model", "houses"],
        env,
        tmp_path,
    )
    assert "version 2" in said
    command = [*submit, str(tmp_path / "score_batch.py"), *many_flags("by_second", "model.version=2")]
    run(command, env, tmp_path)
    assert set(many.rows("by_second").column("model_version").to_pylist()) == {"2"}
