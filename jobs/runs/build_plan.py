"""What a build of one view would do: how far it is built, what its source holds now, and what follows from the two.

Only rows with a later created_ts than the last build are new. That holds if the source never changes behind: so the number and
checksum of the rows up to there are compared with those of the last build, and a difference is an error that says what to do. This
module writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ConfigurationError, ContractError, did_you_mean
from feature_pipelines.history_arrow import view_table_schema
from feature_pipelines.lookup_arrow import CREATED_TS
from feature_pipelines.offline.history_frames import SourceTotals, events_of, source_totals
from feature_pipelines.views import FeatureView
from jobs.runs.conf import Conf
from jobs.tables.delta_read import is_delta, open_table, read_delta, table_schema
from jobs.tables.view_state import ViewState, definition_number

__all__ = ["BuildPlan", "Wanted", "as_time", "plan_build", "views_to_build"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Wanted:
    """What is asked of a build.

    Args:
        through: source rows known later do not count, microseconds; None = all count.
        rebuild: compute everything anew and replace what the table holds.
        corrected_at: add corrections of this created_ts where the source has changed; None = none.
    """

    through: int | None = None
    rebuild: bool = False
    corrected_at: int | None = None

    def __post_init__(self) -> None:
        if self.corrected_at is not None and (self.rebuild or self.through is not None):
            raise ConfigurationError(
                "--corrected-at goes neither with --rebuild, which replaces what it would correct, nor with --through: it takes "
                "the source as known at the time of the correction"
            )


@dataclass(frozen=True)
class BuildPlan:
    """What to do for one view.

    Args:
        view: the declaration.
        target, source: the tables' roots.
        events: the source's rows as they were pinned.
        schema: of the view's table.
        state: how far the table is built; None = never.
        after: versions of a later created_ts are computed; None = all.
        totals: the source at the pinned version.
        result: the state after the build; None = there is nothing to do.
        wanted: what was asked.
    """

    view: FeatureView
    target: str
    source: str
    events: DataFrame
    schema: pa.Schema
    state: ViewState | None
    after: int | None
    totals: SourceTotals
    result: ViewState | None
    wanted: Wanted

    @property
    def new_rows(self) -> int:
        """How many source rows have become known since the last build."""
        return self.totals.rows if self.after is None else max(self.totals.rows - self.totals.rows_before, 0)


def views_to_build(feature_set: FeatureSet, names: Sequence[str]) -> list[FeatureView]:
    """Return the views with history of these names, in the set's order; without names all.

    Raises:
        ConfigurationError: no such view with history.
    """
    views = {view.name: view for view in feature_set.views if view.history}
    for name in names:
        if name not in views:
            raise ConfigurationError(
                f"--view {name}: feature set {feature_set.name!r} has no such view with history."
                f"{did_you_mean(name, views)}"
            )
    return [view for name, view in views.items() if not names or name in names]


def plan_build(spark: SparkSession, conf: Conf, view: FeatureView, wanted: Wanted) -> BuildPlan:
    """Return what a build of a view would do now.

    Raises:
        ConfigurationError: conf names no table for the view or its source. TableError: the source is no Delta table.
        ContractError: the source lacks columns; it has changed behind the last build; the view is declared otherwise than it was
            built; the time of a correction is not after all that is stored.
    """
    missing = [
        f"{key}.{view.name}"
        for key, table in (("views", conf.views), ("view_sources", conf.view_sources))
        if view.name not in table
    ]
    if missing:
        raise ConfigurationError(
            f"view {view.name!r} has history, but no table is given for it: set {', '.join(missing)}"
        )
    target = conf.table_location(conf.views[view.name])
    source = conf.table_location(conf.view_sources[view.name])
    pinned = open_table(source)
    events = events_of(read_delta(spark, source, pinned.version()), view)
    state = ViewState.of(open_table(target)) if is_delta(target) else None
    if wanted.corrected_at is not None and state is None:
        raise ConfigurationError(f"view {view.name!r}: there is nothing to correct, it was never built")
    base = None if wanted.rebuild else state
    through = wanted.through if wanted.corrected_at is None else wanted.corrected_at
    totals = source_totals(events, base.through if base else None, through)
    definition = definition_number(view)
    result = None
    if base is not None:
        _require_same_definition(view, base, definition, target)
    if wanted.corrected_at is not None and base is not None:
        result = _after_correction(spark, view, target, base, totals, wanted.corrected_at)
    else:
        if base is not None:
            _require_unchanged(view, source, base, totals)
        if totals.through is not None and (base is None or totals.through > base.through):
            result = ViewState(
                totals.through,
                totals.rows,
                totals.checksum,
                definition,
                base.corrected_at if base else None,
            )
    return BuildPlan(
        view,
        target,
        source,
        events,
        view_table_schema(view, table_schema(pinned)),
        state,
        base.through if base else None,
        totals,
        result,
        wanted,
    )


def as_time(micros: int | None) -> str:
    """Return microseconds as people read them; "-" for None.

    >>> as_time(1_380_000_000_000_001)
    '2013-09-24T05:20:00.000001Z'
    """
    if micros is None:
        return "-"
    return (_EPOCH + timedelta(microseconds=micros)).isoformat().replace("+00:00", "Z")


def _require_same_definition(view: FeatureView, state: ViewState, definition: int, target: str) -> None:
    if state.definition != definition:
        raise ContractError(
            f"view {view.name!r}: {target} was built from another declaration of its keys, source or history; build it again "
            "with --rebuild",
            view=view.name,
        )


def _require_unchanged(view: FeatureView, source: str, state: ViewState, totals: SourceTotals) -> None:
    """Refuse a source in which rows have come, gone or changed among those that an earlier build has seen."""
    if (totals.rows_before, totals.checksum_before) == (state.rows, state.checksum):
        return
    difference = totals.rows_before - state.rows
    what = (
        f"{difference} more"
        if difference > 0
        else f"{-difference} fewer"
        if difference
        else "as many, but other"
    )
    raise ContractError(
        f"view {view.name!r}: its source {source} has {what} rows with created_ts up to {as_time(state.through)} than when the view "
        f"was built through there ({totals.rows_before} now, {state.rows} then), so an incremental build would miss them. Build it "
        "again with --rebuild, or add corrections with --corrected-at",
        view=view.name,
        rows_then=state.rows,
        rows_now=totals.rows_before,
    )


def _after_correction(
    spark: SparkSession, view: FeatureView, target: str, state: ViewState, totals: SourceTotals, at: int
) -> ViewState | None:
    """Return the state after a correction, None if the very same was made already."""
    result = ViewState(at, totals.rows, totals.checksum, state.definition, at)
    if result == state:
        return None
    newest = read_delta(spark, target).agg(F.max(F.unix_micros(CREATED_TS))).collect()[0][0]
    latest = max(state.through, state.through if newest is None else newest)
    if at < state.through or (newest is not None and at <= newest):
        raise ContractError(
            f"view {view.name!r}: a correction at {as_time(at)} would not be newer than what is stored (through "
            f"{as_time(latest)}), so it would change the past or lose to it; give --corrected-at a later time",
            view=view.name,
            newest=latest,
        )
    return result
