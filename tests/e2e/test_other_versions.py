"""Spark 3.5, Spark 4.0 and Python 3.12, each in an environment of its own: batch job and pandas UDF give the bits they give here.

The models are trained here, so this is also a model that travels from one environment to another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyspark
import pytest
from pyspark.sql import SparkSession

from jobs.runs.batch import score_table
from tests.e2e.conftest import ROOT
from tests.toy.bits import bits_by_row
from tests.toy.processes import finished

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

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
    "python": ".".join(map(str, sys.version_info[:2])),
    "batch": bits_by_row(workspace.rows("old")),
    "udf": outcomes([row.asDict() for row in answer.collect()], "house_id"),
}
Path(sys.argv[2]).write_text(json.dumps(found))
spark.stop()
"""


@dataclass(frozen=True)
class Other:
    """An environment: its name, the interpreter that makes it, and what differs from the pinned packages."""

    name: str
    python: str
    spark: str


HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHERS = [
    Other("spark35", sys.executable, "pyspark==3.5.9"),
    Other("spark40", sys.executable, "pyspark==4.0.5"),
    Other("py312", "python3.12", "pyspark"),
]


def made(other: Other) -> Path:
    """Return the interpreter of an environment, all else as it is here; made once, kept in the user's cache.

    One of this very Python holds Spark alone, and finds the rest where the tests find it.
    """
    borrows = other.python == sys.executable
    pins = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    if "==" in other.spark:
        pins = [line for line in pins if not line.startswith(("pyspark==", "py4j=="))]
    wanted = [other.spark]
    if not borrows:
        wanted += ["pandas", "pyarrow", "deltalake", "mlflow", "scikit-learn", "skops", "numba"]
        wanted += ["matplotlib", "pydantic", "PyYAML", "tzdata", "setuptools"]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onescore"
    directory = cache / f"{other.name}-beside-{HERE}"
    python, marker = directory / "bin" / "python", directory / "installed.txt"
    made_of = "\n".join([*wanted, *pins, sysconfig.get_path("purelib") if borrows else ""])
    if marker.exists() and marker.read_text() == made_of:
        return python
    cache.mkdir(parents=True, exist_ok=True)
    constraints = cache / f"{directory.name}-constraints.txt"
    constraints.write_text("\n".join(pins))
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
    for command in (
        [other.python, "-m", "venv", "--clear", str(directory)],
        [*pip, "--constraint", str(constraints), *wanted],
    ):
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, f"{' '.join(command)}\n{answer.stderr[-3000:]}"
    if borrows:
        (packages,) = directory.glob("lib/python*/site-packages")
        (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))  # comes after what is here
    marker.write_text(made_of)
    return python


def runs(python: str) -> bool:
    """Return whether there is such an interpreter, and not just a name on the path."""
    try:
        return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.parametrize("other", OTHERS, ids=[other.name for other in OTHERS])
def test_another_version_gives_the_same_bits(
    spark: SparkSession, other: Other, trained_workspace: Any, process_env: dict[str, str], tmp_path: Path
) -> None:
    if not runs(other.python):
        pytest.skip(f"there is no {other.python} on this machine")
    python = made(other)
    workspace = trained_workspace.copy_to(tmp_path / "workspace")
    score_table(spark, workspace.conf())
    (tmp_path / "client.py").write_text(_CLIENT)
    command = [str(python), str(tmp_path / "client.py"), str(workspace.root), str(tmp_path / "found.json")]
    env = {**process_env, "PYSPARK_PYTHON": str(python), "PYSPARK_DRIVER_PYTHON": str(python)}
    env = {name: value for name, value in env.items() if name != "SPARK_HOME"}
    answer = finished(command, env=env, cwd=tmp_path, seconds=400)
    assert answer.returncode == 0, answer.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    expected = {str(row): bits for row, bits in bits_by_row(workspace.rows("houses_scored")).items()}
    assert len(expected) == 2_000
    assert found["batch"] == expected
    assert found["udf"] == expected
    assert found["spark"] == (other.spark.partition("==")[2] or pyspark.__version__)
    assert found["python"] == (
        HERE if other.python == sys.executable else other.python.removeprefix("python")
    )
