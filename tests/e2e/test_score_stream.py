"""`jobs.score_stream` as a process: what it prints, how it ends, that it stops when it is told to, and that it survives its death."""

from __future__ import annotations

import re
import signal
import time
from typing import Any

import pytest

from jobs.runs.command import run
from jobs.runs.stream_plan import checkpoint_of
from jobs.runs.stream_state import StreamState
from jobs.score_stream import main
from tests.toy.runs import QUARANTINE, SCORED, start_job
from tests.toy.streams import STEPS, assert_streamed_like, run_stream
from tests.toy.workspace import Workspace

pytestmark = pytest.mark.e2e
NOW = ("--available-now", "--set", STEPS)


@pytest.fixture
def houses(dirty: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The toy model, with the environment by which a job finds it."""
    for name, value in dirty.env().items():
        monkeypatch.setenv(name, value)
    return dirty


def test_killed_driver_is_continued_by_the_same_command(
    dirty: Workspace,
    clean: Workspace,
    spark: Any,
    process_env: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is written of its progress names the process that is dead."""
    with start_job(
        dirty, process_env, *NOW, job="score_stream", pause_at="stream.after_quarantine_commit"
    ) as job:
        job.paused()
        assert dirty.rows(QUARANTINE).num_rows > 0
        assert dirty.rows(SCORED).num_rows == 0
        job.kill(job.pid)
        job.wait_until_all_are_gone()
    told = StreamState(checkpoint_of(dirty.conf())).progress()
    assert (told["state"], told["pid"], told["ended"]) == ("running", job.pid, None)
    run_stream(spark, dirty, STEPS)
    assert_streamed_like(dirty, clean)
    said = capsys.readouterr().err
    assert (
        f"process {job.pid} on {told['host']}, heard of last at {told['heartbeat']}, did not say that it ended"
        in said
    )


@pytest.mark.slow
def test_sigterm_ends_the_job_after_the_batch_under_way_with_its_report(
    dirty: Workspace, clean: Workspace, spark: Any, process_env: dict[str, str]
) -> None:
    flags = ("--set", STEPS, "--set", "stream.trigger=1 second")
    with start_job(dirty, process_env, *flags, job="score_stream", pause_at="stream.before_record") as job:
        job.paused()
        job.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert job.process.poll() is None
        job.release()
        assert job.ended() == 0, job.output.read_text()
        said = job.output.read_text()
    assert "told to stop: the batch under way is finished" in said
    assert "batch 0: 600 rows, 3 quarantined (NULL_NOT_ALLOWED 3); " in said
    assert "batch 1" not in said
    assert ", stopped" in said
    assert (dirty.root / ".onescore/streams/houses/spark/commits/0").exists()
    assert dirty.rows(SCORED).num_rows == 597
    run_stream(spark, dirty, STEPS)
    assert_streamed_like(dirty, clean)


def test_report_and_exit_codes(houses: Workspace, spark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(main, ["--model", "houses", "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert "plan (nothing was written)" in planned
    assert not (houses.root / ".onescore" / "streams").exists()
    assert run(main, ["--model", "houses", *NOW]) == 0
    said = capsys.readouterr()
    assert ", complete" in said.out
    assert "2,000" in said.out
    assert said.err.count("files behind") == 4
    assert run(main, ["--model", "houses", "--dry-run"]) == 0
    assert ", continued" in capsys.readouterr().out
    assert run(main, ["--model", "houses", *NOW]) == 0
    totals = re.search(r"since the first start\n +batches +(\S+)\n +rows +(\S+)\n", capsys.readouterr().out)
    assert totals is not None
    assert totals.groups() == ("4", "2,000")
    assert run(main, ["--model", "houses", *NOW, "--set", "stream.checkpoint=another"]) == 2
    assert "already has rows of model 'houses'" in capsys.readouterr().err
    assert (
        run(main, ["--model", "houses", "--dry-run", "--set", "stream.checkpoint=another", "--beside"]) == 0
    )
    capsys.readouterr()
    assert run(main, ["--model", "houses", *NOW, "--set", "stream.watermark=1 day"]) == 2
    assert "stream.watermark: the run has None, now it is '1 day'" in capsys.readouterr().err


def test_too_many_bad_rows_end_the_job_with_3_and_are_committed(
    houses: Workspace, spark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(main, ["--model", "houses", *NOW, "--set", "quarantine.max_share=0.001"]) == 3
    assert "10 of 2000 rows were quarantined (0.50%, the limit is 0.10%)" in capsys.readouterr().err
    assert (houses.rows(SCORED).num_rows, houses.rows(QUARANTINE).num_rows) == (1_990, 10)
