"""The Spark job of a large submission as a child of the worker: started, watched, and ended when nobody wants it or it gets nowhere.

Only what happens once rows were handed to tasks can be a row's doing: the child says when, by a pipe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from feature_pipelines.errors import UnavailableError
from jobs.submissions.ledger import Ledger, Submission
from jobs.submissions.models import Models
from jobs.submissions.scorer_pool import Crashed
from jobs.submissions.work import Refused

__all__ = ["AT_ROWS", "NOT_BY_ROWS", "TRY_AGAIN", "BatchProcess"]

AT_ROWS = b"r"
"""What the child writes into its pipe before it hands the first rows to tasks."""
NOT_BY_ROWS = b"n"
"""What it writes after that where it fails, but no process that scores did."""

TRY_AGAIN = 75
"""The child's exit code where what it needs did not answer."""

_LOOK_SECONDS = 0.5
_OURS = (1, 2, 3)


class BatchProcess:
    """Scores large submissions, each in a process of its own; see `work.LargeScoring`.

    Args:
        models: where versions are.
        flags: of the configuration, as on the worker's own command line.
        ledger: says how many rows are done.
        timeout_seconds: for so long that number may stay as it is.
        command: what is run, for tests; `flags` come after it.
    """

    def __init__(
        self,
        models: Models,
        flags: Sequence[str],
        ledger: Ledger,
        timeout_seconds: float,
        command: Sequence[str] = (sys.executable, "-m", "jobs.submissions.batch_scoring"),
    ) -> None:
        self._models, self._command = models, [*command, *flags]
        self._ledger, self._timeout_seconds = ledger, timeout_seconds

    def __call__(self, submission: Submission, *, is_last: bool, is_wanted: Callable[[], bool]) -> None:
        """Run the job; see `work.LargeScoring`.

        Raises:
            Crashed: it ended, or stood still, while it was at rows.
            Refused: it said that it cannot do it: a setting, a check, or a table that is not as it must be.
            UnavailableError: it ended for what is no row's doing, such as a JVM that does not start or a disk that is full.
        """
        model = self._models.of(submission)
        told, telling = os.pipe()
        spec = {
            "id": submission.id,
            "model": dataclasses.asdict(model),
            "is_last": is_last,
            "telling": telling,
        }
        code = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH", "")]))
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
                pass_fds=(telling,),
            )
        except BaseException:
            os.close(told)
            raise
        finally:
            os.close(telling)
        try:
            is_late = self._watch(process, spec, is_wanted)
        finally:
            _end(process)
            is_by_rows = _said(told) == AT_ROWS
        if is_late is not None:
            _judge(process.returncode, is_by_rows, is_late)

    def _watch(
        self, process: subprocess.Popen[bytes], spec: Mapping[str, Any], is_wanted: Callable[[], bool]
    ) -> bool | None:
        """Wait for the process; return whether it stood still, None if it is not wanted any more."""
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(spec).encode() + b"\n")
                process.stdin.flush()
        done, since = -1, time.monotonic()
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_SECONDS)
            if not is_wanted():
                return None
            now = self._ledger.get(spec["id"])
            if now is not None and now.rows_done != done:
                done, since = now.rows_done, time.monotonic()
            elif time.monotonic() - since > self._timeout_seconds and process.poll() is None:
                return True
        return False


def _judge(returncode: int, is_by_rows: bool, is_late: bool) -> None:
    """Raise what a job's end means, unless it is a good one; see `BatchProcess.__call__`."""
    if returncode in _OURS:
        raise Refused(f"the Spark job ended with exit code {returncode}; it said why")
    if not returncode:
        return
    how = "it stored nothing for too long" if is_late else f"exit code {returncode}"
    if not is_by_rows:
        raise UnavailableError(f"the Spark job of a large submission failed, and by no row: {how}")
    raise Crashed(how)


def _said(told: int) -> bytes:
    """Return what the child wrote into its pipe, and close it."""
    try:
        os.set_blocking(told, False)  # whoever inherited the other end may live on
        return os.read(told, 16)
    except BlockingIOError:
        return b""
    finally:
        os.close(told)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its whole session: the JVM and Spark's Python workers are in it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
