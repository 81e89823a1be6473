"""What the tests with real processes share: a wheel, an environment that sees nothing but it, and a larger toy table."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from jobs import reconcile_scores, replay_online
from jobs.runs.command import run
from tests.toy.reconciled import comparable, log_of, newest_report
from tests.toy.workspace import Workspace, house_rows, rate_rows

ROOT = Path(__file__).resolve().parents[2]
_HIDE = '''"""Hides a source tree that an editable install has put on the path: here only the wheel may be found."""
import os, sys
root = os.environ["ONESCORE_TEST_HIDDEN_ROOT"]
sys.meta_path[:] = [f for f in sys.meta_path if "__editable___" not in getattr(f, "__module__", "") + getattr(f, "__name__", "")]
sys.path[:] = [p for p in sys.path if os.path.realpath(p or ".") != root and "__editable__" not in p]
'''


@pytest.fixture(scope="session")
def spark_home() -> Path:
    """Where pip put Spark."""
    spec = util.find_spec("pyspark")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project as a wheel, built from a copy so that nothing is left in the source tree."""
    source = tmp_path_factory.mktemp("source")
    for name in ("conf", "feature_pipelines", "jobs", "udfs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    target = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(target),
        str(source),
    ]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (built,) = target.glob("onescore-*.whl")
    return built


@pytest.fixture(scope="session")
def bare_env(tmp_path_factory: pytest.TempPathFactory, spark_home: Path) -> dict[str, str]:
    """An environment for processes that must not see the source tree, not even if it is installed in editable mode."""
    hide = tmp_path_factory.mktemp("hide")
    (hide / "sitecustomize.py").write_text(_HIDE)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ONESCORE_", "MLFLOW_", "PYTEST_", "SPARK_", "PYSPARK_"))
    }
    return {
        **kept,
        "ONESCORE_TEST_HIDDEN_ROOT": str(ROOT),
        "PYTHONPATH": str(hide),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_HOME": str(spark_home),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }


@pytest.fixture(scope="module")
def many(trained_workspace: Any, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of the toy workspace with a table of 20,000 requests in four files: batches that the compiled trees score."""
    workspace: Workspace = trained_workspace.copy_to(tmp_path_factory.mktemp("many") / "workspace")
    workspace.write("many", house_rows(20_000, seed=5, bad=range(0, 20_000, 1_000)), rows_per_file=5_000)
    return workspace


@pytest.fixture(scope="module")
def asked(trained_workspace: Any, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of the toy workspace with two months of houses asked through a store, whose rates are others now than they were then."""
    place: Workspace = trained_workspace.copy_to(tmp_path_factory.mktemp("asked") / "workspace")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in place.env().items():
            patched.setenv(name, value)
        window = ["--from", "2020-01-01T00:00:00Z", "--to", "2020-03-01T00:00:00Z"]
        assert run(replay_online.main, ["--model", "houses", *window]) == 0
    shutil.rmtree(place.table("rates"))
    rates = rate_rows()
    at = rates.schema.get_field_index("rate_pct")
    place.write("rates", rates.set_column(at, "rate_pct", pc.add(rates.column("rate_pct"), 1.0)))
    return place


def asked_flags(place: Workspace, *more: str) -> list[str]:
    """Return the flags of a job that reconciles the log of these."""
    pairs = ["score.batch_rows=300", "score.unit_rows=400", *more]
    return [
        *("--model", "houses", "--log", str(log_of(place))),
        *(part for pair in pairs for part in ("--set", pair)),
    ]


@pytest.fixture(scope="module")
def reconciled(spark: SparkSession, asked: Workspace) -> tuple[dict[str, Any], list[Any]]:
    """What the job finds on this machine alone."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in asked.env().items():
            patched.setenv(name, value)
        assert run(reconcile_scores.main, asked_flags(asked)) == 1
    return found_in(asked)


def found_in(place: Workspace) -> tuple[dict[str, Any], list[Any]]:
    """Return what the newest reconciliation found: of the report what does not tell when it was made, and the differing rows."""
    report, directory = newest_report(place)
    assert report.rows_compared > 1_000
    assert report.rows_differing > 100
    rows = pq.read_table(directory / "differing.parquet").to_pylist()
    return comparable(report), sorted(rows, key=repr)


MANY = ["input.source=many", "score.chunk_rows=10000", "score.unit_rows=5000", "score.batch_rows=4999"]


def many_flags(output: str, *more: str) -> list[str]:
    """Return the flags of a scoring job over that table into tables of this name."""
    pairs = [*MANY, f"output.scored={output}", f"output.quarantine={output}_quarantine", *more]
    return ["--model", "houses", *(part for pair in pairs for part in ("--set", pair))]


RUN_OF_ITS_OWN = {"run_id", "scored_at", "quarantined_at", "configuration_digest"}


def multiset(workspace: Workspace, output: str) -> tuple[list[Any], list[Any]]:
    """Return all rows of the scored and the quarantine table, sorted, without what each run has of its own."""
    tables = []
    for name in (output, f"{output}_quarantine"):
        rows = workspace.rows(name)
        kept = rows.select([name for name in rows.schema.names if name not in RUN_OF_ITS_OWN])
        tables.append(sorted((tuple(row.items()) for row in kept.to_pylist()), key=repr))
    scored, quarantined = tables
    assert (len(scored), len(quarantined)) == (19_980, 20)
    return scored, quarantined
