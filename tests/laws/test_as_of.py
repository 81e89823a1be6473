"""L2: a row is visible at T iff event_ts <= T and created_ts <= T, and fresh iff event_ts >= T - ttl, all inclusive.

The answer is the newest visible row, whole, or nothing: nothing too where that row is a tombstone. Judged by a loop over all rows
that says just that, by DuckDB's ASOF JOIN on the real weather, and by DuckDB's aggregate where observations come late and are
corrected.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_pipelines import lookup as lookup_module
from feature_pipelines.columns import Strings
from feature_pipelines.definitions import FeatureView
from feature_pipelines.features.flights import WEATHER
from feature_pipelines.lookup import AsOfIndex
from feature_pipelines.lookup_arrow import index_from_arrow
from jobs.tables.csv_rows import CsvRows
from jobs.tables.flights_source import WEATHER_COLUMNS, locate_files, parse_weather
from tests.laws.as_of_worlds import FIELDS, HIGH, LOW, MAX_TTL, Row, S, answers, by_loop, index_of, worlds


@settings(max_examples=150, deadline=None)
@given(world=worlds(), cells=st.sampled_from([0, 1 << 22]))
def test_index_answers_as_the_loop_over_all_rows(world: Any, cells: int) -> None:
    view, rows, requests, kinds = world
    with mock.patch.object(lookup_module, "_TABLE_CELLS", cells):
        found = answers(index_of(view, rows, kinds), requests, kinds)
    assert found == [by_loop(view, rows, key, as_of) for key, as_of in requests]


EDGES = (LOW, LOW + 1, -1, 0, HIGH - 1, HIGH)


@pytest.mark.parametrize("cells", [0, 1 << 22])
@pytest.mark.parametrize("ttl", [None, 0, MAX_TTL])
def test_the_ends_of_time_are_times_like_any_other(ttl: int | None, cells: int) -> None:
    view = FeatureView("v", {"k0": "k0"}, FIELDS, ttl_seconds=ttl)
    for events in ((LOW, HIGH), (LOW, LOW + 1, HIGH), (LOW,), (HIGH,), EDGES):
        rows = [
            Row(("A",), event, created, (1.5, i, "x"))
            for i, event in enumerate(events)
            for created in (LOW, event)
        ]
        requests = [((key,), as_of) for key in ("A", "B") for as_of in EDGES]
        with mock.patch.object(lookup_module, "_TABLE_CELLS", cells):
            found = answers(index_of(view, rows, (True,)), requests, (True,))
        assert found == [by_loop(view, rows, key, as_of) for key, as_of in requests]


def test_rows_of_one_event_and_creation_are_ordered_by_their_content() -> None:
    view = FeatureView("v", {"k0": "k0"}, FIELDS)
    contents = [(f, i, s) for f in (0.0, -0.0, None) for i in (None, 0, 2**53 + 1) for s in (None, "", "x")]
    for start in range(len(contents)):
        rows = [Row(("A",), 0, 0, values) for values in (*contents[start:], *contents[:start])][:5]
        assert answers(index_of(view, rows, (True,)), [(("A",), 0)], (True,)) == [
            by_loop(view, rows, ("A",), 0)
        ]


@settings(max_examples=50, deadline=None)
@given(world=worlds(), data=st.data())
def test_order_of_rows_batch_of_requests_and_disk_change_nothing(world: Any, data: st.DataObject) -> None:
    view, rows, requests, kinds = world
    expected = answers(index_of(view, rows, kinds), requests, kinds)
    shuffled = index_of(view, data.draw(st.permutations(rows)), kinds)
    assert answers(shuffled, requests, kinds) == expected
    with tempfile.TemporaryDirectory() as directory:
        shuffled.save(Path(directory) / "index")
        loaded = AsOfIndex.load(view, Path(directory) / "index")
        assert answers(loaded, requests, kinds) == expected
        alone = [answers(loaded, [request], kinds)[0] for request in requests]
    assert alone == expected


@pytest.fixture(scope="module")
def weather() -> pa.Table:
    """The real hourly observations, as the ingest job makes them."""
    with locate_files().weather.open("rb") as stream:
        return parse_weather(CsvRows("weather.csv", stream, ["origin", "time_hour", *WEATHER_COLUMNS]))


def with_integer_times(table: pa.Table) -> pa.Table:
    for name in ("event_ts", "created_ts"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.int64()))
    return table


def requests_over(table: pa.Table, n: int, origins: list[str]) -> pa.Table:
    """Requests at random times and, half of them, exactly at times that the table has."""
    rng = np.random.default_rng(7)
    known = np.concatenate([table["event_ts"].to_numpy(), table["created_ts"].to_numpy()])
    times = rng.integers(known.min() - 10**11, known.max() + 10**11, n)
    times[::2] = rng.choice(known, len(times[::2]))
    origin = [origins[i] for i in rng.integers(0, len(origins), n)]
    return pa.table({"request": np.arange(n), "origin": origin, "as_of": times})


def check_against_duckdb(index: AsOfIndex, requests: pa.Table, judged: pa.Table) -> list[int]:
    """Compare every field by bits with the rows that DuckDB found; return how often each status occurred."""
    judged = judged.sort_by("request")
    assert judged["request"].to_pylist() == requests["request"].to_pylist()
    columns, statuses = index.lookup(
        [Strings.of(requests["origin"].to_pylist())], requests["as_of"].to_numpy()
    )
    expected = np.where(judged["found"].to_numpy(), np.where(judged["fresh"].to_numpy(), 0, 2), 1)
    assert statuses.tolist() == expected.tolist()
    for name in WEATHER.fields.names:
        values: Any = columns[name]
        wanted = judged[name].to_numpy()
        wanted = np.where((expected == 0) & ~np.isnan(wanted), wanted, np.nan)
        assert values.tobytes() == wanted.tobytes(), name
    return np.bincount(expected, minlength=3).tolist()


FRESH = "coalesce(event_ts >= as_of - 4::BIGINT * 3600 * 1000000, false)"
NAMES_SQL = ", ".join(WEATHER.fields.names)


def test_index_finds_what_duckdbs_asof_join_finds_in_the_real_weather(weather: pa.Table) -> None:
    table = with_integer_times(weather)
    requests = requests_over(table, 40_000, ["EWR", "JFK", "LGA", "LAX"])
    with duckdb.connect() as connection:
        connection.register("weather", table)
        connection.register("requests", requests)
        judged = connection.sql(
            f"SELECT request, event_ts IS NOT NULL AS found, {FRESH} AS fresh, {NAMES_SQL} FROM requests ASOF LEFT JOIN "
            "(SELECT *, greatest(event_ts, created_ts) AS visible_ts FROM weather) AS visible "
            "ON requests.origin = visible.origin AND as_of >= visible_ts"
        ).to_arrow_table()
    present, absent, expired = check_against_duckdb(index_from_arrow(WEATHER, weather), requests, judged)
    assert min(present, absent, expired) > 20


def test_index_finds_what_duckdb_finds_where_observations_are_late_and_corrected(weather: pa.Table) -> None:
    rng = np.random.default_rng(11)
    table = with_integer_times(weather.slice(0, 3_000))
    late = table["event_ts"].to_numpy() + rng.integers(-2, 40, len(table)) * 3600 * S
    table = table.set_column(table.schema.get_field_index("created_ts"), "created_ts", pa.array(late))
    corrected = table.take(rng.permutation(len(table))[:1_000])
    corrections = corrected.set_column(
        corrected.schema.get_field_index("created_ts"),
        "created_ts",
        pa.array(corrected["created_ts"].to_numpy() + rng.integers(1, 9, 1_000) * 3600 * S),
    )
    corrections = corrections.set_column(
        corrections.schema.get_field_index("weather_temp_f"), "weather_temp_f", pa.array(rng.random(1_000))
    )
    everything = pa.concat_tables([table, corrections])
    requests = requests_over(everything, 3_000, ["EWR", "JFK"])
    with duckdb.connect() as connection:
        connection.register(
            "weather", everything.append_column("place", pa.array(np.arange(len(everything))))
        )
        connection.register("requests", requests)
        judged = connection.sql(
            "WITH newest AS (SELECT request, arg_max(place, (event_ts, created_ts)) AS place FROM requests JOIN weather "
            "ON requests.origin = weather.origin AND event_ts <= as_of AND created_ts <= as_of GROUP BY request) "
            f"SELECT requests.request, event_ts IS NOT NULL AS found, {FRESH} AS fresh, {NAMES_SQL} FROM requests "
            "LEFT JOIN newest USING (request) LEFT JOIN weather USING (place)"
        ).to_arrow_table()
    as_times = {name: everything[name].cast(pa.timestamp("us", "UTC")) for name in ("event_ts", "created_ts")}
    for name, column in as_times.items():
        everything = everything.set_column(everything.schema.get_field_index(name), name, column)
    present, absent, expired = check_against_duckdb(index_from_arrow(WEATHER, everything), requests, judged)
    assert min(present, absent, expired) > 50
