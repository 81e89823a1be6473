"""What one Spark task of a reconciliation does: read logged rows, recompute them, compare by bits, explain those that differ.

Rows that are equal leave counts alone; each that differs becomes a row of a Parquet file with its cause. Nothing else leaves the task.
It imports neither Delta nor MLflow, for it travels to the workers.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from feature_pipelines.columns import Column, concat, take
from feature_pipelines.parity import differing_bits, ulp_distance
from feature_pipelines.schema import Field
from jobs.proof.aggregate import Totals
from jobs.proof.causes import Explained, World, explain
from jobs.proof.corrections import corrected
from jobs.proof.log_files import LogFile
from jobs.proof.log_rows import LogRows, read_rows
from jobs.proof.pairs import NO_TIME, Pairs, Side
from jobs.proof.platforms import SubprocessReplay
from jobs.proof.recompute import Recomputed, logged_columns, recompute, requests_of, statuses_of
from jobs.proof.requests import Declared, JoinedRows, Within, log_ids
from jobs.proof.worst_rows import worst_rows
from jobs.tables.files import filesystem_of
from jobs.tables.sink import ParquetSink
from udfs.answered import LoggedModel
from udfs.kernel import Kernel
from udfs.shipped import load_kernel, model_directory

__all__ = ["DIFFERING_SCHEMA", "RESULT", "CompareTask", "ShippedVersion"]

RESULT = "result string"
"""What a task yields for each unit, as DDL: its number, its totals and its file, as JSON."""

_TIME = pa.timestamp("us", tz="UTC")
DIFFERING_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("as_of_ts", _TIME),
        ("served_ts", _TIME),
        ("process", pa.string()),
        ("sequence", pa.int64()),
        ("model_version", pa.string()),
        ("model_digest", pa.string()),
        ("platform_id", pa.string()),
        ("request_in_table", pa.bool_()),
        ("cause", pa.string()),
        ("where", pa.string()),
        ("parts", pa.list_(pa.string())),
        ("detail", pa.string()),
        ("online_score", pa.float64()),
        ("offline_score", pa.float64()),
        ("ulps", pa.float64()),
        ("online_label", pa.bool_()),
        ("offline_label", pa.bool_()),
        ("online_error", pa.string()),
        ("offline_error", pa.string()),
        ("is_flip", pa.bool_()),
    ]
)
"""One row a differing row. `row_id` is null where the key holds personal data; `ulps` where a side has no score."""

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
        corrections: a Parquet file of corrections that rows may have; None = none are looked at.
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
    output: str
    prefix: str

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Compare the units; yield a row for each (see RESULT)."""
        if not self.is_joined:
            for number in (n for batch in batches for n in batch.column(0).to_pylist()):
                yield self._result(number, None)
            return
        joined = JoinedRows(batches)
        while (unit := joined.enter()) is not None:
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
        comparison = _Comparison(self, totals, clock)
        clock.add("load")
        for rows, repeated in read_rows(self.units[unit], _READ, self.batch_rows, self.within):
            totals.counts["duplicated"] += repeated
            clock.add("read")
            if not len(rows):
                continue
            of_table = joined.next(unit, first, len(rows)) if joined is not None else None
            first += len(rows)
            clock.add("join")
            for differing in comparison.compare(rows, of_table):
                sink.append(differing)
            clock.add("write")
        totals.seconds.update(clock.seconds)
        return totals


