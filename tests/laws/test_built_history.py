"""Views built by Spark: step by step is at once, again is nothing, killed is as never, and no late row is missed in silence."""

from __future__ import annotations

import struct
import sys
import threading
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_pipelines.columns import Strings
from feature_pipelines.errors import ConfigurationError, ContractError, RunConflictError
from feature_pipelines.features.flights import FEATURES as FLIGHTS
from feature_pipelines.history_arrow import history_from_arrow
from feature_pipelines.lookup import Status
from feature_pipelines.views import FeatureView
from jobs.runs import build_run
from jobs.runs.build_plan import Wanted
from jobs.runs.build_run import build_views
from jobs.runs.conf import load
from jobs.runs.kill_points import BUILD_KILL_POINTS
from jobs.runs.views import index_view, pin_view
from jobs.tables.delta import orphans
from tests.toy.depots import FEATURES, HOUR, START, VIEW, event_rows
from tests.toy.runs import JobProcess, Killed
from tests.toy.workspace import Workspace

EVENTS, HISTORY, QUARANTINE = "depot_events", "depot_history", "features_quarantine"
UTC_TIME = pa.timestamp("us", tz="UTC")


@pytest.fixture
def depots(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.write(EVENTS, event_rows(), rows_per_file=150)
    return workspace


def build(workspace, spark, *overrides, **wanted):
    (built,) = build_views(
        spark, workspace.conf(*overrides, model="depots"), FEATURES, wanted=Wanted(**wanted)
    )
    return built


def content(rows: pa.Table) -> Counter:
    """Rows as a multiset, floats by their bits."""

    def bits(value):
        return struct.pack(">d", value) if isinstance(value, float) else value

    return Counter(tuple(map(bits, row.values())) for row in rows.to_pylist())


def stored(workspace) -> Counter:
    return content(workspace.rows(HISTORY))


def at_once(events: pa.Table, view: FeatureView = VIEW) -> Counter:
    return content(history_from_arrow(view, events))


def append(workspace, events: pa.Table) -> None:
    write_deltalake(workspace.table(EVENTS), events, mode="append")


def version(workspace, name=HISTORY) -> int:
    return DeltaTable(workspace.table(name)).version()


def known_by(events: pa.Table, hours: int) -> pa.Table:
    return events.filter(pc.less_equal(events["created_ts"].cast(pa.int64()), START + hours * HOUR))


# --- what is built


def test_steps_give_the_rows_that_one_build_gives_bit_for_bit(depots, spark):
    for hours in (40, 41, 150, 151):
        build(depots, spark, through=START + hours * HOUR)
        assert stored(depots) == at_once(known_by(event_rows(), hours))
    built = build(depots, spark)
    assert stored(depots) == at_once(event_rows())
    assert (built.committed, built.new_rows, built.tombstones) == (
        True,
        400 - known_by(event_rows(), 151).num_rows,
        0,
    )


def test_a_step_reads_only_rows_that_it_can_touch(depots, spark):
    first = build(depots, spark, through=START + 200 * HOUR)
    assert first.rows_read == known_by(event_rows(), 200).num_rows
    second = build(depots, spark, through=START + 210 * HOUR)
    assert 0 < second.new_rows < second.rows_read < 250


@pytest.mark.parametrize("view", ["plane_history", "route_history", "airport_congestion"])
def test_steps_over_real_flights_give_the_rows_that_one_build_gives(flights, spark, view):
    conf, events = flights
    (declared,) = [one for one in FLIGHTS.views if one.name == view]
    source = events[conf.view_sources[view]]
    for day in (9, 20, None):
        through = None if day is None else 1_356_998_400_000_000 + day * 24 * HOUR
        build_views(spark, conf, FLIGHTS, names=[view], wanted=Wanted(through=through))
    found = DeltaTable(conf.table_location(view)).to_pyarrow_table()
    assert content(found) == at_once(source, declared)
    assert found.num_rows > 5_000
    index = index_view(declared, pin_view(declared, conf.table_location(view)))
    keys = [Strings.of([row]) for row in source.select(list(declared.keys)).to_pylist()[500].values()]
    _, status = index.lookup(keys, np.array([1_356_998_400_000_000 + 40 * 24 * HOUR]))
    assert status.tolist() != [Status.NOT_FOUND]


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    """The events of January from the real files."""
    from jobs.tables.flights_source import locate_files, parse_source

    conf = load("local", "flights", root=tmp_path_factory.mktemp("flights"))
    end = pa.scalar(1_359_676_800_000_000, pa.int64()).cast(UTC_TIME)
    events = {}
    for name, rows in parse_source(locate_files()).items():
        if name in ("flights_arrivals", "flights_departures"):
            events[name] = rows.filter(pc.less(rows["event_ts"], end))
            write_deltalake(conf.table_location(name), events[name])
    return conf, events


# --- again


def test_a_build_without_new_rows_changes_nothing(depots, spark):
    build(depots, spark)
    before = version(depots)
    for wanted in ({}, {"through": START + 50 * HOUR}, {"through": START + 10**6 * HOUR}):
        built = build(depots, spark, **wanted)
        assert (built.committed, built.rows_written) == (False, 0)
    assert version(depots) == before


def test_a_source_that_changed_behind_a_build_is_named_and_rebuild_mends_it(depots, spark):
    build(depots, spark)
    behind = event_rows(3, seed=9).set_column(3, "created_ts", pa.array([START] * 3).cast(UTC_TIME))
    append(depots, behind)
    with pytest.raises(
        ContractError, match=r"depot_events has 3 more rows with created_ts up to .*--rebuild"
    ):
        build(depots, spark)
    assert stored(depots) == at_once(event_rows())
    build(depots, spark, rebuild=True)
    assert stored(depots) == at_once(pa.concat_tables([event_rows(), behind]))
    assert not build(depots, spark).committed


def test_a_value_changed_in_place_is_noticed_although_the_count_is_the_same(depots, spark):
    build(depots, spark)
    changed = event_rows().to_pylist()
    changed[7]["carrier"] = "another"
    depots.write(EVENTS, pa.Table.from_pylist(changed, event_rows().schema))
    with pytest.raises(ContractError, match="has as many, but other rows"):
        build(depots, spark)


def test_another_declaration_is_not_built_on(depots, spark, monkeypatch):
    build(depots, spark)
    monkeypatch.setattr("jobs.runs.build_plan.definition_number", lambda view: 7)
    with pytest.raises(ContractError, match="another declaration .* --rebuild"):
        build(depots, spark)


# --- corrections


LATER = START + 10_000 * HOUR


def test_a_correction_is_a_later_version_and_a_tombstone_and_the_past_stays(depots, spark):
    build(depots, spark, through=START + 230 * HOUR)
    past = stored(depots)
    rows = event_rows().to_pylist()
    known = [
        i
        for i, row in enumerate(rows)
        if row["depot"] and row["lane"] and micros(row, "created_ts") < START + 99 * HOUR
    ]
    changed, removed = known[0], known[1]
    rows[changed]["n_parcels"] += 1
    del rows[removed]
    mended = pa.Table.from_pylist(rows, event_rows().schema)
    depots.write(EVENTS, mended)

    built = build(depots, spark, corrected_at=LATER)
    now = stored(depots)
    assert past - now == Counter()
    added = depots.rows(HISTORY).to_pylist()
    corrections = [row for row in added if row["created_ts"].timestamp() * 1e6 == LATER]
    assert sum(row["is_deleted"] for row in corrections) == built.tombstones <= 1
    assert len(corrections) > built.tombstones
    assert newest(depots.rows(HISTORY)) == newest(history_from_arrow(VIEW, mended))

    before = version(depots)
    assert not build(depots, spark, corrected_at=LATER).committed
    assert not build(depots, spark).committed
    assert version(depots) == before


def test_rows_that_come_after_a_correction_are_built_on_it(depots, spark):
    build(depots, spark, through=START + 100 * HOUR)
    rows = event_rows().to_pylist()
    rows = [row for i, row in enumerate(rows) if i % 50]
    depots.write(EVENTS, pa.Table.from_pylist(rows, event_rows().schema))
    build(depots, spark, corrected_at=START + 150 * HOUR)
    build(depots, spark)
    mended = pa.Table.from_pylist(rows, event_rows().schema)
    assert newest(depots.rows(HISTORY)) == newest(history_from_arrow(VIEW, mended))


def test_a_correction_of_a_correction_reads_the_tombstones_of_the_first(depots, spark):
    build(depots, spark)
    rows = [row for i, row in enumerate(event_rows().to_pylist()) if i % 20]
    for corrected_at, mended in ((LATER, rows), (LATER + HOUR, rows[5:]), (LATER + 2 * HOUR, rows)):
        events = pa.Table.from_pylist(mended, event_rows().schema)
        depots.write(EVENTS, events)
        built = build(depots, spark, corrected_at=corrected_at)
        assert built.committed
        assert newest(depots.rows(HISTORY)) == newest(history_from_arrow(VIEW, events))
    assert depots.rows(HISTORY)["is_deleted"].to_pylist().count(True) > built.tombstones


def test_a_correction_that_is_not_the_newest_is_refused(depots, spark):
    with pytest.raises(ConfigurationError, match="nothing to correct, it was never built"):
        build(depots, spark, corrected_at=LATER)
    build(depots, spark)
    with pytest.raises(ContractError, match="would not be newer than what is stored"):
        build(depots, spark, corrected_at=START + 100 * HOUR)
    with pytest.raises(ConfigurationError, match="--corrected-at goes neither with --rebuild"):
        Wanted(rebuild=True, corrected_at=LATER)


def micros(row, name):
    return round(row[name].timestamp() * 1e6)


def newest(rows: pa.Table) -> dict:
    """The newest version of each row but for its created_ts; none of a row that is deleted."""
    found = {}
    for row in sorted(rows.to_pylist(), key=lambda row: row["created_ts"]):
        found[row["depot"], row["lane"], row["event_ts"]] = row
    return {
        key: repr({k: v for k, v in row.items() if k != "created_ts"})
        for key, row in found.items()
        if not row["is_deleted"]
    }


# --- rows that break the contract


def test_bad_rows_are_put_aside_once_with_their_reason(depots, spark):
    depots.write(EVENTS, event_rows(bad=[3, 4]))
    rows = event_rows(5, seed=8).set_column(3, "created_ts", pa.nulls(5, UTC_TIME))
    append(depots, rows)
    limit = "quarantine.max_share=0.05"
    assert build(depots, spark, limit).quarantined == 7
    aside = depots.rows(QUARANTINE)
    assert Counter(zip(aside["code"].to_pylist(), aside["field"].to_pylist(), strict=True)) == {
        ("OUT_OF_RANGE", "n_parcels"): 2,
        ("NULL_NOT_ALLOWED", "created_ts"): 5,
    }
    assert '"n_parcels": -1' in "".join(aside["row"].to_pylist())
    good = event_rows(bad=[3, 4]).filter(pc.greater_equal(event_rows(bad=[3, 4])["n_parcels"], 0))
    assert stored(depots) == at_once(good)
    for again in ({}, {"rebuild": True}):
        assert build(depots, spark, "quarantine.max_share=1.0", **again).quarantined == 0
    assert depots.rows(QUARANTINE).num_rows == 7


def test_too_many_bad_rows_stop_the_build_before_anything_is_committed(depots, spark):
    depots.write(EVENTS, event_rows(bad=range(10)))
    with pytest.raises(ContractError, match=r"more than 4 of 400 new rows .* OUT_OF_RANGE 5") as refused:
        build(depots, spark)
    assert refused.value.exit_code == 3
    assert not (depots.root / ".onescore" / "tables" / HISTORY).exists()


def test_a_source_without_a_needed_column_is_refused(depots, spark):
    depots.write(EVENTS, event_rows())
    lacking = event_rows().drop_columns(["n_parcels"])
    write_deltalake(depots.table("others"), lacking)
    with pytest.raises(ContractError, match="its source lacks n_parcels. It has: depot, lane"):
        build(depots, spark, "view_sources.depot_history=others")
    with pytest.raises(ConfigurationError, match=r"no such view with history. Did you mean 'depot_history'"):
        build_views(spark, depots.conf(model="depots"), FEATURES, names=["depot_histor"])
    nowhere = depots.conf(model="depots").model_copy(update={"view_sources": {}})
    with pytest.raises(ConfigurationError, match=r"no table is given for it: set view_sources.depot_history"):
        build_views(spark, nowhere, FEATURES)


# --- deaths and races


@contextmanager
def stops_at(monkeypatch, point, action):
    with monkeypatch.context() as patch:
        patch.setattr(build_run, "reached", lambda place: action() if place == point else None)
        yield


def die():
    raise Killed


@pytest.mark.parametrize("point", [p for p in BUILD_KILL_POINTS if p.startswith("build.")])
def test_a_build_that_died_is_made_good_by_the_next(depots, spark, monkeypatch, point):
    depots.write(EVENTS, event_rows(bad=[3]))
    build(depots, spark, through=START + 100 * HOUR)
    with stops_at(monkeypatch, point, die), pytest.raises(Killed):
        build(depots, spark)
    again = build(depots, spark)
    assert again.committed == (point != "build.after_commit")
    assert stored(depots) == at_once(event_rows(bad=[3]))
    assert depots.rows(QUARANTINE).num_rows == 1


def test_of_two_builds_at_once_one_commits_and_the_other_finds_it_done(depots, spark, monkeypatch):
    together = threading.Barrier(2)
    results = []

    def wait():
        try:
            together.wait(60)
        except threading.BrokenBarrierError:
            return
        together.abort()

    with stops_at(monkeypatch, "build.before_commit", wait):
        threads = [
            threading.Thread(target=lambda w=w: results.append(build(depots, spark, **w)))
            for w in ({}, {"through": START + 120 * HOUR})
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert len(results) == 2
    build(depots, spark)
    assert stored(depots) == at_once(event_rows())
    assert orphans(depots.table(HISTORY), "") == []


def test_a_table_that_others_keep_changing_is_given_up_by_name(depots, spark, monkeypatch):
    monkeypatch.setattr(build_run, "_committed", lambda plan, files: False)
    with pytest.raises(
        RunConflictError, match="view 'depot_history': other builds have changed its table 5 times"
    ):
        build(depots, spark)


def start_build(workspace, env, *arguments, pause_at=None):
    command = [sys.executable, "-m", "jobs.build_features", "--model", "depots"]
    command += ["--set", "spark.master=local[2,4]", *arguments]
    return JobProcess(command, {**env, **workspace.env()}, workspace.root, pause_at)


def test_killed_between_write_and_commit_loses_and_doubles_nothing(depots, spark, process_env):
    build(depots, spark, through=START + 100 * HOUR)
    before = stored(depots)
    with start_build(depots, process_env, pause_at="build.before_commit") as job:
        assert job.paused()["pid"] == job.pid
        assert orphans(depots.table(HISTORY), "history-")
        job.kill(job.pid)
        job.wait_until_all_are_gone()
    assert stored(depots) == before
    assert build(depots, spark).committed
    assert stored(depots) == at_once(event_rows())


@pytest.mark.slow
@pytest.mark.parametrize("point", BUILD_KILL_POINTS)
def test_killed_anywhere_loses_and_doubles_nothing(depots, spark, process_env, point):
    depots.write(EVENTS, event_rows(bad=[3]))
    build(depots, spark, through=START + 100 * HOUR)
    with start_build(depots, process_env, pause_at=point) as job:
        said = job.paused()
        job.kill(said["pid"])
        if said["pid"] == job.pid:
            job.wait_until_all_are_gone()
        else:
            assert job.ended() == 0, job.output.read_text()
    build(depots, spark)
    assert stored(depots) == at_once(event_rows(bad=[3]))
    assert depots.rows(QUARANTINE).num_rows == 1
