"""What is still to be told: written in the very transaction that ends a submission, so that no end goes untold, whoever dies then.

    pending -> sent | failed

A delivery is claimed by moving its due time ahead, before it is tried: of any number of workers one tries it, and if that one dies, another
does when the time has come. So each is delivered at least once, under one id. This module sends nothing.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from jobs.submissions.database import Database
from jobs.submissions.tables import NOTIFICATIONS, SUBMISSIONS
from jobs.submissions.targets import named

__all__ = ["Delivery", "Outbox", "enqueue"]

_T = NOTIFICATIONS.c
_TRIED_AT_ONCE = 8  # beyond what is wanted: others may be quicker


class Delivery(NamedTuple):
    """One message to one target.

    Args:
        id: of it, the same at every attempt.
        submission_id: what it is about.
        key_id: whose submission that is.
        kind, where: the target; see `targets.Target`.
        attempts: how often it was tried, this time included.
    """

    id: str
    submission_id: str
    key_id: str
    kind: str
    where: str
    attempts: int

    @property
    def place(self) -> tuple[str, str]:
        """Kind, and what is reached: of a webhook scheme, host and port, of a target its name, of mail the one server for all."""
        return _place(self.kind, self.where)


def _place(kind: str, where: str) -> tuple[str, str]:
    reached = {"webhook": "/".join(where.split("/")[:3]), "email": ""}
    return kind, reached.get(kind, where)


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
        for kind, where in named(json.loads(notify) if notify is not None else {})
    ]
    if rows:
        connection.execute(sa.insert(NOTIFICATIONS), rows)


class Outbox:
    """Reads and changes deliveries."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(
        self, now: int, lease_us: int, sending: Sequence[Delivery], most: int, limit: int
    ) -> list[Delivery]:
        """Return deliveries that are due, and that nobody else will try until `lease_us` from now has passed.

        Whose key has the fewest under way comes first, then who has waited longest; so one key's receivers hold up no other's. All that is
        due is looked through once, however many are returned. Where others claim too, or many go to one place, there may be more.

        Args:
            now: microseconds since 1970, UTC.
            lease_us: longer than an attempt takes.
            sending: what is under way here.
            most: so many may be under way for one key, and to one place, these included.
            limit: at most so many are returned.
        """
        of_key = Counter(one.key_id for one in sending)
        of_place = Counter(one.place for one in sending)
        mine = SUBMISSIONS.c.key_id
        under_way = sa.case(dict(of_key), value=mine, else_=0) if of_key else sa.literal(0)
        nth = sa.func.row_number().over(partition_by=mine, order_by=(_T.due_ts, _T.id))
        due = (
            sa.select(_T.id, _T.due_ts, _T.kind, _T.target, mine, (under_way + nth).label("nth"))
            .join(SUBMISSIONS, SUBMISSIONS.c.id == _T.submission_id)
            .where(_T.state == "pending", _T.due_ts <= now)
            .where(mine.not_in([key for key, n in of_key.items() if n >= most]))
            .where(*(sa.not_(_is_at(*place)) for place, n in of_place.items() if n >= most))
            .subquery()
        )
        first = (
            sa.select(due)
            .where(due.c.nth <= most)
            .order_by(due.c.nth, due.c.due_ts, due.c.id)
            .limit(limit + _TRIED_AT_ONCE)
        )
        with self._database.reading() as connection:
            seen = connection.execute(first).all()
        claimed: list[Delivery] = []
        for row in seen:
            place = _place(row.kind, row.target)
            if len(claimed) == limit:
                break
            if of_place[place] < most and (one := self._claimed(row, now + lease_us)) is not None:
                of_place[place] += 1
                claimed.append(one)
        return claimed

    def _claimed(self, seen: sa.Row[Any], until: int) -> Delivery | None:
        """Move a delivery's due time ahead; None if somebody else did."""
        change = (
            sa.update(NOTIFICATIONS)
            .where(_T.id == seen.id, _T.state == "pending", _T.due_ts == seen.due_ts)
            .values(due_ts=until, attempts=_T.attempts + 1)
            .returning(_T.kind, _T.target, _T.attempts, _T.submission_id)
        )
        with self._database.writing() as connection:
            row = connection.execute(change).one_or_none()
        if row is None:
            return None
        return Delivery(seen.id, row.submission_id, seen.key_id, row.kind, row.target, row.attempts)

    def settle(self, id_: str, state: str, reason: str | None = None) -> None:
        """Note that a delivery was sent, or has failed for good."""
        self._change(id_, {"state": state, "reason": reason})

    def again(self, id_: str, due_ts: int, reason: str) -> None:
        """Note why a delivery failed this time, and when it is tried again."""
        self._change(id_, {"due_ts": due_ts, "reason": reason})

    def give_back(self, id_: str, due_ts: int, reason: str) -> None:
        """Note that an attempt was cut off by who made it, which says nothing of the receiver: it counts as none."""
        self._change(id_, {"due_ts": due_ts, "reason": reason, "attempts": _T.attempts - 1})

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


def _is_at(kind: str, reached: str) -> sa.ColumnElement[bool]:
    """Return the condition that a delivery goes to a place; see `Delivery.place`."""
    if kind == "email":
        return _T.kind == kind
    is_reached = _T.target == reached
    if kind == "webhook":
        is_reached |= _T.target.startswith(f"{reached}/", autoescape=True)
    return sa.and_(_T.kind == kind, is_reached)
