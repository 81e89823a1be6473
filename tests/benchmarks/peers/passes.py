"""What every measured script does around its work: read the job, run the passes, time each, write the report."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["median_seconds", "read_job", "run_passes"]


def read_job() -> dict[str, Any]:
    """Return the job whose file is the script's only argument, see measure.py; native thread pools get the job's cores."""
    job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["cores"]])
    return job


LONG_SECONDS = 180
"""A pass that takes longer is the last: what a first pass does once does not count in it."""


def run_passes(job: dict[str, Any], score: Callable[[str], Any]) -> None:
    """Run `score(output directory)` as often as the job says, once if it is long; report seconds, and what the last pass returned."""
    seconds, facts = [], None
    for number in range(job["passes"]):
        output = Path(job["output"]) / f"pass-{number}"
        output.mkdir(parents=True)
        started = time.perf_counter()
        facts = score(str(output))
        seconds.append(time.perf_counter() - started)
        if seconds[-1] > LONG_SECONDS:
            break
    Path(job["report"]).write_text(json.dumps({"passes": seconds, "facts": facts}))


def median_seconds(call: Callable[[], Any], times: int) -> float:
    """Return the median of some calls, after one that does not count."""
    call()
    spent = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent)
