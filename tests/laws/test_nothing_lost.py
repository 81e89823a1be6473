"""L7: nothing lost, nothing twice. A run that died anywhere, any number of times, ends as one clean run.

Most deaths here are in this process, which is quick, so that every place is tried; three are SIGKILL of a real process. All
places with real SIGKILL are in test_kill_sweep.
"""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest

from feature_pipelines.errors import RunConflictError, VerificationError
from jobs.runs import group_lock, score_run
from jobs.runs.batch import plan_from, score_table
from jobs.runs.group_lock import Busy
from jobs.runs.kill_points import KILL_POINTS
from jobs.runs.score_run import score
from jobs.runs.score_task import ScoreTask
from jobs.tables.delta import orphans
from tests.toy.runs import (
    BAD_HOUSES,
    QUARANTINE,
    SCORED,
    InThisProcess,
    Killed,
    assert_equals_clean_run,
    content,
    dies_at,
    latest_run,
    start_job,
)

ONCE_PER_RUN = ("plan.before_manifest", "plan.after_manifest", "run.before_complete", "run.after_complete")


@pytest.fixture
def session(spark):
    return InThisProcess(spark)


def test_clean_run_scores_or_quarantines_every_row_once(clean):
    assert_equals_clean_run(clean, clean)
    assert sorted(clean.rows(QUARANTINE).column("row_id").to_pylist()) == sorted(map(str, BAD_HOUSES))


# --- deaths


@pytest.mark.parametrize("point", KILL_POINTS)
def test_a_run_that_died_once_ends_as_a_clean_run(dirty, clean, session, monkeypatch, point):
    with dies_at(monkeypatch, point):
        score_table(session, dirty.conf())
    summary, _ = score_table(session, dirty.conf())
    assert summary.did_nothing == (point == "run.after_complete")
    assert_equals_clean_run(dirty, clean)


@pytest.mark.parametrize("point", [point for point in KILL_POINTS if point not in ONCE_PER_RUN])
def test_a_run_that_died_in_a_later_chunk_ends_as_a_clean_run(dirty, clean, session, monkeypatch, point):
    with dies_at(monkeypatch, point, arrival=3):
        score_table(session, dirty.conf())
    score_table(session, dirty.conf())
    assert_equals_clean_run(dirty, clean)


@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_died_again_and_again_ends_as_a_clean_run(dirty, clean, session, monkeypatch, seed):
    rng = random.Random(seed)
    for _ in range(5):
        with monkeypatch.context() as patch:
            _die_at_random(patch, rng)
            try:
                score_table(session, dirty.conf())
            except Killed:
                continue
    score_table(session, dirty.conf())
    assert_equals_clean_run(dirty, clean)


def _die_at_random(patch, rng):
    left = rng.randrange(60)

    def reached(_point):
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    for module in ("score_run", "score_task"):
        patch.setattr(f"jobs.runs.{module}.reached", reached)


def test_what_a_dead_run_wrote_is_invisible_until_it_is_committed_quarantine_first(
    dirty, session, monkeypatch
):
    with dies_at(monkeypatch, "chunk.after_record"):
        score_table(session, dirty.conf())
    assert (dirty.rows(SCORED).num_rows, dirty.rows(QUARANTINE).num_rows) == (0, 0)
    assert orphans(dirty.table(SCORED), latest_run(dirty).run_id)
    with dies_at(monkeypatch, "chunk.after_quarantine_commit"):
        score_table(session, dirty.conf())
    assert (dirty.rows(SCORED).num_rows, dirty.rows(QUARANTINE).num_rows) == (0, 3)
    with dies_at(monkeypatch, "chunk.after_scored_commit"):
        score_table(session, dirty.conf())
    assert (dirty.rows(SCORED).num_rows, dirty.rows(QUARANTINE).num_rows) == (597, 3)


def test_a_rerun_scores_again_only_what_has_no_record(dirty, clean, session, monkeypatch):
    with dies_at(monkeypatch, "chunk.after_record", arrival=3):
        score_table(session, dirty.conf())
    scored = []
    original = score_run._Run._score
    monkeypatch.setattr(
        score_run._Run, "_score", lambda run, chunk: (scored.append(chunk), original(run, chunk))[1]
    )
    summary, _ = score_table(session, dirty.conf())
    assert scored == [3]
    assert summary.resumed
    assert (summary.rows_in, summary.rows_scored, summary.rows_quarantined) == (2_000, 1_990, 10)
    assert_equals_clean_run(dirty, clean)


def test_tasks_that_ran_twice_count_once(dirty, clean, session, monkeypatch):
    """Spark runs a task again when it believes the first attempt dead; the files of one of them are then left over."""
    original = ScoreTask.run
    monkeypatch.setattr(
        ScoreTask, "run", lambda task, number: (original(task, number), original(task, number))[1]
    )
    score_table(session, dirty.conf())
    assert_equals_clean_run(dirty, clean)


# --- what must not be continued


def test_a_run_cut_another_way_is_not_continued(dirty, clean, session, monkeypatch):
    """Chunk 1 of another size holds other rows: continued, rows would be lost and others scored twice."""
    with dies_at(monkeypatch, "chunk.after_scored_commit"):
        score_table(session, dirty.conf())
    with pytest.raises(
        RunConflictError,
        match=r"cut: the run has '4 chunks of up to 600 rows.*now it is '10 chunks of up to 200",
    ):
        score_table(session, dirty.conf("score.chunk_rows=200"))
    with pytest.raises(
        RunConflictError, match=r"cut: .*10 tasks of up to 200.*now it is .*10 tasks of up to 399"
    ):
        score_table(session, dirty.conf("score.unit_rows=399"))
    score_table(session, dirty.conf("score.batch_rows=13"))
    assert_equals_clean_run(dirty, clean)


