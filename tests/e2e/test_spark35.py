"""Spark 3.5 in an environment of its own: the batch job and the pandas UDF give the bits of the Spark that is installed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.runs.batch import score_table
from tests.e2e.conftest import ROOT
from tests.toy.bits import bits_by_row
from tests.toy.processes import finished

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

_SPARK = "pyspark==3.5.9"
_CLIENT = """
import json, sys
from pathlib import Path
import pyspark
from pyspark.sql import SparkSession, functions as F
from jobs.runs.batch import score_table
from tests.toy.bits import bits_by_row, outcomes
from tests.toy.workspace import Workspace
from udfs.spark_udf import score_udf
workspace = Workspace(Path(sys.argv[1]))
settings = {"spark.driver.host": "127.0.0.1", "spark.ui.enabled": "false", "spark.sql.session.timeZone": "UTC"}
builder = SparkSession.builder.master("local[2]")
for key, value in settings.items():
    builder = builder.config(key, value)
spark = builder.getOrCreate()
score_table(spark, workspace.conf("output.scored=old", "output.quarantine=old_quarantine"))
workspace.connect()
requests = spark.createDataFrame(workspace.rows("houses").to_pandas())
rates = spark.createDataFrame(workspace.rows("rates").to_pandas())
score = score_udf(spark, "models:/houses@champion", views={"rates": rates}, kind="pandas")
answer = requests.select("house_id", score(F.struct("*")).alias("s")).select("house_id", "s.*")
found = {
    "spark": pyspark.__version__,
    "batch": bits_by_row(workspace.rows("old")),
    "udf": outcomes([row.asDict() for row in answer.collect()], "house_id"),
}
Path(sys.argv[2]).write_text(json.dumps(found))
spark.stop()
"""


@pytest.fixture(scope="module")
def old_python() -> Path:
    """The interpreter of an environment with Spark 3.5 and all else as it is here; made once, kept in the user's cache."""
    pins = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    pins = [line for line in pins if not line.startswith(("pyspark==", "py4j=="))]
    wanted = [_SPARK, "pandas", "pyarrow", "deltalake", "mlflow", "scikit-learn", "skops", "numba"]
    wanted += ["matplotlib", "pydantic", "PyYAML", "tzdata", "setuptools"]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onescore"
    directory = cache / f"spark35-py{sys.version_info.major}{sys.version_info.minor}"
    python, marker = directory / "bin" / "python", directory / "installed.txt"
    made_of = "\n".join([*wanted, *pins])
    if marker.exists() and marker.read_text() == made_of:
        return python
    cache.mkdir(parents=True, exist_ok=True)
    constraints = cache / "spark35-constraints.txt"
    constraints.write_text("\n".join(pins))
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", str(directory)],
        [*pip, "--constraint", str(constraints), *wanted],
    ):
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, f"{' '.join(command)}\n{answer.stderr[-3000:]}"
    marker.write_text(made_of)
    return python


def test_spark_35_gives_the_same_bits(
    spark: SparkSession, old_python: Path, trained_workspace: Any, process_env: dict[str, str], tmp_path: Path
) -> None:
    workspace = trained_workspace.copy_to(tmp_path / "workspace")
    score_table(spark, workspace.conf())
    (tmp_path / "client.py").write_text(_CLIENT)
    command = [
        str(old_python),
        str(tmp_path / "client.py"),
        str(workspace.root),
        str(tmp_path / "found.json"),
    ]
    env = {**process_env, "PYSPARK_PYTHON": str(old_python), "PYSPARK_DRIVER_PYTHON": str(old_python)}
    env = {name: value for name, value in env.items() if name != "SPARK_HOME"}
    answer = finished(command, env=env, cwd=tmp_path, seconds=400)
    assert answer.returncode == 0, answer.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    expected = {str(row): bits for row, bits in bits_by_row(workspace.rows("houses_scored")).items()}
    assert len(expected) == 2_000
    assert found["spark"].startswith("3.5.")
    assert found["batch"] == expected
    assert found["udf"] == expected
