"""A build of views with history: computed by Spark tasks, committed by the driver, each version of a row exactly once.

For each view: plan -> quarantine source rows that break the contract -> tasks write files -> one commit adds the rows and records how
far the view is built. The commit holds only if the table still is what the plan was made from; who loses a race plans again and
mostly finds the work done. Killed before the commit nothing is visible; killed after it nothing is left to do.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession

import jobs
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError, RunConflictError
from feature_pipelines.offline.history_frames import created_between, touched, with_stored
from feature_pipelines.views import FeatureView
from jobs.runs.build_plan import BuildPlan, Wanted, as_time, plan_build, views_to_build
from jobs.runs.build_task import BuildResult, BuildTask, RefuseTask
from jobs.runs.conf import Conf
from jobs.runs.kill_points import reached
from jobs.runs.progress import say
from jobs.runs.worker_errors import errors_of_workers
from jobs.tables.delta import WrittenFile, commit_when, delete_orphans, ensure_table, read_delta
from jobs.tables.source_quarantine import RefusedRow, quarantine_rows
from jobs.tables.view_state import ViewState
from udfs.shipped import ship_code

__all__ = ["ViewBuild", "build_views"]

_PREFIX = "history"
_ATTEMPTS = 5
_LEFT_OVER = timedelta(days=1)


@dataclass(frozen=True)
class ViewBuild:
    """What became of one view.

    Args:
        view: its name.
        table: where it is.
        through: created_ts through which it is built, microseconds; None = not at all.
        new_rows: source rows that had become known since the last build.
        rows_read: source rows that were read for it.
        rows_written: versions added; tombstones among them.
        quarantined: source rows put aside, that were not there before.
        committed: whether this build changed the table.
        seconds: how long it took.
    """

    view: str
    table: str
    through: int | None
    new_rows: int = 0
    rows_read: int = 0
    rows_written: int = 0
    tombstones: int = 0
    quarantined: int = 0
    committed: bool = False
    seconds: float = 0.0


def build_views(
    spark: SparkSession,
    conf: Conf,
    feature_set: FeatureSet,
    *,
    names: Sequence[str] = (),
    wanted: Wanted | None = None,
) -> list[ViewBuild]:
    """Build the views with history of a feature set, one after the other, and say for each what became of it.

    Args:
        spark: classic or Connect; its workers reach the tables, and get this code if they do not have it.
        conf: `views` and `view_sources` say where views and events are.
        feature_set: whose views.
        names: the views to build; none named = all.
        wanted: see `Wanted`; None = what is new.

    Raises:
        ContractError, ConfigurationError, TableError: see `plan_build`; more source rows break the contract than
            `quarantine.max_share` allows. RunConflictError: other builds keep changing the table.
    """
    views = views_to_build(feature_set, names)
    ship_code(spark, (jobs,))
    return [_build_view(spark, conf, view, wanted or Wanted()) for view in views]


def _build_view(spark: SparkSession, conf: Conf, view: FeatureView, wanted: Wanted) -> ViewBuild:
    started = time.perf_counter()
    for _ in range(_ATTEMPTS):
        plan = plan_build(spark, conf, view, wanted)
        now = datetime.now(UTC)
        quarantined = _quarantine(plan, conf, now)
        if plan.result is None:
            through = plan.state.through if plan.state else None
            say(f"  {view.name}: nothing new, built through {as_time(through)}")
            return ViewBuild(view.name, plan.target, through, quarantined=quarantined)
        ensure_table(plan.target, plan.schema, description=f"View {view.name}, computed from its events.")
        say(f"  {view.name}: {plan.new_rows:,} new source rows, through {as_time(plan.result.through)}")
        prefix = f"{_PREFIX}-{uuid.uuid4().hex[:12]}"
        results = _computed(spark, plan, conf, prefix)
        reached("build.before_commit")
        if not _committed(plan, [result.file for result in results if result.file is not None]):
            delete_orphans(plan.target, prefix)
            say(f"  {view.name}: another build has changed the table meanwhile; looking again")
            continue
        reached("build.after_commit")
        delete_orphans(plan.target, prefix)  # of attempts of tasks that Spark gave up
        delete_orphans(plan.target, f"{_PREFIX}-", modified_before=now - _LEFT_OVER)
        seconds = time.perf_counter() - started
        built = ViewBuild(
            view.name,
            plan.target,
            plan.result.through,
            plan.new_rows,
            sum(result.rows_read for result in results),
            sum(result.rows_written for result in results),
            sum(result.tombstones for result in results),
            quarantined,
            True,
            seconds,
        )
        say(f"  {view.name}: {built.rows_written:,} rows added in {seconds:.1f} s")
        return built
    raise RunConflictError(
        f"view {view.name!r}: other builds have changed its table {_ATTEMPTS} times while this one worked; run it when they are done"
    )


def _computed(spark: SparkSession, plan: BuildPlan, conf: Conf, prefix: str) -> list[BuildResult]:
    """Run the Spark job: rows spread by key, a file from each partition."""
    result = plan.result
    through = plan.totals.through if result is None else result.through
    if through is None:
        return []
    corrects = plan.wanted.corrected_at is not None
    rows: DataFrame = touched(plan.events, plan.view, None if corrects else plan.after, through)
    if corrects:
        rows = with_stored(rows, read_delta(spark, plan.target), plan.view)
    partitions = max(2, -(-plan.totals.rows // conf.build.partition_rows))
    task = BuildTask(plan.view, plan.target, prefix, plan.after, through, corrects)
    spread = rows.repartition(partitions, *plan.view.keys)
    with errors_of_workers():
        lines = spread.mapInArrow(task, "result string").collect()
    return [BuildResult.from_json(line[0]) for line in lines]


def _committed(plan: BuildPlan, files: list[WrittenFile]) -> bool:
    """Commit rows and state, if the table is still as far as the plan says."""
    result = plan.result

    def decide(table: DeltaTable) -> list[WrittenFile] | None:
        return files if ViewState.of(table) == plan.state else None

    return commit_when(
        plan.target,
        decide,
        schema=plan.schema,
        what=f"rows of view {plan.view.name}",
        transactions=result.transactions() if result else {},
        replace=plan.wanted.rebuild,
        metadata={"onescore.view": plan.view.name},
    )


def _quarantine(plan: BuildPlan, conf: Conf, now: datetime) -> int:
    """Put the new source rows that break the contract into the quarantine table, and return how many were not there yet.

    Rows without a created_ts are never new and never old: they are looked at in every build, and put aside once.
    """
    looked_at = plan.new_rows + plan.totals.undated
    if looked_at == 0 or (plan.totals.through is None and plan.totals.undated == 0):
        return 0
    through = plan.totals.through if plan.totals.through is not None else -(2**63)
    suspects = created_between(plan.events, plan.after, through, or_undated=True)
    limit = int(conf.quarantine.max_share * looked_at)
    task = RefuseTask(plan.view)
    with errors_of_workers():
        found = suspects.mapInArrow(task, task.schema).limit(limit + 1).collect()
    rows = [RefusedRow(*row) for row in found]
    reached("build.before_quarantine")
    if len(rows) > limit:
        reasons = ", ".join(f"{code} {count}" for code, count in Counter(r.code for r in rows).most_common(5))
        raise ContractError(
            f"view {plan.view.name!r}: more than {limit} of {looked_at} new rows of {plan.source} break the contract (the limit is "
            f"{conf.quarantine.max_share:.2%}), such as: {reasons} ({rows[0].field}: {rows[0].message}). Nothing was committed. Mend the "
            "source, or raise quarantine.max_share",
            rows=looked_at,
            limit=limit,
        )
    return quarantine_rows(conf.table_location(conf.build.quarantine), plan.view.name, plan.source, rows, now)
