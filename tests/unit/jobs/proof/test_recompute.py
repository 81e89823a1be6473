"""What was logged is what the model read: a stored value is not held to bounds that no store checks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from feature_pipelines.columns import Float64
from feature_pipelines.schema import Field
from jobs.proof.log_rows import LogRows
from jobs.proof.map_columns import MapColumn
from jobs.proof.recompute import logged_columns

YEAR = Field("plane_year", Float64, "year of manufacture", minimum=1903, maximum=2100)


def rows_with(where: str, *texts: str) -> LogRows:
    entries = pa.array([[("plane_year", text)] for text in texts], pa.map_(pa.string(), pa.string()))
    nothing = pa.table({"sequence": np.arange(len(texts))})
    return LogRows(nothing, {where: MapColumn.of(entries)}, np.ones(len(texts), np.bool_))


def test_stored_value_beyond_its_bounds_is_read_as_it_was() -> None:
    columns, _ = logged_columns(rows_with("stored", "1999.0", "0.0"), [YEAR], "stored", frozenset())
    assert np.asarray(columns["plane_year"]).tolist() == [1999.0, 0.0]


def test_request_beyond_its_bounds_was_refused_and_is_null() -> None:
    columns, _ = logged_columns(rows_with("request", "1999.0", "0.0"), [YEAR], "request", frozenset())
    assert np.isnan(np.asarray(columns["plane_year"])).tolist() == [False, True]
