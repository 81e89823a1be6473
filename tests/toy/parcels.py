"""What a parcel costs to send: features and a linear model that fail on some rows, each in its own way.

`FEATURES` looks fees up in a list that is too short; `MENDED` is the same with that mended.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Binary, Bool, Float64, Int32, Nullable, String, Timestamp, decimal
from feature_pipelines.definitions import FeatureSet, FeatureView
from feature_pipelines.schema import Field, Schema

__all__ = ["FEATURES", "MENDED"]

Euro = Annotated[NDArray[np.int64], decimal(9, 2)]
_FEES = (0.0, 1.0, 1.5, 2.0, 2.5)


def weight_g(weight_kg: Float64) -> Float64:
    """Weight in grams. Never null."""
    return weight_kg * 1000


def handling_fee(n_items: Int32) -> Float64:
    """Fee by number of items, euro. Raises for more items than there are fees."""
    return np.array(_FEES)[n_items]


def handling_fee_at_most(n_items: Int32) -> Float64:
    """Fee by number of items, euro; the highest for more items than there are fees."""
    return np.array(_FEES)[np.minimum(n_items, len(_FEES) - 1)]


def insured_value(insured_eur: Float64) -> Float64:
    """Insured value, euro. Null where it is unknown, which the model refuses."""
    return insured_eur


def surcharge(surcharge_eur: Float64) -> Float64:
    """Surcharge, euro. So large a one that four times as much is infinite gives an infinite score."""
    return surcharge_eur


def declared_cents(declared_eur: Euro) -> Float64:
    """Declared value, cents. Never null."""
    return declared_eur.astype(np.float64)


def fragile(is_fragile: Bool) -> Float64:
    """1 if fragile, else 0. Never null."""
    return is_fragile.astype(np.float64)


def zone_rate(zone_rate_eur: Float64) -> Float64:
    """Rate of the destination's zone, euro. Never null: a parcel to an unknown zone is refused."""
    return zone_rate_eur


_REQUEST = Schema(
    (
        Field("parcel_id", String, "identifies the parcel"),
        Field("asked_ts", Timestamp, "when the price is asked for"),
        Field("weight_kg", Float64, "weight, kg", required=True, minimum=0, maximum=1000),
        Field("n_items", Int32, "number of items", minimum=0),
        Field("insured_eur", Float64, "insured value, euro; null where unknown"),
        Field("surcharge_eur", Float64, "surcharge, euro"),
        Field("declared_eur", Euro, "declared value, euro"),
        Field("is_fragile", Bool, "whether it is fragile"),
        Field("zone", Nullable[String], "destination zone"),
        Field("label_png", Nullable[Binary], "the label; no feature reads it"),
    )
)
_ZONES = FeatureView(
    name="zones",
    keys={"zone": "zone"},
    fields=Schema((Field("zone_rate_eur", Float64, "rate, euro", required=True),)),
    missing="reject",
)
_COMMON = (weight_g, insured_value, surcharge, declared_cents, fragile, zone_rate)


def _features(fee: object) -> FeatureSet:
    return FeatureSet(
        name="parcels",
        request=_REQUEST,
        views=(_ZONES,),
        features=(*_COMMON, fee),
        row_id=("parcel_id",),
        as_of="asked_ts",
    )


FEATURES = _features(handling_fee)
MENDED = _features(handling_fee_at_most)
