"""A database of submissions for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from jobs.submissions.database import Database
from jobs.submissions.tables import METADATA, SUBMISSIONS
from tests.toy.kept import Kept


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    """An empty database."""
    database = Database(f"sqlite:///{tmp_path}/submissions.db")
    database.prepare()
    found = Kept(database)
    yield found
    found.close()


NOW = 1_700_000_000_000_000


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Our own tables in a database of each kind, without the engine's."""
    is_sqlite = request.param == "sqlite"
    database = Database(
        f"sqlite:///{tmp_path}/submissions.db" if is_sqlite else request.getfixturevalue("postgres_url")
    )
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
