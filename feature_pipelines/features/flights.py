"""The features of the flights example: will a flight reach its destination more than 15 minutes late?

Asked at the scheduled departure (`sched_dep_ts`). Every function is portable: + - * /, comparisons, table look-ups and exact
integers, so its bits are the same on every machine. To add a feature, write one function and name it in FEATURES.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import (
    Bool,
    Float64,
    Int32,
    Int64,
    Nullable,
    String,
    Strings,
    Timestamp,
    values_and_valid,
)
from feature_pipelines.definitions import FeatureSet, FeatureView, Fitted
from feature_pipelines.schema import Field, Schema

from .calendar import (  # noqa: TID252 - a model packages this file, and its copy must find its own copy
    DAY_OF_YEAR,
    DAYS_IN_CYCLE,
    DAYS_SINCE_HOLIDAY,
    DAYS_TO_HOLIDAY,
    MONTH,
    WEEKDAY,
    YEAR,
    circle,
)
from .flight_history import (  # noqa: TID252
    AIRPORT_CONGESTION,
    PLANE_HISTORY,
    ROUTE_HISTORY,
    airport_delay_minutes_3_hours,
    airport_delay_minutes_hour,
    n_airport_departures_3_hours,
    n_airport_departures_hour,
    n_plane_arrivals_day,
    n_plane_arrivals_week,
    plane_last_delay_minutes,
    plane_mean_delay_minutes_day,
    plane_mean_delay_minutes_week,
    route_arrivals_trend,
    route_delay_minutes_std_month,
    route_delay_minutes_std_week,
    route_delay_minutes_trend,
    route_delay_minutes_week,
    route_late_share_month,
    route_late_share_week,
)

__all__ = ["FEATURES", "PLANE", "REQUEST", "WEATHER"]

# 1980 and 2100: seconds or milliseconds sent as microseconds fall before, nanoseconds after.
_EARLIEST_TS, _LATEST_TS = 315_532_800_000_000, 4_102_444_800_000_000

REQUEST = Schema(
    (
        Field("flight_id", String, "identifies the flight"),
        Field("sched_dep_ts", Timestamp, "scheduled departure", minimum=_EARLIEST_TS, maximum=_LATEST_TS),
        Field("sched_arr_ts", Timestamp, "scheduled arrival", minimum=_EARLIEST_TS, maximum=_LATEST_TS),
        Field(
            "sched_dep_utc_offset_minutes",
            Int32,
            "local time at the origin minus UTC at the scheduled departure, minutes",
            minimum=-720,
            maximum=840,
        ),
        Field("carrier", String, "IATA code of the airline, such as UA"),
        Field("flight_number", Int32, "number within the airline", minimum=0, maximum=99_999),
        Field("tailnum", Nullable[String], "registration of the plane; null where not yet assigned"),
        Field("origin", String, "IATA code of the airport of departure"),
        Field("dest", String, "IATA code of the airport of arrival"),
        Field("distance_miles", Int32, "great-circle distance, miles", minimum=1, maximum=12_500),
    )
)

PLANE = FeatureView(
    name="plane",
    keys={"tailnum": "tailnum"},
    fields=Schema(
        (
            Field("plane_year", Float64, "year of manufacture", minimum=1903, maximum=2100),
            Field("plane_seats", Float64, "seats", minimum=0, maximum=1000),
            Field("plane_manufacturer", Nullable[String], "manufacturer as the registry spells it"),
        )
    ),
)

WEATHER = FeatureView(
    name="weather",
    keys={"origin": "origin"},
    fields=Schema(
        (
            Field("weather_temp_f", Float64, "temperature, degrees Fahrenheit", minimum=-80, maximum=140),
            Field("weather_dew_point_f", Float64, "dew point, degrees Fahrenheit", minimum=-100, maximum=100),
            Field("weather_humidity_pct", Float64, "relative humidity, percent", minimum=0, maximum=100),
            Field("weather_wind_dir_deg", Float64, "origin of the wind, degrees", minimum=0, maximum=360),
            Field(
                "weather_wind_speed_mph", Float64, "sustained wind, mph, sensor faults included", minimum=0
            ),
            Field(
                "weather_wind_gust_mph", Float64, "gusts, mph; null = none; sensor faults included", minimum=0
            ),
            Field("weather_precip_in", Float64, "precipitation of the hour, inches", minimum=0, maximum=20),
            Field("weather_pressure_hpa", Float64, "sea-level pressure, hPa", minimum=850, maximum=1100),
            Field("weather_visibility_miles", Float64, "visibility, miles", minimum=0, maximum=100),
        )
    ),
    ttl_seconds=4 * 3600,
)

_DAY_SIN, _DAY_COS = circle(1440)
_WEEK_SIN, _WEEK_COS = circle(7)
_YEAR_SIN, _YEAR_COS = circle(366)
_DEGREE_SIN, _DEGREE_COS = circle(360)


# --- time: in the origin's local time unless the name says utc -------------------------------------------------------


def dep_local_minute(sched_dep_ts: Timestamp, sched_dep_utc_offset_minutes: Int32) -> Int64:
    """Minutes from 1970-01-01T00:00 local time to the scheduled departure. Never null."""
    return sched_dep_ts // 60_000_000 + sched_dep_utc_offset_minutes


def dep_local_day(dep_local_minute: Int64) -> Int64:
    """Days from 1970-01-01 to the local date of departure. Never null."""
    return dep_local_minute // 1440


def dep_cycle_day(dep_local_day: Int64) -> Int64:
    """The local date's place in the 400-year calendar cycle, days. Never null."""
    return dep_local_day - dep_local_day // DAYS_IN_CYCLE * DAYS_IN_CYCLE


