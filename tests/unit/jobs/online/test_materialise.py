"""Materialising views: the newest of each key visible at T, incrementally, again and at once, and never past what is broken."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_pipelines.errors import ConfigurationError, ContractError, RunConflictError, UnavailableError
from feature_pipelines.stores.base import OnlineStore
from feature_pipelines.stores.encoding import decode_rows
from feature_pipelines.stores.opening import open_store
from jobs.online.materialise import Materialised, materialise, plan_view
from jobs.online.store_conf import chosen_views, require_one_machine, store_url
from jobs.runs.conf import Conf
from tests.toy.houses import FEATURES, RATES
from tests.toy.stored import n_stored
from tests.toy.workspace import Workspace

UTC = pa.timestamp("us", tz="UTC")
TOWNS = [(f"town-{i}",) for i in range(6)]


def rates(*rows: tuple[str | None, int | None, int | None, float | None], **columns: list[Any]) -> pa.Table:
    """Return rows of the view's table: town, event_ts, created_ts, rate."""
    towns, event, created, rate = zip(*rows, strict=True)
    return pa.table(
        {
            "town": pa.array(towns, pa.string()),
            "event_ts": pa.array(event, UTC),
            "created_ts": pa.array(created, UTC),
            "rate_pct": pa.array(rate, pa.float64()),
            "rate_pct_floor": pa.array([0.0] * len(rows)),
            **{name: pa.array(values) for name, values in columns.items()},
        }
    )


class Place:
    """A table of rates, a store, and the calls of the job."""

    def __init__(self, spark: Any, root: Path, url: str) -> None:
        self.spark = spark
        self.workspace = Workspace(root)
        self.url = url
        self.store: OnlineStore = open_store(url, timeout_ms=20_000)

    def conf(self, *overrides: str) -> Conf:
        return self.workspace.conf("score.batch_rows=100", *overrides)

    def append(
        self, *rows: tuple[str | None, int | None, int | None, float | None], **columns: list[Any]
    ) -> None:
        write_deltalake(self.workspace.table("rates"), rates(*rows, **columns), mode="append")

    def run(self, through: int, *overrides: str, progress: Any = None) -> Materialised:
        return self.run_with(self.conf(*overrides), through, progress)

    def run_with(self, conf: Conf, through: int, progress: Any = None) -> Materialised:
        plan = plan_view(conf, RATES, through, self.store.register(RATES))
        return materialise(self.spark, conf, self.url, self.store, plan, progress)

    def rows(self) -> list[Any]:
        ((*found,),) = self.store.read([(RATES, TOWNS)])
        return found

    def values(self) -> list[float | None]:
        columns = decode_rows(RATES, [row.payload if row else None for row in self.rows()])
        return [None if np.isnan(value) else float(value) for value in columns["rate_pct"]]  # type: ignore[union-attr]


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, spark: Any, tmp_path: Path) -> Iterator[Place]:
    """An empty store and no table yet."""
    url = f"sqlite:///{tmp_path}/online.db"
    if request.param == "redis":
        running = request.getfixturevalue("redis_server")
        running.flush()
        url = running.url
    made = Place(spark, tmp_path / "home", url)
    yield made
    made.store.close()


def test_the_newest_visible_row_of_each_key_is_stored(place: Place) -> None:
    place.append(("town-0", 1, 1, 1.0), ("town-0", 5, 5, 5.0), ("town-0", 3, 99, 3.0), ("town-1", 7, 7, None))
    place.append(("town-0", 2, 2, 2.0), ("town-2", 50, 50, 50.0), (None, 1, 1, 1.0), ("town-3", 4, 4, 4.0))
    done = place.run(10)
    assert place.values() == [5.0, None, None, 4.0, None, None]
    assert [row is not None for row in place.rows()] == [True, True, False, True, False, False]
    assert (done.read, done.written, done.bad, done.through_ts) == (5, 3, 0, 10)
    assert done.sent - done.written in (0, 1)  # the older row of town-0 came from another file
    assert place.store.through([RATES]) == {"rates": 10}


def test_a_later_run_reads_what_became_visible_since_and_late_deliveries(place: Place) -> None:
    place.append(*[(f"town-{i}", i, i, float(i)) for i in range(6)], ("town-0", 3, 15, 3.0))
    place.run(10)
    again = place.run(10)
    assert (again.plan.portions, again.read) == ((), 0)
    place.append(("town-1", 9, 9, 9.0), ("town-2", 1, 1, 0.5))  # visible before W, delivered after it
    place.append(("town-5", 40, 40, 40.0))
    late = place.run(10)
    assert (late.read, late.written, late.sent) == (2, 1, 2)
    assert place.values() == [0.0, 9.0, 2.0, 3.0, 4.0, 5.0]
    later = place.run(20)
    assert (later.read, later.written) == (1, 1)
    assert place.values()[0] == 3.0
    assert (place.run(50).read, place.values()[5]) == (1, 40.0)


def test_a_run_that_got_less_far_does_not_claim_the_files_of_a_table_it_saw(place: Place) -> None:
    """The run of T=20 saw version 0 alone; that of T=10 saw version 1, too; a row of version 1 visible at 15 is not lost."""
    place.append(("town-0", 1, 1, 1.0))
    conf = place.conf()
    state = place.store.register(RATES)
    early = plan_view(conf, RATES, 20, state)
    place.append(("town-0", 15, 15, 15.0))
    behind = plan_view(conf, RATES, 10, state)
    materialise(place.spark, conf, place.url, place.store, early)
    materialise(place.spark, conf, place.url, place.store, behind)
    assert place.store.through([RATES]) == {"rates": 20}
    assert place.run(21).read == 1
    assert place.values()[0] == 15.0


