"""The toy model, loaded once."""

from __future__ import annotations

import pytest
from threadpoolctl import threadpool_limits

from tests.toy.house_bundle import write_house_bundle
from tests.toy.skewed_houses import SkewedHouses
from udfs.bundle import load_bundle
from udfs.scorer import Scorer


@pytest.fixture(scope="session")
def house_scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    directory = tmp_path_factory.mktemp("proof") / "houses"
    with threadpool_limits(1):  # threads that wait for a busy core take longer than one alone
        write_house_bundle(directory)
    return load_bundle(directory)


@pytest.fixture(scope="session")
def houses(house_scorer: Scorer) -> SkewedHouses:
    return SkewedHouses(house_scorer)
