"""Score a table of requests with a registered model into a Delta table, each row once.

python -m jobs.score_batch --model flights
spark-submit jobs/score_batch.py --model flights --env prod --from 2013-06-01 --to 2013-07-01
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from feature_pipelines.errors import ConfigurationError
from jobs.runs.batch import plan_from, score_table
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.conf import Conf
from jobs.runs.group_lock import Busy
from jobs.runs.manifest import runs_directory
from jobs.runs.plan import ScorePlan
from jobs.runs.progress import say, table
from jobs.runs.replay import ROW_ID, stage_replay
from jobs.runs.run_summary import RunSummary
from jobs.runs.session import session_for, spark_log, spark_session

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; see --help."""
    parser = job_parser("score_batch", __doc__, _EPILOG)
    parser.add_argument(
        "--from", dest="range_from", metavar="TIME", help="score requests as of this time or later"
    )
    parser.add_argument("--to", dest="range_to", metavar="TIME", help="score requests as of before this time")
    parser.add_argument(
        "--partition",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="score one partition; may be repeated",
    )
    parser.add_argument(
        "--replay",
        metavar="RUN_ID",
        help="score the quarantined rows of a run again; those that are still bad are quarantined again, however many they are, "
        "unless --set quarantine.max_share says otherwise",
    )
    parser.add_argument(
        "--new-run",
        action="store_true",
        help="start over: what an unfinished run committed is taken back; the rows of a complete one stay",
    )
    arguments = parser.parse_args(argv)
    arguments.overrides += _overrides(arguments)
    if arguments.dry_run:
        with TemporaryDirectory(prefix="onescore-") as scratch:
            return _dry_run(_conf(arguments, Path(scratch)), Path(scratch))
    conf = _conf(arguments, None)
    with spark_session(conf.spark, spark_log(conf)) as spark:
        try:
            summary, plan = score_table(spark, conf, new_run=arguments.new_run)
        except Busy as busy:
            say(f"nothing to do: {busy}")
            return 0
    print(_report(summary, plan))
    return 0


def _conf(arguments: argparse.Namespace, scratch: Path | None) -> Conf:
    """Load the configuration; a replay's input is the staged file of the run's quarantined rows.

    The limit on bad rows is meant for a whole input: of a few rows that were bad, one that still is would be too many. So the
    files' limit does not hold for a replay, only one that --set gives.
    """
    conf = load_from(arguments)
    if arguments.replay is None:
        return conf
    staged = stage_replay(conf, arguments.replay, scratch or runs_directory(conf.storage.runs) / "replays")
    arguments.overrides = [
        "quarantine.max_share=1",
        *arguments.overrides,
        f"input.source={json.dumps(str(staged))}",
        f"input.row_id=[{ROW_ID}]",
        "input.version=null",
    ]
    return load_from(arguments)


def _overrides(arguments: argparse.Namespace) -> list[str]:
    """Return --set texts; the values are quoted, or YAML would take 2013-01-01 for a date and 03 for a number."""
    pairs = [("input.range_from", arguments.range_from), ("input.range_to", arguments.range_to)]
    for text in arguments.partition:
        column, equals, value = text.partition("=")
        if not (column and equals):
            raise ConfigurationError(f"--partition {text}: expected COLUMN=VALUE")
        pairs.append((f"input.partitions.{column}", value))
    return [f"{key}={json.dumps(value)}" for key, value in pairs if value is not None]


def _dry_run(conf: Conf, scratch: Path) -> int:
    """Print the plan; what has to be fetched goes into a directory that is thrown away."""
    print("plan (nothing was written)")
    sources = [conf.input.source, *conf.views.values()]
    with session_for(conf, sources, scratch / "spark.log") as spark:
        described = plan_from(conf, scratch, spark).describe()
    print(table(described))
    return 0


def _report(summary: RunSummary, plan: ScorePlan) -> str:
    facts = {
        "run": summary.run_id
        + (" (complete already; --new-run scores again)" if summary.did_nothing else ""),
        "model": f"{plan.model.name} version {plan.model.version}, {plan.scorer.verified}",
        "rows in": summary.rows_in,
        "scored": summary.rows_scored,
        "quarantined": summary.rows_quarantined,
        "by reason": summary.reasons,
        "rows per second": int(summary.rows_per_second),
        "scored table": plan.scored,
        "quarantine table": plan.quarantine,
    }
    return table(facts if summary.reasons else {k: v for k, v in facts.items() if k != "by reason"})


_EPILOG = """\
A run that was killed continues when the same command runs again; a complete one is not repeated (--new-run does).
Exit codes: 0 done, complete already, or another process is at the same run; 1 a check of the result failed; 2 usage or
configuration, or another run with this model, source, range and output is unfinished or under way; 3 more rows break the
contract than quarantine.max_share allows.
conf/README.md lists every key that --set takes."""

if __name__ == "__main__":
    sys.exit(run(main))
