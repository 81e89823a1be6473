"""A table that lost rows since the store read it: refused by name, because the store would keep them; and what is not such a table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_pipelines.columns import Int64, Nullable, String
from feature_pipelines.errors import ContractError
from feature_pipelines.lookup import Status
from feature_pipelines.schema import Field, Schema, build_column
from feature_pipelines.stores.base import OnlineStore, StoredRow, resolve
from feature_pipelines.stores.encoding import decode_rows, encode_rows
from feature_pipelines.stores.opening import open_store
from jobs import build_features, materialize_features
from jobs.online.materialise import ViewPlan, plan_view
from jobs.runs.command import run
from jobs.runs.views import index_view, pin_view
from tests.toy import depots
from tests.toy.houses import FEATURES, RATES
from tests.toy.workspace import CONF_DIR, Workspace

UTC = pa.timestamp("us", tz="UTC")
W = 10


def rates(*rows: tuple[str, int, float]) -> pa.Table:
    """Return rows of the view's table: town, both times, rate."""
    towns, times, values = zip(*rows, strict=True)
    return pa.table(
        {
            "town": towns,
            "event_ts": pa.array(times, UTC),
            "created_ts": pa.array(times, UTC),
            "rate_pct": values,
            "rate_pct_floor": [0.0] * len(rows),
        }
    )


