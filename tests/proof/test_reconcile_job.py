"""The prediction log against the batch, as a job: equal to the bit after a clean replay, and exactly what was altered differs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import reconcile_scores, replay_online
from jobs.proof.skew import SkewReport
from jobs.runs.command import run
from jobs.runs.tracking import connect_from
from tests.toy.workspace import Workspace
from udfs.prediction_rows import SCHEMA

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


@pytest.fixture
def place(replayed: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy to work in, as the home of jobs."""
    copy = replayed.copy_to(tmp_path / "workspace")
    for name, value in copy.env().items():
        monkeypatch.setenv(name, value)
    return copy


def log_of(place: Workspace) -> Path:
    (log,) = (place.root / ".onescore" / "replays").iterdir()
    return log


def reconcile(place: Workspace, *arguments: str) -> tuple[int, SkewReport, Path]:
    code = run(
        reconcile_scores.main,
        ["--model", "houses", "--log", str(log_of(place)), "--set", "score.batch_rows=300", *arguments],
    )
    directory = max((place.root / ".onescore" / "skew" / "houses").iterdir())
    return code, SkewReport.from_json(json.loads((directory / "report.json").read_text())), directory


def logged_files(place: Workspace) -> list[Path]:
    return sorted((log_of(place) / "houses").glob("date=*/part-*.parquet"))


def alter(place: Workspace, change: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Change rows of the log in place; return those for which `change` said so."""
    changed = []
    for file in logged_files(place):
        rows = pq.read_table(file, partitioning=None).to_pylist()
        changed += [row for row in rows if change(row)]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file)
    return changed


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
    assert "Equal" in capsys.readouterr().out
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
    assert (report.rows_differing, report.score.differing) == (1, 1)
    assert all(one.differing == 0 for one in report.features)
    (row,) = pq.read_table(directory / "differing.parquet").to_pylist()
    assert row["row_id"] == ids_of(changed)[0]
    assert (row["process"], row["sequence"]) == (changed[0]["process"], 7)
    assert row["online_score"] == changed[0]["score"] == row["offline_score"] + 1.0
    assert report.worst[0]["row_id"] == row["row_id"]
    assert report.worst[0]["score"]["ulps"] == row["ulps"] == report.score.ulps["max"]


def test_stale_input_is_named_with_both_sides_values(spark: Any, place: Workspace) -> None:
    """The online side saw other rates: features, score and inputs as a model gives them for these."""
    shutil.rmtree(place.table("rates"))
    from tests.toy.workspace import rate_rows

    rates = rate_rows()
    at = rates.schema.get_field_index("rate_pct")
    place.write("rates", rates.set_column(at, "rate_pct", pa.compute.add(rates.column("rate_pct"), 1.0)))
    code, report, _ = reconcile(place)
    assert code == 1
    assert report.rows_differing > 100
    gap = next(one for one in report.features if one.name == "rate_pct_gap")
    assert gap.differing == report.rows_differing
    assert {(one["cause"], one["where"]) for one in report.causes} == {("extracted", "rates")}
    assert [one["name"] for one in report.worst[0]["inputs"]] == ["rate_pct"]


def test_gaps_and_rows_that_stand_twice(spark: Any, place: Workspace) -> None:
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
    assert code == 0
    assert (report.rows_lost, report.rows_duplicated) == (10, 5)
    assert report.gaps[0]["first"] == last - 9
    assert report.rows_logged == sum(pq.read_metadata(one).num_rows for one in logged_files(place)) - 5


def test_request_without_a_row_in_the_table_is_the_logs_own(spark: Any, place: Workspace) -> None:
    houses = place.rows("houses")
    place.write("houses", houses.slice(0, 500), rows_per_file=200)
    code, report, _ = reconcile(place)
    assert (code, report.is_equal) == (0, True)
    assert 0 < report.requests_not_in_table < report.rows_compared
    code, report, _ = reconcile(place, "--requests", "none")
    assert (code, report.is_equal) == (0, True)
    assert report.requests_not_in_table == report.rows_compared


def test_range_bounds_what_is_compared(spark: Any, place: Workspace) -> None:
    code, report, _ = reconcile(place, "--by", "as-of", "--from", "2020-02-01T00:00:00Z")
    _, whole, _ = reconcile(place)
    assert (code, report.is_equal) == (0, True)
    assert 0 < report.rows_logged < whole.rows_logged
    code, report, _ = reconcile(place, "--by", "as-of", "--to", "2019-01-01T00:00:00Z")
    assert (code, report.rows_logged) == (1, 0)


def test_dry_run_says_what_would_be_compared(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "houses", "--log", str(log_of(place)), "--dry-run"]
    assert run(reconcile_scores.main, arguments) == 0
    said = capsys.readouterr().out
    assert "version 1" in said
    assert "nothing was written" in said
    assert not (place.root / ".onescore" / "skew").exists()