def dep_minute_of_day(dep_local_minute: Int64, dep_local_day: Int64) -> Int64:
    """Minutes since local midnight, 0 to 1439. Never null."""
    return dep_local_minute - dep_local_day * 1440


def dep_time_of_day_sin(dep_minute_of_day: Int64) -> Float64:
    """Sine of the local time of day, 24 hours = one turn. Never null."""
    return _DAY_SIN.take(dep_minute_of_day)


def dep_time_of_day_cos(dep_minute_of_day: Int64) -> Float64:
    """Cosine of the local time of day, 24 hours = one turn. Never null."""
    return _DAY_COS.take(dep_minute_of_day)


def dep_day_of_week(dep_cycle_day: Int64) -> Int64:
    """Local day of the week, 0 = Monday to 6 = Sunday. Never null."""
    return WEEKDAY.take(dep_cycle_day)


def dep_day_of_week_sin(dep_day_of_week: Int64) -> Float64:
    """Sine of the local day of the week, 7 days = one turn. Never null."""
    return _WEEK_SIN.take(dep_day_of_week)


def dep_day_of_week_cos(dep_day_of_week: Int64) -> Float64:
    """Cosine of the local day of the week, 7 days = one turn. Never null."""
    return _WEEK_COS.take(dep_day_of_week)


def dep_month(dep_cycle_day: Int64) -> Int32:
    """Local month, 1 to 12. Never null."""
    return MONTH.take(dep_cycle_day)


def dep_day_of_year(dep_cycle_day: Int64) -> Int64:
    """Days since the first of January, 0 to 365. Never null."""
    return DAY_OF_YEAR.take(dep_cycle_day)


def dep_day_of_year_sin(dep_day_of_year: Int64) -> Float64:
    """Sine of the day of the year, 366 days = one turn. Never null."""
    return _YEAR_SIN.take(dep_day_of_year)


def dep_day_of_year_cos(dep_day_of_year: Int64) -> Float64:
    """Cosine of the day of the year, 366 days = one turn. Never null."""
    return _YEAR_COS.take(dep_day_of_year)


def days_to_holiday(dep_cycle_day: Int64) -> Int32:
    """Days until the next US holiday that moves air traffic (see calendar), 0 on one. Never null."""
    return DAYS_TO_HOLIDAY.take(dep_cycle_day)


def days_since_holiday(dep_cycle_day: Int64) -> Int32:
    """Days since the last US holiday that moves air traffic (see calendar), 0 on one. Never null."""
    return DAYS_SINCE_HOLIDAY.take(dep_cycle_day)


def arr_minute_of_day_utc(sched_arr_ts: Timestamp) -> Int64:
    """Minutes since UTC midnight of the scheduled arrival, 0 to 1439. Never null."""
    minute = sched_arr_ts // 60_000_000
    return minute - minute // 1440 * 1440


# --- the flight ------------------------------------------------------------------------------------------------------


def sched_duration_minutes(sched_dep_ts: Timestamp, sched_arr_ts: Timestamp) -> Float64:
    """Scheduled time from gate to gate, minutes. Null if the arrival is not after the departure."""
    minutes = (sched_arr_ts - sched_dep_ts) / 60_000_000
    return np.where(minutes > 0, minutes, np.nan)


