"""The flights' features as one writes them in pandas, for a scikit-learn pipeline that takes a DataFrame of raw columns.

The formulas are those of the project's functions, with the same tables for sines and dates, so that the scores are the same bits;
each is a vectorised expression on the frame's columns, and the frame of features is made once, at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin

from feature_pipelines.features.calendar import (
    DAY_OF_YEAR,
    DAYS_IN_CYCLE,
    DAYS_SINCE_HOLIDAY,
    DAYS_TO_HOLIDAY,
    MONTH,
    WEEKDAY,
    YEAR,
    circle,
)

_DAY, _WEEK, _YEAR, _DEGREE = circle(1440), circle(7), circle(366), circle(360)
_RUNWAYS = {"EWR": (26, 96), "JFK": (31, 121), "LGA": (32, 122)}
_ACROSS = {
    origin: np.min([np.abs(_DEGREE[0][(np.arange(360) - runway) % 360]) for runway in runways], axis=0)
    for origin, runways in _RUNWAYS.items()
}
_AS_THEY_ARE = {
    "plane_last_delay_minutes": "plane_arr_delay_minutes_last_1d",
    "plane_mean_delay_minutes_day": "plane_arr_delay_minutes_mean_1d",
    "plane_mean_delay_minutes_week": "plane_arr_delay_minutes_mean_7d",
    "n_plane_arrivals_day": "plane_arr_delay_minutes_count_1d",
    "n_plane_arrivals_week": "plane_arr_delay_minutes_count_7d",
    "route_late_share_week": "route_is_late_share_7d",
    "route_late_share_month": "route_is_late_share_28d",
    "route_delay_minutes_week": "route_arr_delay_minutes_mean_7d",
    "route_delay_minutes_std_week": "route_arr_delay_minutes_std_7d",
    "route_delay_minutes_std_month": "route_arr_delay_minutes_std_28d",
    "n_airport_departures_hour": "airport_dep_delay_minutes_count_1h",
    "n_airport_departures_3_hours": "airport_dep_delay_minutes_count_3h",
    "airport_delay_minutes_hour": "airport_dep_delay_minutes_mean_1h",
    "airport_delay_minutes_3_hours": "airport_dep_delay_minutes_mean_3h",
    "route_miles": "distance_miles",
    "plane_seat_count": "plane_seats",
    "origin_temp_f": "weather_temp_f",
    "origin_humidity_pct": "weather_humidity_pct",
    "origin_precip_in": "weather_precip_in",
    "origin_pressure_hpa": "weather_pressure_hpa",
    "origin_visibility_miles": "weather_visibility_miles",
}


class PandasFeatures(BaseEstimator, TransformerMixin):
    """A transformer from raw columns to the features `names`, in that order; the fitted constants are its other parameter."""

    def __init__(self, constants: dict[str, Any], names: list[str]) -> None:
        self.constants, self.names = constants, names

    def fit(self, frame: pd.DataFrame, y: Any = None) -> PandasFeatures:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        found = {
            **{name: frame[column] for name, column in _AS_THEY_ARE.items()},
            **_time(frame),
            **self._flight(frame),
            **_weather(frame),
        }
        return pd.DataFrame({name: found[name] for name in self.names}).astype("float64")

    def _flight(self, frame: pd.DataFrame) -> dict[str, Any]:
        known = self.constants
        minutes = (frame["sched_arr_ts"] - frame["sched_dep_ts"]) / 60_000_000
        duration = minutes.where(minutes > 0)
        dest = _code(frame["dest"], known["dests"])
        hour = _minute(frame) % 1440 // 60
        maker = frame["plane_manufacturer"].str.split(" ").str[0]
        day = _minute(frame) // 1440
        year = YEAR[day % DAYS_IN_CYCLE] + day // DAYS_IN_CYCLE * 400
        rates, departures = known["route_rates"], known["hourly_departures"]
        return {
            "sched_duration_minutes": duration,
            "sched_speed_mph": frame["distance_miles"] * 60.0 / duration,
            "flight_series": frame["flight_number"] // 100,
            "carrier_code": _code(frame["carrier"], known["carriers"]),
            "origin_code": _code(frame["origin"], known["origins"]),
            "dest_code": dest,
            "route_flights_per_day": [
                rates[o][d] if o in rates else 0.0 for o, d in zip(frame["origin"], dest, strict=True)
            ],
            "origin_departures_per_hour": [
                departures[o][h] if o in departures else 0.0
                for o, h in zip(frame["origin"], hour, strict=True)
            ],
            "plane_age_years": year - frame["plane_year"],
            "is_plane_known": frame["plane_seats"].notna(),
            "plane_maker_code": _code(maker, known["plane_makers"]).where(maker.notna()),
            "route_delay_minutes_trend": frame["route_arr_delay_minutes_mean_7d"]
            - frame["route_arr_delay_minutes_mean_28d"],
            "route_arrivals_trend": frame["route_arr_delay_minutes_count_7d"] * 4.0
            - frame["route_arr_delay_minutes_count_28d"],
        }


def _minute(frame: pd.DataFrame) -> pd.Series:
    return frame["sched_dep_ts"] // 60_000_000 + frame["sched_dep_utc_offset_minutes"]


def _code(column: pd.Series, names: list[str]) -> pd.Series:
    """Return each string's position among the names, their number where it is none of them."""
    place = {name: i for i, name in enumerate(names)}
    return column.map(place).fillna(len(names)).astype("int64")


