"""L2 by shuffle: the join in Spark gives, row for row and bit for bit, what a loop over all rows, the index and DuckDB give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings

from feature_pipelines.columns import Column, Nullable, Strings, values_and_valid
from feature_pipelines.definitions import FeatureView
from feature_pipelines.features.flights import PLANE, WEATHER
from feature_pipelines.lookup import Status
from feature_pipelines.lookup_arrow import index_from_arrow
from feature_pipelines.offline.as_of_join import as_of_join
from feature_pipelines.schema_arrow import column_from_arrow
from jobs.tables.csv_rows import CsvRows
from jobs.tables.flights_source import WEATHER_COLUMNS, locate_files, parse_planes, parse_weather
from tests.laws.as_of_worlds import (
    FIELDS,
    TTLS,
    Row,
    answers,
    bits_of_rows,
    by_loop,
    index_of,
    worlds,
)

KINDS = (True, False)
KEYS = {"world": "world", "k0": "k0", "k1": "k1"}
WORLDS = 60


def tables(drawn: Sequence[tuple[list[Row], list[Any]]]) -> tuple[pa.Table, pa.Table]:
    """Return the stored rows and the requests of all worlds, each with the number of its world."""
    rows = [(n, row) for n, (stored, _) in enumerate(drawn) for row in stored]
    stored = pa.table(
        {
            "world": pa.array([n for n, _ in rows], pa.int32()),
            "k0": pa.array([row.key[0] for _, row in rows], pa.string()),
            "k1": pa.array([row.key[1] for _, row in rows], pa.int64()),
            "event_ts": pa.array([row.event_ts for _, row in rows], pa.int64()),
            "created_ts": pa.array([row.created_ts for _, row in rows], pa.int64()),
            "f": pa.array([row.values[0] for _, row in rows], pa.float64()),
            "i": pa.array([row.values[1] for _, row in rows], pa.int64()),
            "s": pa.array([row.values[2] for _, row in rows], pa.string()),
            "is_deleted": pa.array([row.is_deleted or None for _, row in rows], pa.bool_()),
        }
    )
    asked = [(n, key, as_of) for n, (_, requests) in enumerate(drawn) for key, as_of in requests]
    requests = pa.table(
        {
            "request": pa.array(range(len(asked))),
            "world": pa.array([n for n, _, _ in asked], pa.int64()),
            "k0": pa.array([key[0] for _, key, _ in asked], pa.string()),
            "k1": pa.array([key[1] for _, key, _ in asked], pa.int64()),
            "as_of": pa.array([as_of for _, _, as_of in asked], pa.int64()),
        }
    )
    return stored, requests


def collected(joined: Any, view: FeatureView) -> list[tuple[Status, Any]]:
    """Return each request's status and the bits of its row, in the order of `request`."""
    table = joined.toArrow().sort_by("request").combine_chunks()
    columns = {}
    for field in view.fields:
        columns[field.name], errors = column_from_arrow(field, table[field.name].combine_chunks())
        assert not errors
    statuses = table[f"{view.name}__status"].to_pylist()
    return [(Status(s), bits) for s, bits in zip(statuses, bits_of_rows(columns), strict=True)]


@pytest.mark.parametrize(("ttl", "hot_key_rows"), [(None, None), (3, None), (0, 3), (TTLS[-1], 3)])
def test_join_answers_as_the_loop_and_the_index(
    spark: Any, ttl: int | None, hot_key_rows: int | None
) -> None:
    drawn: list[tuple[list[Row], list[Any]]] = []

    @settings(max_examples=WORLDS, database=None, deadline=None)
    @given(world=worlds(["text and number"], [ttl]))
    def draw(world: Any) -> None:
        drawn.append((world[1], world[2]))

    draw()
    view = FeatureView("v", KEYS, FIELDS, ttl_seconds=ttl)
    plain = FeatureView("v", {"k0": "k0", "k1": "k1"}, FIELDS, ttl_seconds=ttl)
    stored, requests = (spark.createDataFrame(table) for table in tables(drawn))
    found = collected(as_of_join(requests, stored, view, as_of="as_of", hot_key_rows=hot_key_rows), view)
    assert len(found) == sum(len(asked) for _, asked in drawn)
    seen = set()
    for rows, asked in drawn:
        ours, found = found[: len(asked)], found[len(asked) :]
        assert ours == [by_loop(plain, rows, key, as_of) for key, as_of in asked], (rows, asked)
        assert ours == answers(index_of(plain, rows, KINDS), asked, KINDS)
        seen |= {status for status, _ in ours}
    assert seen >= {Status.PRESENT, Status.NOT_FOUND, Status.NULL}


