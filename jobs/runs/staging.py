"""Joining views that are too large for an index to a run's input, once per run, before it is scored.

For each such view: tasks read the keys and times of the input's units and the view's rows; Spark joins them by shuffle and brings the
answers back into the order of the units; tasks write a file for each unit. The record of the files is made durable when all are
written, so a run that died before stages the view again, and one that died later goes on. Files lie hidden in the scored table's
directory, which every worker reaches, and are named by the run, so they go when its other leftovers do. Its tasks take this module
with them to the workers, so importing it needs neither Delta nor MLflow.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_pipelines.errors import ContractError, VerificationError
from feature_pipelines.lookup_arrow import CREATED_TS, EVENT_TS, IS_DELETED, view_columns
from feature_pipelines.offline.as_of_join import JoinPlan, batches_ddl, join_prepared, plan_join
from feature_pipelines.offline.hot_keys import SALT, TIME
from feature_pipelines.offline.view_batches import Ties, ViewBatches, key_array, key_names
from feature_pipelines.schema import Field, Schema
from feature_pipelines.schema_arrow import columns_from_arrow
from feature_pipelines.views import FeatureView
from jobs.runs.kill_points import reached
from jobs.runs.progress import say
from jobs.runs.staged_views import StagedView, staged_schema
from jobs.runs.task_times import StageTimes, stage_times, tagged
from jobs.runs.worker_errors import errors_of_workers
from jobs.tables.files import child_uri, filesystem_of
from jobs.tables.pinned import Snapshot
from jobs.tables.sink import ParquetSink, WrittenFile
from jobs.tables.units import Unit, plan_units, read_unit
from udfs.as_of import as_of_times, own_as_of

if TYPE_CHECKING:
    from jobs.runs.manifest import RunDirectory
    from jobs.runs.plan import ScorePlan

__all__ = ["stage_views"]

_UNIT, _ORDINAL, _TASK = "__unit", "__ordinal", "__task"
_BATCH_ROWS = 65_536
_WRITERS = 1_000


def stage_views(spark: SparkSession, plan: ScorePlan, run: RunDirectory) -> dict[str, StagedView]:
    """Return, by view, the staged files of every view that the plan joins by shuffle; those that are there are kept.

    Raises:
        ContractError: a row of a view breaks its declaration, or a key is a string here and an integer there.
        VerificationError: not every row of the input came back from the join once.
    """
    staged = {}
    for name in plan.by_shuffle if plan.units else ():
        recorded = run.staged(name)
        kept = StagedView.from_json(recorded) if recorded is not None else None
        if kept is None or not kept.is_there():
            reached("stage.before_join")
            with errors_of_workers():
                kept = _Staging(spark, plan, run, *plan.views[name]).staged()
            reached("stage.before_record")
            run.write_staged(name, kept.to_json())
            reached("stage.after_record")
        staged[name] = kept
    return staged


class _Staging:
    """One view's."""

    def __init__(
        self, spark: SparkSession, plan: ScorePlan, run: RunDirectory, view: FeatureView, snapshot: Snapshot
    ) -> None:
        self.spark = spark
        self.plan = plan
        self.run = run
        self.view = view
        self.snapshot = snapshot
        self.units = tuple(plan_units(snapshot, unit_rows=plan.conf.score.unit_rows))
        types = [snapshot.schema.field(name).type for name in view.keys]
        self.key_types = ["bigint" if pa.types.is_integer(type_) else "string" for type_ in types]

    def staged(self) -> StagedView:
        """Join, write and check."""
        requests = self._requests()
        keys = key_names(self.view)
        times = self._rows(times_only=True, ties=frozenset())
        limit = self.plan.conf.score.hot_key_rows
        may_be_hot = self.plan.rows + sum(unit.rows for unit in self.units) > limit
        join = plan_join(requests.select(*keys, TIME), times, self.view, limit if may_be_hot else None)
        joined = join_prepared(requests, self._rows(times_only=False, ties=join.ties), self.view, join)
        uri = child_uri(self.plan.scored, "_staged")
        n = len(self.plan.units)
        write = _WriteUnits(self.view, uri, f"{self.run.run_id}-{self.view.name}", _sizes(self.plan.units))
        with tagged(self.spark) as tag:
            lines = (
                joined.withColumn(_TASK, F.spark_partition_id())
                .drop(f"{self.view.name}__{EVENT_TS}")
                .repartition(min(n, _WRITERS), _UNIT)
                .sortWithinPartitions(_UNIT, _ORDINAL)
                .mapInArrow(write, "result string")
                .collect()
            )
        results = {unit: (file, tasks) for unit, file, tasks in (json.loads(line[0]) for line in lines)}
        if sorted(results) != list(range(n)) or len(lines) != n:
            raise VerificationError(
                f"view {self.view.name!r}: {n} units were joined, {len(lines)} came back, {len(results)} of them different"
            )
        self._report(join, [tasks for _, tasks in results.values()], stage_times(self.spark, tag))
        return StagedView(uri, tuple(WrittenFile.from_json(results[unit][0]) for unit in range(n)))

    def _requests(self) -> DataFrame:
        """Return the key columns, time and place of every row of the input."""
        feature_set, plan = self.plan.scorer.feature_set, self.plan
        as_of = feature_set.as_of or ""
        names = dict.fromkeys([*self.view.keys.values(), as_of])
        declared = Schema(tuple(feature_set.request[name] for name in names))
        for name, field in self.view.keys.items():
            is_text = feature_set.request[field].dtype.kind == "string"
            if is_text == pa.types.is_integer(self.snapshot.schema.field(name).type):
                raise ContractError(
                    f"view {self.view.name!r}: key {name!r} is a string in one of table and request only"
                )
        read = _RequestKeys(
            self.view,
            declared,
            as_of,
            own_as_of(feature_set),
            plan.units,
            plan.snapshot.schema.serialize().to_pybytes(),
        )
        columns = [
            f"{name} {type_}" for name, type_ in zip(key_names(self.view), self.key_types, strict=True)
        ]
        ddl = ", ".join([*columns, f"{TIME} bigint", f"{_UNIT} int", f"{_ORDINAL} int"])
        rows = self.spark.range(0, len(plan.units), 1, len(plan.units)).mapInArrow(read, ddl)
        place = F.struct(_UNIT, _ORDINAL).alias("__left")
        return rows.select(*key_names(self.view), TIME, F.xxhash64(_UNIT, _ORDINAL).alias(SALT), place)

    def _rows(self, *, times_only: bool, ties: Ties | None) -> DataFrame:
        """Return the view's rows in canonical form."""
        canonical = ViewBatches(self.view, ties, times_only)
        read = _ViewUnits(canonical, self.units, self.snapshot.schema.serialize().to_pybytes())
        n = max(len(self.units), 1)
        ddl = batches_ddl(self.view, self.key_types, times_only=times_only)
        return self.spark.range(0, len(self.units), 1, n).mapInArrow(read, ddl)

    def _report(self, join: JoinPlan, tasks: list[dict[str, int]], stages: list[StageTimes]) -> None:
        """Say how evenly the join's tasks were loaded, by rows and by the time that they ran."""
        rows: Counter[str] = Counter()
        for of_unit in tasks:
            rows.update(of_unit)
        n = rows.total()
        say(
            f"view {self.view.name}: joined to {n:,} rows by shuffle in {len(rows)} tasks, the largest of "
            f"{max(rows.values()):,} rows, the median of {int(statistics.median(rows.values())):,}"
            + _seconds([stage for stage in stages if stage.read and stage.written == n])
            + (f"; {len(join.hot)} hot keys were split" if join.hot else "")
        )


