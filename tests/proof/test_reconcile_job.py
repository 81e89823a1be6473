"""The prediction log against the batch, as a job: equal to the bit after a clean replay, and exactly what was altered differs.

Two tests run on Spark; the others run the same frames in this process.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from feature_pipelines.evaluate import evaluate
from feature_pipelines.schema_arrow import columns_from_arrow
from jobs import forget_entity, reconcile_scores, replay_online
from jobs.proof import reconcile_run
from jobs.proof.reconcile_plan import Asked, make_plan
from jobs.proof.skew import SkewReport
from jobs.reports.skew_report import render_report
from jobs.runs.command import run
from jobs.runs.tracking import connect_from
from tests.toy.reconciled import alter, comparable, log_of, logged_files, newest_report
from tests.toy.runs import directory_tree
from tests.toy.tenants import FEATURES as TENANTS
from tests.toy.workspace import Workspace, rate_rows
from udfs.bundle import load_bundle, write_bundle
from udfs.online import OnlineScorer
from udfs.prediction_log import PredictionLog
from udfs.prediction_rows import PiiPolicy
from udfs.scorer import OutputSpec

FROM, TO = "2020-01-01T00:00:00Z", "2020-03-01T00:00:00Z"


@pytest.fixture(scope="module")
def replayed(trained_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two months of houses, asked through a store; shared, so it must not be changed."""
    place = trained_workspace.copy_to(tmp_path_factory.mktemp("replayed") / "workspace")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in place.env().items():
            patched.setenv(name, value)
        assert run(replay_online.main, ["--model", "houses", "--from", FROM, "--to", TO]) == 0
    return place


def reconcile(place: Workspace, *arguments: str) -> tuple[int, SkewReport, Path]:
    code = run(
        reconcile_scores.main,
        ["--model", "houses", "--log", str(log_of(place)), "--set", "score.batch_rows=300", *arguments],
    )
    return code, *newest_report(place)


