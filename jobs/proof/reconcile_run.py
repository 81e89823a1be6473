"""A reconciliation as a whole: requests and logged rows are joined by row id, compared in tasks, and added up on the driver.

Spark joins ids and carries the requests' canonical values to the files of the log; the log itself, views and models are read by the
tasks, so that no logged row passes through the JVM. Memory holds one batch a task and, on the driver, counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

import jobs
from feature_pipelines.errors import ConfigurationError, VerificationError
from jobs.proof.aggregate import Totals
from jobs.proof.compare_task import RESULT, CompareTask, ShippedVersion
from jobs.proof.corrections_table import read_corrections
from jobs.proof.key_bounds import KeyBounds, LogBounds, has_order
from jobs.proof.logged_views import stage_logged
from jobs.proof.reconcile_plan import ReconcilePlan
from jobs.proof.requests import ID, ORDINAL, UNIT, LogKeys, ReadRequests
from jobs.runs.progress import say
from jobs.runs.views import index_view
from jobs.runs.worker_errors import errors_of_workers
from jobs.tables.files import is_local, normal_uri
from jobs.tables.snapshot import Unit, check_snapshot, plan_units
from udfs.prediction_files import read_platforms
from udfs.shipped import ship

__all__ = ["Compared", "compare", "lay_corrections", "skew_directory", "stages"]

_MOST_TASKS = 1_000
_MANY = 2
_ROWS_OF_A_GROUP = 65_536


@dataclass(frozen=True)
class Compared:
    """What the tasks found: totals, the files of differing rows (in `parts`), and how long it took."""

    totals: Totals
    parts: Path
    files: tuple[str, ...]
    seconds: float


def skew_directory(location: str) -> Path:
    """Return the directory of reports.

    Raises:
        ConfigurationError: it is in no file system that this machine has mounted.
    """
    if not is_local(location):
        raise ConfigurationError(
            f"skew.directory: {location} cannot be written as files here; name a directory that driver and workers have mounted"
        )
    return Path(normal_uri(location))


def compare(spark: SparkSession, plan: ReconcilePlan, parts: Path) -> Compared:
    """Compare all rows of the plan.

    Args:
        spark: classic or Connect.
        plan: see make_plan.
        parts: where tasks write the differing rows.

    Raises:
        VerificationError: not every group of files came back once, or the join did not bring back each logged row once.
    """
    started = time.perf_counter()
    if plan.snapshot is not None:
        check_snapshot(plan.snapshot)
    indexes = {name: index_view(*view) for name, view in plan.views.items() if name not in plan.by_shuffle}
    reference = ShippedVersion(ship(spark, plan.bundle, indexes, [jobs]), plan.model.version)
    served = {
        one.served.digest: ShippedVersion(ship(spark, one.bundle, {}, [jobs]), one.served.version)
        for one in plan.others
        if one.bundle is not None
    }
    n = len(plan.log_units)
    frame = _joined(spark, plan) if plan.snapshot is not None else spark.range(0, n, 1, n)
    with errors_of_workers():
        staged = stage_logged(spark, plan, frame, parts)
    task = CompareTask(
        reference=reference,
        served=served,
        platforms=read_platforms(plan.log.directory),
        allow_tolerance=plan.conf.model.allow_tolerance,
        units=plan.log_units,
        is_joined=plan.snapshot is not None,
        declared=plan.declared,
        key=plan.key,
        types=plan.types.serialize().to_pybytes(),
        within=plan.asked.within,
        batch_rows=plan.conf.score.batch_rows,
        corrections=lay_corrections(plan, parts),
        staged=staged,
        output=str(parts),
        prefix="part",
    )
    with errors_of_workers():
        lines = [json.loads(row[0]) for row in frame.mapInArrow(task, RESULT).collect()]
    if sorted(line[0] for line in lines) != list(range(n)):
        raise VerificationError(f"{n} groups of the log's files were sent out, {len(lines)} came back")
    totals = Totals()
    for _, found, _ in sorted(lines, key=lambda line: int(line[0])):
        totals.merge(Totals.from_json(found))
    files = tuple(file for _, _, file in sorted(lines, key=lambda line: int(line[0])) if file is not None)
    return Compared(totals, parts, files, time.perf_counter() - started)


def lay_corrections(plan: ReconcilePlan, parts: Path) -> str | None:
    """Lay the corrections of the log's rows beside the parts, where tasks read their own; None where there are none to look at."""
    if not plan.asked.with_corrections:
        return None
    processes = sorted({file.process for file in plan.log.files})
    known = read_corrections(plan.corrections_uri, plan.model.name, processes)
    if not known.num_rows:
        return None
    parts.mkdir(parents=True, exist_ok=True)
    path = parts / "corrections.parquet"
    # by process, so that a task passes over the others' row groups; rows of one process keep their order
    pq.write_table(known.sort_by("process"), path, row_group_size=_ROWS_OF_A_GROUP)
    return str(path)