# --- rows that go missing inside


def sabotaged(monkeypatch, change):
    original = ScoreTask._scored
    monkeypatch.setattr(ScoreTask, "_scored", lambda task, *arguments: change(original(task, *arguments)))


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[1:],
        lambda rows: rows.take([0, *range(rows.num_rows)]),
        lambda rows: rows.take([0, 0, *range(2, rows.num_rows)]),
        lambda rows: rows.set_column(
            0, rows.schema.field(0), [f"{one}x" for one in rows.column(0).to_pylist()]
        ),
    ],
    ids=["lost", "doubled", "doubled in place of another", "another id"],
)
def test_a_row_that_a_task_loses_doubles_or_renames_is_found_before_anything_is_committed(
    dirty, session, monkeypatch, change
):
    sabotaged(monkeypatch, change)
    with pytest.raises(VerificationError, match=r"chunk 0: read 600 ids, checksum \w+, but wrote \d+ ids"):
        score_table(session, dirty.conf())
    assert (dirty.rows(SCORED).num_rows, dirty.rows(QUARANTINE).num_rows) == (0, 0)


@pytest.mark.parametrize(
    "change", [lambda lines: lines[:-1], lambda lines: [*lines, lines[0]]], ids=["lost", "doubled"]
)
def test_a_task_result_that_spark_loses_or_doubles_is_found(dirty, session, monkeypatch, change):
    from tests.toy import runs

    collect = runs._Frame.collect
    monkeypatch.setattr(runs._Frame, "collect", lambda frame: change(collect(frame)))
    with pytest.raises(VerificationError, match="chunk 0: 3 units were sent out, [24] came back"):
        score_table(session, dirty.conf())


# --- two at once


def in_threads(n, work):
    """Run the work in n threads at once and return what each returned or raised."""
    results = [None] * n

    def run(i):
        try:
            results[i] = work(i)
        except BaseException as exc:  # noqa: BLE001 - handed to the test
            results[i] = exc

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


def test_of_two_at_once_one_works_and_the_other_is_told_who(dirty, clean, session, monkeypatch):
    plan = plan_from(dirty.conf(), dirty.root / ".onescore" / "cache")
    inside, go_on = threading.Event(), threading.Event()

    def reached(point):
        if point == "chunk.after_record":
            inside.set()
            go_on.wait(60)

    monkeypatch.setattr(score_run, "reached", reached)
    first = threading.Thread(target=score, args=(session, plan))
    first.start()
    assert inside.wait(60)
    with pytest.raises(Busy, match=r"process \d+ on .* is working on it"):
        score(session, plan)
    go_on.set()
    first.join(60)
    assert_equals_clean_run(dirty, clean)


@pytest.mark.parametrize("point", ["plan.after_manifest", "chunk.after_quarantine_commit"])
def test_drivers_that_do_not_see_each_others_lock_still_give_one_clean_run(
    dirty, clean, session, monkeypatch, point
):
    """Two machines on a file system without locks: what holds then are the transactions in the tables' logs."""
    with dies_at(monkeypatch, point):
        score_table(session, dirty.conf())
    plan = plan_from(dirty.conf(), dirty.root / ".onescore" / "cache")
    monkeypatch.setattr(group_lock.fcntl, "flock", lambda *_: None)
    together = threading.Barrier(3)
    arrivals = Counter()

    def reached(place):
        """Let all three commit the same chunk at the same moment, as often as they still keep step."""
        arrivals[place] += 1
        if place == "chunk.after_record":
            try:
                together.wait(2)
            except threading.BrokenBarrierError:
                return

    monkeypatch.setattr(score_run, "reached", reached)
    results = in_threads(3, lambda _: score(session, plan))
    assert arrivals["chunk.after_record"] > 4
    assert any(getattr(result, "rows_in", 0) == 2_000 for result in results), results
    monkeypatch.setattr(score_run, "reached", lambda _: None)
    score(session, plan)
    assert_equals_clean_run(dirty, clean)


# --- real processes, really killed


def test_killed_driver(dirty, clean, spark, process_env):
    with start_job(dirty, process_env, pause_at="chunk.after_quarantine_commit") as job:
        said = job.paused()
        assert (said["point"], said["pid"]) == ("chunk.after_quarantine_commit", job.pid)
        assert latest_run(dirty).completed() is None
        job.kill(job.pid)
        job.wait_until_all_are_gone()
    assert content(dirty, QUARANTINE).total() == 3
    summary, _ = score_table(spark, dirty.conf())
    assert summary.resumed
    assert_equals_clean_run(dirty, clean)


def test_killed_executor_jvm(dirty, clean, spark, process_env):
    with start_job(dirty, process_env, pause_at="task.mid_write") as job:
        said = job.paused()
        assert said["pid"] in job.members()
        assert said["pid"] not in (job.pid, job.jvm())
        job.kill(job.jvm())
        assert job.ended() not in (0, -9)
        assert latest_run(dirty).completed() is None
        job.wait_until_all_are_gone()
    score_table(spark, dirty.conf())
    assert_equals_clean_run(dirty, clean)


def test_killed_python_worker_is_replaced_and_the_same_run_ends(dirty, clean, process_env):
    with start_job(dirty, process_env, pause_at="task.after_write") as job:
        said = job.paused()
        assert said["pid"] not in (job.pid, job.jvm())
        run = latest_run(dirty)
        job.kill(said["pid"])
        assert job.ended() == 0, job.output.read_text()
    assert latest_run(dirty).run_id == run.run_id
    assert not run.completed()["resumed"]
    assert_equals_clean_run(dirty, clean)
