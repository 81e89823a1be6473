"""The flights features, one by one: a unit test of a feature is a plain call."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from feature_pipelines.columns import Nullable, Strings
from feature_pipelines.evaluate import constants_from_json, evaluate, fit_constants
from feature_pipelines.features import flights
from feature_pipelines.features.flights import FEATURES, PLANE, REQUEST, WEATHER

NAN = float("nan")
MINUTE = 60_000_000


def micros(text: str) -> int:
    return int(datetime.datetime.fromisoformat(text).timestamp()) * 1_000_000


def times(*texts: str) -> NDArray[np.int64]:
    return np.array([micros(text) for text in texts], dtype=np.int64)


def integers(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def floats(*values: float) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def rounded(values: NDArray[np.float64]) -> list[str]:
    """As text, so that NaN equals NaN and -0.0 differs from 0.0."""
    return [f"{value:.6g}" for value in values.tolist()]


def days(*dates: str) -> NDArray[np.int64]:
    return integers(*((datetime.date.fromisoformat(d) - datetime.date(1970, 1, 1)).days for d in dates))


def local_days(*dates: str) -> NDArray[np.int64]:
    return flights.dep_cycle_day(days(*dates))


def test_local_time_adds_the_offset_of_the_origin() -> None:
    dep = times("2013-01-01T10:15:00+00:00", "2013-07-01T02:00:00+00:00", "1969-12-31T23:59:59+00:00")
    minute = flights.dep_local_minute(dep, np.array([-300, -240, 0], dtype=np.int32))
    day = flights.dep_local_day(minute)
    assert day.tolist() == days("2013-01-01", "2013-06-30", "1969-12-31").tolist()
    assert flights.dep_minute_of_day(minute, day).tolist() == [5 * 60 + 15, 22 * 60, 23 * 60 + 59]


def test_the_hour_that_the_clock_shows_twice_is_two_instants() -> None:
    dep = times("2013-11-03T05:30:00+00:00", "2013-11-03T06:30:00+00:00")
    minute = flights.dep_local_minute(dep, np.array([-240, -300], dtype=np.int32))
    assert flights.dep_minute_of_day(minute, flights.dep_local_day(minute)).tolist() == [90, 90]


def test_calendar_features_read_the_local_date() -> None:
    dates = local_days("2013-07-04", "2012-12-31", "1969-12-31", "2400-02-29")
    assert flights.dep_day_of_week(dates).tolist() == [3, 0, 2, 1]
    assert flights.dep_month(dates).tolist() == [7, 12, 12, 2]
    assert flights.dep_day_of_year(dates).tolist() == [184, 365, 364, 59]
    assert flights.days_to_holiday(dates).tolist()[:3] == [0, 1, 1]
    assert flights.days_since_holiday(dates).tolist()[:3] == [0, 6, 6]


def test_cyclic_time_is_a_point_on_the_circle() -> None:
    minutes = integers(0, 360, 720, 1080)
    assert flights.dep_time_of_day_sin(minutes).tolist() == [0.0, 1.0, 0.0, -1.0]
    assert flights.dep_time_of_day_cos(minutes).tolist() == [1.0, 0.0, -1.0, 0.0]
    week = integers(0, 6)
    assert rounded(flights.dep_day_of_week_sin(week)) == ["0", "-0.781831"]
    assert rounded(flights.dep_day_of_week_cos(week)) == ["1", "0.62349"]
    year = integers(0, 183, 365)
    assert rounded(flights.dep_day_of_year_sin(year)) == ["0", "0", "-0.0171663"]
    assert rounded(flights.dep_day_of_year_cos(year)) == ["1", "-1", "0.999853"]


def test_arrival_minute_is_in_utc() -> None:
    arrival = times("2013-01-01T23:59:59+00:00", "2013-01-01T00:00:00+00:00", "1969-12-31T12:00:00+00:00")
    assert flights.arr_minute_of_day_utc(arrival).tolist() == [1439, 0, 720]


def test_duration_is_null_unless_the_arrival_is_later() -> None:
    dep = integers(0, 0, 0, 0)
    arr = integers(90 * MINUTE, 0, -MINUTE, 30_000_000)
    assert rounded(flights.sched_duration_minutes(dep, arr)) == ["90", "nan", "nan", "0.5"]


def test_speed_is_distance_over_duration() -> None:
    miles = np.array([300, 300], dtype=np.int32)
    assert rounded(flights.sched_speed_mph(miles, floats(60, NAN))) == ["300", "nan"]
    assert flights.route_miles(miles).tolist() == [300, 300]


def test_flight_series_is_in_hundreds() -> None:
    assert flights.flight_series(np.array([0, 99, 100, 4599], dtype=np.int32)).tolist() == [0, 0, 1, 45]


@pytest.mark.parametrize(
    ("feature", "constant"),
    [(flights.carrier_code, "carriers"), (flights.origin_code, "origins"), (flights.dest_code, "dests")],
)
def test_codes_are_ranks_and_unknown_is_the_next(feature: Any, constant: str) -> None:
    assert feature(Strings.of(["B", "A", "?"]), **{constant: ("A", "B")}).tolist() == [1, 0, 2]
    assert feature(Strings.of(["B"]), **{constant: ()}).tolist() == [0]


def test_route_rate_is_zero_where_nothing_is_known() -> None:
    rates = {"EWR": (9.0, 3.0, 0.0), "JFK": (1.0, 2.0, 0.0)}
    origin = Strings.of(["JFK", "EWR", "ORD", "EWR"])
    found = flights.route_flights_per_day(
        origin, integers(1, 0, 0, 2), dests=("LAX", "MIA"), route_rates=rates
    )
    assert found.tolist() == [2.0, 9.0, 0.0, 0.0]
    nothing = flights.route_flights_per_day(origin, integers(0, 0, 0, 0), dests=(), route_rates={})
    assert nothing.tolist() == [0.0] * 4


def test_departures_are_looked_up_by_origin_and_local_hour() -> None:
    rates = {"EWR": tuple(float(hour) for hour in range(24))}
    found = flights.origin_departures_per_hour(
        Strings.of(["EWR", "EWR", "ORD"]), integers(59, 1439, 60), hourly_departures=rates
    )
    assert found.tolist() == [0.0, 23.0, 0.0]


def test_many_unknown_names_take_no_room() -> None:
    names = Strings.of(f"airport {i}" for i in range(50_000))
    place, matrix = flights._by_name(names, {"EWR": np.zeros(362)}, flights._NO_RUNWAY)
    assert matrix.shape == (1, 362)
    assert set(place.tolist()) == {0}


def test_plane_age_counts_local_years() -> None:
    dates = days("2013-12-31", "2014-01-01", "2400-06-01", "1969-06-01")
    ages = flights.plane_age_years(dates, flights.dep_cycle_day(dates), floats(2003, 2003, 2400, NAN))
    assert rounded(ages) == ["10", "11", "0", "nan"]
    before = days("1969-06-01")
    assert flights.plane_age_years(before, flights.dep_cycle_day(before), floats(1960)).tolist() == [9.0]


def test_plane_is_known_where_it_has_seats() -> None:
    seats = floats(149, NAN)
    assert flights.is_plane_known(seats).tolist() == [True, False]
    assert rounded(flights.plane_seat_count(seats)) == ["149", "nan"]


def test_plane_maker_is_the_first_word_and_null_stays_null() -> None:
    raw = Nullable(Strings.of(["AIRBUS INDUSTRIE", "AIRBUS", "", ""]), np.array([True, True, True, False]))
    maker = flights.plane_maker(raw)
    assert maker.values.tolist() == ["AIRBUS", "AIRBUS", "", ""]
    assert rounded(flights.plane_maker_code(maker, plane_makers=("BOEING", "AIRBUS"))) == [
        "1",
        "1",
        "2",
        "nan",
    ]


@pytest.mark.parametrize(
    "feature",
    [
        flights.origin_temp_f,
        flights.origin_humidity_pct,
        flights.origin_precip_in,
        flights.origin_pressure_hpa,
        flights.origin_visibility_miles,
    ],
)
def test_observations_pass_as_they_are(feature: Any) -> None:
    assert rounded(feature(floats(12.5, NAN))) == ["12.5", "nan"]


def test_dew_point_spread_needs_both() -> None:
    assert rounded(flights.origin_dew_point_spread_f(floats(50, 50, NAN), floats(41, NAN, 41))) == [
        "9",
        "nan",
        "nan",
    ]


def test_wind_of_a_broken_sensor_is_null() -> None:
    assert rounded(flights.origin_wind_speed_mph(floats(0, 250, 1048.36, NAN))) == ["0", "250", "nan", "nan"]


def test_gust_excess_is_zero_without_gusts_and_null_without_wind() -> None:
    gusts, wind = floats(30, NAN, 30, NAN, 999), floats(20, 20, NAN, NAN, 20)
    assert rounded(flights.origin_wind_gust_excess_mph(gusts, wind)) == ["10", "0", "nan", "nan", "0"]


def test_wind_components_follow_where_it_comes_from() -> None:
    heading = flights.wind_heading(floats(0, 90, 180, 360, NAN, 359.9, -1))
    assert heading.tolist() == [0, 90, 180, 360, 361, 359, 361]
    speed = np.full(7, 10.0)
    assert rounded(flights.origin_wind_north_mph(speed, heading))[:5] == ["10", "0", "-10", "10", "nan"]
    assert rounded(flights.origin_wind_east_mph(speed, heading))[:5] == ["0", "10", "0", "0", "nan"]


def test_crosswind_is_across_the_best_aligned_runway() -> None:
    origin = Strings.of(["JFK", "JFK", "JFK", "ORD", "JFK"])
    heading = integers(31, 301, 76, 31, 361)
    speed = floats(10, 10, 10, 10, 10)
    assert rounded(flights.origin_crosswind_mph(origin, speed, heading)) == [
        "0",
        "0",
        "7.07107",
        "nan",
        "nan",
    ]


def test_freezing_precipitation_needs_both() -> None:
    precip, temp = floats(0.1, 0.1, 0.0, NAN, 0.1), floats(32, 32.1, 20, 20, NAN)
    assert flights.is_precip_freezing(precip, temp).tolist() == [True, False, False, False, False]


def test_frequent_names_are_ordered_by_rows_then_by_name() -> None:
    names = ["b"] * 60 + ["a"] * 60 + ["c"] * 70 + ["rare"] * 49
    assert flights.by_frequency(Strings.of(names)) == ["c", "a", "b"]
    twice = Strings(np.array([0, 1] * 30, dtype=np.int32), ("same", "same"))
    assert flights.by_frequency(twice) == ["same"]
    valid = np.array([name != "c" for name in names])
    assert flights.by_frequency(Nullable(Strings.of(names), valid)) == ["a", "b"]
    assert flights.by_frequency(Strings.of([])) == []


def test_makers_are_counted_by_first_word() -> None:
    makers = Strings.of(["AIRBUS INDUSTRIE"] * 30 + ["AIRBUS"] * 30 + ["BOEING"] * 50)
    assert flights.makers_by_frequency(Nullable(makers, np.ones(110, dtype=np.bool_))) == ["AIRBUS", "BOEING"]


def test_rates_are_per_day_and_the_same_in_any_order_of_rows() -> None:
    origin = Strings.of(["EWR"] * 100 + ["JFK"] * 60)
    dest = Strings.of(["LAX"] * 50 + ["MIA"] * 50 + ["LAX"] * 50 + ["rare"] * 10)
    dep = np.arange(160) % 4 * 86_400_000_000 + 10 * 3_600_000_000
    rates = flights.flights_per_day_of_routes(origin, dest, dep)
    assert rates == {"EWR": [12.5, 12.5, 0.0], "JFK": [12.5, 0.0, 0.0]}
    backwards = flights.flights_per_day_of_routes(
        Strings.of(origin.tolist()[::-1]), Strings.of(dest.tolist()[::-1]), dep[::-1]
    )
    assert (backwards, list(backwards)) == (rates, list(rates))
    hourly = flights.departures_per_hour_of_origins(origin, dep, np.full(160, -120, dtype=np.int32))
    assert (hourly["EWR"][8], sum(hourly["EWR"]), sum(hourly["JFK"])) == (25.0, 25.0, 15.0)


def test_constants_of_no_rows_score_every_row_as_unknown() -> None:
    nothing, _ = FEATURES.sources.from_rows([])
    constants = constants_from_json(fit_constants(FEATURES, nothing))
    columns, errors = FEATURES.sources.from_rows([ROW])
    assert errors == []
    matrix = evaluate(FEATURES, columns, constants, 1)
    assert dict(zip(FEATURES.feature_names, matrix[:, 0].tolist(), strict=True))["carrier_code"] == 0.0


ROW: dict[str, Any] = {
    "flight_id": "2013-01-01-UA-1545-EWR-0515",
    "sched_dep_ts": "2013-01-01T05:15:00-05:00",
    "sched_arr_ts": "2013-01-01T14:19:00Z",
    "sched_dep_utc_offset_minutes": -300,
    "carrier": "UA",
    "flight_number": 1545,
    "tailnum": "N14228",
    "origin": "EWR",
    "dest": "IAH",
    "distance_miles": 1400,
    "plane_year": 1999,
    "plane_seats": 149,
    "plane_manufacturer": "BOEING",
    "weather_temp_f": 39.02,
    "weather_dew_point_f": 28.04,
    "weather_humidity_pct": 64.43,
    "weather_wind_dir_deg": 260,
    "weather_wind_speed_mph": 12.65858,
    "weather_precip_in": 0,
    "weather_pressure_hpa": 1011.9,
    "weather_visibility_miles": 10,
    "plane_arr_delay_minutes_last_1d": 20,
    "plane_arr_delay_minutes_count_1d": 2,
    "plane_arr_delay_minutes_count_7d": 9,
    "plane_arr_delay_minutes_mean_1d": 12.5,
    "plane_arr_delay_minutes_mean_7d": 3.25,
    "route_is_late_share_7d": 0.25,
    "route_is_late_share_28d": 0.2,
    "route_arr_delay_minutes_mean_7d": 9.5,
    "route_arr_delay_minutes_mean_28d": 7,
    "route_arr_delay_minutes_std_7d": 30,
    "route_arr_delay_minutes_std_28d": 25,
    "route_arr_delay_minutes_count_7d": 40,
    "route_arr_delay_minutes_count_28d": 161,
    "airport_dep_delay_minutes_count_1h": 12,
    "airport_dep_delay_minutes_count_3h": 33,
    "airport_dep_delay_minutes_mean_1h": 4,
    "airport_dep_delay_minutes_mean_3h": 6,
}


def test_the_first_flight_of_2013_by_hand() -> None:
    columns, errors = FEATURES.sources.from_rows([ROW])
    assert errors == []
    constants = constants_from_json(
        {
            "carriers": ["B6", "UA"],
            "origins": ["EWR"],
            "dests": ["ATL", "IAH"],
            "plane_makers": ["BOEING"],
            "route_rates": {"EWR": [5.0, 11.0, 0.0]},
            "hourly_departures": {"EWR": [float(hour) for hour in range(24)]},
        }
    )
    matrix = evaluate(FEATURES, columns, constants, 1)
    found = dict(zip(FEATURES.feature_names, rounded(matrix[:, 0]), strict=True))
    expected: dict[str, float] = {
        "dep_minute_of_day": 315,
        "dep_day_of_week": 1,
        "dep_month": 1,
        "dep_day_of_year_sin": 0,
        "days_to_holiday": 0,
        "arr_minute_of_day_utc": 14 * 60 + 19,
        "sched_duration_minutes": 244,
        "route_miles": 1400,
        "sched_speed_mph": 1400 / 244 * 60,
        "flight_series": 15,
        "carrier_code": 1,
        "dest_code": 1,
        "route_flights_per_day": 11,
        "origin_departures_per_hour": 5,
        "plane_age_years": 14,
        "plane_maker_code": 0,
        "origin_dew_point_spread_f": 10.98,
        "origin_wind_gust_excess_mph": 0,
        "is_precip_freezing": 0,
        "plane_last_delay_minutes": 20,
        "plane_mean_delay_minutes_day": 12.5,
        "plane_mean_delay_minutes_week": 3.25,
        "n_plane_arrivals_day": 2,
        "n_plane_arrivals_week": 9,
        "route_late_share_week": 0.25,
        "route_late_share_month": 0.2,
        "route_delay_minutes_week": 9.5,
        "route_delay_minutes_trend": 2.5,
        "route_delay_minutes_std_week": 30,
        "route_delay_minutes_std_month": 25,
        "route_arrivals_trend": -1,
        "n_airport_departures_hour": 12,
        "n_airport_departures_3_hours": 33,
        "airport_delay_minutes_hour": 4,
        "airport_delay_minutes_3_hours": 6,
    }
    assert {name: found[name] for name in expected} == {
        name: f"{value:.6g}" for name, value in expected.items()
    }
    assert "nan" not in found.values()


def test_a_flight_of_which_little_is_known_is_scored() -> None:
    bare = {name: value for name, value in ROW.items() if name in REQUEST.names and name != "tailnum"}
    columns, errors = FEATURES.sources.from_rows([bare])
    assert errors == []
    constants = constants_from_json(fit_constants(FEATURES, columns))
    matrix = evaluate(FEATURES, columns, constants, 1)
    nulls = {
        name for name, value in zip(FEATURES.feature_names, matrix[:, 0], strict=True) if np.isnan(value)
    }
    stored = ("origin_", "plane_", "airport_", "n_plane_", "n_airport_", "route_delay_", "route_late_")
    assert nulls == {name for name in FEATURES.feature_names if name.startswith(stored)} - {
        "origin_code",
        "origin_departures_per_hour",
    } | {"route_arrivals_trend"}


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("sched_dep_ts", 1_357_034_100, "OUT_OF_RANGE"),
        ("sched_dep_ts", 1_357_034_100_000, "OUT_OF_RANGE"),
        ("sched_dep_ts", 1_357_034_100_000_000_000, "OUT_OF_RANGE"),
        ("sched_dep_ts", "2013-01-01T05:15:00", "BAD_TIMESTAMP"),
        ("sched_arr_ts", None, "NULL_NOT_ALLOWED"),
        ("distance_miles", 0, "OUT_OF_RANGE"),
        ("sched_dep_utc_offset_minutes", 841, "OUT_OF_RANGE"),
        ("flight_number", -1, "OUT_OF_RANGE"),
        ("carrier", None, "NULL_NOT_ALLOWED"),
        ("weather_humidity_pct", 101, "OUT_OF_RANGE"),
    ],
)
def test_contract_refuses_what_no_flight_can_be(field: str, value: Any, code: str) -> None:
    _, errors = FEATURES.sources.from_rows([{**ROW, field: value}])
    assert [(error.field, str(error.code)) for error in errors] == [(field, code)]


def test_the_set_is_as_documented() -> None:
    assert len(FEATURES.features) >= 20
    assert (FEATURES.as_of, FEATURES.row_id) == ("sched_dep_ts", ("flight_id",))
    assert {f.name for f in FEATURES.request} == set(REQUEST.names)
    assert (PLANE.ttl_seconds, WEATHER.ttl_seconds) == (None, 4 * 3600)
    assert [view.name for view in FEATURES.views if view.history] == [
        "plane_history",
        "route_history",
        "airport_congestion",
    ]
    assert FEATURES.inputs >= {"tailnum", "origin", "sched_dep_ts"}
    assert "flight_id" not in FEATURES.inputs
    read = FEATURES.inputs
    assert [name for view in FEATURES.views for name in view.fields.names if name not in read] == []


@pytest.mark.parametrize("function", FEATURES.functions, ids=lambda f: f.__name__)
def test_every_feature_says_what_it_means_and_when_it_is_null(function: Any) -> None:
    text = function.__doc__ or ""
    assert text.count(".") >= 1
    assert any(
        rule in text
        for rule in ("Never null", "Null if", "null if", "Null as", "False if", "if not observed")
    )


def test_every_field_is_documented() -> None:
    assert [f.name for f in FEATURES.sources if not f.doc] == []
