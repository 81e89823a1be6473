"""Bring an online store up to a time T: for each view the newest row of each key that is visible at T.

Incremental: rows that became visible in (W, T], and of files that the table has got since the version that W was read from,
every row visible at T, so that a late delivery is not missed. What a table no longer has, the store would keep: so a table from
which rows were taken out since (rebuilt, overwritten, deleted from), or that is another one, is refused until the view is rebuilt
in the store. Compacting a table takes nothing out; an entity that was forgotten in the store alone is written again only if its
table gets newer rows or files. Parts are read and written by Spark tasks in any order, again
after a failure, and beside other runs: the store keeps the newest. W is set last, when every part is written.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

import jobs
from feature_pipelines.errors import ContractError, TableError, VerificationError
from feature_pipelines.lookup_arrow import CREATED_TS, EVENT_TS
from feature_pipelines.schema import Schema
from feature_pipelines.stores.base import OnlineStore, ViewState
from feature_pipelines.views import FeatureView
from jobs.online.materialise_task import MaterialiseTask, PartResult, Portion
from jobs.runs.conf import Conf
from jobs.runs.views import pin_view
from jobs.runs.worker_errors import errors_of_workers
from jobs.tables.catalog import describe_table
from jobs.tables.delta_changes import first_removal
from jobs.tables.delta_read import open_table
from jobs.tables.pinned import InputFile, Snapshot
from jobs.tables.snapshot import CATALOG, pin_snapshot
from jobs.tables.units import Unit, plan_units
from udfs.shipped import ship_code

__all__ = ["Materialised", "Progress", "ViewPlan", "check_limit", "materialise", "plan_view"]

Progress = Callable[[str, int, int, float], None]
"""Called after each chunk with the view's name, rows done, rows in all, seconds so far."""

_SOURCE = re.compile(r"delta:(?P<id>[^@]*)@(?P<version>\d+)")


@dataclass(frozen=True)
class ViewPlan:
    """What there is to do for one view.

    Args:
        view: the declaration.
        snapshot: its table, pinned.
        source: the table and version, as the store will remember it.
        through_ts: T.
        before: the store's state at the beginning; None = the store does not know the view.
        portions: one task each; none = nothing to do.
        new_files: how many files of the table the store has not seen.
    """

    view: FeatureView
    snapshot: Snapshot
    source: str
    through_ts: int
    before: ViewState | None
    portions: tuple[Portion, ...]
    new_files: int

    @property
    def is_past(self) -> bool:
        """Whether the store is beyond T already."""
        w = self.before.through_ts if self.before else None
        return w is not None and w > self.through_ts

    @property
    def rows(self) -> int:
        """Rows to read, some of which are not in the range."""
        return sum(portion.rows for portion in self.portions)


@dataclass(frozen=True)
class Materialised:
    """What became of one view; counts as in PartResult."""

    plan: ViewPlan
    through_ts: int
    read: int
    sent: int
    written: int
    bad: int
    reasons: Counter[str] = field(hash=False)
    seconds: float


def plan_view(
    conf: Conf,
    view: FeatureView,
    through_ts: int,
    before: ViewState | None,
    spark: Any = None,
    *,
    request: Schema | None = None,
) -> ViewPlan:
    """Pin a view's table and cut what is to be read into parts.

    Args:
        conf: `views` and `view_versions` say which table; `score.unit_rows` how large a part is.
        view: the declaration.
        through_ts: T, microseconds.
        before: the store's state of the view.
        spark: for tables of a catalog.
        request: the fields that keys are asked by, whose types the table's keys must have; None = not checked.

    Raises:
        TableError, ContractError: as pin_view.
        ContractError: conf names no table for the view; rows were taken out of the table since the store last read it; a key is
            a string in one of table and request, an integer in the other: no request would ever find a row.
    """
    if view.name not in conf.views:
        raise ContractError(f"view {view.name!r}: conf names no table for it; set views.{view.name}")
    location = conf.table_location(conf.views[view.name])
    snapshot = pin_view(view, location, spark, version=conf.view_versions.get(view.name))
    if request is not None:
        _require_keys(view, snapshot, request)
    uri = _delta_uri(snapshot, location, spark)
    source = _source_of(snapshot, uri)
    w = before.through_ts if before is not None else None
    new, old = _by_age(view, snapshot, uri, source, before)
    portions: list[Portion] = []
    if w is None or w <= through_ts:
        portions += _portions(plan_units(_only(snapshot, new), unit_rows=1), None, conf.score.unit_rows)
        if w is not None and w < through_ts:
            portions += _portions(_units_after(_only(snapshot, old), w), w, conf.score.unit_rows)
    return ViewPlan(view, snapshot, source, through_ts, before, tuple(portions), len(new))


