"""How a submission gets in: written with its rows and enqueued in one transaction, so that what was acknowledged is there and is scored.

One thread commits what came meanwhile together: a commit waits for the disk, and sixteen clients then wait for one or two. A repeated
idempotency key finds the first submission, told from another payload by its hash, whichever gateway took it. This module knows
nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import secrets
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from dbos import WorkflowSerializationFormat

from feature_pipelines.errors import ContractError, UnavailableError
from jobs.runs.kill_points import reached
from jobs.submissions.database import Database
from jobs.submissions.engine_names import APPLICATION_VERSION, QUEUE, WORKFLOW, queue_name
from jobs.submissions.ledger import OPEN, Submission
from jobs.submissions.payload import Payload
from jobs.submissions.room import NoRoom, Room, Wanted
from jobs.submissions.tables import PAYLOADS, SUBMISSIONS

__all__ = ["Intake", "PinnedModel", "Taken"]

_LOGGER = logging.getLogger("onescore.async")
_TOGETHER = 64
_T = SUBMISSIONS.c


class PinnedModel(NamedTuple):
    """The model version that a submission is scored with, whenever that is.

    Args:
        name, version, digest: of it; no version where it is of no registry.
        row_id: the fields that identify a row.
        outputs: what the model says of a row, in order.
        store: which online store is asked, the one other thing that decides the answers; see `store_identity`. Empty where none is.
    """

    name: str
    version: str | None
    digest: str
    row_id: Sequence[str]
    outputs: Sequence[str]
    store: str = ""


class Taken(NamedTuple):
    """A submission that is in, and whether this request brought it (or an earlier one with the same key)."""

    submission: Submission
    is_new: bool


@dataclass
class _Waiting:
    submission: Submission
    body: bytes
    taken: Future[Taken]


class Intake:
    """Takes submissions of one gateway; any number of threads may call it.

    Args:
        database: where they are kept.
        clock: microseconds since 1970, UTC; a submission's rows are scored as of the time when it came.
        chunk_rows: see `tables.SUBMISSIONS`.
        batch_rows: one of more rows, or a reference, waits among those that a Spark job scores.
        max_queued, max_queued_bytes: what may wait or run, of all gateways together (on PostgreSQL, those that commit at the same
            moment may exceed it by what they then take).
        max_queued_share: of both, what one key may have, so that it leaves others some.
        retry_after_seconds: told to who is refused for that.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], int],
        *,
        chunk_rows: int,
        batch_rows: int,
        max_queued: int,
        max_queued_bytes: int,
        max_queued_share: float,
        retry_after_seconds: int,
    ) -> None:
        self._database, self._clock = database, clock
        self._chunk_rows, self._batch_rows = chunk_rows, batch_rows
        self._room = Room(max_queued, max_queued_bytes, max_queued_share)
        self._retry_after = retry_after_seconds
        self._client = database.engine_client()
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)
        self._thread.start()

    def take(
        self, payload: Payload, key_id: str, model: PinnedModel, idempotency_key: str | None
    ) -> Future[Taken]:
        """Take a submission; what is returned is done when it is safe.

        Raises (by the future):
            ContractError: evidence `status` 409 (the key came with another payload), 422 (a payload of no row is not in already) or
                429 (too much waits; `retry_after`).
            UnavailableError: the database does not take it.
        """
        now = self._clock()
        body = zlib.compress(payload.body, 1)
        submission = Submission(
            id=f"{now:014x}{secrets.token_hex(9)}",
            key_id=key_id,
            idempotency_key=idempotency_key,
            payload_hash=payload.hash,
            kind=payload.kind,
            n_rows=payload.n_rows,
            n_bytes=len(body),
            chunk_rows=self._chunk_rows,
            notify=None if payload.notify is None else json.dumps(payload.notify),
            row_id=json.dumps(list(model.row_id)),
            outputs=json.dumps(list(model.outputs)),
            model=model.name,
            model_version=model.version,
            model_digest=model.digest,
            as_of_ts=now,
            state="queued",
            reason=None,
            message=None,
            rows_done=0,
            attempts=0,
            crashes=0,
            created_ts=now,
            started_ts=None,
            finished_ts=None,
            queue=queue_name(model.name, model.store, is_large=self._is_large(payload)),
        )
        waiting = _Waiting(submission, body, Future())
        self._waiting.put(waiting)
        return waiting.taken

    def withdraw(self, id_: str) -> None:
        """Take a submission that was cancelled out of the engine's queue; if that fails, whoever runs it finds it cancelled."""
        try:
            self._client.cancel_workflow(id_)
        except Exception as exc:  # noqa: BLE001 - whatever the driver raises: the submission itself is cancelled by now
            _LOGGER.warning("a cancelled submission stays in the queue: %s", type(exc).__name__)

    def close(self) -> None:
        """Take what waits, then stop."""
        self._waiting.put(None)
        self._thread.join()
        self._client.destroy()

    def _run(self) -> None:
        is_open = True
        while is_open:
            batch = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < _TOGETHER:
                    batch.append(self._waiting.get_nowait())
            is_open = None not in batch
            self._commit([waiting for waiting in batch if waiting is not None])

    def _commit(self, batch: Sequence[_Waiting]) -> None:
        """Commit a batch; one that another gateway's commit just crossed is tried again, each alone."""
        if not batch:
            return
        try:
            done = self._transaction(batch)
        except sa.exc.IntegrityError as crossed:
            if len(batch) == 1 and batch[0].submission.idempotency_key is None:
                batch[0].taken.set_exception(_not_taken(crossed))
                return
            for waiting in batch:
                self._alone(waiting)
            return
        except Exception as exc:  # noqa: BLE001 - whatever the database raises: nobody waits in vain
            for waiting in batch:
                waiting.taken.set_exception(_not_taken(exc))
            return
        for waiting, found in zip(batch, done, strict=True):
            _settle(waiting, found)

    def _alone(self, waiting: _Waiting) -> None:
        for attempt in range(3):
            try:
                [found] = self._transaction([waiting])
            except sa.exc.IntegrityError as exc:
                if attempt == 2:
                    waiting.taken.set_exception(_not_taken(exc))
            except Exception as exc:  # noqa: BLE001 - as above
                waiting.taken.set_exception(_not_taken(exc))
                return
            else:
                _settle(waiting, found)
                return

    def _transaction(self, batch: Sequence[_Waiting]) -> list[Taken | ContractError]:
        done: list[Taken | ContractError] = []
        with self._database.writing() as connection:
            taken = {key: Wanted(int(n), int(size)) for key, n, size in connection.execute(_OPEN_NOW)}
            for waiting in batch:
                submission = waiting.submission
                first = _first(connection, submission)
                if first is not None:
                    done.append(_same(first, submission))
                    continue
                if not submission.n_rows:
                    done.append(_gone())
                    continue
                why = self._room.take(taken, submission.key_id, submission.n_bytes)
                if why is not None:
                    done.append(self._full(why))
                else:
                    self._insert(connection, submission, waiting.body)
                    done.append(Taken(submission, True))
            reached("async_intake.before_commit")
        reached("async_intake.after_commit")
        return done

    def _insert(self, connection: sa.Connection, submission: Submission, body: bytes) -> None:
        connection.execute(sa.insert(SUBMISSIONS).values(vars(submission)))
        connection.execute(sa.insert(PAYLOADS).values(id=submission.id, body=body))
        self._client.enqueue_in_transaction(
            connection,
            {
                "workflow_name": WORKFLOW,
                "queue_name": submission.queue or QUEUE,
                "workflow_id": submission.id,
                "app_version": APPLICATION_VERSION,
                "serialization_type": WorkflowSerializationFormat.PORTABLE,
            },
            submission.id,
        )

    def _is_large(self, payload: Payload) -> bool:
        return payload.kind == "reference" or payload.n_rows > self._batch_rows

    def _full(self, why: NoRoom) -> ContractError:
        return ContractError(why.message, status=429, code=why.code, retry_after=self._retry_after)


