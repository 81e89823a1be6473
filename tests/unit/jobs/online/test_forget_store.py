"""An entity's rows in a store that cannot be searched: which views are deleted from by key, which keys can be named, what is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from feature_pipelines.columns import Float64
from feature_pipelines.schema import Field, Schema
from feature_pipelines.stores.base import StoredRow
from feature_pipelines.stores.opening import open_store
from feature_pipelines.views import FeatureView
from jobs.online.entity import parse_entity
from jobs.online.forget_store import ForgottenView, forget_in_store
from tests.toy.depots import FEATURES, VIEW

VALUE = Schema((Field("level", Float64),))
DEPOT = FeatureView("depot_levels", {"depot": "depot"}, VALUE)
LANE = FeatureView("lane_levels", {"lane": "lane"}, VALUE)
VIEWS = (DEPOT, LANE, VIEW)
PAIRS = [("a", 1), ("a", 2), ("b", 1)]


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A store with depots a and b, lanes 1 and 2, and three of their pairs."""
    url = f"sqlite:///{tmp_path}/online.db"
    if request.param == "redis":
        running = request.getfixturevalue("redis_server")
        running.flush()
        url = running.url
    opened = open_store(url, timeout_ms=10_000)
    for view, keys in ((DEPOT, [("a",), ("b",)]), (LANE, [(1,), (2,)]), (VIEW, PAIRS)):
        opened.write(view, keys, [StoredRow(i, i, bytes(32), True, b"") for i in range(len(keys))])
        opened.advance(view, 10)
    yield opened
    opened.close()


@pytest.fixture
def table(tmp_path: Path) -> str:
    """The pairs' offline table, with versions of a key, keys that are not in the store, and nulls."""
    place = str(tmp_path / "pairs")
    depots, lanes = ["a", "a", "a", "b", None, "a", "c"], [1, 2, 2, 1, 1, None, 1]
    write_deltalake(place, pa.table({"depot": depots, "lane": pa.array(lanes, pa.int32()), "x": range(7)}))
    return place


def forget(store: Any, table: str | None, *keys: str, dry_run: bool = False) -> dict[str, ForgottenView]:
    entity = parse_entity(FEATURES.request, keys)
    return forget_in_store(store, VIEWS, entity, lambda _: table, dry_run=dry_run)


def left(store: Any) -> list[Any]:
    """Return the keys that the store still holds."""
    wanted: list[Any] = [(DEPOT, [("a",), ("b",)]), (LANE, [(1,), (2,)]), (VIEW, PAIRS)]
    found = zip(wanted, store.read(wanted), strict=True)
    return [key for (_, keys), rows in found for key, row in zip(keys, rows, strict=True) if row is not None]


def test_keys_that_a_views_table_names_are_deleted_with_the_view_of_the_field_itself(
    store: Any, table: str
) -> None:
    planned = forget(store, table, "depot=a", dry_run=True)
    assert len(left(store)) == 7
    done = forget(store, table, "depot=a")
    assert done == planned
    assert {name: view.rows for name, view in done.items()} == {
        "depot_levels": 1,
        "lane_levels": 0,
        "depot_history": 2,
    }
    assert done["lane_levels"].remark == "keyed by lane: does not know this entity"
    assert "the 2 keys that its table names" in done["depot_history"].remark
    assert left(store) == [("b",), (1,), (2,), ("b", 1)]
    assert {view.rows for view in forget(store, table, "depot=a").values()} == {0}


def test_key_of_all_fields_is_deleted_and_views_of_some_of_them_are_shared_with_others(store: Any) -> None:
    done = forget(store, None, "lane=1", "depot=a")
    assert done["depot_history"] == ForgottenView(1, "")
    for name, field in (("depot_levels", "depot"), ("lane_levels", "lane")):
        assert done[name].rows == 0
        assert f"NOT TOUCHED: keyed by {field}" in done[name].remark
        assert f"run with --key {field} alone" in done[name].remark
    assert left(store) == [("a",), ("b",), (1,), (2,), ("a", 2), ("b", 1)]


@pytest.mark.parametrize("place", [None, "nowhere"])
def test_view_whose_keys_nobody_names_is_left_and_said_so(
    store: Any, place: str | None, tmp_path: Path
) -> None:
    done = forget(store, place and str(tmp_path / place), "lane=1")
    assert done["lane_levels"].rows == 1
    assert done["depot_history"].rows == 0
    assert "NOT TOUCHED: keyed by depot, lane; a store cannot be searched" in done["depot_history"].remark
    assert ("a", 1) in left(store)


def test_view_under_another_schema_is_deleted_from_all_the_same(store: Any) -> None:
    changed = FeatureView("depot_levels", {"depot": "depot"}, Schema((Field("other", Float64),)))
    entity = parse_entity(FEATURES.request, ["depot=a"])
    planned = forget_in_store(store, [changed], entity, lambda _: None, dry_run=True)
    assert planned["depot_levels"] == ForgottenView(0, "it cannot be read now: up to 1 rows")
    assert forget_in_store(store, [changed], entity, lambda _: None, dry_run=False)["depot_levels"].rows == 1


def test_view_that_the_store_does_not_know_holds_nothing(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/online.db", timeout_ms=10_000)
    store.register(DEPOT)
    assert forget(store, None, "lane=1")["lane_levels"] == ForgottenView(0, "not in the store")
    store.close()
