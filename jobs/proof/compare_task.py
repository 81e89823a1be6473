"""What one Spark task of a reconciliation does: read logged rows, recompute them, compare by bits, explain those that differ.

Rows that are equal leave counts alone; each that differs becomes a row of a Parquet file with its cause. Nothing else leaves the task.
It imports neither Delta nor MLflow, for it travels to the workers.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_pipelines.errors import VerificationError
from feature_pipelines.schema import Field
from jobs.proof.aggregate import Totals
from jobs.proof.causes import Explained, World, explain
from jobs.proof.counting import count_differing, count_rows
from jobs.proof.differing_rows import DIFFERING_SCHEMA, differing_table
from jobs.proof.log_files import LogFile
from jobs.proof.log_rows import LogRows, read_rows
from jobs.proof.logged_side import Pairing, online_of
from jobs.proof.logged_views import staged_found
from jobs.proof.pairs import Pairs
from jobs.proof.platforms import SubprocessReplay
from jobs.proof.recompute import recompute, requests_of
from jobs.proof.requests import Declared, JoinedRows, Within
from jobs.proof.worst_rows import worst_rows
from jobs.runs.staged_views import StagedRows, StagedView
from jobs.tables.files import filesystem_of
from jobs.tables.sink import ParquetSink
from udfs.answered import LoggedModel
from udfs.kernel import Kernel
from udfs.shipped import load_kernel, model_directory

__all__ = ["RESULT", "CompareTask", "ShippedVersion", "read_corrections_of"]

RESULT = "result string"
"""What a task yields for each unit, as DDL: its number, its totals and its file, as JSON."""

_READ = (
    "process",
    "sequence",
    "served_ts",
    "as_of_ts",
    "model_version",
    "model_digest",
    "feature_fingerprint",
    "configuration_digest",
    "platform_id",
    "request",
    "stored",
    "features",
    "statuses",
    "event_ts",
    "overrides",
    "score",
    "label",
    "error_code",
)
_READ_OF_CLASSES = (*_READ, "class_label", "class_scores")


@dataclass(frozen=True)
class ShippedVersion:
    """A version of the model on the workers: the name by which `ship` sent it, and its number in the registry."""

    name: str
    version: str


@dataclass(frozen=True)
class CompareTask:
    """A function for `mapInArrow`; it travels by pickle, so it holds plain values alone.

    Args:
        reference: recomputes.
        served: by digest, the other versions that answered and can be loaded.
        platforms: by id, what the log says of the platforms that rows were answered on.
        allow_tolerance: see load_bundle.
        units: the log's files.
        is_joined: the batches are rows of the join, sorted by unit and place; else numbers of units, and requests are the log's.
        declared: what was read of the requests table.
        key, types: see LogKeys.
        within, batch_rows: see read_rows.
        corrections: a Parquet file of corrections that rows may have, by process; None = none are looked at.
        staged: by name, the views that were joined beforehand, with a file for each of `units`.
        output, prefix: where files of differing rows go, and how their names begin.
    """

    reference: ShippedVersion
    served: Mapping[str, ShippedVersion]
    platforms: Mapping[str, Mapping[str, Any]]
    allow_tolerance: bool
    units: tuple[tuple[LogFile, ...], ...]
    is_joined: bool
    declared: Declared
    key: tuple[Field, ...]
    types: bytes
    within: Within
    batch_rows: int
    corrections: str | None
    staged: Mapping[str, StagedView]
    output: str
    prefix: str

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Compare the units; yield a row for each (see RESULT)."""
        for unit, joined in JoinedRows.units(batches, self.is_joined):
            yield self._result(unit, joined)

    def _result(self, unit: int, joined: JoinedRows | None) -> pa.RecordBatch:
        filesystem, path = filesystem_of(self.output)
        filesystem.create_dir(path, recursive=True)
        with ParquetSink(self.output, DIFFERING_SCHEMA, f"{self.prefix}-{unit:06d}") as sink:
            totals = self.run(unit, joined, sink)
            written = sink.close()
        line = json.dumps([unit, totals.to_json(), written.path if written else None])
        return pa.RecordBatch.from_arrays([pa.array([line], pa.string())], names=["result"])

    def run(self, unit: int, joined: JoinedRows | None, sink: ParquetSink) -> Totals:
        """Compare one unit."""
        totals, clock, first = Totals(), _Stages(), 0
        comparison = _Comparison(self, unit, totals, clock)
        beside = {name: StagedRows(view, unit) for name, view in self.staged.items()}
        clock.add("load")
        names = _READ_OF_CLASSES if comparison.facts.class_scores else _READ
        for rows, repeated in read_rows(self.units[unit], names, self.batch_rows, self.within):
            totals.counts["duplicated"] += repeated
            clock.add("read")
            if not len(rows):
                continue
            of_table = joined.next(unit, first, len(rows)) if joined is not None else None
            first += len(rows)
            staged = {name: staged.next(len(rows)) for name, staged in beside.items()}
            clock.add("join")
            for differing in comparison.compare(rows, of_table, staged):
                sink.append(differing)
            clock.add("write")
        if any(staged.rows != first for staged in beside.values()):
            raise VerificationError(
                f"the log was rewritten meanwhile: unit {unit} had another number of rows; run again"
            )
        totals.seconds.update(clock.seconds)
        return totals


