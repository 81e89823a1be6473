"""Flights as JSON rows, made up by a seed: plausible ones, and every odd value that the contract lets pass."""

from __future__ import annotations

import random
from typing import Any

from feature_pipelines.columns import Columns
from feature_pipelines.evaluate import constants_from_json, fit_constants
from feature_pipelines.features.flights import FEATURES

HISTORY = [f for view in FEATURES.views if view.history for f in view.fields]

__all__ = ["flight_columns", "flight_constants", "flight_rows"]

CARRIERS = ["UA", "B6", "EV", "DL", "", "ua", "\u00e9", "e\u0301"]
DESTS = ["IAH", "MIA", "BQN", "LAX", "JFK", "", "???"]
MAKERS = [
    "BOEING",
    "AIRBUS INDUSTRIE",
    "AIRBUS",
    "MCDONNELL DOUGLAS CORPORATION",
    "",
    " ",
    "KILDALL GARY",
    None,
]
FIRST_TS, LAST_TS = 315_532_800_000_000, 4_102_444_800_000_000
DAY = 86_400_000_000


def flight_rows(n_rows: int, seed: int) -> list[dict[str, Any]]:
    """Return request rows with the fields of all views, in the wire form; the same for a seed on every machine."""
    rng = random.Random(seed)
    return [_flight(rng, number) for number in range(n_rows)]


def _flight(rng: random.Random, number: int) -> dict[str, Any]:
    departure = rng.choice(
        [
            rng.randrange(1_356_998_400_000_000, 1_388_534_400_000_000, 60_000_000),
            rng.randrange(FIRST_TS, LAST_TS),
            FIRST_TS,
        ]
    )
    duration = rng.choice([rng.randrange(30, 700) * 60_000_000, rng.randrange(-DAY, DAY), 0, 1])
    row = {
        "flight_id": f"flight-{number}",
        "sched_dep_ts": departure,
        "sched_arr_ts": min(max(departure + duration, FIRST_TS), LAST_TS),
        "sched_dep_utc_offset_minutes": rng.choice([-300, -240, -720, 840, 345, 0, -1]),
        "carrier": rng.choice(CARRIERS),
        "flight_number": rng.choice([0, 1, 99, 100, 1545, 8500, 99_999]),
        "tailnum": rng.choice(["N14228", None, ""]),
        "origin": rng.choice(["EWR", "JFK", "LGA", "EWR", "ORD", ""]),
        "dest": rng.choice(DESTS),
        "distance_miles": rng.choice([1, 17, 1400, 2586, 12_500]),
    }
    if rng.random() < 0.8:
        row |= {
            "plane_year": _maybe(rng, 1903, 2100),
            "plane_seats": rng.randrange(1, 451),
            "plane_manufacturer": rng.choice(MAKERS),
        }
    if rng.random() < 0.8:
        row |= {
            "weather_temp_f": rng.choice([32, 32.0000001, 31.98, -0.0, _maybe(rng, -40, 110)]),
            "weather_dew_point_f": _maybe(rng, -50, 80),
            "weather_humidity_pct": _maybe(rng, 0, 100),
            "weather_wind_dir_deg": rng.choice([0, 360, 359.99, 10 * rng.randrange(37), _maybe(rng, 0, 360)]),
            "weather_wind_speed_mph": rng.choice(
                [0, -0.0, 250, 250.00001, 1048.36058, 5e-324, _maybe(rng, 0, 60)]
            ),
            "weather_wind_gust_mph": rng.choice([None, None, 300.5, _maybe(rng, 0, 80)]),
            "weather_precip_in": rng.choice([0, 5e-324, _maybe(rng, 0, 1)]),
            "weather_pressure_hpa": _maybe(rng, 960, 1050),
            "weather_visibility_miles": _maybe(rng, 0, 10),
        }
    if rng.random() < 0.8:
        row |= {f.name: _of_history(rng, f.name) for f in HISTORY}
    return row


def _of_history(rng: random.Random, name: str) -> Any:
    if "_share_" in name:
        return rng.choice([None, 0, 1, rng.random()])
    if "_count_" in name or "_last_" in name:
        return rng.choice([None, 0, 1, 37, rng.randrange(0, 3000)])
    return _maybe(rng, 0, 300)


def _maybe(rng: random.Random, low: int, high: int) -> float | str | None:
    return rng.choice([None, "NaN", low, high, rng.randrange(low * 1000, high * 1000) / 1000])


def flight_columns(n_rows: int, seed: int) -> Columns:
    """Return `flight_rows` as columns; raises if one breaks the contract."""
    columns, errors = FEATURES.sources.from_rows(flight_rows(n_rows, seed))
    if errors:
        raise ValueError(errors[:5])
    return columns


def flight_constants() -> dict[str, Any]:
    """Return constants fitted to 2,000 rows, enough for every name to be frequent or rare."""
    return constants_from_json(fit_constants(FEATURES, flight_columns(2_000, seed=1)))
