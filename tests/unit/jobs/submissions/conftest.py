"""A ledger and an intake over a SQLite file of their own, with a clock that tests turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from jobs.submissions.database import Database
from jobs.submissions.intake import Intake, PinnedModel, Taken
from jobs.submissions.ledger import Ledger
from jobs.submissions.payload import read_json
from jobs.submissions.tables import METADATA, SUBMISSIONS

MODEL = PinnedModel("houses", "3", "d" * 64, ("house_id",), ("score",))


@dataclass
class Kept:
    """A database, what keeps and what takes submissions, and the time."""

    database: Database
    now: int = 1_000_000
    max_queued: int = 1_000
    max_queued_bytes: int = 10**9
    _intake: Intake | None = None
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.database, self.clock)

    def clock(self) -> int:
        self.now += 1
        return self.now

    @property
    def intake(self) -> Intake:
        if self._intake is None:
            self._intake = Intake(
                self.database,
                self.clock,
                chunk_rows=2,
                batch_rows=10,
                max_queued=self.max_queued,
                max_queued_bytes=self.max_queued_bytes,
                retry_after_seconds=5,
            )
        return self._intake

    def take(self, n_rows: int = 5, key: str | None = None, who: str = "me", content: str = "1") -> Taken:
        body = b'{"rows": [' + b",".join([content.encode()] * n_rows) + b"]}"
        payload = read_json(body, 1_000)[0]
        assert payload is not None
        return self.intake.take(payload, who, MODEL, key).result(30)

    def close(self) -> None:
        if self._intake is not None:
            self._intake.close()
        self.database.close()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    """An empty database."""
    database = Database(f"sqlite:///{tmp_path}/submissions.db")
    database.prepare()
    found = Kept(database)
    yield found
    found.close()


NOW = 1_700_000_000_000_000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Our own tables, without the engine's."""
    database = Database(f"sqlite:///{tmp_path}/submissions.db")
    METADATA.create_all(database.engine)
    yield database
    database.close()


@pytest.fixture
def submitted(database: Database) -> Callable[..., str]:
    """Put a submission of two rows into the database; returns its id."""

    def put(n: int = 0, **values: Any) -> str:
        row: dict[str, Any] = {
            "id": f"{n:032x}",
            "key_id": "somebody",
            "idempotency_key": None,
            "payload_hash": "0" * 64,
            "kind": "json",
            "n_rows": 2,
            "n_bytes": 10,
            "chunk_rows": 2,
            "notify": None,
            "row_id": "[]",
            "outputs": '["score"]',
            "model": "houses",
            "model_version": "3",
            "model_digest": "d" * 64,
            "as_of_ts": NOW,
            "state": "running",
            "rows_done": 0,
            "attempts": 1,
            "crashes": 0,
            "created_ts": NOW,
            "started_ts": NOW,
        }
        with database.writing() as connection:
            connection.execute(sa.insert(SUBMISSIONS).values(**{**row, **values}))
        return str(row["id"])

    return put
