from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sklearn.tree import DecisionTreeRegressor

from tests.toy.house_bundle import write_house_bundle
from udfs.bundle import load_bundle
from udfs.scorer import Scorer


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The toy model as flat trees and as an estimator of the library; shared, so they must not be changed."""
    root = tmp_path_factory.mktemp("bundles")
    write_house_bundle(root / "trees", tolerance_ulps=4)
    write_house_bundle(root / "library", estimator=DecisionTreeRegressor(max_depth=4, random_state=0))
    return {name: root / name for name in ("trees", "library")}


@pytest.fixture
def copied(written: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a copy of one of them for one test alone."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(written[name], tmp_path / name))

    return copy


@pytest.fixture(scope="session")
def houses(written: dict[str, Path]) -> Scorer:
    """The loaded toy model."""
    return load_bundle(written["trees"])
