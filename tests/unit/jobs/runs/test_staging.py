"""A view joined beforehand by shuffle: the same rows, bits and proofs as looked up in the kernel, whatever dies when."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from feature_pipelines.errors import ContractError, VerificationError
from jobs.runs import shuffled_view
from jobs.runs.batch import plan_from, score_table
from jobs.runs.train_run import train
from tests.toy.parcel_tables import parcel_rows, parcels_workspace
from tests.toy.runs import (
    BAD_HOUSES,
    SCORED,
    assert_equals_clean_run,
    content,
    dies_at,
    latest_run,
    start_job,
)
from tests.toy.workspace import rate_rows

SHUFFLE = "score.max_index_rows=0"


def test_a_view_joined_by_shuffle_gives_the_bits_of_the_kernel(dirty, clean, spark, capsys):
    """Also where every town is a hot key, and so is split."""
    summary, plan = score_table(spark, dirty.conf(SHUFFLE, "score.hot_key_rows=100"))
    assert plan.by_shuffle == ("rates",)
    assert summary.rows_quarantined == len(BAD_HOUSES)
    assert_equals_clean_run(dirty, clean)
    said = capsys.readouterr().err
    assert "view rates: joined to 2,000 rows by shuffle in" in said
    assert "6 hot keys were split" in said
    assert re.search(r"the longest ran \d+\.\d s, the median \d+\.\d s;", said)
    assert score_table(spark, dirty.conf())[0].did_nothing


def test_dry_run_says_the_way_of_each_view(workspace):
    for override, way in (
        (SHUFFLE, "joined by shuffle"),
        ("score.max_index_rows=200", "looked up in the kernel"),
    ):
        conf = workspace.conf(override)
        described = plan_from(conf, Path(conf.storage.cache)).describe()
        assert described["views"]["rates"].endswith(way)
    conf = workspace.conf("score.max_index_bytes=10")
    assert plan_from(conf, Path(conf.storage.cache)).by_shuffle == ("rates",)


def test_rows_that_name_their_own_time_are_joined_as_of_it(spark, tmp_path):
    """Of text, some of it no time, some of it before the zone was known; the way of the join changes nothing."""
    ours = parcels_workspace(tmp_path / "ours")
    train(ours.conf(model="parcels"))
    rows = parcel_rows({})
    times = ["2019-12-31T23:00:00Z", None, "soon", "2019-01-01T00:00:00Z", None]
    own = pa.array([times[i % 5] for i in range(rows.num_rows)])
    shutil.rmtree(ours.table("parcels"))
    ours.write("parcels", rows.append_column("as_of_ts", own), rows_per_file=120)
    theirs = ours.copy_to(tmp_path / "theirs")
    _, plan = score_table(spark, ours.conf(SHUFFLE, model="parcels"))
    assert plan.by_shuffle == ("zones",)
    score_table(spark, theirs.conf(model="parcels"))
    for table in ("parcels_scored", "parcels_quarantine"):
        assert content(ours, table) == content(theirs, table)
    refused = ours.rows("parcels_quarantine").to_pylist()
    codes = {(int(row["row_id"][1:]) % 5, row["code"], row["field"]) for row in refused}
    assert codes == {(2, "BAD_TIMESTAMP", "as_of_ts"), (3, "STORED_FEATURES_MISSING", "zones")}
    scored = ours.rows("parcels_scored").to_pylist()
    used = {row["as_of_ts"].isoformat() for row in scored if int(row["row_id"][1:]) % 5 == 0}
    assert used == {"2019-12-31T23:00:00+00:00"}
    assert len(scored) == 180


@pytest.mark.parametrize("point", ["stage.before_join", "stage.before_record"])
def test_a_run_that_died_while_staging_ends_as_a_clean_run(dirty, clean, spark, monkeypatch, point):
    with dies_at(monkeypatch, point):
        score_table(spark, dirty.conf(SHUFFLE))
    summary, _ = score_table(spark, dirty.conf(SHUFFLE))
    assert summary.resumed
    assert_equals_clean_run(dirty, clean)


def test_rows_of_every_kind_come_out_as_from_the_kernel(spark, tmp_path):
    """Also those without an id or a readable time, of no zone or an unknown one, and only those of a range."""
    ours = parcels_workspace(tmp_path / "ours")
    changes = {
        3: {"zone": None},
        4: {"zone": "zone-9"},
        5: {"asked_ts": "yesterday"},
        6: {"asked_ts": None, "parcel_id": None},
        7: {"parcel_id": None, "zone": None},
        8: {"weight_kg": -1.0},
        9: {"surcharge_eur": 1e308},
        60: {"asked_ts": "2019-01-01T00:00:00Z"},
        70: {"n_items": "two"},
    }
    ours.write("parcels", parcel_rows(changes), rows_per_file=120)
    train(ours.conf(model="parcels"))
    theirs = ours.copy_to(tmp_path / "theirs")
    for ranged in ((), ("input.range_from=2020-01-10",)):
        _, plan = score_table(spark, ours.conf(SHUFFLE, *ranged, model="parcels"))
        assert plan.by_shuffle == ("zones",)
        score_table(spark, theirs.conf(*ranged, model="parcels"))
        for table in ("parcels_scored", "parcels_quarantine"):
            assert content(ours, table) == content(theirs, table)
    quarantined = ours.rows("parcels_quarantine")
    assert set(quarantined["code"].to_pylist()) >= {
        "STORED_FEATURES_MISSING",
        "BAD_TIMESTAMP",
        "OUT_OF_RANGE",
    }
    assert any("#" in row_id for row_id in quarantined["row_id"].to_pylist())


def test_what_is_staged_is_kept_and_a_lost_file_staged_again(dirty, clean, spark, monkeypatch, capsys):
    with dies_at(monkeypatch, "stage.after_record"):
        score_table(spark, dirty.conf(SHUFFLE))
    with dies_at(monkeypatch, "chunk.before_record"):
        score_table(spark, dirty.conf(SHUFFLE))
    assert capsys.readouterr().err.count("joined to 2,000 rows by shuffle") == 1
    next(Path(dirty.table(SCORED), "_staged").glob("*-00007-*")).unlink()
    score_table(spark, dirty.conf(SHUFFLE))
    assert capsys.readouterr().err.count("joined to 2,000 rows by shuffle") == 1
    assert_equals_clean_run(dirty, clean)


def test_a_run_goes_on_although_the_way_is_another_now(dirty, clean, spark, monkeypatch):
    """The bits are the same, so the way is no part of a run's identity."""
    with dies_at(monkeypatch, "chunk.after_scored_commit"):
        score_table(spark, dirty.conf(SHUFFLE))
    assert score_table(spark, dirty.conf())[0].resumed
    assert_equals_clean_run(dirty, clean)


