"""Micro-batches are scored, recorded and committed once each, whatever dies between, and by one model and one state of the views."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from feature_pipelines.errors import ConfigurationError, ContractError, RunConflictError, VerificationError
from jobs.runs.chosen_model import registered_model
from jobs.runs.kill_points import STREAM_KILL_POINTS
from jobs.runs.stream_task import StreamTask
from jobs.tables.delta import orphans
from tests.toy.runs import QUARANTINE, SCORED, content, dies_at, move_alias, register_again
from tests.toy.streams import Spool
from tests.toy.workspace import rate_rows

BATCHES = [(0, 600), (600, 1_000), (1_000, 2_000)]


def batches_of(workspace):
    houses = workspace.rows("houses").sort_by("house_id")
    return [[houses.slice(a, 200), houses.slice(a + 200, b - a - 200)] for a, b in BATCHES]


def assert_equals_the_batch_job(workspace, clean, spool):
    """See that the tables hold what the batch job's hold, but for where a quarantined row was, and that nothing is left over."""
    assert content(workspace, SCORED) == content(clean, SCORED)
    ours, theirs = (w.rows(QUARANTINE) for w in (workspace, clean))
    kept = ["row_id", "code", "field", "message", "row", "model_version"]
    assert sorted(map(repr, ours.select(kept).to_pylist())) == sorted(
        map(repr, theirs.select(kept).to_pylist())
    )
    for table in (SCORED, QUARANTINE):
        assert set(workspace.rows(table).column("run_id").to_pylist()) == {spool.query.query_id}
        assert orphans(workspace.table(table), "") == []


@pytest.fixture
def spool(dirty, spark):
    return Spool(dirty, spark)


def test_batches_give_the_rows_of_the_batch_job(spool, dirty, clean):
    spool.run(batches_of(dirty))
    assert_equals_the_batch_job(dirty, clean, spool)
    totals = spool.told[-1].record.totals
    assert (totals.batches, totals.rows, totals.scored, totals.quarantined) == (3, 2_000, 1_990, 10)
    assert totals.reasons == {"NULL_NOT_ALLOWED": 10}
    for table in ("scored", "quarantine"):
        uri = dirty.table(f"houses_{table}")
        assert DeltaTable(uri).transaction_version(f"onescore/{spool.query.query_id}/{table}") == 2


@pytest.mark.parametrize("arrival", [1, 2])
@pytest.mark.parametrize("point", STREAM_KILL_POINTS[1:])
def test_death_anywhere_loses_and_doubles_nothing(spool, dirty, clean, monkeypatch, point, arrival):
    batches = batches_of(dirty)
    with dies_at(monkeypatch, point, arrival):
        spool.run(batches)
    spool.start()
    spool.run(batches)
    assert_equals_the_batch_job(dirty, clean, spool)


def test_death_after_the_last_commit_repeats_no_scoring(spool, dirty, clean, monkeypatch):
    batches = batches_of(dirty)
    with dies_at(monkeypatch, "stream.after_scored_commit", 3):
        spool.run(batches)
    spool.start()
    monkeypatch.setattr(StreamTask, "run", None)
    spool.run(batches)
    assert [done.again for done in spool.told] == [False, False, True]
    assert_equals_the_batch_job(dirty, clean, spool)


def test_record_and_not_a_second_scoring_finishes_a_batch(spool, dirty, clean, monkeypatch):
    """A view that changed meanwhile would give other scores, and rows in both tables or in none."""
    batches = batches_of(dirty)
    with dies_at(monkeypatch, "stream.after_quarantine_commit", 2):
        spool.run(batches)
    dirty.write("rates", rate_rows(5))
    spool.start()
    spool.run(batches[:2])
    first = {row["row_id"]: row["score"] for row in clean.rows(SCORED).to_pylist()}
    ours = {row["row_id"]: row["score"] for row in dirty.rows(SCORED).to_pylist()}
    assert ours == {name: first[name] for name in ours}
    assert len(ours) == 1_000 - 5


def test_compaction_between_the_commits_of_a_batch_and_its_repetition_is_tolerated(
    spool, dirty, clean, monkeypatch
):
    batches = batches_of(dirty)
    with dies_at(monkeypatch, "stream.after_scored_commit", 2):
        spool.run(batches)
    for table in (SCORED, QUARANTINE):
        compacted = DeltaTable(dirty.table(table))
        compacted.optimize.compact()
        compacted.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    spool.start()
    spool.run(batches)
    assert_equals_the_batch_job(dirty, clean, spool)


