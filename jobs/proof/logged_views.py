"""Views that are too large for an index, joined by shuffle to the logged rows before these are compared: a file for each log unit.

A row's keys are those of its request, from the table where it has one, else from the log; its time is the logged as-of time. So the
answers are those that an index gives. The task travels to the workers, so importing this module needs neither Delta nor MLflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession

from feature_pipelines.columns import Columns
from feature_pipelines.views import FeatureView
from jobs.proof.log_files import LogFile
from jobs.proof.log_rows import read_rows
from jobs.proof.pairs import NO_TIME
from jobs.proof.recompute import requests_of
from jobs.proof.requests import Declared, JoinedRows, Within
from jobs.runs.shuffled_view import ShuffledView, place_rows
from jobs.runs.staged_views import FOUND, StagedView, staged_columns

if TYPE_CHECKING:
    from jobs.proof.reconcile_plan import ReconcilePlan

__all__ = ["LoggedKeys", "stage_logged", "staged_found"]

_READ = ("sequence", "as_of_ts", "request", "stored", "statuses")


def stage_logged(
    spark: SparkSession, plan: ReconcilePlan, joined: DataFrame, parts: Path
) -> dict[str, StagedView]:
    """Return, by view, the staged files of every view that the plan joins by shuffle.

    Args:
        spark: classic or Connect.
        plan: see make_plan.
        joined: the frame that the comparison's tasks get.
        parts: where tasks write; workers reach it.

    Raises:
        ContractError: a row of a view breaks its declaration, or a key is a string here and an integer there.
        VerificationError: not every logged row came back from the join once.
    """
    staged: dict[str, StagedView] = {}
    feature_set = plan.scorer.feature_set
    n_rows = sum(file.rows for file in plan.log.files)
    for name in plan.by_shuffle:
        view, snapshot = plan.views[name]
        shuffled = ShuffledView(spark, view, snapshot, feature_set.request, plan.conf.score)
        personal = frozenset(f.name for f in feature_set.sources if "pii" in f.tags)
        keys = LoggedKeys(
            view,
            plan.log_units,
            plan.snapshot is not None,
            plan.declared,
            personal & frozenset(feature_set.inputs),
            plan.asked.within,
            plan.conf.score.batch_rows,
        )
        # asked for up to three times, and each time requests would be read and joined anew
        places = joined.mapInArrow(keys, shuffled.places_ddl).persist(StorageLevel.DISK_ONLY)
        try:
            sizes = [None] * len(plan.log_units)
            staged[name] = shuffled.staged(places, str(parts), "staged", sizes, n_rows)
        finally:
            places.unpersist()
    return staged


def staged_found(
    view: FeatureView, rows: pa.RecordBatch
) -> tuple[Columns, NDArray[np.int8], NDArray[np.int64]]:
    """Return what `AsOfIndex.lookup_timed` gives for the same rows."""
    columns, status = staged_columns(view, rows)
    times: NDArray[np.int64] = rows.column(FOUND).fill_null(NO_TIME).to_numpy()
    return columns, status, times


@dataclass(frozen=True)
class LoggedKeys:
    """A function for `mapInArrow` over what the comparison's tasks get: each logged row's keys of a view, time and place.

    Args:
        view: the declaration.
        units, is_joined, declared, within, batch_rows: see CompareTask.
        personal: fields that are read and tagged "pii".
    """

    view: FeatureView
    units: tuple[tuple[LogFile, ...], ...]
    is_joined: bool
    declared: Declared
    personal: frozenset[str]
    within: Within
    batch_rows: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the rows."""
        for unit, joined in JoinedRows.units(batches, self.is_joined):
            yield from self._unit(unit, joined)

    def _unit(self, unit: int, joined: JoinedRows | None) -> Iterator[pa.RecordBatch]:
        names = dict.fromkeys([*_READ, self.within[0]])
        ordinal = 0
        for rows, _ in read_rows(self.units[unit], list(names), self.batch_rows, self.within):
            if not len(rows):
                continue
            of_table = joined.next(unit, ordinal, len(rows)) if joined is not None else None
            requests = requests_of(rows, of_table, self.declared, self.personal, self.personal)
            keys = [requests.columns[name] for name in self.view.keys.values()]
            yield place_rows(self.view, keys, pa.array(rows.times("as_of_ts")), unit, ordinal)
            ordinal += len(rows)
