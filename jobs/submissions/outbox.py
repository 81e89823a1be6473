"""What is still to be told: written in the very transaction that ends a submission, so that no end goes untold, whoever dies then.

    pending -> sent | failed

A delivery is claimed by moving its due time ahead, before it is tried: of any number of workers one tries it, and if that one dies, another
does when the time has come. So each is delivered at least once, under one id. This module sends nothing.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa

from jobs.submissions.database import Database
from jobs.submissions.tables import NOTIFICATIONS

__all__ = ["Delivery", "Outbox", "enqueue"]

_T = NOTIFICATIONS.c


class Delivery(NamedTuple):
    """One message to one target.

    Args:
        id: of it, the same at every attempt.
        submission_id: what it is about.
        kind, where: the target; see `targets.Target`.
        attempts: how often it was tried, this time included.
    """

    id: str
    submission_id: str
    kind: str
    where: str
    attempts: int


def enqueue(connection: sa.Connection, submission_id: str, notify: str | None, now: int) -> None:
    """Note who is to be told that a submission has ended, in the transaction that ends it.

    Args:
        connection: in that transaction.
        submission_id: of the submission.
        notify: what its client sent, JSON, checked when it came; None = nobody.
        now: microseconds since 1970, UTC.
    """
    rows = [
        {
            "id": secrets.token_hex(16),
            "submission_id": submission_id,
            "kind": kind,
            "target": where,
            "state": "pending",
            "attempts": 0,
            "due_ts": now,
        }
        for kind, where in _wanted(json.loads(notify) if notify is not None else {})
    ]
    if rows:
        connection.execute(sa.insert(NOTIFICATIONS), rows)


def _wanted(notify: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (kind, where) of what was checked when it came."""
    found = [("webhook", notify.get("webhook"))]
    found += [("target", name) for name in notify.get("targets") or ()]
    found.append(("email", notify.get("email")))
    return list(dict.fromkeys((kind, where) for kind, where in found if where is not None))


class Outbox:
    """Reads and changes deliveries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, now: int, lease_us: int, limit: int) -> list[Delivery]:
        """Return deliveries that are due, and that nobody else will try until `lease_us` from now has passed.

        Args:
            now: microseconds since 1970, UTC.
            lease_us: longer than an attempt takes.
            limit: at most so many.
        """
        if limit < 1:
            return []
        due = sa.select(_T.id, _T.due_ts).where(_T.state == "pending", _T.due_ts <= now)
        with self._database.reading() as connection:
            seen = connection.execute(due.order_by(_T.due_ts).limit(limit)).all()
        if not seen:
            return []
        claimed = []
        with self._database.writing() as connection:
            for id_, due_ts in seen:
                change = (
                    sa.update(NOTIFICATIONS)
                    .where(_T.id == id_, _T.state == "pending", _T.due_ts == due_ts)
                    .values(due_ts=now + lease_us, attempts=_T.attempts + 1)
                    .returning(_T.id, _T.submission_id, _T.kind, _T.target, _T.attempts)
                )
                row = connection.execute(change).one_or_none()
                if row is not None:
                    claimed.append(Delivery(*row))
        return claimed

    def settle(self, id_: str, state: str, reason: str | None = None) -> None:
        """Note that a delivery was sent, or has failed for good."""
        self._change(id_, {"state": state, "reason": reason})

    def again(self, id_: str, due_ts: int, reason: str) -> None:
        """Note why a delivery failed this time, and when it is tried again."""
        self._change(id_, {"due_ts": due_ts, "reason": reason})

    def of(self, submission_id: str) -> list[dict[str, Any]]:
        """Return what became of a submission's deliveries: {"kind", "state", "attempts", "reason"}, never where they go."""
        query = sa.select(_T.kind, _T.state, _T.attempts, _T.reason).where(_T.submission_id == submission_id)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(_T.id)).all()
        return [
            {"kind": kind, "state": state, "attempts": attempts, "reason": reason}
            for kind, state, attempts, reason in rows
        ]

    def _change(self, id_: str, values: Mapping[str, Any]) -> None:
        change = sa.update(NOTIFICATIONS).where(_T.id == id_, _T.state == "pending").values(**values)
        with self._database.writing() as connection:
            connection.execute(change)