def route_miles(distance_miles: Int32) -> Int32:
    """Great-circle distance of the route, miles. Never null."""
    return distance_miles


def sched_speed_mph(distance_miles: Int32, sched_duration_minutes: Float64) -> Float64:
    """Distance over scheduled duration, miles per hour: low where the schedule has slack. Null as the duration is."""
    return distance_miles * 60.0 / sched_duration_minutes


def flight_series(flight_number: Int32) -> Int32:
    """Flight number in hundreds: airlines give ranges to regions and to their regional partners. Never null."""
    return flight_number // 100


def carrier_code(carrier: String, *, carriers: Sequence[str]) -> Int64:
    """Airline's rank by flights in the training rows, 0 = most; the number of ranks if rare or unknown. Never null."""
    return carrier.encode(carriers)


def origin_code(origin: String, *, origins: Sequence[str]) -> Int64:
    """Origin's rank by flights in the training rows, 0 = most; the number of ranks if rare or unknown. Never null."""
    return origin.encode(origins)


def dest_code(dest: String, *, dests: Sequence[str]) -> Int64:
    """Destination's rank by flights in the training rows, 0 = most; the number of ranks if rare or unknown. Never null."""
    return dest.encode(dests)


def route_flights_per_day(
    origin: String, dest_code: Int64, *, dests: Sequence[str], route_rates: Mapping[str, Sequence[float]]
) -> Float64:
    """Flights a day on this route in the training rows; 0 for a rare or unknown origin or destination. Never null."""
    place, rates = _by_name(origin, route_rates, unknown=(0.0,) * (len(dests) + 1))
    return rates.take(place * (len(dests) + 1) + dest_code)