# --- the real weather and planes, judged by DuckDB


@pytest.fixture(scope="module")
def flights() -> dict[str, pa.Table]:
    """The real stored views, as the ingest job makes them, and a request at each of 20,000 random or telling times."""
    files = locate_files()
    with files.weather.open("rb") as stream:
        weather = parse_weather(CsvRows("weather.csv", stream, ["origin", "time_hour", *WEATHER_COLUMNS]))
    with files.planes.open("rb") as stream:
        planes = parse_planes(CsvRows("planes.csv", stream, PLANE_COLUMNS))
    rng = np.random.default_rng(7)
    known = weather["created_ts"].cast(pa.int64()).to_numpy()
    times = rng.integers(known.min() - 10**11, known.max() + 10**11, N)
    times[::2] = rng.choice(known, len(times[::2]))
    tails = [*planes["tailnum"].to_pylist(), "N000", None]
    requests = pa.table(
        {
            "request": np.arange(N),
            "origin": [["EWR", "JFK", "LGA", "LAX"][i] for i in rng.integers(0, 4, N)],
            "tailnum": [tails[i] for i in rng.integers(0, len(tails), N)],
            "as_of": pa.array(times).cast(pa.timestamp("us", "UTC")),
        }
    )
    return {"weather": weather, "plane": planes, "requests": requests}


N = 20_000
PLANE_COLUMNS = ["tailnum", "year", "type", "manufacturer", "model", "engines", "seats", "engine"]


@pytest.mark.parametrize("view", [WEATHER, PLANE], ids=["weather", "plane"])
def test_join_finds_what_duckdb_and_the_index_find_in_real_data(
    spark: Any, flights: dict[str, pa.Table], view: FeatureView
) -> None:
    stored, requests = flights[view.name], flights["requests"]
    ((key, field),) = view.keys.items()
    frames = [spark.createDataFrame(table) for table in (requests, stored)]
    joined = as_of_join(*frames, view, as_of="as_of", hot_key_rows=2_000).toArrow().sort_by("request")
    assert joined.select(requests.schema.names).cast(requests.schema) == requests
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("stored", stored)
        connection.register("requests", requests)
        judged = (
            connection.sql(
                f"SELECT request, as_of, event_ts, {', '.join(view.fields.names)} FROM requests ASOF LEFT JOIN "
                "(SELECT *, greatest(event_ts, created_ts) AS visible_ts FROM stored) AS visible "
                f"ON requests.{field} = visible.{key} AND as_of >= visible_ts"
            )
            .to_arrow_table()
            .sort_by("request")
        )
    event, asked = (judged[name].cast(pa.int64()) for name in ("event_ts", "as_of"))
    ttl = (view.ttl_seconds or 2**40) * 1_000_000
    fresh = pc.fill_null(pc.greater_equal(event, pc.subtract(asked, ttl)), False)
    is_null = requests[field].is_null()
    nothing = pc.if_else(event.is_null(), int(Status.NOT_FOUND), int(Status.EXPIRED))
    status = pc.if_else(is_null, int(Status.NULL), pc.if_else(fresh, int(Status.PRESENT), nothing))
    assert joined[f"{view.name}__status"].to_pylist() == status.to_pylist()
    wanted_ts = pc.if_else(fresh, event, pa.scalar(None, pa.int64()))
    assert joined[f"{view.name}__event_ts"].cast(pa.int64()).to_pylist() == wanted_ts.to_pylist()
    keys = [Nullable(Strings.of(s or "" for s in requests[field].to_pylist()), is_valid(requests[field]))]
    columns, statuses = index_from_arrow(view, stored).lookup(keys, asked.to_numpy())
    assert statuses.tolist() == status.to_pylist()
    for declared in view.fields:
        ours = column_from_arrow(declared, joined[declared.name].combine_chunks())[0]
        held = pc.if_else(fresh, judged[declared.name], pa.scalar(None, judged[declared.name].type))
        theirs = column_from_arrow(declared, held.combine_chunks())[0]
        assert column_bits(ours) == column_bits(theirs) == column_bits(columns[declared.name]), declared.name
    assert min(np.bincount(status.to_numpy(), minlength=2)[:2]) > 5


def is_valid(column: pa.ChunkedArray) -> Any:
    return column.combine_chunks().is_valid().to_numpy(zero_copy_only=False)


def column_bits(column: Column) -> Any:
    """Return a column's bits: bytes, or for strings their list, and where it is valid."""
    values: Any
    values, valid = values_and_valid(column)
    held = values.tolist() if isinstance(values, Strings) else values.tobytes()
    return held, None if valid is None else valid.tolist()