def test_a_row_that_the_join_loses_is_found_before_anything_is_scored(dirty, spark, monkeypatch):
    original = shuffled_view.join_prepared

    def lossy(*arguments):
        return original(*arguments).where("__unit != 4 or __ordinal != 13")

    monkeypatch.setattr(shuffled_view, "join_prepared", lossy)
    with pytest.raises(VerificationError, match=r"the join lost or doubled rows of unit 4 near its row 0"):
        score_table(spark, dirty.conf(SHUFFLE))
    assert dirty.rows(SCORED).num_rows == 0


def test_a_view_that_breaks_its_declaration_ends_the_run_by_name(dirty, spark):
    rates = rate_rows()
    dirty.write("rates", rates.set_column(3, "rate_pct", pa.array([float("inf")] * len(rates))))
    with pytest.raises(ContractError, match=r"view 'rates': 200 row\(s\) .*: NOT_FINITE in rate_pct"):
        score_table(spark, dirty.conf(SHUFFLE))


@pytest.mark.slow
def test_killed_driver_in_the_middle_of_staging(dirty, clean, spark, process_env):
    with start_job(dirty, process_env, "--set", SHUFFLE, pause_at="stage.mid_write") as job:
        said = job.paused()
        assert said["pid"] not in (job.pid, job.jvm())
        assert latest_run(dirty).staged("rates") is None
        job.kill(job.pid)
        job.wait_until_all_are_gone()
    summary, _ = score_table(spark, dirty.conf(SHUFFLE))
    assert summary.resumed
    assert_equals_clean_run(dirty, clean)
