"""What a house sells for: a few features over every kind of column, small enough to train in a second."""

from __future__ import annotations

import numpy as np

from feature_pipelines.columns import Float64, Int64, Nullable, String, Timestamp
from feature_pipelines.definitions import FeatureSet, FeatureView, Fitted
from feature_pipelines.schema import Field, Schema

__all__ = ["FEATURES", "NEVER_NULL"]


def area_squared(area_m2: Float64) -> Float64:
    """Area squared, m^4. Never null."""
    return area_m2 * area_m2


def town_code(town: Nullable[String], *, towns: tuple[str, ...]) -> Float64:
    """Position of the town in the fitted vocabulary; unknown is one beyond it, null is NaN."""
    return np.where(town.valid, town.values.encode(towns).astype(np.float64), np.nan)


def rooms_or_minus_one(rooms: Nullable[Int64]) -> Int64:
    """Number of rooms, -1 where it is null."""
    return np.where(rooms.valid, rooms.values, -1)


def rate_pct_gap(rate_pct: Float64, rate_pct_floor: Float64) -> Float64:
    """Interest rate above the floor, percentage points. Null where either is."""
    return rate_pct - rate_pct_floor


def asked_hour(asked_ts: Timestamp) -> Int64:
    """Hour of the day in UTC, 0 to 23. Never null."""
    return asked_ts // 3_600_000_000 % 24


def vocabulary(town: Nullable[String]) -> list[str]:
    """Return the towns that occur, sorted."""
    return sorted({name for name, valid in zip(town.values.tolist(), town.valid, strict=True) if valid})


REQUEST = Schema(
    (
        Field("house_id", Int64, "identifies the house"),
        Field("asked_ts", Timestamp, "when the price is asked for"),
        Field("area_m2", Float64, "living area, m^2", required=True, minimum=0, maximum=10_000),
        Field("rooms", Nullable[Int64], "number of rooms; null where unknown"),
        Field("town", Nullable[String], "town; null where unknown"),
    )
)
RATES = FeatureView(
    name="rates",
    keys={"town": "town"},
    fields=Schema(
        (Field("rate_pct", Float64, "interest rate, percent"), Field("rate_pct_floor", Float64, "its floor"))
    ),
    ttl_seconds=30 * 86_400,
)
FEATURES = FeatureSet(
    name="houses",
    request=REQUEST,
    views=(RATES,),
    features=(area_squared, town_code, rooms_or_minus_one, rate_pct_gap, asked_hour),
    fitted=(Fitted("towns", vocabulary, ("town",)),),
    row_id=("house_id",),
    as_of="asked_ts",
)
NEVER_NULL = FeatureSet(
    name="houses_never_null",
    request=REQUEST,
    features=(area_squared, rooms_or_minus_one, asked_hour),
    row_id=("house_id",),
    as_of="asked_ts",
)
"""For estimators that take no null; without stored fields."""
