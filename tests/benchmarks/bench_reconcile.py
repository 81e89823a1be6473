"""Measure reconciling a prediction log against scoring the same requests, and whether a clean log has no differing bit.

    python -m tests.benchmarks.bench_reconcile [--rows 1000000]

The log is made once per home and number of rows, by the code that every server answers with, month by month; each request is
answered as of its own time, with the stored rows that were visible then. An interrupted run goes on with the next month. Then
`jobs.score_batch` and `jobs.reconcile_scores` run over these requests, each as a process of its own from start to exit, in turn, and
the better of the rounds counts: reconciling may take twice the time of scoring.

Peak memory is of this log and of one in which each answer stands four times, as the answer of another process. Both get a JVM of
512 MB, which either fills: what is kept for each row would show, where a large heap fills up with what nobody needs any more. No
process may take more than 1.25 times as much for four times the rows.

Ends with exit code 1, and says why, if one of the two is exceeded, a row was not compared, was refused, stands in the log twice or is
lost, or a bit differs.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT), str(HERE), str(HERE / "peers")]

import numpy as np  # noqa: E402 - after the path is set
from measure import Finished, run  # noqa: E402
from workload import Workload, conf_of, environment, make_workload  # noqa: E402

from feature_pipelines.features.flights import FEATURES  # noqa: E402
from jobs.online.replay import groups  # noqa: E402
from jobs.online.replay_ask import ScorerAsker  # noqa: E402
from jobs.online.replay_source import RequestSource, ViewSource  # noqa: E402
from jobs.runs.views import pin_view  # noqa: E402
from jobs.tables.snapshot import pin_snapshot  # noqa: E402
from tests.benchmarks.publish import add_publish_arguments, entry, publish, table  # noqa: E402
from tests.toy.past import Past, PastStore  # noqa: E402
from udfs.bundle import load_bundle  # noqa: E402
from udfs.online import OnlineScorer  # noqa: E402
from udfs.prediction_files import FILE_NAME  # noqa: E402
from udfs.prediction_log import PredictionLog  # noqa: E402
from udfs.registry import fetch  # noqa: E402

ROWS = 1_000_000
YEAR = 2013
MAX_QUEUE = 200_000
ASK_ROWS = 1_000
COMPLETE = "complete"
ROUNDS = 2
COPIES = 4
SMALL_HEAP = "spark.conf={spark.driver.memory: 512m}"
MOST_TIME, MOST_MEMORY = 2.0, 1.25


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=ROWS, help="answered requests (default: %(default)s)")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default: %(default)s")
    add_publish_arguments(parser)
    arguments = parser.parse_args()
    log = make_log(arguments.home.resolve(), arguments.rows, arguments.cores)
    found = [measure_both(log, arguments.cores) for _ in range(arguments.rounds)]
    scored = min((pair[0] for pair in found), key=lambda finished: finished.seconds)
    reconciled = min((pair[1] for pair in found), key=lambda finished: finished.seconds)
    report = newest_report(log)
    failures = faults_of(report, arguments.rows)
    small = reconcile(log, arguments.cores, SMALL_HEAP)
    large = reconcile(copied(log), arguments.cores, SMALL_HEAP)
    failures += faults_of(newest_report(log), COPIES * arguments.rows)
    records = records_of(arguments.rows, scored, reconciled, small, large)
    failures += exceeded(records)
    publish("reconcile", records, table(records) + said(report, scored, reconciled), arguments)
    for failure in failures:
        print(f"FAILED: {failure}", file=sys.stderr, flush=True)
    return 1 if failures else 0


# --- the log


class Log(NamedTuple):
    """Requests, and what was answered to them."""

    workload: Workload
    directory: Path


def make_log(home: Path, rows: int, cores: int) -> Log:
    """Return a log of the answers to `rows` requests, made unless it is there."""
    workload = make_workload(home, rows, cores)
    bundle = fetch(workload.version, home / "cache")
    made = home / f"log-{rows}-{workload.version.digest[:12]}"
    left = [month for month in range(1, 13) if not (made / f"month-{month:02d}").exists()]
    if left:
        begun = time.perf_counter()
        with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
            tasks = [pool.submit(_answer_month, str(made), str(bundle), workload, month) for month in left]
            for task in tasks:
                task.result()
        seconds = time.perf_counter() - begun
        print(f"logged the answers of {len(left)} months in {seconds:.0f} s", file=sys.stderr, flush=True)
    return Log(workload, made / "log")


def _answer_month(made: str, bundle: str, workload: Workload, month: int) -> None:
    """Answer a month's requests into a log of its own, and move its files to the others' when all are there."""
    scratch, target = Path(made) / f"making-{month:02d}", Path(made) / "log"
    if not (scratch / COMPLETE).exists():
        shutil.rmtree(scratch, ignore_errors=True)
        _answer(scratch, Path(bundle), workload, month)
        (scratch / COMPLETE).touch()
    for file in sorted(scratch.rglob("*")):
        if file.is_file() and file.name != COMPLETE:
            (target / file.relative_to(scratch)).parent.mkdir(parents=True, exist_ok=True)
            file.rename(target / file.relative_to(scratch))
    (Path(made) / f"month-{month:02d}").touch()
    shutil.rmtree(scratch)


def _answer(log_directory: Path, bundle: Path, workload: Workload, month: int) -> None:
    scorer = load_bundle(bundle, expected_digest=workload.version.digest)
    store = PastStore(_past(str(workload.home)))
    log = PredictionLog(log_directory, lambda: store.now, flush_seconds=3600.0, max_queue=MAX_QUEUE)
    requests = RequestSource(scorer.feature_set, pin_snapshot(str(workload.requests("B"))))
    asked = requests.rows(_beginning(month) - 1, _beginning(month + 1) - 1)
    version = workload.version.version
    online = OnlineScorer(scorer, store, clock=lambda: store.now, log=log, model_version=version)
    with closing(ScorerAsker(online, MAX_QUEUE)) as ask:
        # at each of the distinct times other rows are visible
        for start, end in groups([np.unique(asked.as_of)], asked.as_of):
            store.now = int(asked.as_of[start])
            for at in range(start, end, ASK_ROWS):
                ask(asked.rows[at : min(at + ASK_ROWS, end)])


@functools.cache
def _past(home: str) -> Past:
    """Return what a store held in the year; a process reads it once."""
    conf = conf_of(Path(home))
    sources = [
        ViewSource(view, pin_view(view, conf.table_location(conf.views[view.name])))
        for view in FEATURES.views
    ]
    return Past(sources, _beginning(13))


def _beginning(month: int) -> int:
    """Return when a month begins, microseconds; the first one and the last take in what local time has of the years beside."""
    year = YEAR - 1 if month == 1 else YEAR + 1 if month > 12 else YEAR
    return round(datetime(year, 12 if month in (1, 13) else month, 1, tzinfo=UTC).timestamp()) * 1_000_000


def copied(log: Log) -> Log:
    """Return a log that has each answer four times: the same files under other processes' names."""
    target = log.directory.with_name(f"log-times-{COPIES}")
    for file in sorted(log.directory.rglob("*")):
        match = FILE_NAME.fullmatch(file.name)
        for copy in range(COPIES) if match else ():
            name = f"part-{match['process']}-{copy}-{match['first']}-{match['last']}.parquet"
            link = target / file.relative_to(log.directory).with_name(name)
            if not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                os.link(file, link)
    return log._replace(directory=target)


