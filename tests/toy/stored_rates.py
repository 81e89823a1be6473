"""The toy view's rates as rows of an online store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from feature_pipelines.columns import Columns
from feature_pipelines.packed import row_digests
from feature_pipelines.stores.base import StoredRow
from feature_pipelines.stores.encoding import encode_rows
from feature_pipelines.views import FeatureView
from tests.toy.houses import RATES

__all__ = ["stored_rows", "write_rates"]


def stored_rows(
    view: FeatureView,
    columns: Columns,
    event_ts: list[int],
    created_ts: list[int] | None = None,
    is_deleted: bool = False,
) -> list[StoredRow]:
    """Return rows as a store takes them; created when they happened unless said otherwise."""
    n = len(event_ts)
    digests = row_digests(view.fields, columns, [is_deleted] * n)
    payloads = [b""] * n if is_deleted else encode_rows(view, columns, n)
    created = created_ts or event_ts
    return [
        StoredRow(event, known, digest, is_deleted, payload)
        for event, known, digest, payload in zip(event_ts, created, digests, payloads, strict=True)
    ]


def write_rates(store: Any, rates: pa.Table) -> int:
    """Write every row of a table of rates, in its order; return the time by which all of them are visible, microseconds."""
    times = {name: rates.column(name).cast(pa.int64()).to_pylist() for name in ("event_ts", "created_ts")}
    columns = {f.name: rates.column(f.name).to_numpy().astype(np.float64) for f in RATES.fields}
    rows = stored_rows(RATES, columns, times["event_ts"], times["created_ts"])
    store.write(RATES, [(town,) for town in rates.column("town").to_pylist()], rows)
    through = max(*times["event_ts"], *times["created_ts"])
    if hasattr(store, "advance"):
        store.advance(RATES, through)
    return int(through)