def _time(frame: pd.DataFrame) -> dict[str, Any]:
    minute = _minute(frame)
    of_day, cycle = minute % 1440, minute // 1440 % DAYS_IN_CYCLE
    weekday, of_year = WEEKDAY[cycle], DAY_OF_YEAR[cycle]
    return {
        "dep_minute_of_day": of_day,
        "dep_time_of_day_sin": _DAY[0][of_day],
        "dep_time_of_day_cos": _DAY[1][of_day],
        "dep_day_of_week": weekday,
        "dep_day_of_week_sin": _WEEK[0][weekday],
        "dep_day_of_week_cos": _WEEK[1][weekday],
        "dep_month": MONTH[cycle],
        "dep_day_of_year_sin": _YEAR[0][of_year],
        "dep_day_of_year_cos": _YEAR[1][of_year],
        "days_to_holiday": DAYS_TO_HOLIDAY[cycle],
        "days_since_holiday": DAYS_SINCE_HOLIDAY[cycle],
        "arr_minute_of_day_utc": frame["sched_arr_ts"] // 60_000_000 % 1440,
    }


def _weather(frame: pd.DataFrame) -> dict[str, Any]:
    wind = frame["weather_wind_speed_mph"].where(frame["weather_wind_speed_mph"] <= 250)
    gust = frame["weather_wind_gust_mph"]
    direction = frame["weather_wind_dir_deg"]
    is_direction = direction.between(0, 360)
    heading = direction.where(is_direction, 0).astype("int64") % 360
    across = [
        _ACROSS[o][h] if o in _ACROSS else np.nan for o, h in zip(frame["origin"], heading, strict=True)
    ]
    return {
        "origin_dew_point_spread_f": frame["weather_temp_f"] - frame["weather_dew_point_f"],
        "origin_wind_speed_mph": wind,
        "origin_wind_gust_excess_mph": (gust - wind).where(gust <= 250, wind * 0.0),
        "origin_wind_north_mph": (wind * _DEGREE[1][heading]).where(is_direction),
        "origin_wind_east_mph": (wind * _DEGREE[0][heading]).where(is_direction),
        "origin_crosswind_mph": (wind * across).where(is_direction),
        "is_precip_freezing": (frame["weather_precip_in"] > 0) & (frame["weather_temp_f"] <= 32),
    }