def materialise(
    spark: Any,
    conf: Conf,
    url: str,
    store: OnlineStore,
    plan: ViewPlan,
    progress: Progress | None = None,
) -> Materialised:
    """Do what a plan says, and set W.

    Args:
        spark: classic or Connect session.
        conf: how large parts and chunks are, and the limit on bad rows.
        url: the store's, for the tasks.
        store: the same store, opened here; the view is registered.
        plan: of `plan_view`, with a state of the store (`before`).
        progress: told after each chunk.

    Raises:
        ContractError: more rows than quarantine.max_share break the contract; W is as before.
        RunConflictError: the view was reset meanwhile.
    """
    begin = time.perf_counter()
    store.register(
        plan.view, source=plan.source
    )  # so that the next attempt knows what this one, if killed, has read
    ship_code(spark, (jobs,))
    results: list[PartResult] = []
    done = 0
    for chunk in _chunks(plan.portions, conf.score.chunk_rows):
        results += _run_chunk(spark, conf, url, plan, chunk)
        done += sum(portion.rows for portion in chunk)
        if progress is not None:
            progress(plan.view.name, done, plan.rows, time.perf_counter() - begin)
    read, sent, written, bad = (
        sum(getattr(result, name) for result in results) for name in ("read", "sent", "written", "bad")
    )
    reasons = sum((Counter(result.reasons) for result in results), Counter[str]())
    check_limit(plan, results, conf.quarantine.max_share)
    through = store.advance(
        plan.view,
        plan.through_ts,
        source=plan.source,
        epoch=plan.before.epoch if plan.before is not None else None,
    )
    return Materialised(plan, through, read, sent, written, bad, reasons, time.perf_counter() - begin)


def _run_chunk(
    spark: Any, conf: Conf, url: str, plan: ViewPlan, portions: Sequence[Portion]
) -> list[PartResult]:
    """Run one Spark job: a task per portion, each told its number by a one-row partition of a range."""
    task = MaterialiseTask(
        view=plan.view,
        portions=tuple(portions),
        source_schema=plan.snapshot.schema.serialize().to_pybytes(),
        through_ts=plan.through_ts,
        store_url=url,
        timeout_ms=conf.store.write_timeout_ms,
        batch_rows=conf.score.batch_rows,
    )
    n = len(portions)
    frame = spark.range(0, n, 1, n).mapInArrow(task, "result string")
    with errors_of_workers():
        results = [PartResult.from_json(row[0]) for row in frame.collect()]
    if sorted(result.part for result in results) != list(range(n)):
        raise VerificationError(f"view {plan.view.name!r}: {n} parts were sent out, {len(results)} came back")
    return results


def check_limit(plan: ViewPlan, results: Sequence[PartResult], limit: float) -> None:
    """Raise the ContractError of a view of whose rows a larger share than the limit breaks the contract."""
    read, bad = (sum(getattr(result, name) for result in results) for name in ("read", "bad"))
    reasons = sum((Counter(result.reasons) for result in results), Counter[str]())
    if bad and bad / (read + bad) > limit:
        common = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common(5))
        raise ContractError(
            f"view {plan.view.name!r}: {bad} of {read + bad} rows break the contract ({bad / (read + bad):.2%}, the limit is "
            f"{limit:.2%}): {common}. None of them was stored, and the store's materialised-through time is as before. Mend the "
            "table, or raise quarantine.max_share",
            bad=bad,
            rows=read + bad,
            reasons=dict(reasons),
        )


def _require_keys(view: FeatureView, snapshot: Snapshot, request: Schema) -> None:
    for name, field_name in view.keys.items():
        held, asked = snapshot.schema.field(name).type, request[field_name].dtype
        if pa.types.is_integer(held) == (asked.kind == "string"):
            raise ContractError(
                f"view {view.name!r}: key {name!r} is {held} in {snapshot.source}, and requests ask by {field_name!r}, which is "
                f"{asked}: none would find a row. Give the table's column the request's type",
                view=view.name,
                key=name,
            )