def test_rows_of_others_in_the_tables_are_left_alone(spool, dirty, spark, clean):
    other = Spool(dirty, spark, f"stream.checkpoint={dirty.root}/other")
    batches = batches_of(dirty)
    spool.batch(0, batches[0])
    other.batch(0, batches[1])
    spool.batch(1, batches[1])
    runs = dirty.rows(SCORED).column("run_id").to_pylist()
    assert {runs.count(s.query.query_id) for s in (spool, other)} == {995, 398}


def test_lost_row_is_found_before_anything_is_committed(spool, dirty, monkeypatch):
    kept = StreamTask.run

    def losing(self, batches, partition):
        result = kept(self, batches, partition)
        task = result.task
        object.__setattr__(task, "ids_scored", task.ids_quarantined)
        return result

    monkeypatch.setattr(StreamTask, "run", losing)
    with pytest.raises(VerificationError, match="Nothing of it was committed"):
        spool.run(batches_of(dirty))
    assert dirty.rows(SCORED).num_rows == 0
    assert spool.state.last_record() is None


# Late rows


def test_row_behind_the_watermark_of_earlier_batches_is_quarantined_as_late_and_not_lost(dirty, spark):
    spool = Spool(dirty, spark, "stream.watermark=10 days")
    houses = dirty.rows("houses").sort_by("asked_ts")
    old, new = houses.slice(0, 1), houses.slice(1_000, 900)
    spool.batch(0, [new])
    spool.batch(1, [pa.concat_tables([new.slice(880, 20), old])])
    first, second = (done.record for done in spool.told)
    newest = new.column("asked_ts").cast(pa.int64()).to_pylist()
    assert (first.watermark_us, first.latest_us) == (None, max(newest))
    assert second.watermark_us == max(newest) - 10 * 86_400_000_000
    assert second.rows.reasons["LATE"] == 1
    (late,) = [row for row in dirty.rows(QUARANTINE).to_pylist() if row["code"] == "LATE"]
    assert late["row_id"] == str(old.column("house_id")[0].as_py())
    assert late["field"] == "asked_ts"
    assert "before the watermark of its batch, 2020-03-" in late["message"]
    assert json.loads(late["row"])["house_id"] == old.column("house_id")[0].as_py()


def test_row_exactly_at_the_watermark_is_not_late(dirty, spark):
    spool = Spool(dirty, spark, "stream.watermark=0 seconds")
    one = dirty.rows("houses").filter(pa.compute.equal(dirty.rows("houses").column("house_id"), 1))
    spool.batch(0, [one])
    spool.batch(1, [one])
    assert [done.record.rows.reasons for done in spool.told] == [{}, {}]


def test_time_in_the_future_does_not_move_the_watermark(dirty, spark):
    spool = Spool(dirty, spark, "stream.watermark=1 day")
    spool.clock = lambda: datetime(2020, 2, 1, tzinfo=UTC)
    houses = dirty.rows("houses").sort_by("asked_ts")
    spool.batch(0, [houses])
    latest = spool.told[0].record.latest_us
    assert latest is not None
    assert datetime(2020, 1, 31, tzinfo=UTC) < datetime.fromtimestamp(latest / 1e6, UTC) <= spool.clock()
    assert spool.told[0].record.rows.reasons == {"NULL_NOT_ALLOWED": 10}


# Views and versions


def test_views_are_pinned_for_a_batch_and_anew_for_the_next(spool, dirty):
    batches = batches_of(dirty)
    spool.batch(0, batches[0])
    before = spool.told[0].record.views
    dirty.write("rates", rate_rows(5))
    spool.batch(1, batches[1])
    assert before == {"rates": "version 0"}
    assert spool.told[1].record.views == {"rates": "version 1"}


def test_views_are_pinned_as_rarely_as_the_policy_says(dirty, spark):
    spool = Spool(dirty, spark, "stream.refresh_views_seconds=60")
    batches = batches_of(dirty)
    for number, seconds in enumerate((0, 59, 61)):
        spool.seconds = seconds
        spool.batch(number, batches[number])
        dirty.write("rates", rate_rows(number + 5))
    assert [done.record.views["rates"] for done in spool.told] == ["version 0", "version 0", "version 2"]


