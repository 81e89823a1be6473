"""What a tenant can pay: a model that reads personal data, for what becomes of it in logs and reports."""

from __future__ import annotations

import numpy as np

from feature_pipelines.columns import Float64, Nullable, String
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.schema import Field, Schema

__all__ = ["FEATURES"]


def income_squared(income_eur: Float64) -> Float64:
    """Income squared, EUR^2. Null where it is."""
    return income_eur * income_eur


def rooms_doubled(rooms: Float64) -> Float64:
    """Twice the number of rooms. Null where it is."""
    return rooms + rooms


def is_named(surname: Nullable[String]) -> Float64:
    """1 where there is a name, else 0. Never null."""
    return surname.valid.astype(np.float64)


FEATURES = FeatureSet(
    name="tenants",
    request=Schema(
        (
            Field("tenant_id", String, "identifies the tenant"),
            Field("income_eur", Float64, "yearly income", tags=("pii",)),
            Field("rooms", Float64, "rooms asked for"),
            Field("surname", Nullable[String], "family name", tags=("pii",)),
        )
    ),
    features=(income_squared, rooms_doubled, is_named),
    row_id=("tenant_id",),
)
