"""Measure batch scoring against its alternatives, side by side, in one run.

Workload A: everything that the features read is in the request table. Workload B: stored views are joined as of each request.
Same rows, same fitted model (100 trees), same cores, same output columns for all; see peers/ for the code of each. Each contestant is a
process that scores the table twice: `cold` is the whole process without the second pass, `warm` the second pass (a pass of more
than three minutes is not repeated, and counts as both). Its scores are compared to scikit-learn's on a sample of rows. What is
short is measured twice, in the opposite order, and the better counts.

Each measurement is appended to results.jsonl as it ends. A run that was interrupted continues; a finished one starts over.
A contestant that fails is reported with its reason. Ends with exit code 0 if ours ran and gave scikit-learn's bits, else 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE), str(HERE / "peers")]

from measure import Failed, measure  # noqa: E402 - after the path is set
from peer_venv import ray_python  # noqa: E402
from results import Results  # noqa: E402
from workload import QUICK_ROWS, Workload, environment, make_workload  # noqa: E402

from tests.benchmarks.publish import add_publish_arguments, publish  # noqa: E402
from tests.benchmarks.report import Report  # noqa: E402

MEMORY_ROWS = (1_000_000, 20_000_000)


@dataclass(frozen=True)
class Contestant:
    """A script to measure.

    Args:
        name: how it is called in the report.
        script: path from this directory, and arguments.
        workloads: which it can do.
        rate: rows per second expected of 2 cores; `start` seconds to start: for the estimate of the whole alone.
        extras: added to its job.
        python: returns its interpreter.
        threads: OMP_NUM_THREADS; 0 = the cores.
    """

    name: str
    script: tuple[str, ...]
    workloads: str
    rate: int
    start: int
    extras: Mapping[str, Any] = field(default_factory=dict)
    python: Callable[[], str] = lambda: sys.executable
    threads: int = 0


OURS = "onescore"
CONTESTANTS = (
    Contestant(OURS, ("ours.py", "batch"), "AB", 900_000, 12, threads=1),
    Contestant("onescore score_udf", ("ours.py", "udf"), "AB", 400_000, 15, threads=1),
    Contestant("spark_udf", ("peers/spark_udf.py",), "A", 150_000, 20, threads=1),
    Contestant(
        "spark_udf, window join", ("peers/spark_udf.py",), "B", 60_000, 20, {"join": "window"}, threads=1
    ),
    Contestant(
        "spark_udf, broadcast interval join",
        ("peers/spark_udf.py",),
        "B",
        100_000,
        20,
        {"join": "interval"},
        threads=1,
    ),
    Contestant("Ray Data", ("peers/ray_data.py",), "AB", 120_000, 20, python=ray_python, threads=1),
    Contestant("Polars streaming", ("peers/polars_streaming.py",), "AB", 250_000, 5),
    Contestant("pyarrow + scikit-learn", ("peers/pyarrow_script.py",), "AB", 250_000, 5),
    Contestant(
        "scikit-learn ceiling", ("peers/sklearn_ceiling.py",), "A", 500_000, 15, {"has_output": False}
    ),
)
BUDGET = Contestant("time budget", ("budget.py",), "B", 400_000, 10, {"has_output": False}, threads=1)


def main() -> int:
    arguments = _arguments()
    home = Path(arguments.home).resolve()
    home.mkdir(parents=True, exist_ok=True)
    os.environ.update(ONESCORE_HOME=str(home))
    results = Results(
        home / "results.jsonl", {"rows": arguments.rows, "cores": arguments.cores}, arguments.only
    )
    say(f"preparing tables and model in {home}")
    workload = make_workload(home, arguments.rows, arguments.cores)
    bench = Bench(workload, results, arguments.cores)
    chosen = [c for c in CONTESTANTS if _is_asked_for(c, arguments.only)]
    say(
        f"measuring {len(chosen)} contestants on {arguments.rows:,} rows, {arguments.cores} cores: {_estimate(chosen, arguments.rows)}"
    )
    for contestant, name in _pairs(chosen):
        bench.measure(contestant, name, 1)
    for contestant, name in reversed(list(_pairs(chosen))):
        first = results.get(name, contestant.name, 1) or {}
        if first.get("took_s", arguments.repeat_below) < arguments.repeat_below and "failed" not in first:
            bench.measure(contestant, name, 2)
    if _is_asked_for(BUDGET, arguments.only):
        bench.measure(BUDGET, "B", 1)
    if not arguments.only:
        for rows in MEMORY_ROWS if arguments.full else ():
            Bench(make_workload(home, rows, arguments.cores), results, arguments.cores).measure_memory(rows)
        results.finish()
    report = Report(results.records, arguments.rows, arguments.cores, OURS)
    publish("batch", report.entries(), report.markdown(), arguments)
    return 0 if report.is_sound() else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, default=10_000_000, help="rows of each table (default: %(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROWS:,} rows: does it work, not how fast is it"
    )
    parser.add_argument("--full", action="store_true", help="also peak memory of the job at 1M and 20M rows")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="measure these again (part of the name), report all"
    )
    parser.add_argument(
        "--cores", type=int, default=2, help="cores for each contestant (default: %(default)s)"
    )
    parser.add_argument(
        "--repeat-below",
        type=float,
        default=60,
        help="measure twice what takes less seconds (default: %(default)s)",
    )
    add_publish_arguments(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows = QUICK_ROWS
    return arguments


def _is_asked_for(contestant: Contestant, only: list[str] | None) -> bool:
    return not only or any(part.lower() in contestant.name.lower() for part in only)


def _pairs(contestants: list[Contestant]) -> Iterator[tuple[Contestant, str]]:
    return ((contestant, name) for name in "AB" for contestant in contestants if name in contestant.workloads)


def _estimate(contestants: list[Contestant], rows: int) -> str:
    once = [c.start + 2 * rows / c.rate for c, _ in _pairs(contestants)]
    return f"about {sum(s * (2 if s < 60 else 1) for s in once) / 60 + 1:.0f} minutes on an idle machine"


class Bench:
    """Measures contestants on one workload."""

    def __init__(self, workload: Workload, results: Results, cores: int) -> None:
        self.workload = workload
        self.results = results
        self.cores = cores
        self.reference = workload.reference()

    def measure(self, contestant: Contestant, name: str, number: int) -> None:
        self._measure(contestant, name, (name, contestant.name, number), passes=2)

    def measure_memory(self, rows: int) -> None:
        """Measure the peak memory of one pass of the job, with look-ups, on this workload's rows."""
        self._measure(CONTESTANTS[0], "B", ("memory", OURS, rows), passes=1)

    def _measure(self, contestant: Contestant, name: str, key: tuple[Any, ...], passes: int) -> None:
        if self.results.has(*key):
            return
        started, load = time.perf_counter(), round(os.getloadavg()[0], 1)
        try:
            found = self._run(contestant, name, passes)
        except Failed as failed:
            found = {"failed": str(failed)}
        took = round(time.perf_counter() - started, 1)
        self.results.add(*key, took_s=took, load_before=load, rows=self.workload.rows, **found)
        say(f"  {'/'.join(map(str, key))}: {found.get('failed') or _in_short(found)} (took {took:.0f} s)")

    def _run(self, contestant: Contestant, name: str, passes: int) -> dict[str, Any]:
        threads = str(contestant.threads or self.cores)
        variables = {"OMP_NUM_THREADS": threads, "POLARS_MAX_THREADS": str(self.cores)}
        script, *options = contestant.script
        workload = self.workload
        job = {
            **workload.job(),
            "workload": name,
            "requests": workload.files(name),
            "requests_directory": str(workload.requests(name)),
            "home": str(workload.home),
            "scratch": str(
                workload.home / "scratch" / f"{name}-{contestant.name.replace(' ', '-').replace(',', '')}"
            ),
            "cores": self.cores,
            "passes": passes,
            "has_output": True,
            **contestant.extras,
        }
        command = [contestant.python(), str(HERE / script), *options]
        return measure(command, job, environment(**variables), self.reference, workload.rows)


def _in_short(found: dict[str, Any]) -> str:
    return f"cold {found['cold_s']:.1f} s, warm {found['warm_s']:.1f} s"


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
