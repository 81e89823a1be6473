"""Compute a model's views with history from their events: what has become known since the last build, each version once.

    python -m jobs.build_features --model flights                         all views, what is new
    python -m jobs.build_features --view route_history --through 2013-07-01T00:00:00Z
    python -m jobs.build_features --corrected-at 2014-02-01T00:00:00Z     the source was mended: add corrections
    python -m jobs.build_features --rebuild                               compute everything again, replace what is there

Running it again changes nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from feature_pipelines.packaged import load_reference
from feature_pipelines.reasons import Refused
from feature_pipelines.schema import parse_timestamp
from jobs.runs.build_plan import BuildPlan, Wanted, as_time, plan_build, views_to_build
from jobs.runs.build_run import ViewBuild, build_views
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.progress import say, table
from jobs.runs.session import spark_log, spark_session

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; see --help."""
    arguments = _parser().parse_args(argv)
    wanted = Wanted(arguments.through, arguments.rebuild, arguments.corrected_at)
    conf = load_from(arguments)
    feature_set = load_reference(conf.model.feature_set)
    views = views_to_build(feature_set, arguments.view)
    if not views:
        print(f"feature set {feature_set.name!r} has no view with history: nothing to build")
        return 0
    with spark_session(conf.spark, spark_log(conf)) as spark:
        if arguments.dry_run:
            print("plan (nothing was written)")
            for view in views:
                print(table({view.name: _planned(plan_build(spark, conf, view, wanted))}))
            return 0
        say(f"building {len(views)} view(s) of {feature_set.name}")
        built = build_views(spark, conf, feature_set, names=arguments.view, wanted=wanted)
    print(table({one.view: _facts(one) for one in built}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = job_parser("build_features", __doc__)
    parser.add_argument(
        "--view",
        action="append",
        default=[],
        metavar="NAME",
        help="a view to build; may be repeated (default: all)",
    )
    parser.add_argument(
        "--through", type=_time, metavar="T", help="leave source rows that became known after T for later"
    )
    parser.add_argument(
        "--rebuild", action="store_true", help="compute everything again and replace what the table holds"
    )
    parser.add_argument(
        "--corrected-at",
        type=_time,
        metavar="T",
        help="add a version of created_ts T wherever the source, as it is now, gives other values than those stored",
    )
    return parser


def _time(text: str) -> int:
    try:
        return parse_timestamp(text)
    except Refused as refused:
        raise argparse.ArgumentTypeError(str(refused)) from refused


def _planned(plan: BuildPlan) -> dict[str, object]:
    return {
        "source": plan.source,
        "table": plan.target,
        "built through": as_time(plan.state.through if plan.state else None),
        "would be built through": "nothing to do" if plan.result is None else as_time(plan.result.through),
        "new source rows": plan.new_rows,
    }


def _facts(built: ViewBuild) -> dict[str, object]:
    return {
        "built through": as_time(built.through),
        "new source rows": built.new_rows,
        "source rows read": built.rows_read,
        "rows added": built.rows_written,
        "tombstones among them": built.tombstones,
        "quarantined": built.quarantined,
        "table": built.table,
    }


if __name__ == "__main__":
    sys.exit(run(main))
