"""The ledger of submissions: who may change what, in which state, each change one transaction.

    queued -> running -> succeeded | failed        queued | running -> cancelled

A final state is never left, a chunk of answers is stored once, and whoever comes second finds that out by what a call returns. This
module scores nothing and starts nothing; `intake` is how submissions get in.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import sqlalchemy as sa

from jobs.online.json_logs import event
from jobs.submissions.database import Database
from jobs.submissions.engine_names import LARGE_QUEUE
from jobs.submissions.ledger_chunk import Chunk
from jobs.submissions.outbox import enqueue
from jobs.submissions.tables import NOTIFICATIONS, PAYLOADS, RESULTS, SUBMISSIONS

__all__ = ["FINAL", "OPEN", "STATES", "Ledger", "Overview", "Submission"]

OPEN = ("queued", "running")
FINAL = ("succeeded", "failed", "cancelled")
STATES = (*OPEN, *FINAL)
_DELETED_CHUNKS = 200
_T = SUBMISSIONS.c


@dataclass(frozen=True)
class Submission:
    """One submission as the ledger has it; see `tables.SUBMISSIONS`. Times are microseconds since 1970, UTC."""

    id: str
    key_id: str
    idempotency_key: str | None
    payload_hash: str
    kind: str
    n_rows: int
    n_bytes: int
    chunk_rows: int
    notify: str | None
    row_id: str
    outputs: str
    model: str
    model_version: str | None
    model_digest: str
    as_of_ts: int
    state: str
    reason: str | None
    message: str | None
    rows_done: int
    attempts: int
    crashes: int
    created_ts: int
    started_ts: int | None
    finished_ts: int | None
    queue: str | None = None
    rows_refused: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is still to be scored."""
        return self.state in OPEN

    @property
    def is_large(self) -> bool:
        """Whether a Spark job scores it, as was said when it came."""
        return self.queue is not None and self.queue.startswith(LARGE_QUEUE)


class Overview(NamedTuple):
    """What is kept now.

    Args:
        states: how many submissions are in each state.
        reasons: how many have failed, by reason.
        oldest_queued_ts: when the one came that has waited longest and was not begun yet; None = none waits.
        notifications: how many are in each of their states.
    """

    states: dict[str, int]
    reasons: dict[str, int]
    oldest_queued_ts: int | None
    notifications: dict[str, int]


