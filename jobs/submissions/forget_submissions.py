"""Taking an entity's rows out of the answers that are kept of submissions, and naming open submissions that still hold it.

An answer stays in its place, so that the others keep theirs: what identified the row is gone, and an error FORGOTTEN stands for what the
model said. Answers keep no field but those of the row's id, so an entity that other fields name cannot be told there. The rows as they
came are deleted when a submission ends; of an open one they are being scored, and are not touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from feature_pipelines.errors import UnavailableError
from jobs.online.entity import Entity
from jobs.submissions.database import Database
from jobs.submissions.ledger import OPEN, Ledger
from jobs.submissions.ledger_chunk import Chunk
from jobs.submissions.payload import read_kept
from jobs.submissions.tables import RESULTS, SUBMISSIONS

__all__ = ["ForgottenSubmissions", "forget_in_submissions"]

_T = SUBMISSIONS.c
_FORGOTTEN = json.dumps(
    {"error": {"code": "FORGOTTEN", "field": None, "message": "the row was forgotten", "retryable": False}}
).encode()


@dataclass
class ForgottenSubmissions:
    """Answers removed, and in how many submissions; what holds, or may hold, the entity still.

    Args:
        rows, submissions: what was (or would be) removed.
        open: ids of open submissions whose rows name it, or which refer to a table.
        untold: how many submissions have answers whose ids do not name all of the entity's fields.
    """

    rows: int = 0
    submissions: int = 0
    open: list[str] = field(default_factory=list)
    untold: int = 0


def forget_in_submissions(url: str, model: str, entity: Entity, *, dry_run: bool) -> ForgottenSubmissions:
    """Remove the answers to an entity's rows from a model's submissions that have succeeded; others that have ended keep none.

    Each chunk of answers is replaced in a transaction, so what is done stays done if this dies.

    Args:
        url: of the database; one that was never prepared holds nothing.
        model: whose submissions.
        entity: what to forget.
        dry_run: count, and change nothing.

    Raises:
        UnavailableError: the database cannot be reached.
    """
    database = Database(url, pool_size=2)
    try:
        done = ForgottenSubmissions()
        if sa.inspect(database.engine).has_table(SUBMISSIONS.name):
            # open ones first: one that ends meanwhile is found among those that succeeded
            done.open = [id_ for id_, kind in _open(database, model) if _holds(database, id_, kind, entity)]
            for id_, row_id in _succeeded(database, model):
                if set(entity.names) <= set(row_id):
                    rows = sum(_in_chunks(database, id_, row_id, entity, dry_run=dry_run))
                    done.rows += rows
                    done.submissions += bool(rows)
                else:
                    done.untold += 1
        return done
    except sa.exc.DBAPIError as exc:
        raise UnavailableError(
            f"submissions.database_url: the database cannot be worked on: {type(exc.orig).__name__}"
        ) from exc
    finally:
        database.close()


def _open(database: Database, model: str) -> list[tuple[str, str]]:
    query = sa.select(_T.id, _T.kind).where(_T.model == model, _T.state.in_(OPEN)).order_by(_T.id)
    with database.reading() as connection:
        return [(id_, kind) for id_, kind in connection.execute(query)]


def _holds(database: Database, id_: str, kind: str, entity: Entity) -> bool:
    payload = Ledger(database, lambda: 0).payload(id_)
    if payload is None:
        return False  # it ended meanwhile
    return kind == "reference" or any(
        isinstance(row, dict) and _is_of(entity, row) for row in read_kept(payload).rows
    )


def _is_of(entity: Entity, row: dict[str, Any]) -> bool:
    return all(entity.is_value(name, row.get(name)) for name in entity.names)


def _succeeded(database: Database, model: str) -> list[tuple[str, list[str]]]:
    query = sa.select(_T.id, _T.row_id).where(_T.model == model, _T.state == "succeeded").order_by(_T.id)
    with database.reading() as connection:
        return [(id_, json.loads(row_id)) for id_, row_id in connection.execute(query)]


def _in_chunks(
    database: Database, id_: str, row_id: list[str], entity: Entity, *, dry_run: bool
) -> Iterator[int]:
    """Yield how many rows of each chunk were (or would be) removed."""
    ledger = Ledger(database, lambda: 0)
    for first, n in ledger.stored(id_):
        for chunk in ledger.chunks(id_, first, n):
            ids, body = chunk.ids.split(b"\n"), chunk.body.split(b"\n")
            gone = [
                i
                for i, line in enumerate(ids)
                if _is_of(entity, dict(zip(row_id, json.loads(line), strict=True)))
            ]
            for i in gone:
                ids[i], body[i] = json.dumps([None] * len(row_id)).encode(), _FORGOTTEN
            if gone and not dry_run:
                rest = Chunk.packed(chunk.first_row, chunk.n_rows, b"\n".join(body), b"\n".join(ids))
                _replace(database, id_, rest)
            yield len(gone)


def _replace(database: Database, id_: str, chunk: Chunk) -> None:
    change = (
        sa.update(RESULTS)
        .where(RESULTS.c.id == id_, RESULTS.c.first_row == chunk.first_row)
        .values(body=chunk.packed_body, ids=chunk.packed_ids)
    )
    with database.writing() as connection:
        connection.execute(change)
