"""What became of earlier flights of the same plane, on the same route and from the same airport, as stored views and features.

`jobs.build_features` computes the views from the events that ingest writes. An arrival counts from the time at which it happened, a
departure likewise, so nothing is seen of a flight that is still in the air. All functions are portable: + - and comparisons.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Bool, Float64, Int32, Int64, Nullable
from feature_pipelines.definitions import FeatureView
from feature_pipelines.schema import Field, Schema
from feature_pipelines.views import History

__all__ = ["AIRPORT_CONGESTION", "PLANE_HISTORY", "ROUTE_HISTORY"]

_DAY = 86_400
_ARR_DELAY = Field(
    "arr_delay_minutes", Int32, "arrival minus scheduled arrival", minimum=-1440, maximum=14_400
)
_IS_LATE = Field("is_late", Bool, "whether the arrival was more than 15 minutes late")
_DEP_DELAY = Field(
    "dep_delay_minutes", Int32, "departure minus scheduled departure", minimum=-1440, maximum=14_400
)

PLANE_HISTORY = FeatureView(
    name="plane_history",
    keys={"tailnum": "tailnum"},
    source=Schema((_ARR_DELAY,)),
    history=(
        History("arr_delay_minutes", ("last",), ("1d",), prefix="plane_"),
        History("arr_delay_minutes", ("count", "mean"), ("1d", "7d"), prefix="plane_"),
    ),
    ttl_seconds=7 * _DAY,
)

ROUTE_HISTORY = FeatureView(
    name="route_history",
    keys={"origin": "origin", "dest": "dest"},
    source=Schema((_ARR_DELAY, _IS_LATE)),
    history=(
        History("is_late", ("share",), ("7d", "28d"), prefix="route_"),
        History("arr_delay_minutes", ("mean", "std", "count"), ("7d", "28d"), prefix="route_"),
    ),
    ttl_seconds=14 * _DAY,
)

AIRPORT_CONGESTION = FeatureView(
    name="airport_congestion",
    keys={"origin": "origin"},
    source=Schema((_DEP_DELAY,)),
    history=(History("dep_delay_minutes", ("count", "mean"), ("1h", "3h"), prefix="airport_"),),
    ttl_seconds=3 * 3600,
)


# --- the plane: its arrivals anywhere after a flight from New York; null if it had none within 7 days, or the tail number is unknown


def plane_last_delay_minutes(plane_arr_delay_minutes_last_1d: Nullable[Int32]) -> Float64:
    """Delay of its last arrival, minutes. Null if there is none."""
    return _or_nan(plane_arr_delay_minutes_last_1d)


def plane_mean_delay_minutes_day(plane_arr_delay_minutes_mean_1d: Float64) -> Float64:
    """Mean delay of its arrivals in the day up to the last, minutes. Null if there is none."""
    return plane_arr_delay_minutes_mean_1d


def plane_mean_delay_minutes_week(plane_arr_delay_minutes_mean_7d: Float64) -> Float64:
    """Mean delay of its arrivals in the week up to the last, minutes. Null if there is none."""
    return plane_arr_delay_minutes_mean_7d


def n_plane_arrivals_day(plane_arr_delay_minutes_count_1d: Nullable[Int64]) -> Float64:
    """Its arrivals in the day up to the last. Null if nothing is known of it."""
    return _or_nan(plane_arr_delay_minutes_count_1d)


def n_plane_arrivals_week(plane_arr_delay_minutes_count_7d: Nullable[Int64]) -> Float64:
    """Its arrivals in the week up to the last. Null if nothing is known of it."""
    return _or_nan(plane_arr_delay_minutes_count_7d)


# --- the route: arrivals from this origin at this destination; null if there was none within 14 days ------------------------


def route_late_share_week(route_is_late_share_7d: Float64) -> Float64:
    """Share of arrivals more than 15 minutes late, in the week up to the last one, 0 to 1. Null if there is none."""
    return route_is_late_share_7d


def route_late_share_month(route_is_late_share_28d: Float64) -> Float64:
    """Share of arrivals more than 15 minutes late, in the 28 days up to the last one, 0 to 1. Null if there is none."""
    return route_is_late_share_28d


def route_delay_minutes_week(route_arr_delay_minutes_mean_7d: Float64) -> Float64:
    """Mean delay in the week up to the last arrival, minutes. Null if there is none."""
    return route_arr_delay_minutes_mean_7d


def route_delay_minutes_trend(
    route_arr_delay_minutes_mean_7d: Float64, route_arr_delay_minutes_mean_28d: Float64
) -> Float64:
    """Mean delay of the week minus that of 28 days, minutes: positive where it gets worse. Null if there is none."""
    return route_arr_delay_minutes_mean_7d - route_arr_delay_minutes_mean_28d


def route_delay_minutes_std_week(route_arr_delay_minutes_std_7d: Float64) -> Float64:
    """Standard deviation of the delay in the week up to the last arrival, minutes. Null if there are fewer than two."""
    return route_arr_delay_minutes_std_7d


def route_delay_minutes_std_month(route_arr_delay_minutes_std_28d: Float64) -> Float64:
    """Standard deviation of the delay in the 28 days up to the last arrival, minutes. Null if there are fewer than two."""
    return route_arr_delay_minutes_std_28d


def route_arrivals_trend(
    route_arr_delay_minutes_count_7d: Nullable[Int64], route_arr_delay_minutes_count_28d: Nullable[Int64]
) -> Float64:
    """Arrivals of the week times 4 minus those of 28 days: negative where flights were cancelled. Null if nothing is known."""
    return _or_nan(route_arr_delay_minutes_count_7d) * 4.0 - _or_nan(route_arr_delay_minutes_count_28d)


# --- the airport of departure in the hours before; null if nothing left within 3 hours -----------------------------------------


def n_airport_departures_hour(airport_dep_delay_minutes_count_1h: Nullable[Int64]) -> Float64:
    """Departures in the hour up to the last one. Null if nothing left within 3 hours."""
    return _or_nan(airport_dep_delay_minutes_count_1h)


def n_airport_departures_3_hours(airport_dep_delay_minutes_count_3h: Nullable[Int64]) -> Float64:
    """Departures in the 3 hours up to the last one. Null if nothing left within 3 hours."""
    return _or_nan(airport_dep_delay_minutes_count_3h)


def airport_delay_minutes_hour(airport_dep_delay_minutes_mean_1h: Float64) -> Float64:
    """Mean delay of the departures in the hour up to the last one, minutes. Null if nothing left within 3 hours."""
    return airport_dep_delay_minutes_mean_1h


def airport_delay_minutes_3_hours(airport_dep_delay_minutes_mean_3h: Float64) -> Float64:
    """Mean delay of the departures in the 3 hours up to the last one, minutes. Null if nothing left within 3 hours."""
    return airport_dep_delay_minutes_mean_3h


def _or_nan(column: Nullable[Any]) -> NDArray[np.float64]:
    return np.where(column.valid, column.values.astype(np.float64), np.nan)
