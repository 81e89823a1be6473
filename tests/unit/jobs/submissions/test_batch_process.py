"""What the end of a large submission's job means: a row's doing, or nobody's; with another program in the job's place."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from feature_pipelines.errors import UnavailableError
from jobs.submissions import batch_scoring
from jobs.submissions.batch_process import TRY_AGAIN, BatchProcess
from jobs.submissions.batch_scoring import may_be_by_rows
from jobs.submissions.scorer_pool import Crashed
from jobs.submissions.scoring import Model
from jobs.submissions.work import Limits, Refused, Work
from tests.toy.kept import Kept
from tests.toy.processes import wait_until

AT_ROWS = 'os.write(spec["telling"], b"r");'
NOT_BY_ROWS = 'os.write(spec["telling"], b"n");'
SLEEPS = 'subprocess.Popen(["sleep", "600"]); open(sys.argv[1], "w").write(str(os.getpid())); time.sleep(600)'


class Models:
    def of(self, submission: Any) -> Model:
        return Model("directory", submission.model_version, submission.model_digest)


def batch(kept: Kept, program: str, *flags: str, seconds: float = 60.0) -> BatchProcess:
    head = "import json, os, signal, subprocess, sys, time; spec = json.loads(sys.stdin.readline());"
    command = [sys.executable, "-c", head + program]
    return BatchProcess(Models(), flags, kept.ledger, seconds, command)  # type: ignore[arg-type]


def run(kept: Kept, process: BatchProcess, is_wanted: Any = lambda: True) -> None:
    submission = kept.ledger.begin(kept.take(20).submission.id)
    assert submission is not None
    process(submission, is_last=False, is_wanted=is_wanted)


def session_is_gone(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return True
    return all(
        Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        for one in os.listdir("/proc")
        if one.isdigit() and _group(int(one)) == pid
    )


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def test_it_is_told_what_to_do_and_leaves_no_open_file(kept: Kept, tmp_path: Path) -> None:
    file = tmp_path / "told"
    keep = 'open(sys.argv[2], "w").write(sys.argv[1] + json.dumps(spec));'
    run(kept, batch(kept, keep, "--flag", str(file)))  # also a warm-up: the client's own files are open now
    assert file.read_text().startswith("--flag{")
    assert '"is_last": false' in file.read_text()
    before = len(os.listdir("/proc/self/fd"))
    run(kept, batch(kept, keep + AT_ROWS, "--flag", str(file)))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("end", ["sys.exit(70)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_who_ends_at_rows_may_have_been_ended_by_one(kept: Kept, end: str) -> None:
    with pytest.raises(Crashed):
        run(kept, batch(kept, AT_ROWS + end))


@pytest.mark.parametrize(
    "program",
    ["sys.exit(70)", "os.kill(os.getpid(), signal.SIGKILL)", AT_ROWS + NOT_BY_ROWS + "sys.exit(70)"],
)
def test_who_ends_before_rows_or_of_something_else_is_not_their_victim(kept: Kept, program: str) -> None:
    with pytest.raises(UnavailableError, match="by no row"):
        run(kept, batch(kept, program))


@pytest.mark.parametrize("code", [1, 2, 3])
def test_who_says_that_it_cannot_do_it_is_believed(kept: Kept, code: int) -> None:
    with pytest.raises(Refused, match=f"exit code {code}"):
        run(kept, batch(kept, AT_ROWS + f"sys.exit({code})"))


def test_what_did_not_answer_the_job_may_answer_later(kept: Kept) -> None:
    with pytest.raises(UnavailableError):
        run(kept, batch(kept, f"sys.exit({TRY_AGAIN})"))


def test_a_job_says_so_where_what_it_needs_did_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_argv: Any) -> int:
        raise UnavailableError("the database did not answer")

    monkeypatch.setattr(batch_scoring, "_score", away)
    assert batch_scoring.main([]) == TRY_AGAIN


def test_what_is_not_wanted_any_more_is_ended_with_all_that_it_started(kept: Kept, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    run(kept, batch(kept, AT_ROWS + SLEEPS, str(file)), is_wanted=lambda: not file.exists())
    wait_until(lambda: session_is_gone(int(file.read_text())), "the session to end", 20)


def test_what_gets_nowhere_is_ended_with_all_that_it_started(kept: Kept, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with pytest.raises(Crashed, match="too long"):
        run(kept, batch(kept, AT_ROWS + SLEEPS, str(file), seconds=1.5))
    wait_until(lambda: session_is_gone(int(file.read_text())), "the session to end", 20)
    with pytest.raises(UnavailableError, match="too long"):
        run(kept, batch(kept, SLEEPS, str(file), seconds=1.5))


def test_what_gets_somewhere_is_left_alone(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    get, done = kept.ledger.get, []

    def further(id_: str, key_id: str | None = None) -> Any:
        done.append(time.monotonic())
        found = get(id_, key_id)
        assert found is not None
        return type(found)(**{**vars(found), "rows_done": len(done)})

    monkeypatch.setattr(kept.ledger, "get", further)
    run(kept, batch(kept, AT_ROWS + "time.sleep(3)", seconds=1.5))
    assert len(done) > 2


@pytest.mark.parametrize(
    ("program", "reason", "crashes"),
    [
        (AT_ROWS + "sys.exit(70)", "SCORER_CRASHED", 2),
        ("sys.exit(70)", "UNAVAILABLE", 0),
        ("sys.exit(2)", "SPARK_JOB_REFUSED", 0),
    ],
)
def test_of_three_jobs_without_a_jvm_no_row_is_blamed(
    kept: Kept, program: str, reason: str, crashes: int
) -> None:
    limits = Limits(max_crashes=2, max_attempts=4, retry_seconds=0.001)
    id_ = kept.take(20).submission.id
    work = Work(kept.ledger, Models(), None, batch(kept, program), limits)  # type: ignore[arg-type]
    while work.run(id_) is not None:
        pass
    found = kept.ledger.get(id_)
    assert found is not None
    assert (found.state, found.reason, found.crashes) == ("failed", reason, crashes)
    assert found.attempts == (crashes or 4)


@pytest.mark.parametrize(
    ("said", "may"),
    [
        ("Job aborted due to stage failure: ... Python worker exited unexpectedly (crashed)", True),
        ("ExecutorLostFailure (executor 1 exited caused by one of the running tasks)", True),
        ("java.io.IOException: No space left on device", False),
        ("(psycopg.OperationalError) connection failed", False),
        ("PythonException: Traceback ... ModelError", False),
    ],
)
def test_a_process_that_died_is_told_from_what_failed_around_it(said: str, may: bool) -> None:
    assert may_be_by_rows(RuntimeError(said)) == may
