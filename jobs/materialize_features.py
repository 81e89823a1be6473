"""Bring the online store up to a time: the newest row of each key of each stored view that is visible then.

python -m jobs.materialize_features --model flights
python -m jobs.materialize_features --model flights --through 2013-06-01T00:00:00Z --view plane
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from feature_pipelines.errors import UnavailableError
from feature_pipelines.packaged import load_reference
from feature_pipelines.schema import Schema
from feature_pipelines.stores.base import OnlineStore, ViewState
from feature_pipelines.stores.opening import open_store, safe_url
from feature_pipelines.views import FeatureView
from jobs.online.instants import instant, shown
from jobs.online.materialise import Materialised, ViewPlan, materialise, plan_view
from jobs.online.store_conf import chosen_views, require_one_machine, store_url
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.conf import Conf
from jobs.runs.progress import say, table
from jobs.runs.session import spark_log, spark_session
from jobs.tables.catalog import is_table_name

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; see --help."""
    parser = job_parser("materialize_features", __doc__, _EPILOG)
    parser.add_argument("--through", metavar="TIME", help="RFC 3339 with an offset (default: now)")
    parser.add_argument(
        "--view",
        dest="views",
        action="append",
        default=[],
        metavar="NAME",
        help="this view alone; may be repeated (default: all)",
    )
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="drop the view's rows first, as a changed schema or a rebuilt table requires; it cannot be read until the job is done",
    )
    arguments = parser.parse_args(argv)
    conf = load_from(arguments)
    through_ts = instant("--through", arguments.through, datetime.now(UTC))
    feature_set = load_reference(conf.model.feature_set)
    views = chosen_views(feature_set, arguments.views)
    url = store_url(conf)
    store = open_store(url, timeout_ms=conf.store.write_timeout_ms)
    try:
        if arguments.dry_run:
            return _dry_run(conf, store, views, through_ts, feature_set.request, arguments.rebuild)
        with spark_session(conf.spark, spark_log(conf)) as spark:
            require_one_machine(url, str(spark.conf.get("spark.master", "")))
            say(f"online store {safe_url(url)}, through {shown(through_ts)}")
            for view in views:
                _materialise_view(
                    spark, conf, url, store, view, through_ts, feature_set.request, arguments.rebuild
                )
    finally:
        store.close()
    return 0


def _materialise_view(
    spark: Any,
    conf: Conf,
    url: str,
    store: OnlineStore,
    view: FeatureView,
    through_ts: int,
    request: Schema,
    rebuild: bool,
) -> None:
    before = None if rebuild else store.register(view)
    plan = plan_view(conf, view, through_ts, before, spark, request=request)
    if rebuild:  # only now, because nothing is dropped for a table that is refused
        plan = replace(plan, before=store.reset(view))
    w = before.through_ts if before is not None else None
    if plan.is_past or (w == through_ts and not plan.portions):
        say(f"{view.name}: nothing to do, the store is at {shown(w)} already")
        return
    print(f"{view.name}\n{table(_report(materialise(spark, conf, url, store, plan, _progress)))}", flush=True)


def _dry_run(
    conf: Conf,
    store: OnlineStore,
    views: Sequence[FeatureView],
    through_ts: int,
    request: Schema,
    rebuild: bool,
) -> int:
    """Print the plan; a store that does not answer (a file that is not there yet) counts as one that knows no view."""
    states: dict[str, ViewState | None]
    try:
        states = {} if rebuild else store.states(views)
    except UnavailableError as exc:
        say(f"planned as for an empty store: {exc}")
        states = {}
    print("plan (nothing was written)")
    needs_spark = any(is_table_name(conf.views.get(view.name, "")) for view in views)
    with spark_session(conf.spark, spark_log(conf)) if needs_spark else nullcontext() as spark:
        plans = [
            plan_view(conf, view, through_ts, states.get(view.name), spark, request=request) for view in views
        ]
    for plan in plans:
        print(f"{plan.view.name}\n{table(_described(plan))}")
    return 0


def _described(plan: ViewPlan) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "table": plan.snapshot.source,
        "table version": "-" if plan.snapshot.version is None else str(plan.snapshot.version),
        "from": shown(plan.before.through_ts if plan.before else None),
        "through": shown(plan.through_ts),
        "files the store has not seen": plan.new_files,
        "rows to read, at most": plan.rows,
        "parts": len(plan.portions),
    }
    if plan.before is not None and plan.before.schema != plan.view.schema_digest():
        facts["schema"] = (
            f"{plan.before.schema} in the store, {plan.view.schema_digest()} declared: --rebuild"
        )
    return facts


def _report(done: Materialised) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "from": shown(done.plan.before.through_ts if done.plan.before else None),
        "through": shown(done.through_ts),
        "read": done.read,
        "newest of their keys": done.sent,
        "written": done.written,
        "unchanged": done.sent - done.written,
        "broken": done.bad,
        "by reason": dict(done.reasons),
        "seconds": f"{done.seconds:.1f}",
        "rows per second": int(done.read / done.seconds) if done.seconds else 0,
    }
    return {name: value for name, value in facts.items() if name != "by reason" or value}


def _progress(view: str, done: int, total: int, seconds: float) -> None:
    share = done / total if total else 1.0
    say(
        f"  {view}: read {done:>12,} of {total:,} rows ({share:4.0%})  {done / max(seconds, 1e-9):>11,.0f} rows/s"
    )


_EPILOG = """\
Run it again after whatever went wrong: nothing is stored twice, and an older row never replaces a newer one. Running it twice at
once is safe. Without --rebuild a view is refused whose schema changed, or from whose table rows were taken out (build_features
--rebuild, DELETE, a table made anew): the store would keep them. Compacting a table, and --corrected-at, need no rebuild. Plain
Parquet files have no log: all of them are read each time, and rows taken out of them are not noticed; use --rebuild then.
Exit codes: 0 done, or nothing to do; 2 usage, configuration, or the store does not answer; 3 the schema changed, the table lost
rows, its keys are not of the request's type, or more rows break the contract than quarantine.max_share allows."""

if __name__ == "__main__":
    sys.exit(run(main))