def origin_departures_per_hour(
    origin: String, dep_minute_of_day: Int64, *, hourly_departures: Mapping[str, Sequence[float]]
) -> Float64:
    """Departures a day from this origin in this local hour, in the training rows; 0 for an unknown origin. Never null."""
    place, rates = _by_name(origin, hourly_departures, unknown=(0.0,) * 24)
    return rates.take(place * 24 + dep_minute_of_day // 60)


def _by_name(
    strings: Strings, table: Mapping[str, Any], unknown: Any
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return each row's place in a matrix, and the matrix: the table's entries that occur, and last `unknown` for the rest."""
    known = [name for name in dict.fromkeys(strings.categories) if name in table]
    return strings.encode(known), np.array([*(table[name] for name in known), unknown], dtype=np.float64)


# --- the plane -------------------------------------------------------------------------------------------------------


def plane_age_years(dep_local_day: Int64, dep_cycle_day: Int64, plane_year: Float64) -> Float64:
    """Local year of departure minus year of manufacture, years. Null if the plane or its year is unknown."""
    return YEAR.take(dep_cycle_day) + dep_local_day // DAYS_IN_CYCLE * 400 - plane_year


def plane_seat_count(plane_seats: Float64) -> Float64:
    """Seats. Null if the plane is unknown."""
    return plane_seats


def is_plane_known(plane_seats: Float64) -> Bool:
    """Whether the registry has the plane: not so for a missing or unregistered tail number. Never null."""
    return ~np.isnan(plane_seats)


def plane_maker(plane_manufacturer: Nullable[String]) -> Nullable[String]:
    """First word of the manufacturer, so that AIRBUS INDUSTRIE is AIRBUS. Null if the plane is unknown."""
    names, valid = plane_manufacturer
    return Nullable(Strings(names.codes, tuple(name.partition(" ")[0] for name in names.categories)), valid)


def plane_maker_code(plane_maker: Nullable[String], *, plane_makers: Sequence[str]) -> Float64:
    """Manufacturer's rank in the training rows; the number of ranks if rare or unknown. Null if the plane is unknown."""
    return np.where(plane_maker.valid, plane_maker.values.encode(plane_makers), np.nan)


# --- the weather at the origin: the newest hourly observation known at departure, at most 4 hours old -------------------


def origin_temp_f(weather_temp_f: Float64) -> Float64:
    """Temperature, degrees Fahrenheit. Null if not observed."""
    return weather_temp_f


def origin_dew_point_spread_f(weather_temp_f: Float64, weather_dew_point_f: Float64) -> Float64:
    """Temperature minus dew point, degrees Fahrenheit: near 0 in fog. Null if either is not observed."""
    return weather_temp_f - weather_dew_point_f


def origin_humidity_pct(weather_humidity_pct: Float64) -> Float64:
    """Relative humidity, percent. Null if not observed."""
    return weather_humidity_pct


def origin_wind_speed_mph(weather_wind_speed_mph: Float64) -> Float64:
    """Sustained wind, miles per hour. Null if not observed, or above 250 (no wind, but a broken sensor)."""
    return np.where(weather_wind_speed_mph <= 250, weather_wind_speed_mph, np.nan)


def origin_wind_gust_excess_mph(weather_wind_gust_mph: Float64, origin_wind_speed_mph: Float64) -> Float64:
    """Gusts minus sustained wind, miles per hour; 0 if no gusts are reported. Null if the wind is not observed."""
    excess = weather_wind_gust_mph - origin_wind_speed_mph
    return np.where(weather_wind_gust_mph <= 250, excess, origin_wind_speed_mph * 0.0)


def wind_heading(weather_wind_dir_deg: Float64) -> Int64:
    """Where the wind comes from in whole degrees, 0 to 360; 361 if not observed, where the tables by heading have NaN."""
    is_direction = (weather_wind_dir_deg >= 0) & (weather_wind_dir_deg <= 360)
    return np.where(is_direction, weather_wind_dir_deg, 361.0).astype(np.int64)


def origin_wind_north_mph(origin_wind_speed_mph: Float64, wind_heading: Int64) -> Float64:
    """Wind from the north (south: negative), miles per hour. Null if the wind or its direction is not observed."""
    return origin_wind_speed_mph * _NORTH.take(wind_heading)


def origin_wind_east_mph(origin_wind_speed_mph: Float64, wind_heading: Int64) -> Float64:
    """Wind from the east (west: negative), miles per hour. Null if the wind or its direction is not observed."""
    return origin_wind_speed_mph * _EAST.take(wind_heading)


def origin_crosswind_mph(origin: String, origin_wind_speed_mph: Float64, wind_heading: Int64) -> Float64:
    """Wind across the best aligned runway, miles per hour. Null if it is not observed or the origin's runways are unknown."""
    place, across = _by_name(origin, _ACROSS, unknown=_NO_RUNWAY)
    return origin_wind_speed_mph * across.take(place * len(_NO_RUNWAY) + wind_heading)


def origin_precip_in(weather_precip_in: Float64) -> Float64:
    """Precipitation of the hour, inches. Null if not observed."""
    return weather_precip_in


def is_precip_freezing(weather_precip_in: Float64, weather_temp_f: Float64) -> Bool:
    """Whether something falls at or below freezing point. False if not observed."""
    return (weather_precip_in > 0) & (weather_temp_f <= 32)


def origin_pressure_hpa(weather_pressure_hpa: Float64) -> Float64:
    """Sea-level pressure, hPa. Null if not observed."""
    return weather_pressure_hpa


def origin_visibility_miles(weather_visibility_miles: Float64) -> Float64:
    """Visibility, miles. Null if not observed."""
    return weather_visibility_miles


def _by_heading(of_degree: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a table for `wind_heading`: 0 to 359, 360 which is 0 again, and NaN for a direction not observed."""
    return np.concatenate([of_degree, of_degree[:1], [np.nan]])


def _across(*runways: int) -> NDArray[np.float64]:
    """Return, by heading of the wind, the share of it that blows across the best aligned of the runways."""
    sines = [np.abs(_DEGREE_SIN[(np.arange(360) - runway) % 360]) for runway in runways]
    return _by_heading(np.min(sines, axis=0))


_NORTH = _by_heading(_DEGREE_COS)
_EAST = _by_heading(_DEGREE_SIN)
# True headings of the runways, degrees. Source: FAA airport diagrams, rounded.
_ACROSS = {"EWR": _across(26, 96), "JFK": _across(31, 121), "LGA": _across(32, 122)}
_NO_RUNWAY = np.full(362, np.nan)


# --- constants learned from the training rows -----------------------------------------------------------------------------


def by_frequency(column: Any) -> list[str]:
    """Return the strings that at least 50 rows have, the most frequent first, equal ones by name."""
    strings: Any
    strings, valid = values_and_valid(column)
    codes = strings.codes if valid is None else strings.codes[valid]
    total: dict[str, int] = {}
    for name, count in zip(
        strings.categories, np.bincount(codes, minlength=len(strings.categories)).tolist(), strict=True
    ):
        total[name] = total.get(name, 0) + count
    frequent = [name for name, count in total.items() if count >= 50]
    return sorted(frequent, key=lambda name: (-total[name], name))


def makers_by_frequency(plane_manufacturer: Any) -> list[str]:
    """Return `by_frequency` of the first words of the manufacturers."""
    return by_frequency(plane_maker(plane_manufacturer))


def flights_per_day_of_routes(origin: Any, dest: Any, sched_dep_ts: Any) -> dict[str, list[float]]:
    """Return, by origin, the flights on a mean (UTC) day to each destination in the order of its code; rare ones count 0."""
    dests = by_frequency(dest)
    n_flights = _counts(origin, dest.encode(dests), len(dests) + 1)
    n_days = len(np.unique(sched_dep_ts // 86_400_000_000))
    return {name: [*(n / n_days for n in row[:-1]), 0.0] for name, row in n_flights.items()}


def departures_per_hour_of_origins(
    origin: Any, sched_dep_ts: Any, sched_dep_utc_offset_minutes: Any
) -> dict[str, list[float]]:
    """Return, by origin, the departures on a mean day in each of the 24 local hours."""
    minute = dep_local_minute(sched_dep_ts, sched_dep_utc_offset_minutes)
    day = dep_local_day(minute)
    n_departures = _counts(origin, dep_minute_of_day(minute, day) // 60, 24)
    n_days = len(np.unique(day))
    return {name: [n / n_days for n in row] for name, row in n_departures.items()}


def _counts(strings: Strings, bin_: NDArray[np.int64], n_bins: int) -> dict[str, list[int]]:
    """Return how many rows each frequent string has in each bin, the strings in the order of `by_frequency`."""
    names = by_frequency(strings)
    counts = np.bincount(strings.encode(names) * n_bins + bin_, minlength=(len(names) + 1) * n_bins)
    return dict(zip(names, counts.reshape(-1, n_bins).tolist(), strict=False))


FEATURES = FeatureSet(
    name="flights",
    request=REQUEST,
    row_id=("flight_id",),
    as_of="sched_dep_ts",
    views=(PLANE, WEATHER, PLANE_HISTORY, ROUTE_HISTORY, AIRPORT_CONGESTION),
    fitted=(
        Fitted("carriers", by_frequency, ("carrier",)),
        Fitted("origins", by_frequency, ("origin",)),
        Fitted("dests", by_frequency, ("dest",)),
        Fitted("plane_makers", makers_by_frequency, ("plane_manufacturer",)),
        Fitted("route_rates", flights_per_day_of_routes, ("origin", "dest", "sched_dep_ts")),
        Fitted(
            "hourly_departures",
            departures_per_hour_of_origins,
            ("origin", "sched_dep_ts", "sched_dep_utc_offset_minutes"),
        ),
    ),
    intermediates=(
        dep_local_minute,
        dep_local_day,
        dep_cycle_day,
        dep_day_of_year,
        plane_maker,
        wind_heading,
    ),
    features=(
        dep_minute_of_day,
        dep_time_of_day_sin,
        dep_time_of_day_cos,
        dep_day_of_week,
        dep_day_of_week_sin,
        dep_day_of_week_cos,
        dep_month,
        dep_day_of_year_sin,
        dep_day_of_year_cos,
        days_to_holiday,
        days_since_holiday,
        arr_minute_of_day_utc,
        sched_duration_minutes,
        route_miles,
        sched_speed_mph,
        flight_series,
        carrier_code,
        origin_code,
        dest_code,
        route_flights_per_day,
        origin_departures_per_hour,
        plane_age_years,
        plane_seat_count,
        is_plane_known,
        plane_maker_code,
        origin_temp_f,
        origin_dew_point_spread_f,
        origin_humidity_pct,
        origin_wind_speed_mph,
        origin_wind_gust_excess_mph,
        origin_wind_north_mph,
        origin_wind_east_mph,
        origin_crosswind_mph,
        origin_precip_in,
        is_precip_freezing,
        origin_pressure_hpa,
        origin_visibility_miles,
        plane_last_delay_minutes,
        plane_mean_delay_minutes_day,
        plane_mean_delay_minutes_week,
        n_plane_arrivals_day,
        n_plane_arrivals_week,
        route_late_share_week,
        route_late_share_month,
        route_delay_minutes_week,
        route_delay_minutes_trend,
        route_delay_minutes_std_week,
        route_delay_minutes_std_month,
        route_arrivals_trend,
        n_airport_departures_hour,
        n_airport_departures_3_hours,
        airport_delay_minutes_hour,
        airport_delay_minutes_3_hours,
    ),
)
