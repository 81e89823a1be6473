"""A model of several classes on every path: the same bits of every class, the same label, and what Spark reads of it afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import reconcile_scores, replay_online
from jobs.proof.paths import PATHS
from jobs.runs.batch import score_table
from jobs.runs.command import run
from jobs.show_table import main as show_table
from tests.toy.bands import BANDS, OUTPUT, bands_workspace
from tests.toy.bits import bits_of
from tests.toy.verified import verified
from tests.toy.workspace import Workspace
from udfs.online import OnlineScorer
from udfs.prediction_log import PredictionLog
from udfs.registry import fetch, resolve
from udfs.spark_udf import result_type, score_udf

NOT_ALL_FORMS = {"stock-csv", "stock-parquet"}
"""Forms of a request to one server: what they cannot say of a row is for the conformance suite."""


@pytest.fixture(scope="module")
def bands(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The toy model of three classes in a registry of its own; shared, so it must not be changed."""
    workspace = bands_workspace(tmp_path_factory.mktemp("bands"))
    workspace.train_model("bands")
    return workspace


@pytest.fixture
def home(bands: Workspace, process_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The same, with the environment by which a job finds it."""
    for name, value in (process_env | bands.env()).items():
        monkeypatch.setenv(name, value)
    return bands


def test_golden_rows_are_equal_on_every_path(
    home: Workspace, spark: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = [entry.name for entry in PATHS if entry.name not in NOT_ALL_FORMS]
    report = tmp_path / "table.json"
    code, lines, said = verified(capsys, "--paths", ",".join(names), "--json", str(report), model="bands")
    assert code == 0, said
    assert list(lines) == names
    for path, line in lines.items():
        assert line[1:6] == ["64", "64", "0", "0", "0"], path  # rows, equal, differ, score bits, label bits
    assert {one["label_bits"] for one in json.loads(report.read_text())["paths"]} == {0}


def test_batch_udf_and_online_say_the_same_of_every_class_and_spark_reads_the_log(
    home: Workspace, spark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary, plan = score_table(spark, home.conf(model="bands"))
    assert (summary.rows_scored, summary.rows_quarantined) == (2_000, 0)
    fields = list(OUTPUT.fields)
    scored = spark.read.format("parquet").load(plan.scored + "/*.parquet").select("row_id", *fields)
    assert dict(scored.dtypes)["label"] == "string"
    batch = {row["row_id"]: said_of(row.asDict()) for row in scored.collect()}
    assert {label for label, *_ in batch.values()} == set(BANDS)

    home.connect()
    score = score_udf(spark, "models:/bands@champion", views={"rates": frame(spark, home, "rates")})
    spark.udf.register("score_bands", score)
    frame(spark, home, "houses").createOrReplaceTempView("asked")
    rows = spark.sql("SELECT house_id, score_bands(struct(*)) AS s FROM asked").select("house_id", "s.*")
    assert [name for name in rows.columns if not name.startswith("error")] == ["house_id", *fields]
    assert {str(row["house_id"]): said_of(row.asDict()) for row in rows.collect()} == batch
    assert result_type(OUTPUT).startswith("`score` double, `label` string, `score_cheap` double")

    log = PredictionLog(tmp_path / "log", lambda: 1, flush_seconds=3_600.0)
    online = OnlineScorer(plan.scorer, None, clock=lambda: 1, log=log)
    golden = wire_rows(home)
    answers = online.answer(golden)
    online.close()
    logged = spark.read.parquet(str(tmp_path / "log" / "bands"))
    first = logged.orderBy("sequence").selectExpr(
        "class_label AS label", "score", *(f"class_scores['{name}'] AS score_{name}" for name in BANDS)
    )
    assert [said_of(row.asDict()) for row in first.collect()] == [said_of(answer) for answer in answers]

    assert run(show_table, ["--model", "bands", "bands_scored", "--rows", "1", "--where", "label=dear"]) == 0
    shown = capsys.readouterr().out
    assert "score_dear" in shown
    assert "dear" in shown.partition("label")[2].partition("\n")[0]


def test_replay_is_equal_to_the_batch_on_spark(home: Workspace, spark: Any, tmp_path: Path) -> None:
    store, logs, skew = (tmp_path / name for name in ("replay.db", "logs", "skew"))
    asked = ["--model", "bands", "--from", "2020-02-20T00:00:00Z", "--to", "2020-02-27T00:00:00Z"]
    assert run(replay_online.main, [*asked, "--store", f"sqlite:///{store}", "--log", str(logs)]) == 0
    (log,) = logs.iterdir()
    compared = ["--model", "bands", "--log", str(log), "--set", f"skew.directory={skew}"]
    assert run(reconcile_scores.main, compared) == 0
    report = json.loads(next(skew.glob("bands/*/report.json")).read_text())
    assert report["rows_equal"] == report["rows_compared"] > 100
    assert [one["name"] for one in report["classes"]] == [f"score_{name}" for name in BANDS]


def said_of(values: dict[str, Any]) -> tuple[str, ...]:
    """Return the label, and the bits of the score and of each class's."""
    names = ("score", *OUTPUT.score_names)
    return values["label"], *(bits_of(values[name]) for name in names)


def frame(spark: Any, home: Workspace, table: str) -> Any:
    return spark.createDataFrame(home.rows(table))


def wire_rows(home: Workspace) -> list[dict[str, Any]]:
    version = resolve("models:/bands@champion", home.connect())
    directory = fetch(version, Path(home.conf(model="bands").storage.cache))
    columns = json.loads((directory / "golden.json").read_text())["columns"]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