def _seconds(joining: list[StageTimes]) -> str:
    """Return what is said of the time of tasks; nothing where Spark did not tell it."""
    if not joining:
        return ""
    return f"; the longest ran {joining[-1].longest:.1f} s, the median {joining[-1].median:.1f} s"


def _sizes(units: tuple[Unit, ...]) -> tuple[int, ...]:
    return tuple(unit.rows for unit in units)


@dataclass(frozen=True)
class _RequestKeys:
    """A function for `mapInArrow` over unit numbers: each row's keys and time by the contract, and its place."""

    view: FeatureView
    declared: Schema
    as_of: str
    own: Field | None
    units: tuple[Unit, ...]
    schema: bytes

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the units; a value that breaks the contract counts as null, its row will be quarantined."""
        schema = pa.ipc.read_schema(pa.py_buffer(self.schema))
        wanted = dict.fromkeys([*self.declared.names, *([self.own.name] if self.own else [])])
        columns = [name for name in wanted if name in schema.names]
        for number in (n for batch in batches for n in batch.column(0).to_pylist()):
            ordinal = 0
            for rows in read_unit(self.units[number], columns, batch_rows=_BATCH_ROWS, schema=schema):
                yield self._keys(rows, number, ordinal)
                ordinal += rows.num_rows

    def _keys(self, rows: pa.RecordBatch, number: int, ordinal: int) -> pa.RecordBatch:
        columns, errors = columns_from_arrow(self.declared, rows)
        broken = np.zeros(rows.num_rows, dtype=np.bool_)
        asked: Any = columns[self.as_of]
        time, timeless = as_of_times(self.own, asked, rows)
        broken[[error.row for error in errors if error.field == self.as_of]] = True
        broken[[error.row for error in timeless]] = True
        arrays = {
            name: key_array(columns[field])
            for name, field in zip(key_names(self.view), self.view.keys.values(), strict=True)
        }
        arrays[TIME] = pa.array(time, pa.int64(), mask=broken)
        arrays[_UNIT] = pa.array(np.full(rows.num_rows, number, dtype=np.int32))
        arrays[_ORDINAL] = pa.array(np.arange(ordinal, ordinal + rows.num_rows, dtype=np.int32))
        return pa.RecordBatch.from_pydict(arrays)


@dataclass(frozen=True)
class _ViewUnits:
    """A function for `mapInArrow` over unit numbers: the view's rows in canonical form."""

    canonical: ViewBatches
    units: tuple[Unit, ...]
    schema: bytes

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the units."""
        schema = pa.ipc.read_schema(pa.py_buffer(self.schema))
        view = self.canonical.view
        wanted = [*view.keys, EVENT_TS, CREATED_TS]
        if not self.canonical.times_only:
            wanted = [name for name in (*view_columns(view), IS_DELETED) if name in schema.names]
        for number in (n for batch in batches for n in batch.column(0).to_pylist()):
            for rows in read_unit(self.units[number], wanted, batch_rows=_BATCH_ROWS, schema=schema):
                yield self.canonical.canonical(rows)


@dataclass(frozen=True)
class _WriteUnits:
    """A function for `mapInArrow` over joined rows sorted by unit and ordinal: writes a file for each unit."""

    view: FeatureView
    uri: str
    prefix: str
    sizes: tuple[int, ...]

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield for each unit one line of JSON: its number, its file, and how many of its rows each task joined."""
        filesystem, path = filesystem_of(self.uri)
        filesystem.create_dir(path, recursive=True)
        for unit, parts in _by_unit(batches):
            line = json.dumps(self._written(unit, parts))
            yield pa.RecordBatch.from_arrays([pa.array([line], pa.string())], names=["result"])

    def _written(self, unit: int, parts: Iterator[pa.RecordBatch]) -> Any:
        schema = staged_schema(self.view)
        tasks: Counter[int] = Counter()
        done = 0
        with ParquetSink(self.uri, schema, f"{self.prefix}-{unit:05d}") as sink:
            for rows in parts:
                expected = np.arange(done, done + rows.num_rows)
                if not np.array_equal(rows.column(_ORDINAL).to_numpy(), expected):
                    raise VerificationError(
                        f"view {self.view.name!r}: the join lost or doubled rows of unit {unit} near its row {done}"
                    )
                done += rows.num_rows
                status = rows.column(f"{self.view.name}__status").cast(pa.int8())
                fields = [rows.column(f.name).cast(schema.field(f.name).type) for f in self.view.fields]
                sink.append(pa.RecordBatch.from_arrays([*fields, status], schema=schema))
                tasks.update(rows.column(_TASK).to_pylist())
                reached("stage.mid_write")
            file = sink.close()
        if done != self.sizes[unit] or file is None:
            raise VerificationError(
                f"view {self.view.name!r}: unit {unit} has {self.sizes[unit]} rows, {done} came back from the join"
            )
        return [unit, file.to_json(), tasks]


def _by_unit(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, Iterator[pa.RecordBatch]]]:
    """Yield each unit with its rows, as adjacent batches hold them; its rows must be read before the next unit is asked for."""
    pieces = (piece for batch in batches for piece in _cut(batch))
    held = next(pieces, None)

    def of_unit(unit: int) -> Iterator[pa.RecordBatch]:
        nonlocal held
        while held is not None and held[0] == unit:
            yield held[1]
            held = next(pieces, None)

    while held is not None:
        yield held[0], of_unit(held[0])


def _cut(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    units = batch.column(_UNIT).to_numpy()
    starts = np.flatnonzero(np.diff(units, prepend=-1)).tolist()
    for start, stop in zip(starts, [*starts[1:], len(units)], strict=True):
        yield int(units[start]), batch.slice(start, stop - start)