def read_corrections_of(path: str, files: Sequence[LogFile]) -> pa.Table:
    """Return the corrections of the processes that wrote some files, and of no other.

    Args:
        path: a Parquet file of corrections, by process.
        files: of the log.
    """
    processes = sorted({file.process for file in files})
    return pq.read_table(path, filters=[("process", "in", processes)], partitioning=None)


class _Stages:
    """Wall time per stage of a task."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._last = time.perf_counter()

    def add(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._last  # type: ignore[assignment]
        self._last = now


@dataclass
class _Comparison:
    """Compares batches of one unit."""

    task: CompareTask
    unit: int
    totals: Totals
    clock: _Stages
    kernel: Kernel = field(init=False)
    worlds: dict[str, World | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        task = self.task
        self.kernel = load_kernel(task.reference.name, task.allow_tolerance)
        scorer = self.kernel.scorer
        self.facts = LoggedModel.of(scorer, task.reference.version, "")
        types = pa.ipc.read_schema(pa.py_buffer(task.types))
        self.pairing = Pairing(scorer.feature_set, self.facts, task.key, types)
        path = task.corrections
        self.corrections = None if path is None else read_corrections_of(path, task.units[self.unit])
        self.replay = SubprocessReplay(task.platforms)
        self.reference = World.of(scorer, task.reference.version, model_directory(task.reference.name))

    def served(self, digest: str) -> World | None:
        """Return a version that answered; None where it is not at hand."""
        if digest == self.reference.digest:
            return self.reference
        if digest not in self.worlds:
            shipped = self.task.served.get(digest)
            self.worlds[digest] = None
            if shipped is not None:
                scorer = load_kernel(shipped.name, self.task.allow_tolerance).scorer
                self.worlds[digest] = World.of(scorer, shipped.version, model_directory(shipped.name))
        return self.worlds[digest]

    def compare(
        self, rows: LogRows, of_table: pa.RecordBatch | None, staged: Mapping[str, pa.RecordBatch]
    ) -> Iterator[pa.Table]:
        """Count the rows, and yield those that differ."""
        feature_set = self.kernel.scorer.feature_set
        requests = requests_of(
            rows, of_table, self.task.declared, self.facts.pii_fields, frozenset(feature_set.inputs)
        )
        self.clock.add("columns")
        views = {view.name: view for view in feature_set.views}
        joined = {name: staged_found(views[name], found) for name, found in staged.items()}
        offline = recompute(self.kernel, requests, rows.times("as_of_ts"), joined)
        self.clock.add("score")
        online = online_of(rows, offline, self.facts)
        differing, flips = count_rows(self.totals, rows, online, offline, self.facts, self.corrections)
        self.clock.add("compare")
        digests = rows.flat.column("model_digest").to_numpy()
        for digest in sorted(set(digests[differing].tolist()), key=str):
            index = np.flatnonzero(differing & (digests == digest))
            served = self.served(str(digest))
            theirs = served.scorer.feature_set if served not in (None, self.reference) else None
            pairs = self.pairing.pairs(rows, index, online, offline, theirs)
            explained = explain(pairs, self.reference, served, self.replay)
            yield self._explained(pairs, explained, flips[index])
        self.clock.add("explain")

    def _explained(self, pairs: Pairs, explained: Explained, flips: NDArray[np.bool_]) -> pa.Table:
        """Count the rows by cause, keep the worst, and return the rows of the file."""
        shown = self._without_personal(pairs)
        rows = differing_table(shown, explained, flips)
        count_differing(self.totals, rows)
        self.totals.add_worst(worst_rows(shown, explained, flips, self.facts, self.kernel.scorer.feature_set))
        return rows

    def _without_personal(self, pairs: Pairs) -> Pairs:
        """Return the pairs with no id where that holds personal data."""
        if not self.facts.pii_fields & {f.name for f in self.task.key}:
            return pairs
        return dataclasses.replace(pairs, row_id=[""] * len(pairs))