# --- the measurements


def measure_both(log: Log, cores: int) -> tuple[Finished, Finished]:
    """Score the requests, then reconcile the log with them."""
    output = log.directory.parent / "scored"
    finished = _job(
        log, cores, "score_batch", "--new-run", "--set", f"output.scored={output}", "--set", _quarantine(log)
    )
    shutil.rmtree(output, ignore_errors=True)
    return finished, reconcile(log, cores)


def reconcile(log: Log, cores: int, *settings: str) -> Finished:
    """Reconcile a log, whatever it shows."""
    limits = [
        f"skew.max_{name}_share=1" for name in ("differing", "flip", "unexplained", "lost", "uncompared")
    ]
    allowed = [word for setting in (*limits, *settings) for word in ("--set", setting)]
    return _job(log, cores, "reconcile_scores", "--log", str(log.directory), *allowed)


def _quarantine(log: Log) -> str:
    return f"output.quarantine={log.directory.parent / 'quarantine'}"


def _job(log: Log, cores: int, name: str, *arguments: str) -> Finished:
    settings = [
        f"storage.root={log.workload.home}",
        f"storage.runs={log.directory.parent}/runs",
        f"input.source={log.workload.requests('B')}",
        f"spark.master=local[{cores},4]",
    ]
    command = [sys.executable, "-m", f"jobs.{name}", "--model", "flights", *arguments]
    command += [word for setting in settings for word in ("--set", setting)]
    return run(command, environment(OMP_NUM_THREADS="1"), log.directory.parent / f"{name}.txt")


