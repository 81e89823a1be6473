"""Joining views that are too large for an index to a run's input, once per run, before it is scored.

Tasks read the keys and times of the input's units, and ShuffledView does the rest. The record of the files is made durable when all
are written, so a run that died before stages the view again, and one that died later goes on. Files lie hidden in the scored table's
directory, which every worker reaches, and are named by the run, so they go when its other leftovers do. Its tasks take this module
with them to the workers, so importing it needs neither Delta nor MLflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from feature_pipelines.schema import Field, Schema
from feature_pipelines.schema_arrow import columns_from_arrow
from feature_pipelines.views import FeatureView
from jobs.runs.kill_points import reached
from jobs.runs.shuffled_view import ShuffledView, place_rows
from jobs.runs.staged_views import StagedView
from jobs.runs.worker_errors import errors_of_workers
from jobs.tables.files import child_uri
from jobs.tables.pinned import Snapshot
from jobs.tables.units import Unit, read_unit
from udfs.as_of import as_of_times, own_as_of

if TYPE_CHECKING:
    from jobs.runs.manifest import RunDirectory
    from jobs.runs.plan import ScorePlan

__all__ = ["stage_views"]

_BATCH_ROWS = 65_536


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
                kept = _staged(spark, plan, run, *plan.views[name])
            reached("stage.before_record")
            run.write_staged(name, kept.to_json())
            reached("stage.after_record")
        staged[name] = kept
    return staged


def _staged(
    spark: SparkSession, plan: ScorePlan, run: RunDirectory, view: FeatureView, snapshot: Snapshot
) -> StagedView:
    feature_set, units = plan.scorer.feature_set, plan.units
    joined = ShuffledView(spark, view, snapshot, feature_set.request, plan.conf.score)
    as_of = feature_set.as_of or ""
    names = dict.fromkeys([*view.keys.values(), as_of])
    read = _RequestKeys(
        view,
        Schema(tuple(feature_set.request[name] for name in names)),
        as_of,
        own_as_of(feature_set),
        units,
        plan.snapshot.schema.serialize().to_pybytes(),
    )
    places = spark.range(0, len(units), 1, len(units)).mapInArrow(read, joined.places_ddl)
    sizes = [unit.rows for unit in units]
    return joined.staged(places, child_uri(plan.scored, "_staged"), run.run_id, sizes, plan.rows)


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
        keys = [columns[field] for field in self.view.keys.values()]
        return place_rows(self.view, keys, pa.array(time, pa.int64(), mask=broken), number, ordinal)
