"""`python -m jobs.score_batch` as a user meets it: flags, what it prints, exit codes, what it leaves behind."""

from __future__ import annotations

import os
import re
import socket
import time

import mlflow
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from jobs import score_batch
from jobs.runs.command import run
from jobs.runs.score_run import _Run
from tests.toy.runs import (
    QUARANTINE,
    SCORED,
    assert_equals_clean_run,
    directory_tree,
    latest_run,
    move_alias,
    register_again,
    start_job,
)
from tests.toy.workspace import CONF_DIR, house_rows

pytestmark = pytest.mark.e2e
CANARY = "canary-0badc0de"
RUN_ID = r"\d{8}T\d{6}Z-[0-9a-f]{8}"


@pytest.fixture
def job(workspace, spark, monkeypatch, capsys):
    """Calls the job in this process, with the shared Spark session, and returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("ONESCORE_HOME", str(workspace.root))
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(CONF_DIR))
    monkeypatch.chdir(workspace.root)

    def call(*arguments):
        capsys.readouterr()
        code = run(score_batch.main, ["--model", "houses", *arguments])
        return code, *capsys.readouterr()

    return call


def shown(output, name):
    """The value that the report prints beside a name."""
    (value,) = re.findall(rf"^  {name} {{2,}}(.*)$", output, re.MULTILINE)
    return value


def ids(workspace, table=SCORED):
    return sorted(workspace.rows(table).column("row_id").to_pylist(), key=int)


# --- the way it should go


@pytest.fixture
def catalog_table(workspace, spark, tmp_path):
    """The toy requests as a table that only Spark's catalog knows."""
    spark.sql("CREATE DATABASE IF NOT EXISTS toy_catalog")
    name = "toy_catalog.houses"
    spark.sql(f"DROP TABLE IF EXISTS {name}")
    frame = spark.createDataFrame(workspace.rows("houses"))
    frame.write.format("parquet").option("path", str(tmp_path / "catalog")).saveAsTable(name)
    yield f"catalog:{name}"
    spark.sql("DROP DATABASE toy_catalog CASCADE")


def test_table_of_the_catalog_can_be_planned_and_scored(job, workspace, catalog_table):
    source = ("--set", f"input.source={catalog_table}")
    code, out, err = job(*source, "--dry-run")
    assert (code, shown(out, "rows")) == (0, "2,000"), err
    code, out, err = job(*source)
    assert (code, shown(out, "scored")) == (0, "2,000"), err
    assert ids(workspace) == list(map(str, range(2_000)))


def test_run_reports_what_it_did_and_where_the_result_is(workspace, job):
    workspace.write("houses", house_rows(bad=(5, 6)), rows_per_file=200)
    code, out, err = job()
    assert code == 0
    assert re.fullmatch(RUN_ID, shown(out, "run"))
    assert shown(out, "model") == "houses version 1, verified"
    assert (shown(out, "rows in"), shown(out, "scored"), shown(out, "quarantined")) == ("2,000", "1,998", "2")
    assert re.search(r"by reason\n +NULL_NOT_ALLOWED +2\n", out)
    assert shown(out, "scored table") == workspace.table(SCORED)
    assert shown(out, "quarantine table") == workspace.table(QUARANTINE)
    assert "scoring 2,000 rows" in err
    assert "Traceback" not in err


def test_second_run_says_that_there_is_nothing_to_do_and_is_quick(workspace, job):
    began = time.monotonic()
    _, first, _ = job()
    middle = time.monotonic()
    code, out, _ = job()
    assert code == 0
    assert shown(out, "run") == f"{shown(first, 'run')} (complete already; --new-run scores again)"
    assert time.monotonic() - middle < max(middle - began, 2.0)
    assert workspace.rows(SCORED).num_rows == 2_000


def test_new_run_flag_scores_again(workspace, job):
    job()
    code, out, _ = job("--new-run")
    assert code == 0
    assert "complete already" not in out
    assert workspace.rows(SCORED).num_rows == 4_000


def test_days_side_by_side_score_every_row_once(workspace, job):
    for bounds in (
        ["--to", "2020-02-01"],
        ["--from", "2020-02-01", "--to", "2020-03-01T00:00:00Z"],
        ["--from", "2020-03-01"],
    ):
        assert job(*bounds)[0] == 0
    assert ids(workspace) == list(map(str, range(2_000)))