def ids_of(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(dict(row["request"])["house_id"] for row in rows)


def test_clean_replay_is_equal_to_the_bit(
    spark: Any, place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report, directory = reconcile(place)
    assert code == 0
    assert report.is_equal
    asked = sum(pq.read_metadata(file).num_rows for file in logged_files(place))
    assert (report.rows_logged, report.rows_compared) == (asked, asked)
    assert asked > 1_000
    assert (report.requests_not_in_table, report.rows_not_comparable, report.rows_lost) == (0, 0, 0)
    assert [(one.name, one.compared, one.exact) for one in report.features] == [
        (name, asked, asked)
        for name in ("area_squared", "town_code", "rooms_or_minus_one", "rate_pct_gap", "asked_hour")
    ]
    assert pq.read_metadata(directory / "differing.parquet").num_rows == 0
    assert {path.name for path in directory.iterdir()} == {
        "report.json",
        "report.html",
        "fields.parquet",
        "differing.parquet",
    }
    (version,) = report.by_version
    assert (version["version"], version["digest"]) == ("1", report.reference_digest)
    assert sum(hour["compared"] for hour in report.by_hour) == asked
    assert "EQUAL" in capsys.readouterr().out
    logged = connect_from(place.conf()).search_runs(
        [mlflow.get_experiment_by_name("onescore").experiment_id], "tags.`onescore.job` = 'reconcile_scores'"
    )
    assert logged[0].data.metrics["rows_differing"] == 0


def test_altered_rows_and_no_others_differ(spark: Any, place: Workspace) -> None:
    def other_score(row: dict[str, Any]) -> bool:
        is_one = row["sequence"] == 7
        row["score"] += 1.0 if is_one else 0.0
        return bool(is_one)

    changed = alter(place, other_score)
    code, report, directory = reconcile(place)
    assert code == 1
    assert report.budget["exceeded"] == ["max_differing_share", "max_unexplained_share"]
    assert [(one["cause"], one["rows"]) for one in report.causes] == [("UNEXPLAINED", 1)]
    assert (report.rows_differing, report.score.differing) == (1, 1)
    assert all(one.differing == 0 for one in report.features)
    (row,) = pq.read_table(directory / "differing.parquet").to_pylist()
    assert row["row_id"] == ids_of(changed)[0]
    assert (row["process"], row["sequence"]) == (changed[0]["process"], 7)
    assert row["online_score"] == changed[0]["score"] == row["offline_score"] + 1.0
    assert report.worst[0]["row_id"] == row["row_id"]
    assert report.worst[0]["score"]["ulps"] == row["ulps"] == report.score.ulps["max"]


def test_stale_input_is_named_with_both_sides_values(local: Any, place: Workspace) -> None:
    """The online side saw other rates: features, score and inputs as a model gives them for these."""
    shutil.rmtree(place.table("rates"))
    rates = rate_rows()
    at = rates.schema.get_field_index("rate_pct")
    place.write("rates", rates.set_column(at, "rate_pct", pc.add(rates.column("rate_pct"), 1.0)))
    code, report, _ = reconcile(place)
    assert code == 1
    assert report.rows_differing > 100
    gap = next(one for one in report.features if one.name == "rate_pct_gap")
    assert gap.differing == report.rows_differing
    assert {(one["cause"], one["where"]) for one in report.causes} == {("EXTRACTED", "rates")}
    assert [one["name"] for one in report.worst[0]["inputs"]] == ["rate_pct"]


@pytest.mark.parametrize("requests", ["houses", "none"])
def test_view_that_fits_no_memory_is_joined_by_shuffle_to_the_same_report(
    spark: Any, place: Workspace, capsys: pytest.CaptureFixture[str], requests: str
) -> None:
    """Some rates were others, some requests are not in the table, and each status of a look-up occurs."""
    rates, houses = rate_rows(), place.rows("houses")
    shutil.rmtree(place.table("rates"))
    at = rates.schema.get_field_index("rate_pct")
    place.write("rates", rates.set_column(at, "rate_pct", pc.add(rates.column("rate_pct"), 1.0)))
    shutil.rmtree(place.table("houses"))
    place.write("houses", houses.slice(0, 500), rows_per_file=200)
    bounds = ("--by", "as-of", "--from", "2020-01-05T00:00:00Z", "--requests", requests)
    large = ("score.max_index_rows=10", "score.hot_key_rows=50", "score.unit_rows=200")
    code, expected, before = reconcile(place, *bounds)
    capsys.readouterr()
    found_code, found, after = reconcile(place, *bounds, *(word for one in large for word in ("--set", one)))
    assert "view rates: joined to" in capsys.readouterr().err
    assert (found_code, code) == (1, 1)
    assert found.rows_differing > 100
    assert comparable(found) == comparable(expected)
    rows = [pq.read_table(directory / "differing.parquet").to_pylist() for directory in (before, after)]
    assert sorted(rows[0], key=repr) == sorted(rows[1], key=repr)
    statuses = {status for row in found.worst for status in row["statuses"]["rates"]}
    assert "PRESENT" in statuses


def test_requests_are_not_broadcast_however_small_spark_takes_them_to_be(
    spark: Any, place: Workspace
) -> None:
    plan = make_plan(place.conf(), Asked(log_of(place), place.conf().input.source))
    frame = reconcile_run._joined(spark, plan)
    said = frame._jdf.queryExecution().toString()
    assert "SortMergeJoin" in said
    assert "Broadcast" not in said


def test_after_corrections_the_same_command_shows_zero(local: Any, place: Workspace) -> None:
    def other_score(row: dict[str, Any]) -> bool:
        is_one = row["sequence"] in (7, 8)
        row["score"] += 1.0 if is_one else 0.0
        return bool(is_one)

    alter(place, other_score)
    code, report, _ = reconcile(place, "--corrections")
    assert (code, report.rows_differing, report.repair["scores_to_correct"]) == (1, 2, 2)
    assert place.rows("score_corrections").num_rows == 2
    code, report, directory = reconcile(place, "--corrections")
    assert (code, report.rows_differing, report.rows_corrected, report.score.differing) == (0, 0, 2, 0)
    assert "Equal after corrections" in (directory / "report.html").read_text()
    code, report, _ = reconcile(place)
    assert (code, report.rows_differing) == (1, 2)


@pytest.mark.parametrize("field", ["house_id", "town"])
def test_forgotten_entity_leaves_corrections_and_reports(
    local: Any, place: Workspace, capsys: pytest.CaptureFixture[str], field: str
) -> None:
    """By the row's id, also when the log has it no more; by any other field through the places of its rows in the log."""

    def other_score(row: dict[str, Any]) -> bool:
        row["score"] += 1.0 if row["sequence"] < 40 else 0.0
        return bool(row["sequence"] < 40)

    changed = alter(place, other_score)
    value = json.loads(dict(changed[3]["request"])[field])
    gone = [row for row in changed if dict(row["request"])[field] == json.dumps(value)]
    reconcile(place, "--corrections")
    (directory,) = (place.root / ".onescore" / "skew" / "houses").iterdir()
    worst = [row["row_id"] for row in json.loads((directory / "report.json").read_text())["worst"]]
    assert set(ids_of(gone)) & set(worst)
    log = ["--log", str(log_of(place))]
    if field == "house_id":
        shutil.rmtree(log_of(place) / "houses")
    arguments = ["--model", "houses", *log, "--key", f"{field}={value}"]
    before = directory_tree(directory)
    assert run(forget_entity.main, [*arguments, "--dry-run"]) == 0
    assert directory_tree(directory) == before
    planned = capsys.readouterr().out
    assert run(forget_entity.main, arguments) == 0
    said = capsys.readouterr().out
    for text in (planned, said):
        assert re.search(rf"differing rows +{len(gone)}$", text, re.MULTILINE), text
        assert re.search(rf"score_corrections +{len(gone)}$", text, re.MULTILINE), text
    kept = sorted(set(ids_of(changed)) - set(ids_of(gone)))
    assert sorted(place.rows("score_corrections").column("row_id").to_pylist()) == kept
    assert sorted(pq.read_table(directory / "differing.parquet").column("row_id").to_pylist()) == kept
    report = SkewReport.from_json(json.loads((directory / "report.json").read_text()))
    assert [row["row_id"] for row in report.worst] == [one for one in worst if one in kept]
    assert report.rows_differing == len(changed)
    assert (directory / "report.html").read_text() == render_report(report)
    assert directory_tree(directory).keys() == before.keys()
    assert run(forget_entity.main, arguments) == 0
    assert re.search(r"differing rows +0$", capsys.readouterr().out, re.MULTILINE)


def test_gaps_and_rows_that_stand_twice(local: Any, place: Workspace) -> None:
    file, *_ = logged_files(place)
    name = file.name
    n = pq.read_metadata(file).num_rows
    table = pq.read_table(file, partitioning=None)
    last = int(table.column("sequence")[n - 1].as_py())
    pq.write_table(
        table.slice(0, n - 10), file.with_name(name.replace(f"{last:012d}.parq", f"{last - 10:012d}.parq"))
    )
    pq.write_table(table.slice(0, 5), file.with_name(name.replace(f"{last:012d}.parq", f"{5:012d}.parq")))
    file.unlink()
    code, report, _ = reconcile(place)
    assert (code, report.budget["exceeded"], report.is_equal) == (1, ["max_lost_share"], False)
    assert (report.rows_lost, report.rows_not_yet_written, report.rows_duplicated) == (10, 0, 5)
    assert report.gaps[0]["first"] == last - 9
    assert report.rows_logged == sum(pq.read_metadata(one).num_rows for one in logged_files(place)) - 5
    assert reconcile(place, "--set", "skew.max_lost_share=0.1")[0] == 0


def test_request_without_a_row_in_the_table_is_the_logs_own(local: Any, place: Workspace) -> None:
    houses = place.rows("houses")
    place.write("houses", houses.slice(0, 500), rows_per_file=200)
    code, report, _ = reconcile(place)
    assert (code, report.is_equal) == (0, True)
    assert 0 < report.requests_not_in_table < report.rows_compared
    code, report, _ = reconcile(place, "--requests", "none")
    assert (code, report.is_equal) == (0, True)
    assert report.requests_not_in_table == report.rows_compared


def test_range_bounds_what_is_compared(local: Any, place: Workspace) -> None:
    code, report, _ = reconcile(place, "--by", "as-of", "--from", "2020-02-01T00:00:00Z")
    _, whole, _ = reconcile(place)
    assert (code, report.is_equal) == (0, True)
    assert 0 < report.rows_logged < whole.rows_logged
    code, report, _ = reconcile(place, "--by", "as-of", "--to", "2019-01-01T00:00:00Z")
    assert (code, report.rows_logged) == (1, 0)


def test_requests_whose_keys_the_log_cannot_have_are_not_read(
    local: Any, place: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part of the key rises from file to file, so most of them lie outside; an altered row is found all the same."""
    houses = place.rows("houses").sort_by("asked_ts")
    shutil.rmtree(place.table("houses"))
    place.write("houses", houses, rows_per_file=100)
    alter(place, lambda row: row.update(score=row["score"] + 1.0) is None)
    range_ = ("--by", "as-of", "--from", "2020-02-01T00:00:00Z", "--to", "2020-02-08T00:00:00Z")
    range_ += ("--set", "input.row_id=[house_id, asked_ts]")
    code, report, directory = reconcile(place, *range_)
    said = re.search(r"reading ([\d,]+) of ([\d,]+) requests", capsys.readouterr().err)
    assert said is not None
    read, of = (int(text.replace(",", "")) for text in said.groups())
    assert report.rows_logged <= read < of / 2
    assert (code, report.rows_differing, report.requests_not_in_table) == (1, report.rows_logged, 0)
    monkeypatch.setattr(reconcile_run, "_may_be_narrower", lambda plan: False)
    _, whole, other = reconcile(place, *range_)
    assert "reading" not in capsys.readouterr().err
    assert comparable(report) == comparable(whole)
    rows = [pq.read_table(one / "differing.parquet").sort_by("sequence") for one in (directory, other)]
    assert rows[0].equals(rows[1])


def replay_with(place: Workspace, version: str) -> None:
    """Ask the same houses of another version, and put its log beside the first one's files."""
    first = log_of(place)
    arguments = ["--set", f"model.version={version}", "--from", FROM, "--to", "2020-02-01T00:00:00Z"]
    store = f"sqlite:///{place.root}/other.db"
    assert run(replay_online.main, ["--model", "houses", "--store", store, *arguments]) == 0
    (other,) = [path for path in (place.root / ".onescore" / "replays").iterdir() if path != first]
    shutil.copytree(other / "houses", first / "houses", dirs_exist_ok=True)
    shutil.rmtree(other)


def test_rows_of_another_version_are_told_apart_also_when_it_is_gone(
    local: Any, place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    place.train("train.params.max_iter=3")
    replay_with(place, "2")
    code, report, _ = reconcile(place)
    assert code == 1
    first, second = report.by_version
    assert (first["version"], first["differing"]) == ("1", 0)
    assert (second["version"], second["differing"]) == ("2", second["compared"])
    assert {(one["cause"], one["where"]) for one in report.causes} == {("MODEL_VERSION", "version 2")}
    _, other, _ = reconcile(place, "--model-version", "2")
    assert [one["differing"] for one in other.by_version] == [first["compared"], 0]
    connect_from(place.conf()).delete_model_version("houses", "2")
    code, report, _ = reconcile(place)
    assert (
        "version 2 answered rows and is not at hand: no version of model 'houses' has the digest"
        in capsys.readouterr().err
    )
    assert [one["cause"] for one in report.causes] == ["UNEXPLAINED"]
    assert "has the digest" in report.by_version[1]["missing"]


def test_log_of_an_older_version_of_ours_is_compared_without_its_stored_values(
    local: Any, place: Workspace
) -> None:
    for file in logged_files(place):
        pq.write_table(pq.read_table(file, partitioning=None).drop_columns(["stored"]), file)
    code, report, _ = reconcile(place)
    assert (code, report.is_equal) == (0, True)
    assert report.unlogged == dict.fromkeys(("rate_pct", "rate_pct_floor"), report.rows_logged)


def test_refusals_are_compared_by_their_reason(local: Any, place: Workspace) -> None:
    def other_answer(row: dict[str, Any]) -> bool:
        if row["sequence"] not in (3, 4):
            return False
        row |= {"score": None, "label": None, "features": [], "error_code": "INTERNAL"}
        return True

    alter(place, other_answer)
    code, report, directory = reconcile(place)
    assert code == 1
    assert (report.rows_differing, report.rows_refused_online, report.rows_refused_offline) == (2, 2, 0)
    assert report.score.differing == 0
    rows = pq.read_table(directory / "differing.parquet").to_pylist()
    assert [(row["online_error"], row["offline_error"], row["online_score"]) for row in rows] == [
        ("INTERNAL", None, None)
    ] * 2
    assert report.worst[0]["error"] == ["INTERNAL", None]


def test_budget_that_is_not_exceeded_is_no_failure(local: Any, place: Workspace) -> None:
    def other_score(row: dict[str, Any]) -> bool:
        row["score"] += 1.0 if row["sequence"] == 7 else 0.0
        return bool(row["sequence"] == 7)

    alter(place, other_score)
    allowed = ["--set", "skew.max_differing_share=0.01", "--set", "skew.max_unexplained_share=0.01"]
    assert reconcile(place, *allowed)[0] == 0
    assert reconcile(place, *allowed[:2])[1].budget["exceeded"] == ["max_unexplained_share"]


# --- personal data


def tenants(n: int = 60) -> pa.Table:
    rng = np.random.default_rng(5)
    return pa.table(
        {
            "tenant_id": [f"t-{i}" for i in range(n)],
            "income_eur": np.round(rng.uniform(10_000, 90_000, n), 2) + 0.0078125,
            "rooms": rng.integers(1, 6, n).astype(float),
            "surname": [f"Surname{i}" if i % 3 else None for i in range(n)],
        }
    )


@pytest.fixture
def asked_tenants(place: Workspace) -> Callable[[str], list[str]]:
    """Log tenants under a policy for personal data, and return the job's arguments."""
    rows = tenants()
    place.write("tenants", rows)
    columns, errors = columns_from_arrow(TENANTS.sources, rows.combine_chunks().to_batches()[0])
    assert errors == []
    matrix = evaluate(TENANTS, columns, {}, len(rows))
    estimator = HistGradientBoostingRegressor(max_iter=5, min_samples_leaf=3).fit(matrix.T, matrix[0])
    bundle = place.root / "tenants-bundle"
    write_bundle(
        bundle,
        name="tenants",
        reference="tests.toy.tenants:FEATURES",
        constants={},
        estimator=estimator,
        output=OutputSpec("regression"),
        columns=columns,
        n_rows=len(rows),
    )

    def ask(policy: str) -> list[str]:
        directory = place.root / f"log-{policy}"
        log = PredictionLog(directory, lambda: 1, pii=PiiPolicy(policy, b"key"))
        OnlineScorer(load_bundle(bundle), None, clock=lambda: 1, log=log).answer(rows.to_pylist())
        log.close()
        settings = ["model.name=tenants", "input.source=tenants"]
        return [
            *("--log", str(directory), "--bundle", str(bundle)),
            *(word for setting in settings for word in ("--set", setting)),
        ]

    return ask


@pytest.mark.parametrize("policy", ["drop", "hash"])
def test_personal_data_is_compared_by_what_comes_of_it_and_shown_nowhere(
    local: Any, place: Workspace, asked_tenants: Callable[[str], list[str]], policy: str
) -> None:
    arguments = ["--model", "houses", *asked_tenants(policy)]
    assert run(reconcile_scores.main, arguments) == 0
    changed = tenants()
    at = changed.schema.get_field_index("income_eur")
    place.write(
        "tenants", changed.set_column(at, "income_eur", pc.multiply(changed.column("income_eur"), 2.0))
    )
    assert run(reconcile_scores.main, arguments) == 1
    clean, differs = sorted((place.root / ".onescore" / "skew" / "tenants").iterdir())
    report = SkewReport.from_json(json.loads((clean / "report.json").read_text()))
    assert (report.is_equal, report.rows_compared) == (True, 60)
    assert set(report.unlogged) == {"income_squared", "is_named"}
    assert [one.compared for one in report.features] == [0, 60, 0]
    report = SkewReport.from_json(json.loads((differs / "report.json").read_text()))
    assert report.score.differing == report.rows_differing > 5
    said = "".join(
        path.read_text(errors="replace") for path in differs.iterdir() if path.suffix != ".parquet"
    )
    assert "Surname" not in said
    assert ".0078125" not in said
    assert ".0156" not in said


def test_request_with_personal_data_that_only_its_sender_had_is_not_compared(
    local: Any, place: Workspace, asked_tenants: Callable[[str], list[str]]
) -> None:
    arguments = ["--model", "houses", *asked_tenants("drop"), "--requests", "none"]
    assert run(reconcile_scores.main, arguments) == 1
    (directory,) = (place.root / ".onescore" / "skew" / "tenants").iterdir()
    report = SkewReport.from_json(json.loads((directory / "report.json").read_text()))
    assert (report.rows_compared, report.rows_not_comparable, report.is_equal) == (0, 60, False)


# --- what cannot be compared


def said_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = run(reconcile_scores.main, ["--model", "houses", "--dry-run", *arguments])
    return code, capsys.readouterr().err


def test_what_is_missing_or_broken_is_said_before_anything_runs(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    log = ["--log", str(log_of(place))]
    code, said = said_of(capsys, "--log", str(place.root / "nowhere"))
    assert (code, "there is no such directory" in said) == (2, True)
    code, said = said_of(capsys, "--log", str(log_of(place).parent))
    assert (code, f"holds 1 log(s) of replays, and one is compared at a time: {' '.join(log)}\n" in said) == (
        2,
        True,
    )
    (log_of(place).parent / "19990101T000000Z-abcdef" / "houses").mkdir(parents=True)
    code, said = said_of(capsys, "--log", str(Path(log[1]).parent))
    assert f": {' '.join(log)}. Others: 19990101T000000Z-abcdef" in said
    shutil.rmtree(Path(log[1]).parent / "19990101T000000Z-abcdef")
    code, said = said_of(capsys, "--set", "serve.log_directory=null")
    assert (code, "serve.log_directory: not set" in said) == (2, True)
    code, said = said_of(capsys, *log, "--from", TO, "--to", FROM)
    assert (code, "is not after --from" in said) == (2, True)
    code, said = said_of(capsys, *log, "--requests", "nobody")
    assert (code, "no such input" in said) == (2, True)
    code, said = said_of(capsys, *log, "--set", "input.row_id=[nobody]")
    assert (code, "'nobody' is no field of a request" in said) == (2, True)
    code, said = said_of(capsys, *log, "--bundle", str(place.root))
    assert (code, "there is no model.json" in said) == (2, True)
    code, said = said_of(capsys, *log, "--model-version", "9")
    assert (code, "no version 9" in said) == (2, True)
    file, *_ = logged_files(place)
    file.write_bytes(b"no parquet")
    code, said = said_of(capsys, *log)
    assert (code, "cannot be read" in said) == (3, True)
    shutil.rmtree(log_of(place) / "houses")
    code, said = said_of(capsys, *log)
    assert (code, "no row of model 'houses'" in said) == (2, True)


def test_id_that_stands_twice_in_the_table_is_refused(
    local: Any, place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    houses = place.rows("houses")
    place.write("houses", pa.concat_tables([houses, houses.slice(0, 900)]))
    assert run(reconcile_scores.main, ["--model", "houses", "--log", str(log_of(place))]) == 1
    assert "an id occurs more than once in the requests table" in capsys.readouterr().err
    assert list((place.root / ".onescore" / "skew" / "houses").iterdir()) == []


def test_dry_run_says_what_would_be_compared(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "houses", "--log", str(log_of(place)), "--dry-run"]
    assert run(reconcile_scores.main, arguments) == 0
    said = capsys.readouterr().out
    assert "version 1" in said
    assert "nothing was written" in said
    assert "by shuffle" not in said
    assert run(reconcile_scores.main, [*arguments, "--set", "score.max_index_rows=10"]) == 0
    assert "joined by shuffle" in capsys.readouterr().out
    assert not (place.root / ".onescore" / "skew").exists()