class Ledger:
    """Reads and changes submissions; the end of each is logged as an event, without data, by whoever brings it about.

    Args:
        database: where they are.
        clock: microseconds since 1970, UTC.
    """

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        self.database = database
        self._clock = clock

    def get(self, id_: str, key_id: str | None = None) -> Submission | None:
        """Return a submission; None if there is none of that id, or it is another key's than the named."""
        query = sa.select(SUBMISSIONS).where(_T.id == id_)
        if key_id is not None:
            query = query.where(_T.key_id == key_id)
        with self.database.reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Submission(*row)

    def has(self, key_id: str, idempotency_key: str, payload_hash: str) -> bool:
        """Return whether a key's submission with this idempotency key and payload is in."""
        query = sa.select(_T.id).where(
            _T.key_id == key_id, _T.idempotency_key == idempotency_key, _T.payload_hash == payload_hash
        )
        with self.database.reading() as connection:
            return connection.execute(query).first() is not None

    def listed(
        self, key_id: str, *, state: str | None, limit: int, after: tuple[int, str] | None
    ) -> list[Submission]:
        """Return a key's submissions, newest first.

        Args:
            key_id: whose.
            state: only those in it; None = all.
            limit: at most so many.
            after: (created_ts, id) of the last that is known; None = from the newest.
        """
        query = sa.select(SUBMISSIONS).where(_T.key_id == key_id)
        if state is not None:
            query = query.where(_T.state == state)
        if after is not None:
            query = query.where(
                sa.or_(_T.created_ts < after[0], sa.and_(_T.created_ts == after[0], _T.id < after[1]))
            )
        query = query.order_by(_T.created_ts.desc(), _T.id.desc()).limit(limit)
        with self.database.reading() as connection:
            return [Submission(*row) for row in connection.execute(query)]

    def payload(self, id_: str) -> bytes | None:
        """Return what is to be scored; None if it is not there any more."""
        with self.database.reading() as connection:
            body = connection.scalar(sa.select(PAYLOADS.c.body).where(PAYLOADS.c.id == id_))
        return None if body is None else zlib.decompress(body)

    def counts(self) -> dict[str, int]:
        """Return how many submissions are in each state."""
        return self.overview().states

    def overview(self) -> Overview:
        """Return how much is kept, in which state and why, and how long it waits."""
        query = sa.select(_T.state, _T.reason, sa.func.count(), sa.func.min(_T.created_ts))
        told = sa.select(NOTIFICATIONS.c.state, sa.func.count()).group_by(NOTIFICATIONS.c.state)
        with self.database.reading() as connection:
            rows = connection.execute(query.group_by(_T.state, _T.reason)).all()
            notifications = {str(state): int(n) for state, n in connection.execute(told)}
        states = dict.fromkeys(STATES, 0)
        for state, _, n, _ in rows:
            states[state] += int(n)
        return Overview(
            states,
            {str(reason): int(n) for state, reason, n, _ in rows if state == "failed"},
            min((int(ts) for state, _, _, ts in rows if state == "queued"), default=None),
            notifications,
        )

    def queued_elsewhere(self, model: str, queues: Sequence[str]) -> int:
        """Return how many submissions of a model wait in other queues than the named."""
        query = sa.select(sa.func.count()).where(
            _T.model == model, _T.state == "queued", _T.queue.not_in(queues)
        )
        with self.database.reading() as connection:
            return int(connection.scalar(query) or 0)

    def begin(self, id_: str) -> Submission | None:
        """Note that an attempt begins, and return the submission with that attempt counted; None if it is not open any more."""
        change = (
            sa.update(SUBMISSIONS)
            .where(_T.id == id_, _T.state.in_(OPEN))
            .values(
                state="running",
                attempts=_T.attempts + 1,
                started_ts=sa.func.coalesce(_T.started_ts, self._clock()),
            )
            .returning(SUBMISSIONS)
        )
        with self.database.writing() as connection:
            row = connection.execute(change).one_or_none()
        return None if row is None else Submission(*row)

    def crashed(self, id_: str) -> int:
        """Count a process that ended while it scored a submission; return how many did so far."""
        change = (
            sa.update(SUBMISSIONS).where(_T.id == id_).values(crashes=_T.crashes + 1).returning(_T.crashes)
        )
        with self.database.writing() as connection:
            return int(connection.scalar(change) or 0)

    def uncount(self, id_: str) -> None:
        """Take back the last attempt: who made it was told to end, which says nothing of the submission."""
        change = sa.update(SUBMISSIONS).where(_T.id == id_, _T.attempts > 0).values(attempts=_T.attempts - 1)
        with self.database.writing() as connection:
            connection.execute(change)

    def stored(self, id_: str) -> list[tuple[int, int]]:
        """Return (first_row, n_rows) of the chunks that are stored, in order."""
        query = (
            sa.select(RESULTS.c.first_row, RESULTS.c.n_rows)
            .where(RESULTS.c.id == id_)
            .order_by(RESULTS.c.first_row)
        )
        with self.database.reading() as connection:
            return [(int(first), int(n)) for first, n in connection.execute(query)]

    def store(self, id_: str, chunks: Sequence[Chunk], *, is_last: bool = False) -> int | None:
        """Store chunks of answers, and with the last of them the end; return how many were new, None if it is not running any more.

        A chunk that is there already stays as it is. All in one transaction: what a reader is told to be done can be read.

        Args:
            id_: of the submission.
            chunks: of its answers.
            is_last: whether this is its last attempt; else what was stored lets its attempts be counted anew.
        """
        ended: Submission | None = None
        with self.database.writing() as connection:
            query = sa.select(_T.state, _T.n_rows, _T.notify).where(_T.id == id_)
            found = connection.execute(query.with_for_update()).one_or_none()
            if found is None or found.state not in OPEN:
                return None
            n_new = sum(self._put(connection, id_, chunk) for chunk in chunks)
            done, refused = _totals(connection, id_)
            now = self._clock()
            change: dict[str, object] = {"rows_done": done, "rows_refused": refused}
            if n_new and not is_last:
                change["attempts"] = 1
            if done == found.n_rows:
                change |= {"state": "succeeded", "finished_ts": now}
            changed = sa.update(SUBMISSIONS).where(_T.id == id_).values(**change).returning(SUBMISSIONS)
            row = connection.execute(changed).one()
            if done == found.n_rows:
                connection.execute(sa.delete(PAYLOADS).where(PAYLOADS.c.id == id_))
                enqueue(connection, id_, found.notify, now)
                ended = Submission(*row)
        if ended is not None:
            _say_ended(ended)
        return n_new

    def end(self, id_: str, state: str, reason: str | None = None, message: str | None = None) -> bool:
        """Bring an open submission into a final state; return False if it was in one. Nobody asks for its rows again.

        Who asked to be told is, but of a cancellation: that was the client's own doing.
        """
        now = self._clock()
        change = (
            sa.update(SUBMISSIONS)
            .where(_T.id == id_, _T.state.in_(OPEN))
            .values(state=state, reason=reason, message=message, finished_ts=now)
            .returning(SUBMISSIONS)
        )
        with self.database.writing() as connection:
            row = connection.execute(change).one_or_none()
            ended = None if row is None else Submission(*row)
            if ended is not None:
                enqueue(connection, id_, ended.notify if state != "cancelled" else None, now)
                connection.execute(sa.delete(PAYLOADS).where(PAYLOADS.c.id == id_))
                if state != "succeeded":
                    connection.execute(sa.delete(RESULTS).where(RESULTS.c.id == id_))
        if ended is not None:
            _say_ended(ended)
        return ended is not None

    def chunks(self, id_: str, first: int, limit: int) -> list[Chunk]:
        """Return the stored chunks that hold rows of `first <= row < first + limit`, in order."""
        query = (
            sa.select(RESULTS.c.first_row, RESULTS.c.n_rows, RESULTS.c.body, RESULTS.c.ids)
            .where(RESULTS.c.id == id_)
            .where(RESULTS.c.first_row < first + limit, RESULTS.c.first_row + RESULTS.c.n_rows > first)
            .order_by(RESULTS.c.first_row)
        )
        with self.database.reading() as connection:
            return [Chunk(int(at), int(n), body, ids) for at, n, body, ids in connection.execute(query)]

    def expired(self, before: int, limit: int = 500) -> list[str]:
        """Return the ids of what ended before a time, at most `limit` of them."""
        query = sa.select(_T.id).where(_T.state.in_(FINAL), _T.finished_ts < before).limit(limit)
        with self.database.reading() as connection:
            return list(connection.scalars(query))

    def open_since(self, before: int, limit: int = 500) -> list[str]:
        """Return the ids of what is open and came before a time, the oldest first, at most `limit` of them."""
        query = sa.select(_T.id).where(_T.state.in_(OPEN), _T.created_ts < before)
        with self.database.reading() as connection:
            return list(connection.scalars(query.order_by(_T.created_ts).limit(limit)))

    def delete(self, ids: Sequence[str]) -> None:
        """Delete submissions that have ended, with their answers, these first: in transactions so small that nobody waits long for one.

        Killed between them it is done again, as the submissions are still there.
        """
        key = sa.tuple_(RESULTS.c.id, RESULTS.c.first_row)
        of_them = sa.select(RESULTS.c.id, RESULTS.c.first_row).where(RESULTS.c.id.in_(ids))
        while True:
            with self.database.writing() as connection:
                chunks = [tuple(row) for row in connection.execute(of_them.limit(_DELETED_CHUNKS))]
                connection.execute(sa.delete(RESULTS).where(key.in_(chunks)))
            if len(chunks) < _DELETED_CHUNKS:
                break
        with self.database.writing() as connection:
            connection.execute(sa.delete(NOTIFICATIONS).where(NOTIFICATIONS.c.submission_id.in_(ids)))
            for table in (PAYLOADS, SUBMISSIONS):
                connection.execute(sa.delete(table).where(table.c.id.in_(ids)))

    def _put(self, connection: sa.Connection, id_: str, chunk: Chunk) -> int:
        """Store a chunk unless it is there; return how many rows of the table that made."""
        values = {
            "id": id_,
            "first_row": chunk.first_row,
            "n_rows": chunk.n_rows,
            "body": chunk.packed_body,
            "ids": chunk.packed_ids,
            "n_refused": chunk.n_refused,
        }
        if self.database.is_sqlite:
            from sqlalchemy.dialects.sqlite import insert

            put = connection.execute(insert(RESULTS).values(values).on_conflict_do_nothing())
        else:
            from sqlalchemy.dialects.postgresql import insert as insert_postgres

            put = connection.execute(insert_postgres(RESULTS).values(values).on_conflict_do_nothing())
        return int(put.rowcount)


def _totals(connection: sa.Connection, id_: str) -> tuple[int, int | None]:
    """Return how many rows are in the chunks that are stored, and how many of them were refused; None if some chunk does not say."""
    query = sa.select(
        sa.func.coalesce(sa.func.sum(RESULTS.c.n_rows), 0),
        sa.func.coalesce(sa.func.sum(RESULTS.c.n_refused), 0),
        sa.func.count() - sa.func.count(RESULTS.c.n_refused),
    ).where(RESULTS.c.id == id_)
    done, refused, n_silent = connection.execute(query).one()
    return int(done), None if n_silent else int(refused)


def _say_ended(submission: Submission) -> None:
    event(
        "submission_ended",
        id=submission.id,
        key=submission.key_id,
        state=submission.state,
        reason=submission.reason,
        attempts=submission.attempts,
        crashes=submission.crashes,
        rows=submission.n_rows,
    )