class Place:
    """A table of two files, and a store that read both."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.table = self.workspace.table("rates")
        self.append(("a", 1, 1.0), ("b", 2, 2.0))
        self.append(("a", 3, 3.0))
        self.store: OnlineStore = open_store(f"sqlite:///{root}/online.db", timeout_ms=10_000)
        self.read()

    def append(self, *rows: tuple[str, int, float], mode: Any = "append") -> None:
        write_deltalake(self.table, rates(*rows), mode=mode)

    def plan(self, through: int = W, **more: Any) -> ViewPlan:
        conf = self.workspace.conf(*more.pop("overrides", ()))
        return plan_view(conf, RATES, through, self.store.register(RATES), **more)

    def read(self) -> None:
        """Remember what a run remembers at its end."""
        self.store.advance(RATES, W, source=self.plan().source)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """That table and store."""
    made = Place(tmp_path / "home")
    yield made
    made.store.close()


def refused(place: Place, what: str, **more: Any) -> None:
    """Expect the error, which names what mends it; with the view rebuilt in the store all of the table is read."""
    with pytest.raises(ContractError, match=rf"'rates': .*{what}.*--rebuild") as caught:
        place.plan(**more)
    assert caught.value.exit_code == 3
    place.store.reset(RATES)
    assert place.plan(**more).new_files == len(place.plan(**more).snapshot.files)


def test_rows_that_were_added_are_no_reason(place: Place) -> None:
    place.append(("c", 4, 4.0))
    assert place.plan().new_files == 1
    place.read()
    assert place.plan().new_files == 0


def test_a_table_that_was_compacted_lost_nothing(place: Place) -> None:
    assert DeltaTable(place.table).optimize.compact()["numFilesRemoved"] == 2
    assert place.plan().new_files == 1
    place.append(("c", 4, 4.0))
    DeltaTable(place.table).optimize.z_order(["town"])
    DeltaTable(place.table).vacuum(0, enforce_retention_duration=False, dry_run=False)
    assert place.plan().new_files == 1


def test_a_table_that_was_rebuilt_is_refused(place: Place) -> None:
    place.append(("a", 1, 1.0), ("b", 2, 7.0), mode="overwrite")
    refused(place, "lost rows in version 2")


def test_a_table_that_was_rebuilt_from_compacted_files_is_refused(place: Place) -> None:
    DeltaTable(place.table).optimize.compact()
    place.append(("a", 1, 1.0), mode="overwrite")
    refused(place, "lost rows in version 3")


@pytest.mark.parametrize("predicate", ["town = 'b'", "town = 'a' and rate_pct = 3.0"])
def test_a_table_whose_rows_were_deleted_is_refused(place: Place, predicate: str) -> None:
    DeltaTable(place.table).delete(predicate)
    refused(place, "lost rows in version 2")


def test_a_table_made_anew_under_its_name_is_refused(place: Place, tmp_path: Path) -> None:
    Path(place.table).rename(tmp_path / "old")
    place.append(("a", 1, 1.0))
    refused(place, "is another table")


def test_a_table_whose_log_was_cleaned_beyond_what_the_store_read_is_refused(place: Place) -> None:
    for i in range(3):
        place.append(("c", 4 + i, 4.0))
    DeltaTable(place.table).create_checkpoint()
    for version in range(3):
        (Path(place.table) / "_delta_log" / f"{version:020d}.json").unlink()
    refused(place, "since version 1")


def test_a_version_before_the_one_that_the_store_read_is_refused(place: Place) -> None:
    refused(
        place,
        "is read at version 0, and the store was filled from version 1",
        overrides=["view_versions.rates=0"],
    )


def test_a_table_that_was_rebuilt_after_a_first_run_was_killed_is_refused(place: Place) -> None:
    """What that run wrote is in the store, and no W says so."""
    place.store.reset(RATES)
    plan = place.plan()
    place.store.register(RATES, source=plan.source)  # as a run does before it writes
    assert place.plan().new_files == 2, "all of it is read again"
    place.append(("a", 1, 1.0), ("b", 2, 7.0), mode="overwrite")
    refused(place, "lost rows in version 2")


@pytest.mark.parametrize("town", [["1", "2"], [1, 2]])
def test_a_key_that_no_request_would_find_is_refused(place: Place, tmp_path: Path, town: list[Any]) -> None:
    time = pa.array([1, 2], UTC)
    table = pa.table(
        {
            "town": town,
            "event_ts": time,
            "created_ts": time,
            "rate_pct": [1.0] * 2,
            "rate_pct_floor": [0.0] * 2,
        }
    )
    other = Workspace(tmp_path / "other")
    write_deltalake(other.table("rates"), table)
    asked = String if isinstance(town[0], str) else Int64
    for request, is_right in ((asked, True), (Int64 if asked is String else String, False)):
        schema = Schema((Field("town", Nullable[request]),))
        if is_right:
            assert plan_view(other.conf(), RATES, W, None, request=schema).rows == 2
            continue
        with pytest.raises(ContractError, match="'rates': key 'town' is .* requests ask by 'town', which is"):
            plan_view(other.conf(), RATES, W, None, request=schema)


def test_the_job_checks_keys_by_the_feature_sets_request(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in place.workspace.env().items():
        monkeypatch.setenv(name, value)
    fields = [Field("town", Nullable[Int64]) if f.name == "town" else f for f in FEATURES.request]
    by_number = SimpleNamespace(name="by_number", request=Schema(tuple(fields)), views=(RATES,))
    monkeypatch.setattr(materialize_features, "load_reference", lambda _: by_number)
    assert run(materialize_features.main, ["--model", "houses", "--dry-run"]) == 3
    assert "'rates': key 'town' is string" in capsys.readouterr().err


# From events to the store, by the jobs


HISTORY = "depot_history"


def served(workspace: Workspace) -> tuple[list[Status], list[bytes]]:
    """Return status and values of every key in the store, as of its W."""
    view = depots.VIEW
    with closing(open_store(f"sqlite:///{workspace.root}/.onescore/online.db", timeout_ms=10_000)) as store:
        w = store.through([view])[view.name]
        assert w is not None
        (rows,) = store.read([(view, KEYS)])
    statuses, payloads = [], []
    for row in rows:
        assert row is None or isinstance(row, StoredRow)
        statuses.append(resolve(view, row, w))
        payloads.append(row.payload if row is not None and statuses[-1] is Status.PRESENT else None)
    return statuses, encode_rows(view, decode_rows(view, payloads), len(KEYS))


def joined(workspace: Workspace, as_of: int) -> tuple[list[Status], list[bytes]]:
    """Return the same by the as-of join."""
    index = index_view(depots.VIEW, pin_view(depots.VIEW, workspace.table(HISTORY)))
    depot, _ = build_column(Field("depot", Nullable[String]), [key[0] for key in KEYS])
    lane, _ = build_column(Field("lane", Nullable[Int64]), [key[1] for key in KEYS])
    columns, statuses = index.lookup([depot, lane], np.full(len(KEYS), as_of))
    return [Status(code) for code in statuses.tolist()], encode_rows(depots.VIEW, columns, len(KEYS))


KEYS = [(f"depot-{i}", lane) for i in range(4) for lane in (1, 2)]
THROUGH = "2020-01-10T12:00:00Z"
THROUGH_TS = depots.START + (9 * 24 + 12) * depots.HOUR


def test_a_view_that_was_rebuilt_is_served_as_it_is_now_or_not_at_all(
    tmp_path: Path, spark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal times and other values: of such rows the store would keep those with the greater digest, which is no one's answer."""
    workspace = Workspace(tmp_path)
    monkeypatch.setenv("ONESCORE_HOME", str(tmp_path))
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(CONF_DIR))
    events = depots.event_rows(300)
    workspace.write("depot_events", events)

    def job(main: Any, *arguments: str) -> int:
        return run(main, ["--model", "depots", *arguments])

    assert job(build_features.main) == 0
    assert job(materialize_features.main, "--through", THROUGH) == 0
    first = served(workspace)
    assert first == joined(workspace, THROUGH_TS)
    assert Status.PRESENT in first[0]

    behind = events.take(pa.array(np.arange(0, 300, 2)))  # delivered again, as known when it was known before
    write_deltalake(workspace.table("depot_events"), behind, mode="append")
    assert job(build_features.main, "--rebuild") == 0
    now = joined(workspace, THROUGH_TS)
    assert now[1] != first[1]
    capsys.readouterr()
    assert job(materialize_features.main, "--through", THROUGH) == 3
    assert "lost rows in version" in capsys.readouterr().err
    assert job(materialize_features.main, "--dry-run") == 3
    assert job(materialize_features.main, "--dry-run", "--rebuild") == 0
    assert served(workspace) == first, "nothing was written by what was refused"

    assert job(materialize_features.main, "--through", THROUGH, "--rebuild") == 0
    assert served(workspace) == now
    assert job(materialize_features.main, "--through", THROUGH) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert job(build_features.main, "--corrected-at", "2020-02-01T00:00:00Z") == 0
    assert job(materialize_features.main, "--through", "2020-02-01T00:00:00Z") == 0, "a correction is added"
