"""The world of flights that the tests of the proof share, and how jobs on replayed houses run in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import reconcile_scores
from tests.proof.worlds import FlightsWorld, make_world
from tests.toy.local_frames import LocalSession, local_session
from tests.toy.workspace import Workspace


@pytest.fixture(scope="session")
def flights_world(tmp_path_factory: pytest.TempPathFactory) -> FlightsWorld:
    """Two days of real flights and four models of one name; shared, so it must not be changed."""
    return make_world(tmp_path_factory.mktemp("flights"))


@pytest.fixture(scope="session")
def registered_world(flights_world: FlightsWorld) -> FlightsWorld:
    """The same world with its models in a registry, the reference as champion; jobs may leave reports in it."""
    flights_world.register("older", "reference", "changed", "older_changed", champion="reference")
    return flights_world


@pytest.fixture
def place(replayed: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A copy to work in, as the home of jobs."""
    copy = replayed.copy_to(tmp_path / "workspace")
    for name, value in copy.env().items():
        monkeypatch.setenv(name, value)
    return copy


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalSession]:
    """What runs the job's frames in this process."""
    with local_session(tmp_path / "archives") as session:
        monkeypatch.setattr(reconcile_scores, "spark_session", lambda *_: contextlib.nullcontext(session))
        yield session