def test_view_that_fits_no_index_is_refused(dirty, spark):
    spool = Spool(dirty, spark, "score.max_index_rows=3")
    with pytest.raises(ConfigurationError, match="a stream joins no view by shuffle"):
        spool.run(batches_of(dirty))


def test_alias_that_moved_is_taken_at_the_next_batch_and_stamped_on_its_rows(dirty, spark):
    conf = dirty.conf()
    spool = Spool(dirty, spark, newer=lambda: registered_model(conf))
    batches = batches_of(dirty)
    spool.batch(0, batches[0])
    move_alias(dirty, register_again(dirty))
    spool.batch(1, batches[1])
    assert [done.record.version for done in spool.told] == ["1", "2"]
    versions = dirty.rows(SCORED).column("model_version").to_pylist()
    assert (versions.count("1"), versions.count("2")) == (597, 398)
    assert spool.query.version == "2"


def test_alias_that_moved_is_not_taken_where_none_is_followed(spool, dirty):
    batches = batches_of(dirty)
    spool.batch(0, batches[0])
    move_alias(dirty, register_again(dirty))
    spool.batch(1, batches[1])
    assert {done.record.version for done in spool.told} == {"1"}


def test_version_with_other_features_is_not_taken_over_and_says_so(dirty, spark, capsys):
    conf = dirty.conf()
    spool = Spool(dirty, spark, newer=lambda: registered_model(conf))
    dirty.train("model.feature_set=tests.toy.houses:NEVER_NULL")
    batches = batches_of(dirty)
    move_alias(dirty, "2")
    spool.batch(0, batches[0])
    spool.batch(1, batches[1])
    assert {done.record.version for done in spool.told} == {"1"}
    said = capsys.readouterr().err
    assert said.count("version 2 is not taken over, version 1 stays: its feature fingerprint is") == 1
    assert spool.model.declined is not None


def test_registry_that_does_not_answer_stops_no_stream(dirty, spark):
    def broken():
        raise ContractError("the registry is gone")

    spool = Spool(dirty, spark, newer=broken)
    spool.batch(0, batches_of(dirty)[0])
    assert spool.told[0].record.version == "1"
    assert "the registry is gone" in (spool.model.declined or "")


# A checkpoint of which a part is gone


def test_sparks_part_that_was_deleted_is_refused_and_passes_no_row_over(spool, dirty):
    batches = batches_of(dirty)
    spool.run(batches[:2])
    shutil.rmtree(spool.state.spark)
    fresh = Spool(dirty, spool.spark)
    with pytest.raises(RunConflictError, match="Spark is at batch 0 .* knows batch 1"):
        fresh.batch(0, batches[0])


def test_batch_of_the_same_number_and_other_offsets_is_refused(spool, dirty):
    batches = batches_of(dirty)
    spool.run(batches[:2])
    with pytest.raises(RunConflictError, match="of other offsets"):
        spool.batch(1, batches[2], offset='{"logOffset": 7}')
    assert dirty.rows(SCORED).num_rows == 995


def test_older_copy_of_the_checkpoint_is_refused(spool, dirty):
    batches = batches_of(dirty)
    spool.batch(0, batches[0])
    copy = shutil.copytree(spool.state.root, dirty.root / "copy")
    spool.batch(1, batches[1])
    shutil.rmtree(spool.state.root)
    shutil.copytree(copy, spool.state.root)
    with pytest.raises(RunConflictError, match="knows batches up to 0 .* has batch 1 of it"):
        spool.start()


def test_our_part_that_was_deleted_is_refused(spool, dirty):
    spool.batch(0, batches_of(dirty)[0])
    shutil.rmtree(spool.state.path)
    with pytest.raises(RunConflictError, match="nobody knows which of its batches"):
        spool.state.query()


def test_old_records_go_and_the_last_ones_stay(spool, dirty):
    rows = dirty.rows("houses").slice(0, 10)
    for number in range(23):
        spool.batch(number, [rows.slice(0, 1)])
    assert len(list(spool.state.path.glob("batch-*"))) == 20
    assert spool.state.last_record().batch == 22
    assert spool.state.last_record().totals.rows == 23
