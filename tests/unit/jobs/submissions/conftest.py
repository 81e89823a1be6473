"""A database of submissions for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.submissions.database import Database
from tests.toy.kept import Kept


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    """An empty database."""
    database = Database(f"sqlite:///{tmp_path}/submissions.db")
    database.prepare()
    found = Kept(database)
    yield found
    found.close()
