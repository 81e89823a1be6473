"""L7 of streams with real SIGKILL: in the driver at every kill point, in its JVM, and in a Python worker.

Slow: each case starts Spark. `test_stream_batch` tries every point in one process, and `test_score_stream` one death for real.
"""

from __future__ import annotations

import signal

import pytest

from jobs.runs.kill_points import STREAM_KILL_POINTS
from tests.toy.runs import SCORED, start_job
from tests.toy.streams import STEPS, assert_streamed_like, run_stream

pytestmark = pytest.mark.slow

TASK_POINTS = tuple(point for point in STREAM_KILL_POINTS if point.startswith("stream_task."))
FLAGS = ("--available-now", "--set", STEPS)


@pytest.mark.parametrize("point", STREAM_KILL_POINTS)
def test_driver_killed(dirty, clean, spark, process_env, point):
    with start_job(dirty, process_env, *FLAGS, job="score_stream", pause_at=point) as job:
        said = job.paused()
        assert said["point"] == point
        assert (said["pid"] == job.pid) == (point not in TASK_POINTS)
        job.kill(job.pid)
        job.wait_until_all_are_gone()
    run_stream(spark, dirty, STEPS)
    assert_streamed_like(dirty, clean)


@pytest.mark.parametrize(
    "point", ["stream_task.mid_write", "stream.after_record", "stream.after_scored_commit"]
)
def test_jvm_killed(dirty, clean, spark, process_env, point):
    """The driver outlives its JVM: it ends by itself, with an error."""
    with start_job(dirty, process_env, *FLAGS, job="score_stream", pause_at=point) as job:
        assert job.paused()["point"] == point
        job.kill(job.jvm())
        job.release()
        assert job.ended() not in (0, -signal.SIGKILL), job.output.read_text()
        job.wait_until_all_are_gone()
    run_stream(spark, dirty, STEPS)
    assert_streamed_like(dirty, clean)


def test_worker_killed(dirty, clean, process_env):
    """Spark gives the task to another worker, and the same process ends by itself."""
    with start_job(dirty, process_env, *FLAGS, job="score_stream", pause_at="stream_task.mid_write") as job:
        said = job.paused()
        assert said["pid"] not in (job.pid, job.jvm())
        job.kill(said["pid"])
        assert job.ended() == 0, job.output.read_text()
    assert_streamed_like(dirty, clean, leftovers=True)


def test_driver_killed_again_and_again(dirty, clean, spark, process_env):
    for point in ("stream.after_record", "stream.after_quarantine_commit", "stream_task.mid_write"):
        with start_job(dirty, process_env, *FLAGS, job="score_stream", pause_at=point) as job:
            assert job.paused()["point"] == point
            job.kill(job.pid)
            job.wait_until_all_are_gone()
    run_stream(spark, dirty, STEPS)
    assert_streamed_like(dirty, clean)
    assert dirty.rows(SCORED).num_rows == 1_990
