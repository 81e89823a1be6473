"""Bring an online store up to a time T: for each view the newest row of each key that is visible at T.

Incremental: rows that became visible in (W, T], and of files that the table has got since the version that W was read from,
every row visible at T, so that a late delivery is not missed. Parts are read and written by Spark tasks in any order, again
after a failure, and beside other runs: the store keeps the newest. W is set last, when every part is written.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jobs
from feature_pipelines.errors import ContractError, TableError, VerificationError
from feature_pipelines.lookup_arrow import CREATED_TS, EVENT_TS
from feature_pipelines.stores.base import OnlineStore, ViewState
from feature_pipelines.views import FeatureView
from jobs.online.materialise_task import MaterialiseTask, PartResult, Portion
from jobs.runs.conf import Conf
from jobs.runs.views import pin_view
from jobs.runs.worker_errors import errors_of_workers
from jobs.tables.delta_read import open_table
from jobs.tables.pinned import InputFile, Snapshot
from jobs.tables.snapshot import pin_snapshot
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
    conf: Conf, view: FeatureView, through_ts: int, before: ViewState | None, spark: Any = None
) -> ViewPlan:
    """Pin a view's table and cut what is to be read into parts.

    Args:
        conf: `views` and `view_versions` say which table; `score.unit_rows` how large a part is.
        view: the declaration.
        through_ts: T, microseconds.
        before: the store's state of the view.
        spark: for tables of a catalog.

    Raises:
        TableError, ContractError: as pin_view.
        ContractError: conf names no table for the view.
    """
    if view.name not in conf.views:
        raise ContractError(f"view {view.name!r}: conf names no table for it; set views.{view.name}")
    location = conf.table_location(conf.views[view.name])
    snapshot = pin_view(view, location, spark, version=conf.view_versions.get(view.name))
    source = _source_of(snapshot, location)
    w = before.through_ts if before is not None else None
    new, old = _by_age(snapshot, location, source, before, spark)
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


def _source_of(snapshot: Snapshot, location: str) -> str:
    """Return what to remember: the table's own id, so that a table made anew under an old name is not taken for the old one."""
    if snapshot.format != "delta":
        return ""
    known = not location.startswith("catalog:")
    identity = open_table(location, snapshot.version).metadata().id if known else ""
    return f"delta:{identity}@{snapshot.version}"


def _by_age(
    snapshot: Snapshot, location: str, source: str, before: ViewState | None, spark: Any
) -> tuple[list[InputFile], list[InputFile]]:
    """Return the files that the store has not seen, and those it has; where that cannot be told, all are new."""
    every = list(snapshot.files)
    then = _SOURCE.fullmatch(before.source) if before is not None and before.through_ts is not None else None
    now = _SOURCE.fullmatch(source)
    if then is None or now is None or then["id"] != now["id"]:
        return every, []
    try:
        seen = {file.uri for file in pin_snapshot(location, version=int(then["version"]), spark=spark).files}
    except TableError:  # that version's log is gone
        return every, []
    return [file for file in every if file.uri not in seen], [file for file in every if file.uri in seen]


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
