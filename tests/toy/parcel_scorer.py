"""The toy model whose features and estimator raise on some rows, as a scorer in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.linear_model import Ridge

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.lookup import AsOfIndex
from feature_pipelines.lookup_arrow import index_from_arrow
from tests.toy.parcel_tables import parcel
from tests.toy.parcels import FEATURES
from udfs.scorer import LibraryEvaluator, OutputSpec, Scorer

__all__ = ["parcel_scorer", "wire_parcel", "zone_index"]


def parcel_scorer(feature_set: FeatureSet = FEATURES) -> Scorer:
    """Return a scorer whose score is the sum of the features, four times the surcharge among them."""
    n = len(feature_set.feature_names)
    estimator = Ridge().fit(np.eye(n), np.zeros(n))
    estimator.coef_ = np.where(np.array(feature_set.feature_names) == "surcharge", 4.0, 1.0)
    estimator.intercept_ = 0.0
    info = {"name": feature_set.name, "digest": "0" * 64}
    return Scorer(
        feature_set, {}, LibraryEvaluator(estimator, "regression"), OutputSpec("regression"), info, "verified"
    )


def wire_parcel(i: int, **changes: Any) -> dict[str, Any]:
    """Return the i-th parcel as a JSON row that brings its zone's rate; nothing is wrong with it but what is changed."""
    row = parcel(i)
    del row["remark"]
    return row | {"n_items": int(row["n_items"]), "zone_rate_eur": 1.0 + i % 3} | changes


def zone_index() -> AsOfIndex:
    """Return the rates of zones 0 to 2, known since 2019."""
    known = pa.array([1_546_300_800_000_000] * 3).cast(pa.timestamp("us", tz="UTC"))
    rows = {
        "zone": [f"zone-{i}" for i in range(3)],
        "event_ts": known,
        "created_ts": known,
        "zone_rate_eur": [1.0, 2.0, 3.0],
    }
    return index_from_arrow(FEATURES.views[0], pa.table(rows))
