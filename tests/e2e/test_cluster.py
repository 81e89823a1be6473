"""A real standalone cluster, a Master and two Workers as processes: the job brings its code and its model, and outlives a worker."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deltalake.exceptions import DeltaError
from pyspark.sql import SparkSession

from jobs.runs.batch import score_table
from tests.e2e.conftest import ROOT, asked_flags, found_in, many_flags, multiset
from tests.toy.processes import command_of, descendants, free_port, is_listening, parent, server, wait_until
from tests.toy.streams import write_source
from tests.toy.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.e2e]


@dataclass
class Cluster:
    """A running cluster and how to submit to it."""

    master: str
    workers: list[subprocess.Popen[bytes]]
    spark_home: Path
    env: dict[str, str]
    directory: Path
    wheel: Path

    def submit(
        self, workspace: Workspace, *flags: str, conf: tuple[str, ...] = (), job: str = "score_batch"
    ) -> list[str]:
        """Return the command that a person would type, with a copy of the script that has no packages beside it."""
        script = self.directory / f"{job}.py"
        shutil.copy(ROOT / "jobs" / f"{job}.py", script)
        settings = [
            "spark.executor.memory=700m",
            "spark.driver.host=127.0.0.1",
            "spark.ui.enabled=false",
            *conf,
        ]
        return [
            str(self.spark_home / "bin" / "spark-submit"),
            *("--master", self.master, "--py-files", str(self.wheel)),
            *(part for pair in settings for part in ("--conf", pair)),
            *(str(script), *flags),
        ]

    def env_of(self, workspace: Workspace) -> dict[str, str]:
        """Return the variables that the README names for a cluster."""
        registry = f"sqlite:///{workspace.root}/.onescore/mlflow.db"
        return {**self.env, **workspace.env(), "MLFLOW_TRACKING_URI": registry}


@pytest.fixture
def cluster(spark_home: Path, bare_env: dict[str, str], wheel: Path, tmp_path: Path) -> Iterator[Cluster]:
    spark_class = str(spark_home / "bin" / "spark-class")
    port = free_port()
    master = f"spark://127.0.0.1:{port}"
    env = {**bare_env, "SPARK_DAEMON_MEMORY": "400m"}
    start = [spark_class, "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", str(port)]
    with contextlib.ExitStack() as stack:
        log = tmp_path / "master.log"
        stack.enter_context(server([*start, "--webui-port", "0"], env=env, cwd=tmp_path, log=log))
        wait_until(lambda: is_listening(port), "the master listens", log=log)
        workers = []
        for i in (1, 2):
            kind = "org.apache.spark.deploy.worker.Worker"
            flags = [
                "--host",
                "127.0.0.1",
                "--webui-port",
                "0",
                "-c",
                "1",
                "-m",
                "1500m",
                "-d",
                str(tmp_path / f"work-{i}"),
            ]
            workers.append(
                stack.enter_context(
                    server(
                        [spark_class, kind, *flags, master],
                        env=env,
                        cwd=tmp_path,
                        log=tmp_path / f"worker-{i}.log",
                    )
                )
            )
        registered = "Registering worker"
        wait_until(lambda: log.read_text().count(registered) >= 2, "two workers are registered", log=log)
        yield Cluster(master, workers, spark_home, env, tmp_path, wheel)


@pytest.fixture(scope="module")
def local(spark: SparkSession, many: Workspace) -> tuple[list[Any], list[Any]]:
    """What the same job gives on this machine alone."""
    flags = many_flags("local")
    score_table(spark, many.conf(*[flag for flag in flags[2:] if flag != "--set"]))
    return multiset(many, "local")


def run(command: list[str], env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=420)


def test_job_on_a_cluster_brings_code_and_model_and_equals_the_local_run(
    cluster: Cluster, many: Workspace, local: tuple[list[Any], list[Any]]
) -> None:
    without_wheel = [
        part for part in cluster.submit(many, "--help") if part not in ("--py-files", str(cluster.wheel))
    ]
    lost = run(without_wheel, cluster.env_of(many), cluster.directory)
    assert lost.returncode != 0
    assert "No module named" in lost.stdout + lost.stderr

    command = cluster.submit(many, "--env", "prod", *many_flags("cluster"))
    answer = run(command, cluster.env_of(many), cluster.directory)
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert "19,980" in answer.stdout
    assert multiset(many, "cluster") == local
    executors = [path for i in (1, 2) for path in (cluster.directory / f"work-{i}").glob("app-*/*/stderr")]
    assert len(executors) == 2
    # The tasks ran there, with the code and the model that the job sent.
    assert (
        sum(
            "Fetching spark://" in path.read_text() and "onescore-code-" in path.read_text()
            for path in executors
        )
        >= 1
    )


@pytest.mark.parametrize(
    "more", [(), ("score.max_index_rows=0", "score.hot_key_rows=100")], ids=["index", "shuffle"]
)
def test_reconciliation_on_a_cluster_finds_what_the_local_one_does(
    cluster: Cluster, asked: Workspace, reconciled: tuple[dict[str, Any], list[Any]], more: tuple[str, ...]
) -> None:
    command = cluster.submit(asked, *asked_flags(asked, *more), job="reconcile_scores")
    answer = run(command, cluster.env_of(asked), cluster.directory)
    said = answer.stdout + answer.stderr  # spark-submit puts what a job says to stderr on its stdout
    assert answer.returncode == 1, said[-3000:]
    assert ("rows by shuffle" in said) == bool(more), said[-3000:]
    assert found_in(asked) == reconciled
    executors = [path for i in (1, 2) for path in (cluster.directory / f"work-{i}").glob("app-*/*/stderr")]
    assert any("onescore-code-" in path.read_text() for path in executors)


def test_job_outlives_a_worker_that_is_killed_while_its_task_writes(
    cluster: Cluster, many: Workspace, local: tuple[list[Any], list[Any]], tmp_path: Path
) -> None:
    pause = tmp_path / "paused.json"
    conf = (
        "spark.executorEnv.ONESCORE_PAUSE_AT=task.mid_write",
        f"spark.executorEnv.ONESCORE_PAUSE_FILE={pause}",
        "spark.network.timeout=60s",
    )
    log = tmp_path / "job.log"
    command = cluster.submit(many, *many_flags("survivor", "score.chunk_rows=5000"), conf=conf)
    with server(command, env=cluster.env_of(many), cwd=cluster.directory, log=log) as job:
        wait_until(lambda: pause.exists() and pause.stat().st_size > 0, "a task writes", log=log)
        paused = json.loads(pause.read_text())
        assert paused["point"] == "task.mid_write"
        doomed = doomed_worker(paused["pid"], cluster.workers)
        assert job.poll() is None, "the job was to be running"
        assert is_unfinished(many, "survivor"), "the kill was to come mid-run"
        for pid in (doomed.pid, *descendants(doomed.pid), paused["ppid"], paused["pid"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        doomed.wait(30)
        assert job.wait(360) == 0, log.read_text(errors="replace")[-3000:]
    alive = [worker for worker in cluster.workers if worker.poll() is None]
    assert len(alive) == 1
    assert multiset(many, "survivor") == local
    assert len(set(many.rows("survivor").column("run_id").to_pylist())) == 1


@pytest.mark.parametrize("format_", ["delta", "parquet", "csv"])
def test_stream_on_a_cluster_outlives_its_driver_and_equals_the_local_run(
    cluster: Cluster, many: Workspace, local: tuple[list[Any], list[Any]], tmp_path: Path, format_: str
) -> None:
    output, pause = f"streamed_{format_}", tmp_path / "paused.json"
    source = many.table("many")
    if format_ == "parquet":
        source = str(tmp_path / "in")
        Path(source).mkdir()
        for file in Path(many.table("many")).glob("*.parquet"):
            shutil.copy(file, source)
    elif format_ == "csv":
        source, rows = str(tmp_path / "in"), many.rows("many")
        n = -(-rows.num_rows // 4)
        for i in range(4):
            write_source(tmp_path / "in", "csv", rows.slice(i * n, n), f"part-{i}")
    settings = [f"stream.format={format_}", f"stream.source={source}", f"stream.checkpoint={tmp_path}/state"]
    flags = [*many_flags(output, *settings, "stream.options.maxFilesPerTrigger=2"), "--available-now"]
    command = cluster.submit(many, "--env", "prod", *flags, job="score_stream")
    env = {
        **cluster.env_of(many),
        "ONESCORE_PAUSE_AT": "stream.after_quarantine_commit",
        "ONESCORE_PAUSE_FILE": str(pause),
    }
    log = tmp_path / "job.log"
    with server(command, env=env, cwd=cluster.directory, log=log) as job:
        wait_until(lambda: pause.exists() and pause.stat().st_size > 0, "a batch is half committed", log=log)
        assert is_unfinished(many, output)
        for pid in (job.pid, *descendants(job.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    answer = run(command, cluster.env_of(many), cluster.directory)
    assert answer.returncode == 0, answer.stderr[-3000:]
    if format_ == "delta":
        assert multiset(many, output) == local
    scored = [many.rows(name).select(["row_id", "score"]).to_pylist() for name in (output, "local")]
    assert sorted(map(repr, scored[0])) == sorted(map(repr, scored[1]))


def doomed_worker(pid: int, workers: list[subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Return the Worker above a Python process: python -> daemon -> executor -> Worker."""
    above, commands = pid, []
    while above > 1:
        commands.append(command_of(above))
        found = [worker for worker in workers if worker.pid == above]
        if found:
            assert any("CoarseGrainedExecutorBackend" in command for command in commands)
            return found[0]
        above = parent(above)
    raise AssertionError(f"process {pid} belongs to no worker: {commands}")


def is_unfinished(workspace: Workspace, output: str) -> bool:
    try:
        return bool(workspace.rows(output).num_rows < 19_980)
    except DeltaError as exc:  # the table may not be there yet
        return "TableNotFound" in type(exc).__name__ or "log" in str(exc)