class _Stages:
    """Wall time per stage of a task."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._last = time.perf_counter()

    def add(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._last  # type: ignore[assignment]
        self._last = now


@dataclass(frozen=True, eq=False)
class _Online:
    """What the log says of n rows: as in Side, and by feature the rows whose value it does not hold."""

    matrix: NDArray[np.float64]
    score: NDArray[np.float64]
    label: NDArray[np.bool_] | None
    error: NDArray[np.object_]
    unlogged: dict[str, NDArray[np.bool_]]


@dataclass
class _Comparison:
    """Compares batches of one unit."""

    task: CompareTask
    totals: Totals
    clock: _Stages
    kernel: Kernel = field(init=False)
    worlds: dict[str, World | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        task = self.task
        self.kernel = load_kernel(task.reference.name, task.allow_tolerance)
        scorer = self.kernel.scorer
        self.facts = LoggedModel.of(scorer, task.reference.version, "")
        self.types = pa.ipc.read_schema(pa.py_buffer(task.types))
        corrections = task.corrections
        self.corrections = None if corrections is None else pq.read_table(corrections)
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

    def compare(self, rows: LogRows, of_table: pa.RecordBatch | None) -> Iterator[pa.Table]:
        """Count the rows, and yield those that differ."""
        feature_set = self.kernel.scorer.feature_set
        requests = requests_of(
            rows, of_table, self.task.declared, self.facts.pii_fields, frozenset(feature_set.inputs)
        )
        self.clock.add("columns")
        offline = recompute(self.kernel, requests, rows.times("as_of_ts"))
        self.clock.add("score")
        online = self._online(rows, offline)
        known = requests.is_known
        differing, flips = self._count(rows, online, offline, known)
        self.clock.add("compare")
        digests = rows.flat.column("model_digest").to_numpy()
        for digest in sorted(set(digests[differing].tolist()), key=str):
            index = np.flatnonzero(differing & (digests == digest))
            pairs = self._pairs(rows, index, online, offline)
            explained = explain(pairs, self.reference, self.served(str(digest)), self.replay)
            yield self._explained(pairs, explained, flips[index])
        self.clock.add("explain")

    def _online(self, rows: LogRows, offline: Recomputed) -> _Online:
        flat = rows.flat
        error = flat.column("error_code").to_numpy().astype(np.object_)
        score = flat.column("score").to_numpy().astype(np.float64)
        scored = flat.column("error_code").combine_chunks().is_null().to_numpy(zero_copy_only=False)
        matrix, lacking = rows.maps["features"].matrix(self.facts.feature_names)
        unlogged = {}
        for name, absent in lacking.items():
            absent = absent & scored
            if absent.any():
                at = self.facts.feature_names.index(name)
                matrix[at, absent] = offline.matrix[at, absent]
                unlogged[name] = absent
        label = None
        if offline.label is not None:
            label = flat.column("label").combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)
        return _Online(matrix, score, label, error, unlogged)

    def _count(
        self, rows: LogRows, online: _Online, offline: Recomputed, known: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Count all that is counted of rows before their causes; return which differ, and in which the decision does."""
        refused, refused_too = _is_refused(online.error), _is_refused(offline.error)
        both = ~(refused | refused_too)
        differing = differing_bits(online.score, offline.score) | (refused != refused_too)
        codes = np.flatnonzero(refused & refused_too)
        differing[codes] |= np.asarray(online.error[codes] != offline.error[codes], np.bool_)
        flips = np.zeros(len(rows), np.bool_)
        if online.label is not None and offline.label is not None:
            flips = (online.label != offline.label) & both & known
            differing |= flips
        features = differing_bits(online.matrix, offline.matrix) & (both & known)
        differing = (differing | features.any(axis=0)) & known
        ulps = ulp_distance(online.score, offline.score)
        mended = self._corrected(rows, online, offline, differing)
        if mended.any():
            differing &= ~mended
            flips &= ~mended
            features &= ~mended
            ulps[mended] = 0
        self._count_fields(online, offline, features, both & known, mended)
        self.totals.add_hours(rows.times("served_ts")[known], differing[known], flips[known], ulps[known])
        to_positive = int((flips & offline.label).sum()) if offline.label is not None else 0
        in_table = offline.requests.in_table
        counted = {
            "logged": len(rows),
            "compared": int(known.sum()),
            "differing": int(differing.sum()),
            "refused_online": int((refused & known).sum()),
            "refused_offline": int((refused_too & known).sum()),
            "not_in_table": int((known & ~in_table).sum()),
            "not_comparable": int((~known).sum()),
            "corrected": int(mended.sum()),
            "to_positive": to_positive,
            "to_negative": int(flips.sum()) - to_positive,
        }
        self.totals.counts.update(counted)
        self._count_versions(rows, known, differing, flips)
        self._count_unlogged(rows, online)
        return differing, flips

    def _corrected(
        self, rows: LogRows, online: _Online, offline: Recomputed, differing: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Return which of the differing rows have a correction that says what the batch says."""
        mended = np.zeros(len(rows), np.bool_)
        index = np.flatnonzero(differing)
        if self.corrections is not None and len(index):
            mended[index] = corrected(_bare(rows.take(index), index, online, offline), self.corrections)
        return mended

    def _count_fields(
        self,
        online: _Online,
        offline: Recomputed,
        features: NDArray[np.bool_],
        both: NDArray[np.bool_],
        mended: NDArray[np.bool_],
    ) -> None:
        n = int(both.sum())
        index = np.flatnonzero(differing_bits(online.score, offline.score) & both & ~mended)
        self.totals.fields["score"].add(n, online.score[index], offline.score[index])
        for at, name in enumerate(self.facts.feature_names):
            lacking = int((online.unlogged[name] & both).sum()) if name in online.unlogged else 0
            index = np.flatnonzero(features[at])
            self.totals.fields[name].add(n - lacking, online.matrix[at, index], offline.matrix[at, index])

    def _count_versions(
        self,
        rows: LogRows,
        known: NDArray[np.bool_],
        differing: NDArray[np.bool_],
        flips: NDArray[np.bool_],
    ) -> None:
        table = pa.table(
            {
                "version": rows.flat.column("model_version"),
                "digest": rows.flat.column("model_digest"),
                **{
                    name: pa.array(mask.astype(np.int64))
                    for name, mask in (("c", known), ("d", differing), ("f", flips))
                },
            }
        )
        for row in (
            table.group_by(["version", "digest"])
            .aggregate([("c", "sum"), ("d", "sum"), ("f", "sum")])
            .to_pylist()
        ):
            self.totals.add_version(
                row["version"] or "", row["digest"] or "", row["c_sum"], row["d_sum"], row["f_sum"]
            )

    def _count_unlogged(self, rows: LogRows, online: _Online) -> None:
        for name, absent in online.unlogged.items():
            self.totals.unlogged[name] += int(absent.sum())
        without = int((~rows.has_stored).sum())
        if without:
            self.totals.unlogged.update({f.name: without for f in self.facts.stored})

    def _pairs(self, rows: LogRows, index: NDArray[np.int64], online: _Online, offline: Recomputed) -> Pairs:
        """Return some rows of a batch, all of one digest, as pairs."""
        feature_set, taken = self.kernel.scorer.feature_set, rows.take(index)
        other = offline.side(feature_set.views, index)
        personal = self.facts.pii_fields
        columns, lacking = logged_columns(taken, tuple(feature_set.request), "request", personal)
        stored, lacking_too = logged_columns(taken, self.facts.stored, "stored", personal)
        columns |= stored
        lacking |= lacking_too
        for name, absent in lacking.items():
            columns[name] = _mixed(columns[name], other.columns[name], absent)
        digest = str(taken.flat.column("model_digest")[0].as_py())
        columns |= self._further(taken, digest)
        statuses = {view.name: statuses_of(taken, view.name) for view in feature_set.views}
        times = {view.name: _times(taken, view.name) for view in feature_set.views}
        label = None if online.label is None else online.label[index]
        side = Side(
            columns, online.matrix[:, index], online.score[index], label, statuses, times, online.error[index]
        )
        sent = {
            f.name: (taken.maps["request"].positions(f.name) >= 0)
            | lacking.get(f.name, np.zeros(len(index), np.bool_))
            for f in feature_set.request
        }
        unlogged = lacking | {
            name: absent[index] for name, absent in online.unlogged.items() if absent[index].any()
        }
        texts = {
            name: [text or "" for text in taken.flat.column(name).to_pylist()]
            for name in (
                "process",
                "model_version",
                "model_digest",
                "feature_fingerprint",
                "configuration_digest",
                "platform_id",
            )
        }
        return Pairs(
            row_id=self._row_ids(taken),
            as_of=taken.times("as_of_ts"),
            served_ts=taken.times("served_ts"),
            online=side,
            offline=other,
            version=texts["model_version"],
            digest=texts["model_digest"],
            fingerprint=texts["feature_fingerprint"],
            configuration=texts["configuration_digest"],
            platform=texts["platform_id"],
            request_in_table=offline.requests.in_table[index],
            sent=sent,
            process=texts["process"],
            sequence=taken.flat.column("sequence").to_numpy(),
            overrides=_overrides(taken),
            unlogged=unlogged,
        )

    def _row_ids(self, rows: LogRows) -> list[str]:
        ids = log_ids(rows, self.task.key, self.types, "\0").to_pylist()
        return ["" if text.startswith("\0") else text for text in ids]

    def _further(self, rows: LogRows, digest: str) -> dict[str, Column]:
        """Return source fields that the version that answered has and the reference has not."""
        world = self.served(digest)
        if world is None or world is self.reference:
            return {}
        known, theirs = self.kernel.scorer.feature_set.sources, world.scorer.feature_set
        further = [f for f in theirs.sources if f.name not in known]
        personal = frozenset(f.name for f in further if "pii" in f.tags)
        in_request = [f for f in further if f.name in theirs.request]
        stored = [f for f in further if f.name not in theirs.request]
        return (
            logged_columns(rows, in_request, "request", personal)[0]
            | logged_columns(rows, stored, "stored", personal)[0]
        )

    def _explained(self, pairs: Pairs, explained: Explained, flips: NDArray[np.bool_]) -> pa.Table:
        """Count causes, keep the worst, and return the rows of the file."""
        causes = [str(cause) if cause is not None else "" for cause in explained.cause]
        parts = [[str(part) for part in of_row] for of_row in explained.parts]
        counted: Counter[tuple[str, str, str]] = Counter()
        flipped: Counter[tuple[str, str, str]] = Counter()
        keys = [(c, w, " + ".join(p)) for c, w, p in zip(causes, explained.where, parts, strict=True)]
        counted.update(keys)
        flipped.update(key for key, flip in zip(keys, flips.tolist(), strict=True) if flip)
        for key, n in counted.items():
            self.totals.add_cause(*key, n, flipped[key])
        shown = self._without_personal(pairs)
        self.totals.add_worst(worst_rows(shown, explained, flips, self.facts, self.kernel.scorer.feature_set))
        return _table(shown, explained, causes, parts, flips)

    def _without_personal(self, pairs: Pairs) -> Pairs:
        """Return the pairs with no id where that holds personal data."""
        if not self.facts.pii_fields & {f.name for f in self.task.key}:
            return pairs
        return dataclasses.replace(pairs, row_id=[""] * len(pairs))


def _bare(rows: LogRows, index: NDArray[np.int64], online: _Online, offline: Recomputed) -> Pairs:
    """Return pairs with scores alone: no inputs and features, and nothing that they are explained by."""
    n = len(index)
    texts = [""] * n
    label = None if online.label is None else online.label[index]
    side = Side({}, np.zeros((0, n)), online.score[index], label, {}, {}, online.error[index])
    label = None if offline.label is None else offline.label[index]
    other = Side({}, np.zeros((0, n)), offline.score[index], label, {}, {}, offline.error[index])
    return Pairs(
        row_id=texts,
        as_of=rows.times("as_of_ts"),
        served_ts=rows.times("served_ts"),
        online=side,
        offline=other,
        version=texts,
        digest=texts,
        fingerprint=texts,
        configuration=texts,
        platform=texts,
        request_in_table=offline.requests.in_table[index],
        sent={},
        process=[text or "" for text in rows.flat.column("process").to_pylist()],
        sequence=rows.flat.column("sequence").to_numpy(),
    )


def _is_refused(error: NDArray[np.object_]) -> NDArray[np.bool_]:
    return np.asarray(error != None, np.bool_)  # noqa: E711 - element by element


def _mixed(column: Column, other: Column, where: NDArray[np.bool_]) -> Column:
    """Return the column, with the other's values in some rows."""
    n = len(where)
    return take(concat([column, other]), np.arange(n) + n * where)


def _times(rows: LogRows, view: str) -> NDArray[np.int64]:
    values = rows.maps["event_ts"].values(view).cast(pa.int64())
    times: NDArray[np.int64] = values.fill_null(NO_TIME).to_numpy(zero_copy_only=False)
    return times


def _overrides(rows: LogRows) -> dict[str, NDArray[np.bool_]]:
    lists = rows.flat.column("overrides").combine_chunks()
    parents = pc.list_parent_indices(lists).to_numpy()
    names = pc.list_flatten(lists).dictionary_encode()
    found = {}
    for code, name in enumerate(names.dictionary.to_pylist()):
        mask = np.zeros(len(rows), np.bool_)
        mask[parents[names.indices.to_numpy() == code]] = True
        found[str(name)] = mask
    return found


def _table(
    pairs: Pairs, explained: Explained, causes: list[str], parts: list[list[str]], flips: NDArray[np.bool_]
) -> pa.Table:
    online, offline = pairs.online, pairs.offline
    no_score = np.isnan(online.score) | np.isnan(offline.score)
    n = len(pairs)
    columns: dict[str, Any] = {
        "row_id": pa.array([text or None for text in pairs.row_id], pa.string()),
        "as_of_ts": pa.array(pairs.as_of).cast(_TIME),
        "served_ts": pa.array(pairs.served_ts).cast(_TIME),
        "process": pairs.process,
        "sequence": pairs.sequence,
        "model_version": pairs.version,
        "model_digest": pairs.digest,
        "platform_id": pairs.platform,
        "request_in_table": pairs.request_in_table,
        "cause": causes,
        "where": explained.where,
        "parts": parts,
        "detail": explained.detail,
        "online_score": pa.array(online.score, mask=_is_refused(online.error)),
        "offline_score": pa.array(offline.score, mask=_is_refused(offline.error)),
        "ulps": pa.array(ulp_distance(online.score, offline.score).astype(np.float64), mask=no_score),
        "online_label": _labels(online, n),
        "offline_label": _labels(offline, n),
        "online_error": list(online.error),
        "offline_error": list(offline.error),
        "is_flip": flips,
    }
    arrays = [
        value if isinstance(value := columns[f.name], pa.Array) else pa.array(value, f.type)
        for f in DIFFERING_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=DIFFERING_SCHEMA)


def _labels(side: Side, n: int) -> pa.Array:
    if side.label is None:
        return pa.nulls(n, pa.bool_())
    return pa.array(side.label, pa.bool_(), mask=_is_refused(side.error))
