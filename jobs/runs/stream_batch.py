"""One micro-batch after the other: scored by Spark tasks, recorded, and committed to both tables, each exactly once.

score -> check the ids -> record -> commit quarantine -> commit scored. Either commit is an application transaction whose version is the
batch's number, so it counts once however often Spark repeats the batch; and since the record is durable before the first commit, what
is repeated is the commits, never the scoring. This module does not know how batches come about.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from feature_pipelines.errors import RunConflictError, VerificationError
from jobs.runs.conf import Conf
from jobs.runs.ids import IdSum
from jobs.runs.kill_points import reached
from jobs.runs.manifest import ChunkRecord
from jobs.runs.run_summary import merged
from jobs.runs.score_tables import QUARANTINE_SCHEMA, scored_schema
from jobs.runs.settings_stream import seconds_of
from jobs.runs.stream_model import InUse, StreamModel
from jobs.runs.stream_state import BatchRecord, QueryManifest, StreamState, Totals
from jobs.runs.stream_task import RESULT, Form, StreamTask, StreamTaskResult
from jobs.runs.worker_errors import errors_of_workers
from jobs.tables.delta import commit_files, committed_version, delete_orphans, ensure_table
from jobs.tables.sink import WrittenFile

__all__ = ["BatchScorer", "Done", "Input"]


@dataclass(frozen=True)
class Input:
    """What the rows of a source look like; see `stream_task.StreamTask` for each.

    Args:
        event_time: the column by which rows are late, None = no row is.
    """

    form: Form
    schema: Any
    root: str
    key: tuple[str, ...]
    repeated: tuple[str, ...]
    event_time: str | None


@dataclass(frozen=True)
class Done:
    """A batch that was committed just now.

    Args:
        record: its record.
        seconds: from its beginning to the second commit.
        again: whether it had been recorded before.
    """

    record: BatchRecord
    seconds: float
    again: bool


class BatchScorer:
    """Scores and commits the batches of a query; its one thread is Spark's, which calls it for one batch at a time.

    Args:
        conf: the configuration.
        state: the query's files, locked.
        query: what the query is.
        model: what batches are scored with.
        rows: how the source's rows look.
        clock: now.
        told: called after each batch.
        before_first: called when the query's first batch is scored and nothing of it is kept; raises where nothing may be.
    """

    def __init__(
        self,
        conf: Conf,
        state: StreamState,
        query: QueryManifest,
        model: StreamModel,
        rows: Input,
        clock: Callable[[], datetime],
        told: Callable[[Done], None],
        before_first: Callable[[], None] = lambda: None,
    ) -> None:
        self._conf, self._state, self._query, self._model = conf, state, query, model
        self._rows, self._clock, self._told, self._before_first = rows, clock, told, before_first
        self._scored = conf.table_location(conf.output.scored)
        self._quarantine = conf.table_location(conf.output.quarantine)
        feature_set, output = model.scorer.feature_set, model.scorer.output
        self._scored_schema = scored_schema(feature_set, output, rows.schema, rows.repeated)
        watermark = conf.stream.watermark
        self._delay_us = None if watermark is None else seconds_of(watermark) * 1_000_000

    def recover(self) -> BatchRecord | None:
        """Make the tables, finish what the last process began, delete what it left behind, and return the last batch's record.

        Raises:
            RunConflictError: the tables have batches of this query that its checkpoint does not know: it was put back.
        """
        ensure_table(self._scored, self._scored_schema)
        ensure_table(self._quarantine, QUARANTINE_SCHEMA)
        last = self._state.last_record()
        known = -1 if last is None else last.batch
        for uri, table in ((self._scored, "scored"), (self._quarantine, "quarantine")):
            committed = committed_version(uri, self._app_id(table))
            if committed is not None and committed > known:
                raise RunConflictError(
                    f"stream.checkpoint: {self._state.root} knows batches up to {known} of query {self._query.query_id}, but {uri} has "
                    f"batch {committed} of it: the checkpoint is an older copy. Restore the newest, or start a new query with a "
                    "checkpoint and tables of its own",
                    checkpoint=str(self._state.root),
                )
        if last is not None:
            self._commit(last)
        for uri in (self._scored, self._quarantine):
            delete_orphans(uri, self._query.query_id)
        return last

    def __call__(self, frame: Any, batch: int) -> None:
        """Score and commit a batch; see `foreachBatch`.

        Args:
            frame: its rows.
            batch: its number, the same when it is repeated.
        """
        started, began = time.perf_counter(), self._clock()
        last = self._state.last_record()
        offsets = self._state.offsets(batch) or ""
        is_known = last is not None and batch <= last.batch
        if is_known and last is not None:
            self._require_same_batch(last, batch, offsets)
            record = last
        else:
            record = self._recorded(frame, batch, offsets, last, began)
        self._commit(record)
        self._told(Done(record, time.perf_counter() - started, is_known))

    def _recorded(
        self, frame: Any, batch: int, offsets: str, last: BatchRecord | None, began: datetime
    ) -> BatchRecord:
        """Score a batch, check it and make its record durable; nothing of it is committed yet."""
        in_use = self._model.at_boundary()
        if in_use.model.version != self._query.version:
            self._query = replace(self._query, version=in_use.model.version)
            self._state.write_query(self._query)
        reached("stream.before_score")
        latest_us = last.latest_us if last is not None else None
        watermark_us = None if None in (latest_us, self._delay_us) else latest_us - self._delay_us  # type: ignore[operator]
        with errors_of_workers():
            frame = frame.mapInArrow(self._task(in_use, batch, watermark_us, began), RESULT)
            results = [StreamTaskResult.from_json(row[0]) for row in frame.collect()]
        rows = merged(batch, [result.task for result in results])
        self._check_ids(rows)
        times = [us for us in (latest_us, *(result.latest_us for result in results)) if us is not None]
        record = BatchRecord(
            rows,
            offsets,
            in_use.model.version,
            dict(in_use.views),
            watermark_us,
            max(times, default=None),
            _added(last.totals if last is not None else Totals(), rows),
        )
        if last is None:
            self._before_first()
        reached("stream.before_record")
        self._state.write_record(record)
        reached("stream.after_record")
        return record

    def _task(self, in_use: InUse, batch: int, watermark_us: int | None, began: datetime) -> StreamTask:
        rows, query_id = self._rows, self._query.query_id
        return StreamTask(
            shipped=in_use.shipped,
            form=rows.form,
            schema=rows.schema.serialize().to_pybytes(),
            key=rows.key,
            repeated=rows.repeated,
            scored_uri=self._scored,
            quarantine_uri=self._quarantine,
            stamps={
                "model_name": in_use.model.name,
                "model_version": in_use.model.version,
                "feature_fingerprint": in_use.model.feature_fingerprint,
                "configuration_digest": self._conf.digest(),
                "run_id": query_id,
            },
            place=f"{query_id}/{batch}",
            source_root=rows.root,
            file_prefix=f"{query_id}-{batch:09d}",
            event_time=rows.event_time,
            late_before_us=watermark_us,
            started_us=int(began.timestamp() * 1_000_000),
            allow_tolerance=self._conf.model.allow_tolerance,
        )

    def _commit(self, record: BatchRecord) -> None:
        """Commit quarantine first, as the batch job does; either commit once, whoever finds it not done."""
        parts: Sequence[tuple[str, str, Any, Sequence[WrittenFile]]] = (
            ("quarantine", self._quarantine, QUARANTINE_SCHEMA, record.rows.quarantined),
            ("scored", self._scored, self._scored_schema, record.rows.scored),
        )
        for table, uri, schema, files in parts:
            app_id = self._app_id(table)
            committed = committed_version(uri, app_id)
            if committed is None or committed < record.batch:  # else its files may be gone, compacted
                commit_files(
                    uri,
                    files,
                    app_id=app_id,
                    schema=schema,
                    version=record.batch,
                    metadata={"onescore.run_id": self._query.query_id, "onescore.batch": str(record.batch)},
                )
            reached(f"stream.after_{table}_commit")

    def _app_id(self, table: str) -> str:
        return f"onescore/{self._query.query_id}/{table}"

    def _require_same_batch(self, last: BatchRecord, batch: int, offsets: str) -> None:
        """Refuse a batch that Spark counts as new and the records know as old: rows would be passed over."""
        if batch == last.batch and offsets == last.offsets:
            return
        raise RunConflictError(
            f"stream.checkpoint: Spark is at batch {batch} of {self._state.spark}, but {self._state.path} knows batch {last.batch}, of "
            "other offsets: one of the two was deleted or put back. Restore both, or start a new query with a checkpoint and tables of "
            "its own",
            checkpoint=str(self._state.root),
        )

    def _check_ids(self, rows: ChunkRecord) -> None:
        """See, before anything is committed, that the ids in are the ids out and that the files hold as many rows."""
        out = rows.ids_scored + rows.ids_quarantined
        held = sum(file.rows for file in (*rows.scored, *rows.quarantined))
        if out != rows.ids_in or held != rows.ids_in.count:
            raise VerificationError(
                f"query {self._query.query_id} batch {rows.chunk}: read {rows.ids_in}, but wrote {out} (scored {rows.ids_scored}, "
                f"quarantined {rows.ids_quarantined}; the files hold {held} rows). Nothing of it was committed"
            )


def _added(totals: Totals, rows: ChunkRecord) -> Totals:
    reasons: Mapping[str, int] = Counter(totals.reasons) + Counter(rows.reasons)
    return Totals(
        totals.batches + 1,
        totals.rows + _n(rows.ids_in),
        totals.scored + _n(rows.ids_scored),
        totals.quarantined + _n(rows.ids_quarantined),
        dict(reasons),
    )


def _n(ids: IdSum) -> int:
    return ids.count
