"""A snapshot: the views that are asked for, as they were in one moment, in bytes that depend on their content alone."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from feature_pipelines.columns import Float64
from feature_pipelines.errors import ContractError, UnavailableError
from feature_pipelines.schema import Field, Schema
from feature_pipelines.stores.opening import open_store
from feature_pipelines.stores.sqlite_snapshot import write_snapshot
from feature_pipelines.views import FeatureView
from tests.toy.stored_rates import stored_rows

PLANE = FeatureView("plane", {"tail": "tail"}, Schema((Field("age", Float64),)))
PLANES = FeatureView("planes", {"tail": "tail"}, Schema((Field("seats", Float64),)))


def filled(path: Path, *, order: int = 1) -> Path:
    store = open_store(f"sqlite:///{path}", timeout_ms=10_000)
    for view, field in ((PLANE, "age"), (PLANES, "seats")):
        rows = stored_rows(view, {field: np.arange(50.0)}, [1_000] * 50)
        keys = [(f"N{i}",) for i in range(50)]
        store.write(view, keys[::order], rows[::order])
        store.advance(view, 2_000)
    store.close()
    return path


def test_snapshot_answers_as_the_store_does_from_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    source = filled(tmp_path / "online.db")
    target = tmp_path / "shipped" / "store.db"
    target.parent.mkdir()
    assert write_snapshot(source, target, [PLANE]) == {"plane": 2_000}
    assert sorted(path.name for path in target.parent.iterdir()) == ["store.db"]
    target.chmod(0o444)
    target.parent.chmod(0o555)
    asked = [(PLANE, [("N7",), ("N99",)])]
    stores = [open_store(f"sqlite:///{path}") for path in (source, target)]
    try:
        assert stores[0].read(asked) == stores[1].read(asked)
        assert stores[1].through([PLANE, PLANES]) == {"plane": 2_000, "planes": None}
        (answers,) = stores[1].read([(PLANES, [("N7",)])])
        assert isinstance(answers[0], UnavailableError)
    finally:
        for store in stores:
            store.close()
        target.parent.chmod(0o755)
    assert sorted(path.name for path in target.parent.iterdir()) == ["store.db"]


def test_equal_contents_are_equal_bytes(tmp_path: Path) -> None:
    for name, order in (("a", 1), ("b", -1)):
        write_snapshot(
            filled(tmp_path / f"{name}.db", order=order), tmp_path / f"{name}.copy", [PLANES, PLANE]
        )
    assert (tmp_path / "a.copy").read_bytes() == (tmp_path / "b.copy").read_bytes()


def test_view_that_was_never_materialised_or_is_held_otherwise_is_refused(tmp_path: Path) -> None:
    source = filled(tmp_path / "online.db")
    unknown = FeatureView("airport", {"code": "code"}, Schema((Field("x", Float64),)))
    with pytest.raises(ContractError, match=r"view 'airport'.*run jobs\.materialize_features first"):
        write_snapshot(source, tmp_path / "1", [unknown])
    other = FeatureView("plane", {"tail": "tail"}, Schema((Field("age_days", Float64),)))
    with pytest.raises(ContractError, match="view 'plane': the store holds it under schema"):
        write_snapshot(source, tmp_path / "2", [other])
    store = open_store(f"sqlite:///{source}")
    store.reset(PLANE)
    store.close()
    with pytest.raises(ContractError, match="does not hold it whole"):
        write_snapshot(source, tmp_path / "3", [PLANE])


def test_store_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"online store sqlite:///.*nothing\.db"):
        write_snapshot(tmp_path / "nothing.db", tmp_path / "copy", [PLANE])
    assert os.listdir(tmp_path) in ([], ["copy"])
