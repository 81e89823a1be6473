"""The Spark job of a large submission as a child of the worker: started, watched, and ended when nobody wants it any more."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.submissions.ledger import Submission
from jobs.submissions.models import Models
from jobs.submissions.scorer_pool import Crashed, Unscored

__all__ = ["BatchProcess"]

_LOOK_SECONDS = 0.5
_OURS = (1, 2, 3)


class BatchProcess:
    """Scores large submissions, each in a process of its own; see `work.LargeScoring`.

    Args:
        models: where versions are.
        flags: of the configuration, as on the worker's own command line.
    """

    def __init__(self, models: Models, flags: Sequence[str]) -> None:
        self._models, self._flags = models, list(flags)

    def __call__(self, submission: Submission, *, is_last: bool, is_wanted: Callable[[], bool]) -> None:
        """Run the job; see `work.LargeScoring`."""
        model = self._models.of(submission)
        spec = {"id": submission.id, "model": dataclasses.asdict(model), "is_last": is_last}
        code = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH", "")]))
        process = subprocess.Popen(
            [sys.executable, "-m", "jobs.submissions.batch_scoring", *self._flags],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        try:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(spec).encode() + b"\n")
                    process.stdin.flush()
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_SECONDS)
                if not is_wanted():
                    return
        finally:
            _end(process)
        if process.returncode in _OURS:
            raise Unscored("SparkJob", f"the Spark job ended with exit code {process.returncode}", True)
        if process.returncode:
            raise Crashed(f"exit code {process.returncode}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its whole session: the JVM and Spark's Python workers are in it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