_OPEN_NOW = (
    sa.select(_T.key_id, sa.func.count(), sa.func.sum(_T.n_bytes))
    .where(_T.state.in_(OPEN))
    .group_by(_T.key_id)
)


def _first(connection: sa.Connection, submission: Submission) -> Submission | None:
    """Return the submission that came first with this key; None if there is none."""
    if submission.idempotency_key is None:
        return None
    row: Any = connection.execute(
        sa.select(SUBMISSIONS).where(
            _T.key_id == submission.key_id, _T.idempotency_key == submission.idempotency_key
        )
    ).one_or_none()
    return None if row is None else Submission(*row)


def _same(first: Submission, again: Submission) -> Taken | ContractError:
    if first.payload_hash == again.payload_hash and _parsed(first.notify) == _parsed(again.notify):
        return Taken(first, False)
    return ContractError(
        "the Idempotency-Key came with another payload before", status=409, code="IDEMPOTENCY_CONFLICT"
    )


def _parsed(notify: str | None) -> Any:
    return None if notify is None else json.loads(notify)


def _gone() -> ContractError:
    """Return the refusal of a reference without a table, whose first submission was deleted just before its repetition came."""
    return ContractError(
        "the table is not there, nor is the submission that it was sent with first",
        status=422,
        code="UNKNOWN_REFERENCE",
    )


def _settle(waiting: _Waiting, found: Taken | ContractError) -> None:
    if isinstance(found, ContractError):
        waiting.taken.set_exception(found)
    else:
        waiting.taken.set_result(found)


def _not_taken(exc: Exception) -> UnavailableError:
    error = UnavailableError(f"the database does not take the submission: {type(exc).__name__}")
    error.__cause__ = exc
    return error
