"""Score a stream of requests with a registered model into a Delta table, each row once, whatever dies meanwhile.

python -m jobs.score_stream --model flights --available-now
spark-submit jobs/score_stream.py --model flights --env prod --set stream.format=kafka --set stream.options.subscribe=flights
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from feature_pipelines.errors import ContractError
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.conf import Conf
from jobs.runs.progress import say, table
from jobs.runs.session import spark_log, spark_session
from jobs.runs.stream_plan import checkpoint_of, describe_stream, pinned_model
from jobs.runs.stream_run import StreamSummary, stream_from

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; see --help."""
    parser = job_parser("score_stream", __doc__, _EPILOG)
    parser.add_argument(
        "--available-now",
        action="store_true",
        help="end when all that is there now is read, for schedules; without, a batch every stream.trigger until SIGTERM",
    )
    parser.add_argument(
        "--beside",
        action="store_true",
        help="let a new query add to tables that have rows of another one of this model: the two read different rows",
    )
    arguments = parser.parse_args(argv)
    conf = load_from(arguments)
    if arguments.dry_run:
        with TemporaryDirectory(prefix="onescore-") as scratch:
            described = describe_stream(conf, *pinned_model(conf, Path(scratch)), beside=arguments.beside)
        print("plan (nothing was written)")
        print(table(described))
        return 0
    with _told_to_stop() as stop, spark_session(conf.spark, spark_log(conf)) as spark:
        summary = stream_from(
            spark, conf, available_now=arguments.available_now, beside=arguments.beside, stop=stop
        )
    print(table(_report(summary, conf)))
    _check_share(summary, conf)
    return 0


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """Yield what SIGTERM and Ctrl-C set; a second one ends the process at once, which loses nothing either."""
    stop = threading.Event()

    def told(number: int, _: object) -> None:
        if stop.is_set():
            signal.signal(number, before[signal.Signals(number)])
            signal.raise_signal(number)
        stop.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, told)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(summary: StreamSummary, conf: Conf) -> dict[str, object]:
    totals = summary.totals
    return {
        "query": f"{summary.query_id}, {summary.state}",
        "model": f"{conf.model.name} version {summary.version}",
        "batches": summary.batches,
        "rows": summary.rows,
        "quarantined": summary.quarantined,
        "since the first start": {
            name: totals.get(name, 0) for name in ("batches", "rows", "scored", "quarantined")
        },
        "by reason": totals.get("reasons") or {},
        "scored table": conf.table_location(conf.output.scored),
        "quarantine table": conf.table_location(conf.output.quarantine),
        "checkpoint": checkpoint_of(conf),
    }


def _check_share(summary: StreamSummary, conf: Conf) -> None:
    """End with 3 where too many rows of this process's part were quarantined; all of them are committed, none is lost."""
    share = summary.quarantined / summary.rows if summary.rows else 0.0
    limit = conf.quarantine.max_share
    if share <= limit:
        return
    say("the rows are in the quarantine table, and everything else was scored")
    raise ContractError(
        f"query {summary.query_id}: {summary.quarantined} of {summary.rows} rows were quarantined ({share:.2%}, the limit is "
        f"{limit:.2%}). Look at them, mend what sends them, or raise quarantine.max_share",
        rows=summary.rows,
        quarantined=summary.quarantined,
    )


_EPILOG = """\
The state is in stream.checkpoint: the same command goes on where it stopped or died, with the version that it began with
(stream.follow_alias=true takes another at a batch's beginning). SIGTERM and Ctrl-C end it after the batch under way.
Exit codes: 0 done or stopped; 1 a check of the result failed; 2 usage or configuration, or another process runs this query, it
differs from the checkpoint's, or it is new and its tables have rows of another (--beside lets it add to them); 3 more rows were
quarantined than quarantine.max_share allows (they are committed; none is lost).
conf/README.md lists every key that --set takes."""

if __name__ == "__main__":
    sys.exit(run(main))