@pytest.mark.parametrize(("flag", "column"), [("03", "month"), ("2020-01-02", "day")])
def test_partition_flag_takes_values_that_yaml_would_take_for_something_else(workspace, job, flag, column):
    rows = house_rows(30)
    for name, values in {"month": ["01", "02", "03"] * 10, "day": ["2020-01-01", "2020-01-02"] * 15}.items():
        rows = rows.append_column(name, pa.array(values))
    write_deltalake(workspace.table("cut"), rows, partition_by=["month", "day"])
    wanted = rows.filter(pa.compute.equal(rows.column(column), flag)).column("house_id").to_pylist()
    code, _, err = job("--set", "input.source=cut", "--partition", f"{column}={flag}")
    assert code == 0, err
    assert ids(workspace) == list(map(str, wanted))


def test_partitions_may_be_combined(workspace, job):
    rows = (
        house_rows(8)
        .append_column("a", pa.array(["x", "y"] * 4))
        .append_column("b", pa.array(["1"] * 4 + ["2"] * 4))
    )
    write_deltalake(workspace.table("cut"), rows, partition_by=["a", "b"])
    assert job("--set", "input.source=cut", "--partition", "a=y", "--partition", "b=2")[0] == 0
    assert ids(workspace) == ["5", "7"]


def test_empty_input_is_an_empty_result(workspace, job):
    write_deltalake(workspace.table("nobody"), house_rows(0))
    code, out, _ = job("--set", "input.source=nobody")
    assert (code, shown(out, "rows in")) == (0, "0")
    assert workspace.rows(SCORED).num_rows == 0


def test_help_names_exit_codes_and_flags(job):
    code, out, _ = job("--help")
    assert code == 0
    for text in (
        "--dry-run",
        "--replay RUN_ID",
        "--new-run",
        "--partition COLUMN=VALUE",
        "Exit codes: 0 done",
        "conf/README.md",
    ):
        assert text in out


# --- dry run


def test_dry_run_prints_the_plan_and_writes_nothing(workspace, job):
    before = directory_tree(workspace.root)
    code, out, _ = job("--dry-run")
    assert code == 0
    assert out.startswith("plan (nothing was written)")
    assert re.search(r"input +.*houses version 9 \(delta, digest \w{16}\)", out)
    assert (shown(out, "rows"), shown(out, "chunks"), shown(out, "tasks")) == ("2,000", "4", "10")
    assert shown(out, "model") == "houses version 1 (alias champion)"
    assert shown(out, "scored table") == workspace.table(SCORED)
    assert directory_tree(workspace.root) == before


def test_dry_run_of_a_replay_writes_nothing_either(workspace, job):
    workspace.write("houses", house_rows(bad=(5, 6)), rows_per_file=200)
    _, out, _ = job()
    run_id = shown(out, "run")
    before = directory_tree(workspace.root)
    code, out, _ = job("--dry-run", "--replay", run_id)
    assert (code, shown(out, "rows")) == (0, "2")
    assert directory_tree(workspace.root) == before


@pytest.fixture
def nobody_named_a_registry(monkeypatch):
    """MLflow as in a process of its own; jobs of other tests have named theirs in this one."""
    before = (mlflow.get_tracking_uri(), mlflow.get_registry_uri())
    mlflow.set_tracking_uri(None)
    mlflow.set_registry_uri(None)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    yield
    mlflow.set_tracking_uri(before[0])
    mlflow.set_registry_uri(before[1])


@pytest.mark.parametrize("env", ["staging", "prod"])
def test_dry_run_of_a_cluster_environment_needs_a_registry_and_plans_with_it(
    workspace, job, monkeypatch, nobody_named_a_registry, env
):
    before = directory_tree(workspace.root)
    code, out, err = job("--env", env, "--dry-run")
    assert (code, out) == (2, "plan (nothing was written)\n")
    assert (
        f"error: mlflow.tracking_uri is null with --env {env}, and nothing else names the tracking server"
        in err
    )
    assert "set MLFLOW_TRACKING_URI" in err
    assert directory_tree(workspace.root) == before

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace.root}/.onescore/mlflow.db")
    code, out, err = job("--env", env, "--dry-run")
    assert (code, shown(out, "rows")) == (0, "2,000"), err
    assert shown(out, "model") == "houses version 1 (alias champion)"
    assert directory_tree(workspace.root) == before


# --- the ways it can go wrong