def _delta_uri(snapshot: Snapshot, location: str, spark: Any) -> str | None:
    """Return where a Delta table is; None of plain files, which have no log, and of a table that no session can tell."""
    if snapshot.format != "delta":
        return None
    if not location.startswith(CATALOG):
        return location
    described = describe_table(spark, location.removeprefix(CATALOG)) if spark is not None else None
    return described.location if described is not None else None


def _source_of(snapshot: Snapshot, uri: str | None) -> str:
    """Return what to remember: the table's own id, so that a table made anew under an old name is not taken for the old one."""
    return (
        "" if uri is None else f"delta:{open_table(uri, snapshot.version).metadata().id}@{snapshot.version}"
    )


def _by_age(
    view: FeatureView, snapshot: Snapshot, uri: str | None, source: str, before: ViewState | None
) -> tuple[list[InputFile], list[InputFile]]:
    """Return the files that the store has not seen, and those it has; where that cannot be told, all are new."""
    every = list(snapshot.files)
    then = _SOURCE.fullmatch(before.source) if before is not None else None
    now = _SOURCE.fullmatch(source)
    if uri is None or before is None or then is None or now is None or not then["id"]:
        return every, []
    if then["id"] != now["id"]:
        raise _removed(view, snapshot, "is another table than the one that the store was filled from")
    version, newest = int(then["version"]), int(now["version"])
    if newest < version:
        raise _removed(
            view, snapshot, f"is read at version {newest}, and the store was filled from version {version}"
        )
    try:
        removal = first_removal(uri, version, newest)
        seen = {file.uri for file in pin_snapshot(uri, version=version).files}
    except TableError as exc:
        raise _removed(
            view,
            snapshot,
            f"does not say any more what became of it since version {version}, which the store was filled from: {exc}",
        ) from exc
    if removal is not None:
        raise _removed(
            view,
            snapshot,
            f"lost rows in version {removal} (rebuilt, overwritten or deleted from), after the store was filled from "
            f"version {version}",
        )
    if (
        before.through_ts is None
    ):  # an attempt that did not end: what it wrote is there, and what that was is not known
        return every, []
    return [file for file in every if file.uri not in seen], [file for file in every if file.uri in seen]


def _removed(view: FeatureView, snapshot: Snapshot, what: str) -> ContractError:
    return ContractError(
        f"view {view.name!r}: {snapshot.source} {what}. The store may hold what the table no longer has; run "
        "jobs.materialize_features with --rebuild",
        view=view.name,
        table=snapshot.source,
    )


def _only(snapshot: Snapshot, files: Sequence[InputFile]) -> Snapshot:
    return Snapshot(snapshot.source, snapshot.format, snapshot.version, tuple(files), snapshot.schema)


def _units_after(snapshot: Snapshot, after_ts: int) -> list[Unit]:
    """Return the row groups that may hold a row of which either time is later: only such a row became visible later."""
    found = [
        unit
        for column in (EVENT_TS, CREATED_TS)
        for unit in plan_units(snapshot, unit_rows=1, time_column=column, time_from_us=after_ts + 1)
    ]
    return sorted({(unit.file_uri, unit.row_groups): unit for unit in found}.values(), key=_position)


def _position(unit: Unit) -> tuple[str, int]:
    return unit.file_uri, unit.first_ordinal


def _portions(units: Sequence[Unit], after_ts: int | None, rows: int) -> list[Portion]:
    """Return units in groups of about so many rows."""
    portions: list[Portion] = []
    held: list[Unit] = []
    for unit in units:
        if held and sum(one.rows for one in held) + unit.rows > rows:
            portions.append(Portion(tuple(held), after_ts))
            held = []
        held.append(unit)
    return [*portions, Portion(tuple(held), after_ts)] if held else portions


def _chunks(portions: Sequence[Portion], rows: int) -> list[list[Portion]]:
    """Return the portions in runs of about so many rows, after each of which progress is shown."""
    chunks: list[list[Portion]] = []
    for portion in portions:
        if not chunks or sum(one.rows for one in chunks[-1]) + portion.rows > rows:
            chunks.append([])
        chunks[-1].append(portion)
    return chunks
