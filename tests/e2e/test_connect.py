"""Spark Connect: a server whose workers have none of our code, a client without SparkContext, the same rows and bits."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from jobs.runs.batch import score_table
from jobs.runs.build_run import build_views
from jobs.tables.resample import read_all, resampled_rows
from jobs.tables.snapshot import pin_snapshot
from tests.e2e.conftest import asked_flags, found_in, many_flags, multiset
from tests.toy.bits import bits_by_row
from tests.toy.depots import FEATURES as DEPOTS
from tests.toy.depots import event_rows
from tests.toy.processes import finished, free_port, is_listening, server, wait_until
from tests.toy.runs import content
from tests.toy.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

_CLIENT = """
import json, sys
from pathlib import Path
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
spark = SparkSession.builder.remote(sys.argv[1]).getOrCreate()
try:
    spark.sparkContext
except Exception as error:
    assert "sparkContext" in str(error), error
else:
    sys.exit("a SparkContext after all")

def imports(batches):
    import importlib.util, pyarrow
    for batch in batches:
        yield pyarrow.RecordBatch.from_pydict({"found": [importlib.util.find_spec("udfs") is not None]})

found = {"before": spark.range(1).mapInArrow(imports, "found boolean").first()[0]}
from feature_pipelines.offline.as_of_join import as_of_join
from tests.toy.bits import outcomes
from tests.toy.houses import RATES
from tests.toy.workspace import Workspace
from udfs.shipped import ship_code
from udfs.spark_udf import score_udf
workspace = Workspace(Path(sys.argv[2]))
workspace.connect()
requests = spark.createDataFrame(workspace.rows("houses"))
rates = spark.createDataFrame(workspace.rows("rates"))
for kind in ("arrow", "pandas"):
    score = score_udf(spark, "models:/houses@champion", views={"rates": rates}, kind=kind)
    answer = requests.select("house_id", score(F.struct("*")).alias("s")).select("house_id", "s.*")
    found[kind] = outcomes(answer.toArrow().to_pylist(), "house_id")
ship_code(spark)
joined = as_of_join(requests, rates, RATES, as_of="asked_ts", hot_key_rows=300)
answer = joined.select("house_id", score(F.struct("*")).alias("s")).select("house_id", "s.*")
found["joined"] = outcomes(answer.toArrow().to_pylist(), "house_id")
spark.udf.register("score", score)
requests.createOrReplaceTempView("requests")
answer = spark.sql("SELECT house_id, s.* FROM (SELECT house_id, score(struct(*)) AS s FROM requests)")
found["sql"] = outcomes(answer.toArrow().to_pylist(), "house_id")
Path(sys.argv[3]).write_text(json.dumps(found))
spark.stop()
"""


@pytest.fixture(scope="module")
def remote(
    spark_home: Path, bare_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a Connect server that cannot import this project."""
    directory = tmp_path_factory.mktemp("connect")
    port = free_port()
    settings = {
        "spark.connect.grpc.binding.port": str(port),
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.memory": "1g",
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
    }
    conf = [part for key, value in settings.items() for part in ("--conf", f"{key}={value}")]
    command = ["bash", str(spark_home / "sbin" / "start-connect-server.sh"), "--master", "local[2]", *conf]
    places = {"SPARK_LOG_DIR": str(directory / "logs"), "SPARK_PID_DIR": str(directory)}
    env = {**bare_env, **places, "SPARK_NO_DAEMONIZE": "1"}
    log = directory / "server.log"
    with server(command, env=env, cwd=directory, log=log):
        wait_until(lambda: is_listening(port), "the Connect server listens", log=log)
        yield f"sc://127.0.0.1:{port}"