CANNOT = {
    "missing table": (["--set", "input.source=housez"], 2, r"housez: no such input. Tried: a Delta table at"),
    "missing column": (
        ["--set", "input.source=house_prices"],
        3,
        r"lacks 2 required column\(s\): asked_ts, area_m2.*Available: event_ts, house_id, price",
    ),
    "unknown alias": (
        ["--set", "model.alias=champ"],
        2,
        r"model 'houses' has no alias 'champ'. Did you mean 'champion'",
    ),
    "unknown version": (["--set", "model.version=9"], 2, r"has no version 9. Available: 1"),
    "unknown model file": (["--model", "house"], 2, r"Unknown model 'house'.*Did you mean 'houses'"),
    "unknown key": (
        ["--set", "score.chunk_row=1"],
        2,
        r"unknown key 'score.chunk_row'. Did you mean 'chunk_rows'.*Files read: conf/base.yaml",
    ),
    "unknown environment": (["--env", "locale"], 2, r"Unknown environment 'locale'. Did you mean 'local'"),
    "wrong partition flag": (["--partition", "day"], 2, r"--partition day: expected COLUMN=VALUE"),
    "unknown partition": (["--partition", "day=1"], 2, r"'day' is not a partition column"),
    "empty range": (["--from", "2020-02-01", "--to", "2020-01-01"], 2, r"the range is empty"),
    "no such bound": (["--from", "last week"], 2, r"range bound 'last week'"),
    "unknown run": (
        ["--replay", "20200101T000000Z-00000000"],
        2,
        r"there is no run '20200101T000000Z-00000000'",
    ),
    "no registry": (
        ["--set", "mlflow.tracking_uri=sqlite:///nowhere.db"],
        2,
        r"no model is registered yet.*python -m jobs.train_model",
    ),
    "unlockable runs": (
        ["--set", "storage.runs=s3://bucket/runs"],
        2,
        r"storage.runs: s3://bucket/runs cannot be locked",
    ),
}


@pytest.mark.parametrize("what", CANNOT)
def test_what_cannot_be_done_is_one_clear_line_and_an_exit_code(job, what):
    arguments, expected, message = CANNOT[what]
    code, out, err = job(*arguments)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == expected, err
    assert out == ""
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert "Traceback" not in err


def test_registry_that_does_not_answer_is_named_within_its_timeout(job):
    began = time.monotonic()
    code, _, err = job("--set", "mlflow.tracking_uri=http://127.0.0.1:9", "--set", "mlflow.timeout_seconds=2")
    assert code == 2
    assert re.search(
        r"error: the model registry at http://127.0.0.1:9 (did not answer|cannot be reached)", err
    )
    assert time.monotonic() - began < 30


def test_too_many_bad_rows_end_with_3_and_a_higher_limit_goes_on(workspace, job):
    workspace.write("houses", house_rows(bad=range(0, 2_000, 20)), rows_per_file=200)
    code, out, err = job()
    assert (code, out) == (3, "")
    assert re.search(
        r"30 of 2000 rows break the contract \(1.50%, the limit is 1.00%\): NULL_NOT_ALLOWED 30; "
        r"for example row '\d+' NULL_NOT_ALLOWED area_m2, .*raise quarantine.max_share",
        err,
    )
    assert (workspace.rows(SCORED).num_rows, workspace.rows(QUARANTINE).num_rows) == (0, 0)
    run_id = latest_run(workspace).run_id
    code, out, _ = job("--set", "quarantine.max_share=0.05")
    assert (code, shown(out, "run"), shown(out, "quarantined")) == (0, run_id, "100")


