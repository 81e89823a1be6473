"""Quarantined rows are scored again once the model is mended: as they were, with the ids they had."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_pipelines.errors import TableError
from jobs.runs.batch import score_table
from jobs.runs.replay import ROW_ID, stage_replay
from tests.toy.parcel_tables import SCHEMA, parcel, parcel_rows
from tests.toy.runs import InThisProcess, dies_at

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
TOO_MANY = {i: {"n_items": "7"} for i in (10, 20, 120, 299)}
HOPELESS = {30: {"weight_kg": None}, 130: {"asked_ts": "never"}}
FAULTS = TOO_MANY | HOPELESS


@pytest.fixture
def session(spark):
    return InThisProcess(spark)


@pytest.fixture
def scored(parcels, session):
    """The parcels after a run of version 1, and the run's id."""
    parcels.write("parcels", parcel_rows(FAULTS))
    summary, _ = score_table(session, parcels.conf("model.version=1", model="parcels"))
    assert summary.reasons == {"FEATURE_ERROR": 4, "NULL_NOT_ALLOWED": 1, "BAD_TIMESTAMP": 1}
    return parcels, summary.run_id


def replay(parcels, session, run_id, *overrides, version=2):
    """What `--replay RUN_ID` does."""
    conf = parcels.conf(model="parcels")
    staged = stage_replay(conf, run_id, Path(conf.storage.runs) / "replays")
    source = [f"input.source={staged}", f"input.row_id=[{ROW_ID}]", f"model.version={version}"]
    summary, _ = score_table(session, parcels.conf(*source, *overrides, model="parcels"))
    return summary


def of_run(parcels, table, run_id):
    rows = parcels.rows(table)
    return rows.filter(pa.compute.equal(rows.column("run_id"), run_id)).to_pylist()


def test_staged_rows_are_the_originals_with_their_ids(scored):
    parcels, run_id = scored
    staged = pq.read_table(stage_replay(parcels.conf(model="parcels"), run_id, parcels.root / "staged"))
    assert staged.schema.names == [*SCHEMA.names, ROW_ID]
    expected = parcel_rows(FAULTS).take(sorted(FAULTS))
    assert staged.column(ROW_ID).to_pylist() == expected.column("parcel_id").to_pylist()
    assert staged.drop_columns([ROW_ID]).equals(expected.cast(staged.drop_columns([ROW_ID]).schema))


def test_mended_version_scores_what_raised_and_quarantines_again_what_is_wrong(scored, session):
    parcels, run_id = scored
    summary = replay(parcels, session, run_id)
    assert (summary.rows_in, summary.rows_scored, summary.rows_quarantined) == (6, 4, 2)
    rows = of_run(parcels, "parcels_scored", summary.run_id)
    assert {row["row_id"] for row in rows} == {f"p{i:04d}" for i in TOO_MANY}
    assert {row["model_version"] for row in rows} == {"2"}
    assert {row["n_items"] for row in rows} == {"7"}


def test_replayed_row_has_the_bits_it_would_have_had_at_once(scored, session):
    parcels, run_id = scored
    summary = replay(parcels, session, run_id)
    replayed = {
        row["row_id"]: row["score"].hex() for row in of_run(parcels, "parcels_scored", summary.run_id)
    }
    direct, _ = score_table(session, parcels.conf("model.version=2", "output.scored=direct", model="parcels"))
    at_once = {row["row_id"]: row["score"].hex() for row in of_run(parcels, "direct", direct.run_id)}
    assert replayed == {name: at_once[name] for name in replayed}


def test_replay_sees_columns_that_the_first_version_never_read(parcels, session):
    """They are in no one's feature set when the row is quarantined, and a later version may need them."""
    parcels.write("parcels", parcel_rows({1: {"weight_kg": None, "remark": ["still", "here"]}}))
    summary, _ = score_table(session, parcels.conf(model="parcels"))
    (row,) = of_run(parcels, "parcels_quarantine", summary.run_id)
    assert json.loads(row["row"])["remark"] == ["still", "here"]
    staged = stage_replay(parcels.conf(model="parcels"), summary.run_id, parcels.root / "staged")
    assert pq.read_table(staged).column("remark").to_pylist() == [["still", "here"]]


def test_replay_twice_is_one_run(scored, session):
    parcels, run_id = scored
    first = replay(parcels, session, run_id)
    again = replay(parcels, session, run_id)
    assert again.did_nothing
    assert again.run_id == first.run_id


def test_killed_replay_goes_on_where_it_stopped(scored, session, monkeypatch):
    parcels, run_id = scored
    with dies_at(monkeypatch, "chunk.after_quarantine_commit"):
        replay(parcels, session, run_id)
    summary = replay(parcels, session, run_id)
    assert summary.resumed
    assert (summary.rows_scored, summary.rows_quarantined) == (4, 2)
    assert len(of_run(parcels, "parcels_scored", summary.run_id)) == 4
    assert len(of_run(parcels, "parcels_quarantine", summary.run_id)) == 2


def test_a_replay_can_be_replayed(scored, session):
    parcels, run_id = scored
    second = replay(parcels, session, run_id)
    third = replay(parcels, session, second.run_id)
    assert (third.rows_in, third.rows_quarantined) == (2, 2)
    rows = of_run(parcels, "parcels_quarantine", third.run_id)
    assert {row["row_id"] for row in rows} == {"p0030", "p0130"}
    assert json.loads(next(row["row"] for row in rows if row["row_id"] == "p0130"))["asked_ts"] == "never"


def test_ids_by_place_are_kept(parcels, session):
    """A row without a key is named by its file and position there, not by those of the replay's file."""
    parcels.write("parcels", parcel_rows({3: {"parcel_id": None, "n_items": "7"}}, n=20))
    first, _ = score_table(session, parcels.conf(model="parcels"))
    (row,) = of_run(parcels, "parcels_quarantine", first.run_id)
    second = replay(parcels, session, first.run_id)
    assert [again["row_id"] for again in of_run(parcels, "parcels_quarantine", second.run_id)] == [
        row["row_id"]
    ]
    assert row["row_id"].endswith("#3")


def test_run_without_quarantined_rows_replays_to_nothing(parcels, session):
    first, _ = score_table(session, parcels.conf(model="parcels"))
    summary = replay(parcels, session, first.run_id)
    assert (summary.rows_in, summary.rows_scored) == (0, 0)


def test_unknown_run_is_named_with_those_there_are(scored):
    parcels, run_id = scored
    with pytest.raises(TableError, match=rf"there is no run '{run_id}x' in .*runs. Did you mean '{run_id}'"):
        stage_replay(parcels.conf(model="parcels"), f"{run_id}x", parcels.root)


def test_nothing_half_written_is_left(scored):
    parcels, run_id = scored
    directory = parcels.root / "staged"
    for _ in range(2):
        stage_replay(parcels.conf(model="parcels"), run_id, directory)
    assert [path.name for path in directory.iterdir()] == [f"replay-{run_id}.parquet"]


def test_staged_file_is_replaced_if_the_quarantine_table_has_changed(scored):
    parcels, run_id = scored
    target = stage_replay(parcels.conf(model="parcels"), run_id, parcels.root / "staged")
    pq.write_table(pa.Table.from_pylist([parcel(1)], SCHEMA), target)
    again = stage_replay(parcels.conf(model="parcels"), run_id, parcels.root / "staged")
    assert again == target
    assert pq.read_table(again).num_rows == len(FAULTS)