def test_a_table_that_was_compacted_is_read_whole(place: Place) -> None:
    place.append(("town-0", 1, 1, 1.0))
    place.append(("town-1", 2, 2, 2.0))
    place.run(10)
    DeltaTable(place.workspace.table("rates")).optimize.compact()
    assert (place.run(10).read, place.run(11).read) == (2, 0)


def test_a_tombstone_deletes_and_a_later_row_revives(place: Place) -> None:
    place.append(("town-0", 1, 1, 1.0), ("town-1", 1, 1, 1.0), is_deleted=[None, False])
    place.append(("town-0", 2, 2, None), ("town-1", 2, 2, None), is_deleted=[True, True])
    place.append(("town-1", 3, 3, 3.0), is_deleted=[False])
    place.run(10)
    deleted, revived = place.rows()[:2]
    assert deleted is not None
    assert (deleted.is_deleted, deleted.payload, deleted.event_ts) == (True, b"", 2)
    assert revived is not None
    assert not revived.is_deleted


def test_rows_that_break_the_contract_are_counted_and_not_stored(place: Place) -> None:
    place.append(
        ("town-0", 1, 1, 1.0), ("town-0", 2, 2, float("inf")), ("town-1", None, 1, 1.0), ("town-2", 1, 1, 1.0)
    )
    with pytest.raises(
        ContractError, match=r"'rates': 2 of 4 rows .*50.00%.*NOT_FINITE rate_pct 1"
    ) as caught:
        place.run(10)
    assert caught.value.exit_code == 3
    assert place.store.through([RATES]) == {"rates": None}
    done = place.run(10, "quarantine.max_share=0.5")
    assert (done.bad, dict(done.reasons)) == (2, {"NOT_FINITE rate_pct": 1, "NULL_NOT_ALLOWED event_ts": 1})
    assert place.values() == [1.0, None, 1.0, None, None, None]
    assert place.run(20).bad == 0  # counted once


def test_a_run_that_ends_half_way_is_completed_by_the_next(place: Place) -> None:
    class Killed(Exception):
        """As if the process had ended here."""

    def after_first_chunk(view: str, done: int, total: int, seconds: float) -> None:
        raise Killed

    for i in range(6):
        place.append((f"town-{i}", i, i, float(i)))
    with pytest.raises(Killed):
        place.run(10, "score.chunk_rows=1", "score.unit_rows=1", progress=after_first_chunk)
    assert n_stored(place.url) == 1
    assert place.store.through([RATES]) == {"rates": None}
    assert all(isinstance(row, UnavailableError) for row in place.rows())
    seen: list[tuple[int, int]] = []
    done = place.run(10, "score.chunk_rows=2", progress=lambda _view, n, total, _s: seen.append((n, total)))
    assert (done.read, done.written) == (6, 5)
    assert seen[-1] == (6, 6)
    assert place.values() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_two_runs_at_once_leave_what_one_leaves(place: Place) -> None:
    for i in range(6):
        place.append(*[(f"town-{t}", (i * 7 + t) % 11, (i * 7 + t) % 11, float(i)) for t in range(6)])
    place.run(20)
    alone = place.rows()
    place.store.reset(RATES)
    errors: list[BaseException] = []
    conf = place.conf("score.chunk_rows=6")  # here, because it reads this process's environment

    def work(through: int) -> None:
        try:
            place.run_with(conf, through)
        except BaseException as exc:  # noqa: BLE001 - shown by the test
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(through,)) for through in (20, 15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert place.rows() == alone
    assert place.store.through([RATES]) == {"rates": 20}


def test_a_run_whose_view_was_reset_meanwhile_does_not_set_w(place: Place) -> None:
    place.append(("town-0", 1, 1, 1.0))
    with pytest.raises(RunConflictError, match="'rates'.*reset"):
        place.run(10, progress=lambda *_: place.store.reset(RATES))
    assert place.store.states([RATES])["rates"].through_ts is None  # type: ignore[union-attr]


def test_a_view_without_a_table_in_conf_is_named(place: Place) -> None:
    place.append(("town-0", 1, 1, 1.0))
    with pytest.raises(ContractError, match="'rates'.*set views.rates"):
        plan_view(place.conf().model_copy(update={"views": {}}), RATES, 1, None)


# Without a store


def test_store_url_takes_the_reference_and_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = Workspace(tmp_path).conf()
    assert store_url(conf) == f"sqlite:///{tmp_path}/.onescore/online.db"
    monkeypatch.setenv("ONESCORE_STORE_URL", "rediss://me@host:1/2?ssl_ca_certs=x")
    monkeypatch.setenv("ONESCORE_STORE_PASSWORD", "p@ss/w")
    found = store_url(Workspace(tmp_path).conf("store.url=env:ONESCORE_STORE_URL"))
    assert found == "rediss://me:p%40ss%2Fw@host:1/2?ssl_ca_certs=x"
    with pytest.raises(ConfigurationError, match=r"store.url.*ONESCORE_STORE_PASSWORD") as caught:
        Workspace(tmp_path).conf("store.url=redis://:hidden@host/0")
    assert "hidden" not in str(caught.value)


def test_sqlite_is_refused_where_tasks_run_elsewhere() -> None:
    require_one_machine("sqlite:///x.db", "local[*,4]")
    require_one_machine("redis://h/0", "spark://h:7077")
    with pytest.raises(ConfigurationError, match="spark://h:7077.*local"):
        require_one_machine("sqlite:///x.db", "spark://h:7077")


def test_views_are_chosen_by_name() -> None:
    assert chosen_views(FEATURES, []) == [RATES]
    assert chosen_views(FEATURES, ["rates"]) == [RATES]
    with pytest.raises(ConfigurationError, match="--view rate:.*Did you mean 'rates'"):
        chosen_views(FEATURES, ["rate"])