def _joined(spark: SparkSession, plan: ReconcilePlan) -> DataFrame:
    """Return the logged rows' places with their requests, sorted, all rows of a group of files in one partition."""
    schema: Any = plan.snapshot.schema if plan.snapshot is not None else None
    names = tuple(f.name for f in plan.key)
    of_log = (
        plan.log_units,
        plan.key,
        plan.types.serialize().to_pybytes(),
        plan.asked.within,
        plan.conf.score.batch_rows,
    )
    log_units = _numbers(spark, len(plan.log_units))
    units, bounds = plan.request_units, None
    if _may_be_narrower(plan):
        with errors_of_workers():
            parts = log_units.mapInArrow(LogBounds(*of_log), LogBounds.DDL).collect()
        bounds = KeyBounds.of(bytes(part[0]) for part in parts)
        units = _units_within(plan, bounds)
    read = ReadRequests(plan.declared, units, plan.columns, schema.serialize().to_pybytes(), names, bounds)
    requests = _numbers(spark, len(units)).mapInArrow(read, plan.declared.ddl())
    logged = log_units.mapInArrow(LogKeys(*of_log), LogKeys.DDL)
    # Spark takes frames that Python makes for tiny and would send all requests to the driver and every executor
    return (
        logged.join(requests.hint("merge"), on=ID, how="left")
        .drop(ID)
        .repartition(min(len(plan.log_units), _MOST_TASKS), UNIT)
        .sortWithinPartitions(UNIT, ORDINAL)
    )


def _may_be_narrower(plan: ReconcilePlan) -> bool:
    """Whether much of the requests table may have no row in the log: looking at the log first costs a pass over its requests."""
    requests = sum(unit.rows for unit in plan.request_units)
    has_bounds = (plan.asked.from_ts, plan.asked.to_ts) != (None, None)
    is_ordered = any(has_order(f.type) for f in plan.types)
    return is_ordered and (has_bounds or requests > _MANY * sum(file.rows for file in plan.log.files))


def _units_within(plan: ReconcilePlan, bounds: KeyBounds) -> tuple[Unit, ...]:
    """Return the units of the requests table that may have requests of the log, and say how many rows they have."""
    units: tuple[Unit, ...] = ()
    if plan.snapshot is not None:
        units = tuple(
            plan_units(plan.snapshot, unit_rows=plan.conf.score.unit_rows, may_hold=bounds.may_hold)
        )
    rows, of = (sum(unit.rows for unit in some) for some in (units, plan.request_units))
    if rows < of:
        say(
            f"reading {rows:,} of {of:,} requests: the keys of the others lie outside those of the logged rows"
        )
    return units


def _numbers(spark: SparkSession, n: int) -> DataFrame:
    return spark.range(0, n, 1, max(n, 1))


def stages(totals: Totals) -> Mapping[str, float]:
    """Return the seconds that tasks spent, by stage."""
    return {name: round(float(seconds), 3) for name, seconds in totals.seconds.items()}
