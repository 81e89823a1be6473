"""L7, all of it with real SIGKILL: every kill point, in the driver, in its JVM, and in the Python worker that stands there.

Slow: each case starts Spark. `test_nothing_lost` tries every point in one process, and one of each kind of death for real.
"""

from __future__ import annotations

import signal

import pytest

from jobs.runs.batch import score_table
from jobs.runs.kill_points import KILL_POINTS
from tests.toy.runs import assert_equals_clean_run, latest_run, start_job

pytestmark = pytest.mark.slow

TASK_POINTS = tuple(point for point in KILL_POINTS if point.startswith("task."))
NEEDS_NO_SPARK = ("run.before_complete", "run.after_complete")
WITHOUT_LOCK = "import fcntl; fcntl.flock = lambda *_: None"


def has_run(workspace):
    return bool(list((workspace.root / ".onescore" / "runs").glob("*/latest")))


def is_complete(workspace):
    return has_run(workspace) and latest_run(workspace).completed() is not None


@pytest.mark.parametrize("point", KILL_POINTS)
def test_driver_killed(dirty, clean, spark, process_env, point):
    with start_job(dirty, process_env, pause_at=point) as job:
        said = job.paused()
        assert said["point"] == point
        assert (said["pid"] == job.pid) == (point not in TASK_POINTS)
        assert is_complete(dirty) == (point == "run.after_complete")
        job.kill(job.pid)
        job.wait_until_all_are_gone()
    summary, _ = score_table(spark, dirty.conf())
    assert summary.did_nothing == (point == "run.after_complete")
    assert summary.resumed == (point not in ("plan.before_manifest", "run.after_complete"))
    assert_equals_clean_run(dirty, clean)


@pytest.mark.parametrize("point", KILL_POINTS)
def test_jvm_killed(dirty, clean, spark, process_env, point):
    """The driver outlives its JVM: it ends by itself, with an error if there was work left for Spark."""
    with start_job(dirty, process_env, pause_at=point) as job:
        assert job.paused()["point"] == point
        job.kill(job.jvm())
        job.release()
        code = job.ended()
        assert code != -signal.SIGKILL
        assert (code == 0) == is_complete(dirty), job.output.read_text()
        if point not in NEEDS_NO_SPARK:
            assert not is_complete(dirty)
        job.wait_until_all_are_gone()
    score_table(spark, dirty.conf())
    assert_equals_clean_run(dirty, clean)


@pytest.mark.parametrize("point", TASK_POINTS)
def test_worker_killed(dirty, clean, process_env, point):
    """Spark gives the task to another worker, and the same run ends by itself."""
    with start_job(dirty, process_env, pause_at=point) as job:
        said = job.paused()
        assert (said["point"], said["pid"] in job.members()) == (point, True)
        assert said["pid"] not in (job.pid, job.jvm())
        run = latest_run(dirty)
        job.kill(said["pid"])
        assert job.ended() == 0, job.output.read_text()
    assert latest_run(dirty).run_id == run.run_id
    assert not run.completed()["resumed"]
    assert_equals_clean_run(dirty, clean)


@pytest.mark.parametrize("first", ["chunk.after_record", "chunk.after_quarantine_commit"])
def test_driver_killed_twice(dirty, clean, spark, process_env, first):
    for point in (first, "task.mid_write"):
        with start_job(dirty, process_env, pause_at=point) as job:
            assert job.paused()["point"] == point
            job.kill(job.pid)
            job.wait_until_all_are_gone()
    assert score_table(spark, dirty.conf())[0].resumed
    assert_equals_clean_run(dirty, clean)


def test_two_drivers_that_cannot_see_each_others_lock(dirty, clean, spark, process_env):
    """As on two machines whose shared file system has no locks: both continue one run, the tables' logs keep it to once."""
    with start_job(dirty, process_env, pause_at="plan.after_manifest") as job:
        job.paused()
        job.kill(job.pid)
        job.wait_until_all_are_gone()
    with (
        start_job(dirty, process_env, code=WITHOUT_LOCK, pause_at="chunk.after_record") as one,
        start_job(dirty, process_env, code=WITHOUT_LOCK, pause_at="chunk.after_record") as other,
    ):
        one.paused()
        other.paused()
        one.release()
        other.release()
        codes = {one.ended(), other.ended()}
    assert 0 in codes
    assert score_table(spark, dirty.conf())[0].did_nothing
    assert_equals_clean_run(dirty, clean)