def test_run_of_another_identity_ends_with_2_and_names_both(workspace, job, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_commit", fail)
        assert job()[0] == 130
    move_alias(workspace, register_again(workspace))
    code, _, err = job()
    assert code == 2
    assert "model: the run has 'houses version 1', now it is 'houses version 2'" in err
    assert "start over with --new-run" in err
    code, out, _ = job("--new-run")
    assert (code, shown(out, "model")) == (0, "houses version 2, verified")


def test_failed_proof_ends_with_1(workspace, job, monkeypatch):
    monkeypatch.setattr("jobs.runs.score_run.commit_files", lambda *_, **__: True)
    code, out, err = job()
    assert (code, out) == (1, "")
    assert "lacks the commits of chunks [0, 1, 2, 3]" in err


def test_replay_of_rows_that_are_still_bad_quarantines_them_again_under_their_ids(workspace, job):
    """Of a few rows one is more than the limit for a whole input; it does not hold for a replay unless the user says so."""
    workspace.write("houses", house_rows(bad=(5,)), rows_per_file=200)
    _, out, _ = job()
    first = shown(out, "run")
    code, _, err = job("--replay", first, "--set", "quarantine.max_share=0.5")
    assert code == 3
    assert "1 of 1 rows break the contract (100.00%, the limit is 50.00%)" in err
    code, out, err = job("--replay", first)
    assert code == 0, err
    assert (shown(out, "rows in"), shown(out, "quarantined")) == ("1", "1")
    assert workspace.rows(QUARANTINE).column("row_id").to_pylist() == ["5", "5"]


# --- secrets


LITERAL_SECRETS = [
    CANARY,
    f"mlflow.token={CANARY}",
    f"mlflow.tracking_uri=postgresql://h/db?user=u&password={CANARY}",
    f"input.source=s3://KEY:{CANARY}@bucket/x",
    f"spark.remote=sc://h:443/;token={CANARY}",
    f"spark.conf.spark.hadoop.fs.azure.account.key.a.dfs.core.windows.net={CANARY}",
    f"spark.conf.spark.executor.extraJavaOptions=-Dx.password={CANARY}",
]


def test_secret_shows_in_no_output_error_or_file(workspace, job, monkeypatch):
    monkeypatch.setenv("CANARY_OF_TEST", CANARY)
    monkeypatch.setenv("CONNECT_URL_OF_TEST", f"sc://host:443/;token={CANARY}")
    monkeypatch.setenv("JAVA_OPTIONS_OF_TEST", f"-Dx.password={CANARY}")
    settings = (
        "mlflow.token=env:CANARY_OF_TEST",
        "spark.remote=env:CONNECT_URL_OF_TEST",
        "spark.conf.spark.hadoop.fs.s3a.secret.key=env:CANARY_OF_TEST",
        "spark.conf.spark.executor.extraJavaOptions=env:JAVA_OPTIONS_OF_TEST",
    )
    secret = [part for setting in settings for part in ("--set", setting)]
    said = []
    for arguments in (
        ["--dry-run"],
        [],
        ["--set", "input.source=housez"],
        *(["--set", literal] for literal in LITERAL_SECRETS),
    ):
        code, *texts = job(*secret, *arguments)
        assert code == (2 if arguments[:1] == ["--set"] else 0), texts
        said += texts
    assert any("plan" in text for text in said)
    assert CANARY not in "".join(said)
    leaks = [
        path for path in workspace.root.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()
    ]
    assert leaks == []


# --- as processes


def test_two_schedulers_at_once_one_works_and_the_other_ends_with_0_and_says_who(
    workspace, process_env, trained_workspace, spark, tmp_path
):
    bad = house_rows(bad=range(0, 2_000, 217))
    workspace.write("houses", bad, rows_per_file=200)
    clean = workspace.copy_to(tmp_path / "clean")
    with start_job(workspace, process_env, pause_at="chunk.after_record") as first:
        assert first.paused()["pid"] == first.pid
        with start_job(workspace, process_env) as second:
            assert second.ended() == 0, second.output.read_text()
            said = second.output.read_text()
        holder = re.escape(f"process {first.pid} on {socket.gethostname()}")
        run_id = latest_run(workspace).run_id
        assert re.search(rf"nothing to do: {holder} is working on it since \S+: run {run_id}\n", said)
        assert workspace.rows(SCORED).num_rows == 0
        first.release()
        assert first.ended() == 0, first.output.read_text()
        assert shown(first.output.read_text(), "rows in") == "2,000"
    from jobs.runs.batch import score_table

    score_table(spark, clean.conf())
    assert_equals_clean_run(workspace, clean)


def test_another_run_in_the_same_place_ends_with_2_names_both_and_is_done_when_it_runs_again(
    workspace, process_env, job
):
    """Tuesday's job, on a new snapshot, while Monday's still works: its rows must not be taken for scored."""
    with start_job(workspace, process_env, pause_at="chunk.after_record") as monday:
        assert monday.paused()["pid"] == monday.pid
        run_id = latest_run(workspace).run_id
        write_deltalake(workspace.table("houses"), house_rows(2_001).slice(2_000), mode="append")
        code, out, err = job()
        assert (code, out) == (2, "")
        assert (
            f"error: process {monday.pid} on {socket.gethostname()} is working on run {run_id} since" in err
        )
        assert re.search(r"input: the run has '.*houses version 9 .*', now it is '.*houses version 10 ", err)
        assert "Nothing was scored: run this again when that one has ended" in err
        assert latest_run(workspace).run_id == run_id
        monday.release()
        assert monday.ended() == 0, monday.output.read_text()
    code, out, err = job()
    assert (code, shown(out, "rows in")) == (0, "2,001"), err
    assert shown(out, "run") != run_id


def test_log_of_spark_goes_to_a_file_and_not_to_the_terminal(workspace, process_env):
    with start_job(workspace, process_env) as job:
        assert job.ended() == 0
        said = job.output.read_text()
    assert not re.search(r"\bWARN\b|\bINFO\b|log4j", said)
    assert (workspace.root / ".onescore" / "logs" / "spark.log").exists()
    assert DeltaTable(workspace.table(SCORED)).version() == 4
    assert os.listdir(workspace.root / ".onescore" / "runs")