def test_job_through_connect_equals_the_local_run(
    spark: SparkSession, remote: str, many: Workspace, process_env: dict[str, str], tmp_path: Path
) -> None:
    """Also where the view is joined by shuffle, with its hottest keys split."""
    score_table(spark, many.conf(*[flag for flag in many_flags("local")[2:] if flag != "--set"]))
    ways = {"connect": (), "shuffled": ("score.max_index_rows=0", "score.hot_key_rows=1000")}
    for output, more in ways.items():
        flags = many_flags(output, f"spark.remote={remote}", *more)
        command = [sys.executable, "-m", "jobs.score_batch", *flags]
        answer = finished(command, env={**process_env, **many.env()}, cwd=tmp_path, seconds=480)
        assert answer.returncode == 0, answer.stderr[-3000:]
        assert ("joined to 20,000 rows by shuffle" in answer.stderr) == (output == "shuffled")
        assert multiset(many, output) == multiset(many, "local")


def test_reconciliation_through_connect_finds_what_the_local_one_does(
    remote: str,
    asked: Workspace,
    reconciled: tuple[dict[str, Any], list[Any]],
    process_env: dict[str, str],
    tmp_path: Path,
) -> None:
    """Also where the view is joined by shuffle, with its hottest keys split."""
    for more in ((), ("score.max_index_rows=0", "score.hot_key_rows=100")):
        flags = asked_flags(asked, f"spark.remote={remote}", *more)
        command = [sys.executable, "-m", "jobs.reconcile_scores", *flags]
        answer = finished(command, env={**process_env, **asked.env()}, cwd=tmp_path, seconds=480)
        assert answer.returncode == 1, answer.stderr[-3000:]
        assert ("rows by shuffle" in answer.stderr) == bool(more), answer.stderr[-3000:]
        assert found_in(asked) == reconciled


def test_ingest_and_build_through_connect_equal_the_local_run(
    spark: SparkSession, remote: str, process_env: dict[str, str], tmp_path: Path
) -> None:
    here, there = Workspace(tmp_path / "here"), Workspace(tmp_path / "there")
    for workspace in (here, there):
        workspace.write("depot_events", event_rows(120))
    build_views(spark, here.conf(model="depots"), DEPOTS)
    env = {**process_env, **there.env()}
    example = {name: value for name, value in env.items() if name != "ONESCORE_CONF_DIR"}
    for flags, variables in (
        (["jobs.build_features", "--model", "depots"], env),
        (["jobs.ingest_flights", "--rows", "1000"], example),
    ):
        command = [sys.executable, "-m", *flags, "--set", f"spark.remote={remote}"]
        answer = finished(command, env=variables, cwd=tmp_path, seconds=480)
        assert answer.returncode == 0, answer.stderr[-3000:]
    assert content(there, "depot_history") == content(here, "depot_history")
    real = read_all(pin_snapshot(there.table("flights_requests")))
    wanted = resampled_rows(real, 0, 1_000, rows=1_000, seed=0)
    scaled = there.rows("flights_requests_scaled")
    assert scaled.column("flight_id").to_pylist() == wanted.column("flight_id").to_pylist()


def test_udf_through_connect_gives_the_bits_of_the_batch_job(
    spark: SparkSession, remote: str, trained_workspace: Any, process_env: dict[str, str], tmp_path: Path
) -> None:
    workspace = trained_workspace.copy_to(tmp_path / "workspace")
    score_table(spark, workspace.conf())
    (tmp_path / "client.py").write_text(_CLIENT)
    command = [
        sys.executable,
        str(tmp_path / "client.py"),
        remote,
        str(workspace.root),
        str(tmp_path / "found.json"),
    ]
    answer = finished(command, env=process_env, cwd=tmp_path, seconds=240)
    assert answer.returncode == 0, answer.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.pop("before") is False, (
        "the server had our code before we sent it: this test would prove nothing"
    )
    batch = {str(row): bits for row, bits in bits_by_row(workspace.rows("houses_scored")).items()}
    assert found == {"arrow": batch, "pandas": batch, "joined": batch, "sql": batch}


def test_absent_connect_server_is_one_clear_line(
    many: Workspace, process_env: dict[str, str], tmp_path: Path
) -> None:
    remote = f"sc://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "jobs.score_batch", *many_flags("nowhere", f"spark.remote={remote}")]
    env = {**process_env, **many.env()}
    answer = finished(command, env=env, cwd=tmp_path, seconds=120)
    assert answer.returncode == 2
    assert f"error: Spark cannot start on {remote}" in answer.stderr
    assert "Traceback" not in answer.stderr
