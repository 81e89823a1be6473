"""Compare the prediction log with a batch recomputation of the same requests at the same as-of, row by row and bit by bit.

python -m jobs.reconcile_scores --model flights
spark-submit jobs/reconcile_scores.py --model flights --env prod --from 2013-06-01T00:00:00Z --to 2013-06-02T00:00:00Z
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from feature_pipelines.errors import ConfigurationError
from jobs.online.instants import instant
from jobs.proof.reconcile_plan import Asked, ReconcilePlan, make_plan
from jobs.proof.reconcile_report import Written, log_skew_run, reconcile
from jobs.proof.reconcile_run import skew_directory
from jobs.reports.skew_terminal import terminal_table
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.conf import Conf
from jobs.runs.progress import say, table
from jobs.runs.secret_refs import mask
from jobs.runs.session import session_for, spark_log, spark_session
from jobs.tables.files import is_local, normal_uri

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; see --help."""
    arguments = _parser().parse_args(argv)
    overrides = tuple(mask(one) for one in arguments.overrides if not one.startswith("model.version="))
    if arguments.model_version is not None:
        arguments.overrides += [f"model.version={json.dumps(arguments.model_version)}"]
    conf = load_from(arguments)
    asked = replace(_asked(arguments, conf), overrides=overrides)
    if arguments.dry_run:
        sources = [asked.requests or "", *conf.views.values()]
        with session_for(conf, sources, None) as spark:
            described = make_plan(conf, asked, spark).describe()
        print(f"plan (nothing was written)\n{table(described)}")
        return 0
    directory = skew_directory(conf.skew.directory)
    with spark_session(conf.spark, spark_log(conf)) as spark:
        plan = make_plan(conf, asked, spark)
        for one in plan.others:
            if one.missing:
                say(f"version {one.served.version or '?'} answered rows and is not at hand: {one.missing}")
        say(
            f"comparing {sum(file.rows for file in plan.log.files):,} logged rows of {plan.log.directory} with "
            f"{plan.model.name} version {plan.model.version or plan.model.digest[:16]}"
        )
        written = reconcile(spark, plan, directory)
    return _say_and_log(conf, plan, written)


def _say_and_log(conf: Conf, plan: ReconcilePlan, written: Written) -> int:
    """Say what was found, then log it, and return the exit code: what was found is said whatever becomes of the logging."""
    report = written.report
    print(
        f"{terminal_table(report)}\n\n{table({'report': str(written.directory / 'report.html')})}", flush=True
    )
    if not report.rows_compared:
        say("nothing was compared, so nothing is proved: see --from and --to")
    code = 1 if report.budget["exceeded"] or not report.rows_compared else 0
    try:
        run_id = log_skew_run(conf, plan, written)
    except Exception as exc:
        said = mask(" ".join(str(exc).split())[:500])
        say(f"the report is written, but MLflow does not have it: {type(exc).__name__}: {said}")
        if code == 0:
            raise
        return code
    print(table({"MLflow run": run_id}), flush=True)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = job_parser("reconcile_scores", __doc__, _EPILOG)
    parser.add_argument(
        "--log",
        metavar="DIR",
        help="prediction log (default: serve.log_directory); a replay's is its own directory",
    )
    parser.add_argument(
        "--from", dest="from_time", metavar="TIME", help="RFC 3339 with an offset, inclusive; of --by"
    )
    parser.add_argument("--to", dest="to_time", metavar="TIME", help="RFC 3339 with an offset, exclusive")
    parser.add_argument(
        "--by",
        choices=("served", "as-of"),
        default="served",
        help="which time --from and --to bound (default: %(default)s)",
    )
    parser.add_argument(
        "--requests",
        metavar="TABLE",
        help="table of the requests, joined by row id; `none`: the log's own (default: input.source)",
    )
    parser.add_argument(
        "--model-version",
        type=int,
        metavar="N",
        help="the version that recomputes (default: model.alias, resolved once)",
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="recompute with the model in this directory; no registry is asked",
    )
    parser.add_argument(
        "--corrections",
        action="store_true",
        help="write what the scores of differing rows should have been to the table skew.corrections; rows that have such a "
        "correction count as corrected, so the same command then finds none that differs",
    )
    return parser


def _asked(arguments: argparse.Namespace, conf: Conf) -> Asked:
    log = arguments.log or conf.serve.log_directory
    if not log:
        raise ConfigurationError(
            "serve.log_directory: not set, so there is no prediction log; set it, or give --log DIR",
            key="serve.log_directory",
        )
    if not is_local(log):
        raise ConfigurationError(
            f"prediction log {log}: expected a directory that driver and workers have mounted"
        )
    requests = arguments.requests or conf.input.source
    now = datetime.now(UTC)
    bounds = [
        None if text is None else instant(option, text, now)
        for option, text in (("--from", arguments.from_time), ("--to", arguments.to_time))
    ]
    if None not in bounds and not bounds[0] < bounds[1]:  # type: ignore[operator]
        raise ConfigurationError(f"--to {arguments.to_time} is not after --from {arguments.from_time}")
    return Asked(
        log=Path(normal_uri(log)),
        requests=None if requests == "none" else requests,
        by="served_ts" if arguments.by == "served" else "as_of_ts",
        from_ts=bounds[0],
        to_ts=bounds[1],
        bundle=arguments.bundle,
        conf_model=arguments.model,
        with_corrections=arguments.corrections,
    )


_EPILOG = """\
A logged row is recomputed as the batch job would: its request from the table's row with the same id (from the log where there is none),
stored fields from the views as of the logged as-of time, features and score by one reference version. Features, score, label and
refusal are compared by bits; each differing row gets a cause by replay. The report is written below skew.directory and logged to MLflow.
A report that MLflow does not take is an error, but for a budget that is exceeded, which comes first.
Exit codes: 0 within the budget (skew.max_*); 1 beyond it, nothing compared, or a check of the work itself failed; 2 usage or
configuration, or the log, a table or the model is missing; 3 a file of the log or a table breaks the contract.
conf/README.md lists every key that --set takes."""

if __name__ == "__main__":
    sys.exit(run(main))
