"""What all tests share: one Spark session, a home of their own for what runs make, and the minutes each group took."""

from __future__ import annotations

import logging
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

collect_ignore_glob = ["benchmarks/*"]  # programs of their own, some for other environments

ROOT = Path(__file__).resolve().parents[1]
_SPARK_SETTINGS = {
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.memory": "1g",
    "spark.log.level": "ERROR",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "2",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
}


@pytest.fixture(scope="session")
def root() -> Path:
    """The directory of the project."""
    return ROOT


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "ONESCORE_HOME",
        "ONESCORE_CONF_DIR",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_REGISTRY_URI",
        "MLFLOW_TRACKING_TOKEN",
        "ONESCORE_STORE_URL",
        "ONESCORE_STORE_PASSWORD",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory under which everything of this test is kept, as ONESCORE_HOME and working directory."""
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.setenv("ONESCORE_HOME", str(directory))
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture(scope="session")
def process_env() -> dict[str, str]:
    """The environment for a job started as a process: this interpreter, this source tree, nothing of the user's settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ONESCORE_", "MLFLOW_", "PYTEST_"))
    }
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
    }


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One local Spark session with two cores for all tests that need one."""
    from pyspark.sql import SparkSession

    logging.getLogger("py4j").setLevel(logging.ERROR)
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    builder: Any = SparkSession.builder.master("local[2]").appName("onescore-tests")
    for key, value in _SPARK_SETTINGS.items():
        builder = builder.config(key, value)
    session = builder.config(
        "spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("warehouse"))
    ).getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real Redis server on a free port of the loopback interface, for all tests that need one; see `tests.toy.redis_servers`."""
    from tests.toy.redis_servers import redis_server

    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real PostgreSQL server, for all tests that need one; see `tests.toy.postgres_servers`."""
    from tests.toy.postgres_servers import postgres_server

    with postgres_server(tmp_path_factory.mktemp("postgres")) as running:
        yield running


@pytest.fixture
def postgres_url(postgres_server: Any) -> str:
    """The URL of an empty database of it."""
    url: str = postgres_server.new_database()
    return url


@pytest.fixture(scope="session")
def trained_workspace(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The toy model's tables and a registry with its version 1; shared, so it must not be changed."""
    from tests.toy.workspace import Workspace

    workspace = Workspace.create(tmp_path_factory.mktemp("toy"))
    workspace.train()
    return workspace


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a toy model of houses, of no registry; shared, so it must not be changed."""
    from tests.toy.house_bundle import write_house_bundle

    directory = tmp_path_factory.mktemp("houses") / "bundle"
    write_house_bundle(directory)
    return directory


@pytest.fixture(scope="session")
def every_type(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The model that digests a column of every type, in a registry of its own; shared, so it must not be changed."""
    from tests.toy.every_type_rows import EveryType

    return EveryType(tmp_path_factory.mktemp("every-type"))


@pytest.fixture
def workspace(trained_workspace: Any, tmp_path: Path) -> Any:
    """A copy of the toy model's tables and registry for one test alone."""
    return trained_workspace.copy_to(tmp_path / "workspace")


@pytest.fixture(scope="session")
def with_bad_rows(trained_workspace: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The toy model's tables with a bad row in each file of the requests; shared, so it must not be changed."""
    from tests.toy.runs import BAD_HOUSES
    from tests.toy.workspace import house_rows

    workspace = trained_workspace.copy_to(tmp_path_factory.mktemp("bad") / "workspace")
    workspace.write("houses", house_rows(bad=BAD_HOUSES), rows_per_file=200)
    return workspace


@pytest.fixture(scope="session")
def clean(with_bad_rows: Any, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same tables after one clean run by Spark's own workers, which looked the view up in the kernel; shared as well."""
    from jobs.runs.batch import score_table

    workspace = with_bad_rows.copy_to(tmp_path_factory.mktemp("clean") / "workspace")
    score_table(spark, workspace.conf())
    return workspace


@pytest.fixture
def dirty(with_bad_rows: Any, tmp_path: Path) -> Any:
    """A copy of the tables with bad rows, not scored yet, for one test to die in."""
    return with_bad_rows.copy_to(tmp_path / "workspace")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many minutes each directory of tests took."""
    seconds: dict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds["/".join(Path(report.nodeid.partition("::")[0]).parts[:2])] += report.duration
    if sum(seconds.values()) > 60:
        terminalreporter.section("minutes per group")
        for group, taken in sorted(seconds.items(), key=lambda item: -item[1]):
            terminalreporter.write_line(f"{taken / 60:6.1f}  {group}")
