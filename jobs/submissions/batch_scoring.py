"""A large submission scored by Spark, as a process of its own that a worker starts and watches.

    python -m jobs.submissions.batch_scoring --env ... --model ... < one line of JSON

The driver cuts what is not stored yet into portions, has some of them answered at a time (see `answer_task`), and stores the answers in
the ledger: the same chunks, whoever scores them. Killed at any time and started again, it goes on where it was. When its input ends, the
worker is gone, and it ends too.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jobs
from feature_pipelines.errors import TableError, UnavailableError
from jobs.online.json_logs import log_json
from jobs.online.serve_conf import serving_settings
from jobs.online.store_conf import require_one_machine
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.kill_points import reached
from jobs.runs.secret_refs import mask
from jobs.runs.session import spark_log, spark_session
from jobs.runs.settings_async import revealed_database_url
from jobs.submissions.answer_task import ANSWERS, PORTIONS, AnswerTask
from jobs.submissions.batch_process import AT_ROWS, NOT_BY_ROWS, TRY_AGAIN
from jobs.submissions.database import Database
from jobs.submissions.ledger import Ledger, Submission
from jobs.submissions.ledger_chunk import Chunk
from jobs.submissions.payload import read_kept, write_kept
from jobs.submissions.scoring import Model
from jobs.submissions.work import missing_chunks
from jobs.tables.pinned import Snapshot, check_snapshot
from jobs.tables.units import plan_units
from udfs.serving import ServingSettings

__all__ = ["main", "may_be_by_rows", "portions_of"]

_PORTION_ROWS = 20_000
_WAVE = 16
_DIED = ("exited unexpectedly", "ExecutorLostFailure", "SocketException", "Connection reset", "Broken pipe")
"""What Spark says where a process that scores died, which may be by a row. Whatever else it says, none did."""


def main(argv: Sequence[str] | None = None) -> int:
    """Score one submission; see --help."""
    try:
        return _score(argv)
    except UnavailableError as exc:
        print(f"error: {mask(str(exc))}", file=sys.stderr)
        return TRY_AGAIN


def _score(argv: Sequence[str] | None) -> int:
    arguments = job_parser("submissions.batch_scoring", __doc__).parse_args(argv)
    conf = load_from(arguments)
    log_json()
    spec = json.loads(sys.stdin.readline())
    threading.Thread(target=_await_orphaned, daemon=True, name="worker-watch").start()
    database = Database(revealed_database_url(conf.submissions), pool_size=1)
    ledger = Ledger(database, lambda: time.time_ns() // 1000)
    submission = ledger.get(spec["id"])
    payload = None if submission is None else ledger.payload(submission.id)
    if submission is None or payload is None or not submission.is_open:
        return 0
    snapshot = Snapshot.from_json(payload.decode()) if submission.kind == "reference" else None
    if snapshot is not None:
        try:
            check_snapshot(snapshot)
        except TableError:
            message = "the table is no longer what it was when the submission was taken"
            ledger.end(submission.id, "failed", "REFERENCE_CHANGED", message)
            return 0
    portions = portions_of(submission, payload, snapshot, ledger.stored(submission.id))
    with spark_session(conf.spark, spark_log(conf)) as spark:
        settings = _without_log(serving_settings(conf))
        if settings.store_url and not conf.spark.remote:
            require_one_machine(settings.store_url, str(spark.conf.get("spark.master", "")))
        task = _task(spark, submission, Model(**spec["model"]), settings, snapshot, spec["is_last"])
        os.write(spec["telling"], AT_ROWS)
        try:
            for wave in _waves(portions):
                if not _answer(spark, task, wave, ledger, submission):
                    break
        except Exception as exc:
            if not may_be_by_rows(exc):
                os.write(spec["telling"], NOT_BY_ROWS)
            raise
    return 0


def may_be_by_rows(exc: Exception) -> bool:
    """Return whether a failure says that a process died which was at rows; a full disk, or a database that is away, is none."""
    said = str(exc)
    return any(sign in said for sign in _DIED)


def portions_of(
    submission: Submission, payload: bytes, snapshot: Snapshot | None, stored: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int, bytes | None, str | None]]:
    """Yield what tasks are handed: adjacent chunks that are not stored yet, as PORTIONS says.

    Args:
        submission: cut into chunks of its `chunk_rows`.
        payload: its rows, unless they are in a table.
        snapshot: the table; None = the rows are in the payload.
        stored: (first_row, n_rows) of the chunks that are stored.
    """
    kept = read_kept(payload) if snapshot is None else None
    units = plan_units(snapshot, unit_rows=1) if snapshot is not None else []
    for first, n in _runs(missing_chunks(submission, stored)):
        if kept is None:
            yield first, n, None, json.dumps(_overlapping(units, first, n))
            continue
        refused = [list(e._replace(row=e.row - first)) for e in kept.refused if first <= e.row < first + n]
        content = {"rows": list(kept.rows[first : first + n]), "refused": refused}
        yield first, n, write_kept(content), None


def _runs(chunks: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join adjacent chunks into runs of about a portion each."""
    start, n = 0, 0
    for first, rows in chunks:
        if n and (first != start + n or n + rows > _PORTION_ROWS):
            yield start, n
            n = 0
        start = first if not n else start
        n += rows
    if n:
        yield start, n


def _overlapping(units: Sequence[Any], first: int, n: int) -> list[list[Any]]:
    parts, at = [], 0
    for unit in units:
        low, high = max(first, at), min(first + n, at + unit.rows)
        if low < high:
            parts.append([unit.to_json(), low - at, high - low])
        at += unit.rows
    return parts


def _without_log(settings: ServingSettings) -> ServingSettings:
    """Return the settings without a prediction log: answers of a batch are kept with the submission, as a batch job's are in a table."""
    return ServingSettings(store_url=settings.store_url, store_timeout_ms=settings.store_timeout_ms)


def _task(
    spark: Any,
    submission: Submission,
    model: Model,
    settings: ServingSettings,
    snapshot: Snapshot | None,
    is_last: bool,
) -> AnswerTask:
    from udfs.shipped import ship

    return AnswerTask(
        shipped=ship(spark, Path(model.directory), {}, [jobs]),
        version=model.version,
        digest=model.digest,
        allow_tolerance=model.allow_tolerance,
        settings=settings,
        as_of=submission.as_of_ts,
        chunk_rows=submission.chunk_rows,
        is_last=is_last,
        source_schema=None if snapshot is None else snapshot.schema.serialize().to_pybytes(),
    )


def _waves(portions: Iterator[Any]) -> Iterator[list[Any]]:
    wave = []
    for portion in portions:
        wave.append(portion)
        if len(wave) == _WAVE:
            yield wave
            wave = []
    if wave:
        yield wave


def _answer(
    spark: Any, task: AnswerTask, wave: Sequence[Any], ledger: Ledger, submission: Submission
) -> bool:
    """Have one wave answered and store it; return False if nobody wants it any more."""
    frame = spark.createDataFrame(wave, PORTIONS).repartition(len(wave)).mapInArrow(task, ANSWERS)
    rows = [row for row in frame.collect() if task.is_last or not row["n_retryable"]]
    reached("async_batch.before_store")
    chunks = [
        Chunk(r["first_row"], r["n_rows"], bytes(r["body"]), bytes(r["ids"]), r["n_refused"]) for r in rows
    ]
    chunks.sort(key=lambda chunk: chunk.first_row)
    return ledger.store(submission.id, chunks, is_last=task.is_last) is not None


def _await_orphaned() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(run(main))
