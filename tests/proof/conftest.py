"""The world of flights that the tests of the proof share."""

from __future__ import annotations

import pytest

from tests.proof.worlds import FlightsWorld, make_world


@pytest.fixture(scope="session")
def flights_world(tmp_path_factory: pytest.TempPathFactory) -> FlightsWorld:
    """Two days of real flights and four models of one name; shared, so it must not be changed."""
    return make_world(tmp_path_factory.mktemp("flights"))


@pytest.fixture(scope="session")
def registered_world(flights_world: FlightsWorld) -> FlightsWorld:
    """The same world with its models in a registry, the reference as champion; jobs may leave reports in it."""
    flights_world.register("older", "reference", "changed", "older_changed", champion="reference")
    return flights_world
