from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.serverless.function import Function
from tests.toy.functions import opened, package_of
from tests.toy.serving import write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A SQLite store of the toy view, and the time through which it goes."""
    path = tmp_path_factory.mktemp("store") / "online.db"
    return path, write_store(path)


@pytest.fixture(scope="module")
def package(bundle: Path, store: tuple[Path, int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy model's package with a snapshot; shared, so it must not be changed."""
    return package_of(tmp_path_factory.mktemp("package") / "app", bundle, store=store[0])


@pytest.fixture(scope="module")
def function(package: Path) -> Iterator[Function]:
    """The function of that package."""
    found = opened(package)
    yield found
    found.close()
