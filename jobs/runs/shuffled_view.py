"""A view that is too large for an index, joined by shuffle to the rows of an input: a file for each of the input's units of work.

Tasks read the keys and times of the input's rows and the view's rows; Spark joins them and brings the answers back into the order of
the units; tasks write a file for each. What the input is, and where its keys come from, is for the caller. Tasks take this module with
them to the workers, so importing it needs neither Delta nor MLflow.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_pipelines.columns import Column
from feature_pipelines.errors import ContractError, VerificationError
from feature_pipelines.lookup_arrow import CREATED_TS, EVENT_TS, IS_DELETED, view_columns
from feature_pipelines.offline.as_of_join import FOUND_TS, JoinPlan, batches_ddl, join_prepared, plan_join
from feature_pipelines.offline.hot_keys import SALT, TIME
from feature_pipelines.offline.view_batches import Ties, ViewBatches, key_array, key_names
from feature_pipelines.schema import Schema
from feature_pipelines.views import FeatureView
from jobs.runs.kill_points import reached
from jobs.runs.progress import say
from jobs.runs.staged_views import StagedView, staged_schema
from jobs.runs.task_times import StageTimes, stage_times, tagged
from jobs.tables.files import filesystem_of
from jobs.tables.pinned import Snapshot
from jobs.tables.sink import ParquetSink, WrittenFile
from jobs.tables.units import Unit, plan_units, read_unit

if TYPE_CHECKING:
    from jobs.runs.settings import ScoreSettings

__all__ = ["ShuffledView", "place_rows"]

_UNIT, _ORDINAL, _TASK = "__unit", "__ordinal", "__task"
_BATCH_ROWS = 65_536
_WRITERS = 1_000


class ShuffledView:
    """A view that is joined by shuffle to the rows of an input, each known by its unit of work and its place there.

    Args:
        spark: classic or Connect.
        view, snapshot: the view and its pinned table.
        request: has the fields by which it is looked up.
        settings: how large units are, and from when on a key is hot.

    Raises:
        ContractError: a key is a string in one of table and request only.
    """

    def __init__(
        self,
        spark: SparkSession,
        view: FeatureView,
        snapshot: Snapshot,
        request: Schema,
        settings: ScoreSettings,
    ) -> None:
        self.spark = spark
        self.view = view
        self.snapshot = snapshot
        self.settings = settings
        self.units = tuple(plan_units(snapshot, unit_rows=settings.unit_rows))
        types = [snapshot.schema.field(name).type for name in view.keys]
        self.key_types = ["bigint" if pa.types.is_integer(type_) else "string" for type_ in types]
        for (name, field), type_ in zip(view.keys.items(), types, strict=True):
            if (request[field].dtype.kind == "string") == pa.types.is_integer(type_):
                raise ContractError(
                    f"view {view.name!r}: key {name!r} is a string in one of table and request only"
                )

    @property
    def places_ddl(self) -> str:
        """The columns that `place_rows` makes, for `requests_of`."""
        keys = zip(key_names(self.view), self.key_types, strict=True)
        return ", ".join(
            [*(f"{name} {type_}" for name, type_ in keys), f"{TIME} bigint, {_UNIT} int, {_ORDINAL} int"]
        )

    def staged(
        self, places: DataFrame, uri: str, prefix: str, sizes: Sequence[int | None], n_rows: int
    ) -> StagedView:
        """Join, write and check.

        Args:
            places: of every row of the input, columns as `places_ddl` has them.
            uri: a directory, for the files.
            prefix: begins their names.
            sizes: of each unit how many rows it has, None = as many as come.
            n_rows: about how many there are in all.

        Raises:
            VerificationError: not every row came back from the join once.
        """
        keys = key_names(self.view)
        place = F.struct(_UNIT, _ORDINAL).alias("__left")
        requests = places.select(*keys, TIME, F.xxhash64(_UNIT, _ORDINAL).alias(SALT), place)
        times = self._rows(times_only=True, ties=frozenset())
        limit = self.settings.hot_key_rows
        may_be_hot = n_rows + sum(unit.rows for unit in self.units) > limit
        join = plan_join(requests.select(*keys, TIME), times, self.view, limit if may_be_hot else None)
        joined = join_prepared(requests, self._rows(times_only=False, ties=join.ties), self.view, join)
        n = len(sizes)
        write = _WriteUnits(self.view, uri, f"{prefix}-{self.view.name}", tuple(sizes))
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
        wanted = {unit for unit, size in enumerate(sizes) if size is not None}
        if not wanted <= results.keys() or len(lines) != len(results):
            raise VerificationError(
                f"view {self.view.name!r}: {n} units were joined, {len(lines)} came back, {len(results)} of them different"
            )
        self._report(join, [tasks for _, tasks in results.values()], stage_times(self.spark, tag))
        files = (WrittenFile.from_json(results[unit][0]) if unit in results else None for unit in range(n))
        return StagedView(uri, tuple(files))

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


def place_rows(
    view: FeatureView, keys: Sequence[Column], times: pa.Array, unit: int, ordinal: int
) -> pa.RecordBatch:
    """Return rows that lie side by side in a unit, by which a ShuffledView knows them.

    Args:
        view: the declaration.
        keys: its key fields' columns, in the order of `view.keys`.
        times: as of when each is asked for, int64 microseconds; null: nothing is visible.
        unit: their unit; `ordinal`: the place there of the first, from 0.
    """
    n = len(times)
    arrays = {name: key_array(column) for name, column in zip(key_names(view), keys, strict=True)}
    arrays[TIME] = times
    arrays[_UNIT] = pa.array(np.full(n, unit, dtype=np.int32))
    arrays[_ORDINAL] = pa.array(np.arange(ordinal, ordinal + n, dtype=np.int32))
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
    sizes: tuple[int | None, ...]

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
                sink.append(
                    pa.RecordBatch.from_arrays([*fields, status, rows.column(FOUND_TS)], schema=schema)
                )
                tasks.update(rows.column(_TASK).to_pylist())
                reached("stage.mid_write")
            file = sink.close()
        if self.sizes[unit] not in (done, None) or file is None:
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
