"""Parcels that arrive at depots, some reported late: a view with history over every kind of column, and events to build it from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_pipelines.columns import Bool, Float64, Int64, Nullable, String, Timestamp, decimal
from feature_pipelines.definitions import FeatureSet, FeatureView
from feature_pipelines.schema import Field, Schema
from feature_pipelines.views import History

__all__ = ["FEATURES", "HOUR", "START", "VIEW", "event_rows"]

Money = Annotated[NDArray[np.int64], decimal(12, 2)]
HOUR = 3_600_000_000
START = 1_577_836_800_000_000  # 2020-01-01T00:00Z
UTC_TIME = pa.timestamp("us", tz="UTC")

VIEW = FeatureView(
    name="depot_history",
    keys={"depot": "depot", "lane": "lane"},
    source=Schema(
        (
            Field("n_parcels", Int64, minimum=0, maximum=10_000),
            Field("weight_kg", Float64),
            Field("is_damaged", Nullable[Bool]),
            Field("value_eur", Nullable[Money]),
            Field("carrier", Nullable[String]),
        )
    ),
    history=(
        History("n_parcels", ("sum", "mean", "std", "max"), ("3h", "2d")),
        History("weight_kg", ("count", "sum", "mean", "std", "min"), ("3h", "1d")),
        History("is_damaged", ("share",), ("2d",)),
        History("value_eur", ("sum", "mean"), ("1d",)),
        History("carrier", ("last",), ("2d",)),
    ),
    ttl_seconds=86_400,
)


def parcels_lately(n_parcels_sum_3h: Nullable[Int64]) -> Float64:
    """Parcels in 3 hours. Null if none is known."""
    return np.where(n_parcels_sum_3h.valid, n_parcels_sum_3h.values.astype(np.float64), np.nan)


FEATURES = FeatureSet(
    name="depots",
    request=Schema(
        (Field("asked_ts", Timestamp), Field("depot", Nullable[String]), Field("lane", Nullable[Int64]))
    ),
    views=(VIEW,),
    features=(parcels_lately,),
    as_of="asked_ts",
)


def event_rows(n: int = 400, seed: int = 1, bad: Sequence[int] = ()) -> pa.Table:
    """Return n events of ten days, a third of them reported hours late; a position in `bad` has fewer than no parcels."""
    rng = np.random.default_rng(seed)
    event = START + rng.integers(0, 240, n) * HOUR
    late = np.where(rng.random(n) < 0.3, rng.integers(1, 60, n) * HOUR, 0)
    parcels = rng.integers(0, 50, n)
    parcels[list(bad)] = -1
    weight = np.round(rng.gamma(2, 3, n), 3)
    weight[rng.random(n) < 0.1] = np.nan
    cents = rng.integers(0, 100_000, n)

    def some(values: list[Any], type_: pa.DataType, share: float) -> pa.Array:
        return pa.array(values, type_, mask=rng.random(n) < share)

    return pa.table(
        {
            "depot": some([f"depot-{i}" for i in rng.integers(0, 3, n)], pa.string(), 0.03),
            "lane": some(rng.integers(1, 3, n).tolist(), pa.int32(), 0.03),
            "event_ts": pa.array(event).cast(UTC_TIME),
            "created_ts": pa.array(event + late).cast(UTC_TIME),
            "n_parcels": pa.array(parcels),
            "weight_kg": pa.array(weight, from_pandas=False),
            "is_damaged": some((rng.random(n) < 0.2).tolist(), pa.bool_(), 0.2),
            "value_eur": pa.array([None if c % 7 == 0 else c for c in cents.tolist()], pa.int64())
            .cast(pa.decimal128(20, 0))
            .cast(pa.decimal128(12, 2)),
            "carrier": some([f"carrier-{i}" for i in rng.integers(0, 4, n)], pa.string(), 0.1),
            "remark": pa.array(["not of the view"] * n),
        }
    )