def newest_report(log: Log) -> dict[str, Any]:
    """Return what the newest reconciliation found."""
    files = sorted((log.workload.home / "skew" / "flights").glob("*/report.json"))
    report: dict[str, Any] = json.loads(files[-1].read_text())
    return report


def faults_of(report: Mapping[str, Any], rows: int) -> list[str]:
    """Return in what a comparison of so many answered requests is not perfect."""
    wanted = {"rows_logged": rows, "rows_compared": rows, "rows_equal": rows} | dict.fromkeys(_NONE, 0)
    return [
        f"{name} is {report[name]:,}, expected {value:,}"
        for name, value in wanted.items()
        if report[name] != value
    ]


_NONE = (
    "rows_differing",
    "rows_refused_online",
    "rows_refused_offline",
    "rows_lost",
    "rows_not_yet_written",
    "rows_duplicated",
    "rows_not_comparable",
    "rows_corrected",
    "requests_not_in_table",
    "unexplained",
)
_SPEED = "reconcile/reconciling, against scoring the same requests"
_MEMORY = f"reconcile/peak memory of the {{}} for {COPIES} times the rows, against once"


def records_of(
    rows: int, scored: Finished, reconciled: Finished, small: Finished, large: Finished
) -> list[dict[str, Any]]:
    """Return the records {name, ours, peer, ratio, unit, rows}: against batch scoring, and memory against a smaller log."""
    records = [entry(_SPEED, rows / reconciled.seconds, rows / scored.seconds, "rows/s", rows)]
    for role in ("driver", "jvm", "worker"):
        name, peak = _MEMORY.format(role), large.peak_mb[role]
        records.append(entry(name, peak, small.peak_mb[role], "MB", COPIES * rows))
    return records


def exceeded(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which of the records are beyond what is allowed."""
    found = []
    for record in records:
        is_speed = record["name"] == _SPEED
        times = record["peer"] / record["ours"] if is_speed else record["ours"] / record["peer"]
        most = MOST_TIME if is_speed else MOST_MEMORY
        if times > most:
            found.append(
                f"{record['name'].partition('/')[2]}: {times:.2f} times as much, allowed is {most} times"
            )
    return found


def said(report: dict[str, Any], scored: Finished, reconciled: Finished) -> str:
    """Return what was found, for people."""
    return (
        f"\n{report['rows_compared']:,} answered requests compared with their batch recomputation, every feature and score: "
        f"{report['rows_differing']:,} rows differ in a bit. Whole processes: {scored.seconds:.0f} s to score, "
        f"{reconciled.seconds:.0f} s to reconcile ({reconciled.seconds / scored.seconds:.2f} times).\n"
    )


if __name__ == "__main__":
    sys.exit(main())
