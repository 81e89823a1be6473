"""A scoring run: chunks are scored by Spark tasks and committed by the driver, so that nothing is lost and nothing comes twice.

For each chunk: score -> record -> commit quarantine -> commit scored. The record is durable before the first commit, and either
commit is an application transaction of its own, so a run killed anywhere continues where it stopped. While the driver commits a
chunk, Spark scores the next. At the end the run proves, by count and checksum, that the ids in are the ids scored and quarantined.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

import jobs
from feature_pipelines.errors import ContractError, VerificationError
from jobs.runs.distinct import ids_that_repeat, repeated_hashes, save_hashes
from jobs.runs.ids import IdSum
from jobs.runs.kill_points import reached
from jobs.runs.manifest import ChunkRecord, RunDirectory, RunGroup, require_same, runs_directory
from jobs.runs.plan import ScorePlan
from jobs.runs.progress import say
from jobs.runs.run_summary import RunSummary, merged, summarised
from jobs.runs.score_tables import QUARANTINE_SCHEMA, scored_schema
from jobs.runs.score_task import RESULT, ScoreTask, TaskResult
from jobs.runs.staged_views import StagedView
from jobs.runs.staging import stage_views
from jobs.runs.views import index_view
from jobs.runs.worker_errors import errors_of_workers
from jobs.runs.written_ids import ids_in_files, read_ids
from jobs.tables.delta import (
    commit_files,
    committed_version,
    delete_orphans,
    delete_rows,
    ensure_table,
    open_table,
)
from jobs.tables.delta_read import is_delta
from jobs.tables.files import child_uri, filesystem_of, normal_uri
from jobs.tables.sink import WrittenFile
from jobs.tables.snapshot import check_snapshot
from udfs.shipped import ship

__all__ = ["Progress", "score"]

Progress = Callable[[int, int, float], None]
"""Called after each chunk with rows done, rows in all, seconds so far; rows out of the range are done with their chunk."""

_AHEAD = 2


def score(
    spark: SparkSession, plan: ScorePlan, *, new_run: bool = False, progress: Progress | None = None
) -> RunSummary:
    """Score what the plan says, continuing an unfinished run of the same identity.

    Args:
        spark: classic or Connect.
        plan: see make_plan.
        new_run: start over, although a run is unfinished or complete. What an unfinished run committed is taken back.
        progress: told after each chunk.

    Raises:
        Busy: another process works on the same run. RunConflictError: another run is unfinished, or being worked on.
        ContractError: more rows are quarantined than the configuration allows. VerificationError: ids do not add up.
    """
    group = RunGroup(runs_directory(plan.conf.storage.runs), plan.model.name, plan.group_key())
    now = datetime.now(UTC)
    with group.locked(now, plan.identity(), new_run=new_run) as working_on:
        run = None if new_run else _continued(group, plan)
        if run is not None and (done := run.completed()) is not None:
            return RunSummary(**{**done, "did_nothing": True})
        resumed = run is not None
        reached("plan.before_manifest")
        if run is None:
            before = group.latest()
            if before is not None and before.completed() is None:
                before.abandon()
                _take_back(plan, before)
            tables = [plan.scored, plan.quarantine]
            manifest = {
                **_terms(plan),
                "chunks": plan.chunks,
                "input": plan.snapshot.to_json(),
                "tables": tables,
            }
            run = group.new(now, manifest)
        working_on(run.run_id)
        reached("plan.after_manifest")
        check_snapshot(plan.snapshot)
        in_kernel = {name: view for name, view in plan.views.items() if name not in plan.by_shuffle}
        indexes = {name: index_view(*view) for name, view in in_kernel.items()}
        shipped = ship(spark, plan.bundle, indexes, [jobs])
        summary = _Run(spark, plan, run, shipped, progress).finish(resumed)
        reached("run.before_complete")
        run.complete({**summary.__dict__})
        reached("run.after_complete")
        return summary


def _continued(group: RunGroup, plan: ScorePlan) -> RunDirectory | None:
    """Return the run to continue or to report as complete; None to start a new one."""
    run = group.latest()
    if run is None or run.is_abandoned():
        return None
    recorded, wanted = run.manifest(), _terms(plan)
    if run.completed() is None:
        require_same(run, _flat(recorded), _flat(wanted))
        return run
    if recorded["identity"] != wanted["identity"]:
        return None
    last = max(len(recorded["chunks"]) - 1, 0)
    for table, uri in (("scored", plan.scored), ("quarantine", plan.quarantine)):
        if not is_delta(uri) or committed_version(uri, _app_id(run.run_id, table, last)) is None:
            say(f"run {run.run_id} is complete, but {uri} does not have its rows any more: scoring again")
            return None
    return run


def _app_id(run_id: str, table: str, chunk: int) -> str:
    return f"onescore/{run_id}/{table}/{chunk}"


def _take_back(plan: ScorePlan, run: RunDirectory) -> None:
    """Take the rows of an abandoned run out of the tables; again, if the process that began it died."""
    tables = run.manifest().get(
        "tables", [plan.scored, plan.quarantine]
    )  # its own: the configuration may have changed
    for uri in tables:
        if is_delta(uri) and (rows := delete_rows(uri, "run_id", run.run_id)):
            say(f"took {rows:,} rows of the unfinished run {run.run_id} out of {uri}")
    _delete_leftovers(tables, run)


def _delete_leftovers(tables: Sequence[str], run: RunDirectory) -> None:
    """Delete what dead attempts of a run wrote and nobody will commit any more."""
    for table in tables:
        if is_delta(table):
            delete_orphans(table, run.run_id)


def _terms(plan: ScorePlan) -> dict[str, Any]:
    """Return what a manifest says of the terms of a run; a resumed run must agree in all, the same result in identity alone."""
    return {"identity": plan.identity(), "settings": plan.conf.digested(), "cut": plan.cut()}


def _flat(terms: dict[str, Any]) -> dict[str, Any]:
    return {**terms["identity"], **terms["settings"], "cut": terms["cut"]}


class _Run:
    """The work of one process on a run."""

    def __init__(
        self, spark: SparkSession, plan: ScorePlan, run: RunDirectory, shipped: str, progress: Progress | None
    ) -> None:
        self.spark = spark
        self.plan = plan
        self.run = run
        self.shipped = shipped
        self.progress = progress
        self.started = time.perf_counter()
        self.staged: dict[str, StagedView] = {}
        feature_set, output = plan.scorer.feature_set, plan.scorer.output
        self.scored_schema = scored_schema(feature_set, output, plan.snapshot.schema, plan.repeated)
        ensure_table(plan.scored, self.scored_schema)
        ensure_table(plan.quarantine, QUARANTINE_SCHEMA)

    def finish(self, resumed: bool) -> RunSummary:
        """Score and commit every chunk that is not done, prove the whole, and return the summary."""
        self.staged = stage_views(self.spark, self.plan, self.run)
        records: list[ChunkRecord] = []
        rows_here = 0
        with closing(
            self._records()
        ) as scored:  # whatever happens, no task is left running when the lock is given back
            for record, fresh in scored:
                self._check_limit([*records, record])
                self._check_ids(record)
                if fresh:
                    self._check_distinct([record], f"Nothing of chunk {record.chunk} was committed")
                    reached("chunk.before_record")
                    self.run.write_record(record)
                    rows_here += record.ids_in.count
                else:
                    self._check_files(record)
                reached("chunk.after_record")
                self._commit(record)
                records.append(record)
                if self.progress is not None:
                    done = sum(unit.rows for unit in self.plan.units[: self.plan.chunks[record.chunk][1]])
                    self.progress(done, self.plan.rows, time.perf_counter() - self.started)
        if not self.plan.chunks:
            self._commit(ChunkRecord(0, (), (), IdSum(), IdSum(), IdSum()))
        if len(records) > 1:
            self._check_distinct(records, "The run stays incomplete; --new-run takes its rows back")
        seconds = time.perf_counter() - self.started
        self._check_commits()
        _delete_leftovers([self.plan.scored, self.plan.quarantine], self.run)
        return summarised(self.run.run_id, records, rows_here, seconds, resumed)

    def _records(self) -> Generator[tuple[ChunkRecord, bool], None, None]:
        """Yield each chunk's record, in order, and whether it was scored just now; score a little ahead of the commits."""
        with ThreadPoolExecutor(max_workers=_AHEAD, thread_name_prefix="onescore-chunk") as pool:
            waiting: list[Future[tuple[ChunkRecord, bool]]] = []
            chunks = iter(range(len(self.plan.chunks)))
            try:
                for chunk in chunks:
                    waiting.append(pool.submit(self._record, chunk))
                    if len(waiting) > _AHEAD:
                        yield waiting.pop(0).result()
                while waiting:
                    yield waiting.pop(0).result()
            finally:
                for future in waiting:
                    future.cancel()

    def _record(self, chunk: int) -> tuple[ChunkRecord, bool]:
        kept = self.run.record(chunk)
        return (kept, False) if kept is not None else (self._score(chunk), True)

    def _score(self, chunk: int) -> ChunkRecord:
        """Run one Spark job: a task per unit, each told its number by a one-row partition of a range."""
        plan = self.plan
        start, stop = plan.chunks[chunk]
        task = ScoreTask(
            shipped=self.shipped,
            units=plan.units[start:stop],
            columns=plan.columns,
            source_schema=plan.snapshot.schema.serialize().to_pybytes(),
            key=plan.key,
            repeated=plan.repeated,
            scored_uri=plan.scored,
            quarantine_uri=plan.quarantine,
            stamps={
                "model_name": plan.model.name,
                "model_version": plan.model.version,
                "feature_fingerprint": plan.scorer.info["feature_fingerprint"],
                "configuration_digest": plan.conf.digest(),
                "run_id": self.run.run_id,
            },
            source_root=normal_uri(plan.snapshot.source),
            file_prefix=f"{self.run.run_id}-{chunk:06d}",
            batch_rows=plan.conf.score.batch_rows,
            time_range=plan.time_range,
            allow_tolerance=plan.conf.model.allow_tolerance,
            staged={name: view.of_units(start, stop) for name, view in self.staged.items()},
        )
        n = stop - start
        frame = self.spark.range(0, n, 1, n).mapInArrow(task, RESULT)
        with errors_of_workers():
            results = [TaskResult.from_json(row[0], bytes(row[1])) for row in frame.collect()]
        if sorted(result.unit for result in results) != list(range(n)):
            raise VerificationError(f"chunk {chunk}: {n} units were sent out, {len(results)} came back")
        record = merged(chunk, results)
        if plan.key:
            save_hashes(self.run.hashes_path(chunk), [result.hashes for result in results])
        return record

    def _commit(self, record: ChunkRecord) -> None:
        """Commit quarantine first: a chunk is done when both are, so no scored chunk ever lacks its quarantined rows."""
        points = ("chunk.after_quarantine_commit", "chunk.after_scored_commit")
        schemas = (QUARANTINE_SCHEMA, self.scored_schema)
        for (uri, files, _), schema, point in zip(self._parts(record), schemas, points, strict=True):
            app_id = self._app_id(uri, record.chunk)
            if (
                committed_version(uri, app_id) is None
            ):  # else the files may be gone by now, compacted and vacuumed
                commit_files(
                    uri, files, app_id=app_id, schema=schema, metadata={"onescore.run_id": self.run.run_id}
                )
            reached(point)

    def _parts(self, record: ChunkRecord) -> list[tuple[str, tuple[WrittenFile, ...], IdSum]]:
        """Return (table, files, ids) of a record, in the order of the commits."""
        return [
            (self.plan.quarantine, record.quarantined, record.ids_quarantined),
            (self.plan.scored, record.scored, record.ids_scored),
        ]

    def _app_id(self, uri: str, chunk: int) -> str:
        return _app_id(self.run.run_id, "scored" if uri == self.plan.scored else "quarantine", chunk)

    def _check_limit(self, records: list[ChunkRecord]) -> None:
        """Fail before the commit that would take the share of quarantined rows above the limit.

        The share is of all the run's rows; of the rows so far where a range leaves open how many there are.
        """
        rows = sum(record.ids_in.count for record in records)
        if self.plan.time_range is None:
            rows = max(rows, self.plan.rows)
        bad = sum(record.ids_quarantined.count for record in records)
        limit = self.plan.conf.quarantine.max_share
        if rows and bad / rows > limit:
            reasons = sum((Counter(record.reasons) for record in records), Counter[str]())
            common = ", ".join(f"{code} {count}" for code, count in reasons.most_common(5))
            raise ContractError(
                f"run {self.run.run_id}: {bad} of {rows} rows break the contract ({bad / rows:.2%}, the limit is {limit:.2%}): "
                f"{common}; {_examples(self.plan.quarantine, records[-1].quarantined)}. Nothing more was committed. Mend the input, "
                "or raise quarantine.max_share and run again",
                rows=rows,
                quarantined=bad,
            )

    def _check_ids(self, record: ChunkRecord) -> None:
        """See, before anything is committed, that the ids in are the ids out and that the files hold as many rows."""
        out = record.ids_scored + record.ids_quarantined
        if out != record.ids_in:
            raise VerificationError(
                f"run {self.run.run_id} chunk {record.chunk}: read {record.ids_in}, but wrote {out} "
                f"(scored {record.ids_scored}, quarantined {record.ids_quarantined})"
            )
        for uri, files, ids in self._parts(record):
            rows = sum(file.rows for file in files)
            if rows != ids.count:
                raise VerificationError(
                    f"run {self.run.run_id} chunk {record.chunk}: {len(files)} files for {uri} hold {rows} rows, expected {ids}"
                )

    def _check_distinct(self, records: list[ChunkRecord], consequence: str) -> None:
        """Fail if an id occurs twice in these chunks: then nothing proves that each of its rows came out once."""
        if not self.plan.key:
            return
        suspects = repeated_hashes([self.run.hashes_path(record.chunk) for record in records])
        if not len(suspects):
            return
        files = [(uri, files) for record in records for uri, files, _ in self._parts(record)]
        twice = ids_that_repeat(suspects, (ids for uri, some in files for ids in read_ids(uri, some)))
        if twice:
            shown = ", ".join(f"{one!r} ({count} times)" for one, count in twice.most_common(5))
            raise ContractError(
                f"run {self.run.run_id}: {len(twice)} row id(s) occur more than once, such as {shown}. {consequence}. "
                f"{', '.join(self.plan.key)} does not identify a row: name fields that do in input.row_id, set it to [] for the "
                "place in the input, or remove the duplicates",
                n_ids=len(twice),
            )

    def _check_files(self, record: ChunkRecord) -> None:
        """See that what an earlier process wrote, and did not commit, still holds the ids that it recorded."""
        for uri, files, ids in self._parts(record):
            if committed_version(uri, self._app_id(uri, record.chunk)) is not None:
                continue
            try:
                found = ids_in_files(uri, files)
            except (OSError, pa.ArrowInvalid):
                found = None
            if found != ids:
                raise VerificationError(
                    f"run {self.run.run_id} chunk {record.chunk}: the files written for {uri} before the interruption are lost or "
                    f"changed: recorded {ids}, found {found or 'files missing or unreadable'}. None of them was committed; delete "
                    f"{self.run.record_path(record.chunk)} and run again to score the chunk again"
                )

    def _check_commits(self) -> None:
        """See that both commits of every chunk are in the tables' logs."""
        for uri in (self.plan.scored, self.plan.quarantine):
            table = open_table(uri)
            chunks = range(max(len(self.plan.chunks), 1))
            lacking = [c for c in chunks if table.transaction_version(self._app_id(uri, c)) is None]
            if lacking:
                raise VerificationError(
                    f"run {self.run.run_id}: table {uri} lacks the commits of chunks {lacking[:5]}"
                )


def _examples(uri: str, files: Sequence[WrittenFile]) -> str:
    """Return a few refused rows in words, from files that will not be committed."""
    shown: list[str] = []
    for file in files:
        filesystem, path = filesystem_of(child_uri(uri, file.path))
        with filesystem.open_input_file(path) as opened:
            head = next(
                pq.ParquetFile(opened).iter_batches(batch_size=5, columns=["row_id", "code", "field"])
            )
        shown += [f"row {row['row_id']!r} {row['code']} {row['field']}".rstrip() for row in head.to_pylist()]
        if len(shown) >= 5:
            break
    return f"for example {', '.join(shown[:5])}" if shown else "none in the last chunk"
