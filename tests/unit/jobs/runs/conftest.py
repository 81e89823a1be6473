"""The toy parcels, whose rows fail in every way, for all tests of this directory."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.runs.train_run import train
from tests.toy.parcel_tables import parcels_workspace


@pytest.fixture(scope="session")
def trained_parcels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The parcels' tables and a registry with two versions, the second one mended; shared, so it must not be changed."""
    workspace = parcels_workspace(tmp_path_factory.mktemp("parcels"))
    train(workspace.conf(model="parcels"))
    train(workspace.conf("model.feature_set=tests.toy.parcels:MENDED", model="parcels"))
    return workspace


@pytest.fixture
def parcels(trained_parcels: Any, tmp_path: Any) -> Any:
    """A copy of the parcels for one test alone."""
    return trained_parcels.copy_to(tmp_path / "parcels")
