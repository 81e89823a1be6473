"""Named places at which a process can be made to stop and wait, so that a test can kill it exactly there.

ONESCORE_PAUSE_AT names a place, ONESCORE_PAUSE_FILE a file: the first process to arrive creates the file, writes its pid and its
parent's into it, and waits to be killed, or until the file is emptied (five minutes at most). Without the variables `reached`
does nothing.
"""

from __future__ import annotations

import json
import os
import time

__all__ = ["BUILD_KILL_POINTS", "KILL_POINTS", "STAGING_POINTS", "STREAM_KILL_POINTS", "reached"]

KILL_POINTS = (
    "plan.before_manifest",
    "plan.after_manifest",
    "task.before_write",
    "task.mid_write",
    "task.after_write",
    "chunk.before_record",
    "chunk.after_record",
    "chunk.after_quarantine_commit",
    "chunk.after_scored_commit",
    "run.before_complete",
    "run.after_complete",
)
BUILD_KILL_POINTS = (
    "build.before_quarantine",
    "build_task.before_write",
    "build_task.after_write",
    "build.before_commit",
    "build.after_commit",
)
STAGING_POINTS = ("stage.before_join", "stage.mid_write", "stage.before_record", "stage.after_record")
"""Passed only where a view is joined by shuffle."""
STREAM_KILL_POINTS = (
    "stream.after_query",
    "stream.before_score",
    "stream_task.mid_write",
    "stream_task.after_write",
    "stream.before_record",
    "stream.after_record",
    "stream.after_quarantine_commit",
    "stream.after_scored_commit",
)
"""Passed by a streaming query, but for the first, in each of its batches."""
_PATIENCE_SECONDS = 300


def reached(point: str) -> None:
    """Wait here if this is the place that ONESCORE_PAUSE_AT names and no process has waited here before."""
    if os.environ.get("ONESCORE_PAUSE_AT") != point:
        return
    try:
        handle = os.open(os.environ["ONESCORE_PAUSE_FILE"], os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except (KeyError, FileExistsError):
        return
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps({"point": point, "pid": os.getpid(), "ppid": os.getppid()}))
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < give_up and _is_full(os.environ["ONESCORE_PAUSE_FILE"]):
        time.sleep(0.05)


def _is_full(file: str) -> bool:
    try:
        return os.path.getsize(file) > 0
    except FileNotFoundError:
        return False
