"""One measurement: a script in a process of its own, timed and its processes' memory sampled, its output checked and removed."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from workload import Reference

_SAMPLE_SECONDS = 0.4
_SILENT_SECONDS = 3600


class Failed(Exception):
    """A contestant did not finish, or its output is not that of the model."""


@dataclass(frozen=True)
class Finished:
    """What a process took.

    Args:
        seconds: from before its start to after its exit.
        peak_mb: largest resident memory seen: of the process itself ("driver"), of the JVM below it ("jvm"), of the largest
            other process below it ("worker"), and of all together ("all"; pages that processes share count in each).
    """

    seconds: float
    peak_mb: dict[str, float]


def measure(
    command: list[str], job: dict[str, Any], environment: dict[str, str], reference: Reference, rows: int
) -> dict[str, Any]:
    """Run a contestant twice over the workload in one process and return what there is to say of it.

    `cold_s` is the whole process without its last pass, `warm_s` the last pass.

    Args:
        command: the script; the job's file becomes its last argument.
        job: see peers/passes.py; gets `output`, `scratch` and `report` here.
        environment: of the process.
        reference: the scores that it must give.
        rows: how many rows it must write.

    Raises:
        Failed: with the reason in a line.
    """
    scratch = Path(job["scratch"])
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    job = {**job, "output": str(scratch / "output"), "report": str(scratch / "report.json")}
    (scratch / "job.json").write_text(json.dumps(job))
    try:
        finished = run([*command, str(scratch / "job.json")], environment, scratch / "log.txt")
        report = json.loads(Path(job["report"]).read_text())
        outputs = sorted(Path(job["output"]).glob("pass-*")) if job["has_output"] else []
        checks = [_check(output, reference, rows) for output in outputs]
    except BaseException:
        shutil.rmtree(scratch / "output", ignore_errors=True)  # the log stays for whoever looks into it
        raise
    shutil.rmtree(scratch)
    worst = (
        {key: max(check[key] for check in checks) for key in ("max_abs_diff", "differing_bits")}
        if checks
        else None
    )
    return {
        "cold_s": round(finished.seconds - sum(report["passes"][1:]), 3),
        "warm_s": round(report["passes"][-1], 3),
        "peak_mb": finished.peak_mb,
        "facts": report["facts"],
        "check": worst,
    }


def run(command: list[str], environment: dict[str, str], log: Path) -> Finished:
    """Run a process to its end.

    Raises:
        Failed: its exit code is not 0, or it takes more than an hour.
    """
    peaks: dict[str, float] = defaultdict(float)
    started = time.perf_counter()
    with (
        log.open("wb") as file,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            start_new_session=True,  # what cleans up after itself by process group cannot reach us
        ) as process,
    ):
        watched = psutil.Process(process.pid)
        known: list[psutil.Process] = []
        try:
            while True:
                try:
                    process.wait(_SAMPLE_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    known = _sample(watched, peaks) or known
                if time.perf_counter() - started > _SILENT_SECONDS:
                    raise Failed(f"stopped after {_SILENT_SECONDS} s")
            seconds = time.perf_counter() - started
        finally:
            _end([watched, *known])
    if process.returncode:
        raise Failed(f"exit code {process.returncode}: {_reason(log)}")
    return Finished(seconds, {role: round(peak / 2**20, 1) for role, peak in peaks.items()})


def _sample(process: psutil.Process, peaks: dict[str, float]) -> list[psutil.Process]:
    """Take one sample of the process's tree; return its descendants."""
    now: dict[str, float] = defaultdict(float)
    try:
        below = process.children(recursive=True)
    except psutil.Error:
        return []
    for one in (process, *below):
        try:
            with one.oneshot():
                used = one.memory_info().rss
                role = "driver" if one == process else "jvm" if one.name() == "java" else "worker"
        except psutil.Error:
            continue
        now[role] = max(now[role], used)
        now["all"] += used
    for role, used in now.items():
        peaks[role] = max(peaks[role], used)
    return below


def _end(processes: list[psutil.Process]) -> None:
    """End what a contestant left behind."""
    for one in processes:
        try:
            one.kill()  # psutil checks that the id still means this process
        except psutil.Error:
            continue


def _reason(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if "Error" in line or "Exception" in line]
    return (told or lines or ["it said nothing"])[-1][:300]


def _check(output: Path, reference: Reference, rows: int) -> dict[str, Any]:
    """Compare an output to the reference: all rows there, each sampled id once, the scores."""
    found = ds.dataset(output, format="parquet")
    if (n := found.count_rows()) != rows:
        raise Failed(f"wrote {n} rows, expected {rows}")
    wanted = ds.field("row_id").isin(reference.row_id)
    table = found.to_table(columns=["row_id", "score", "label"], filter=wanted)
    place = pc.index_in(reference.row_id, table["row_id"].combine_chunks().cast(pa.string()))
    if table.num_rows != len(reference.row_id) or place.null_count:
        raise Failed(
            f"of {len(reference.row_id)} sampled ids {table.num_rows} rows came out, {place.null_count} ids are missing"
        )
    score = table["score"].combine_chunks().take(place).to_numpy(zero_copy_only=False)
    return {
        "max_abs_diff": float(np.abs(score - reference.score).max()),
        "differing_bits": int((score.view(np.uint64) != reference.score.view(np.uint64)).sum()),
    }
