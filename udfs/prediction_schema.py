"""The columns of the prediction log: one stable, flat schema.

The request's fields, features and views are maps, so that the schema is the same for every model and version. It stands apart from
`prediction_rows`, which makes the rows, because a function that logs them as lines of JSON has no Arrow.
"""

from __future__ import annotations

import pyarrow as pa

__all__ = ["SCHEMA"]

_TIME = pa.timestamp("us", tz="UTC")
_TEXT = pa.string()
SCHEMA = pa.schema(
    [
        ("process", _TEXT),
        ("process_started_ts", _TIME),
        ("sequence", pa.int64()),
        ("served_ts", _TIME),
        ("as_of_ts", _TIME),
        ("model", _TEXT),
        ("model_version", _TEXT),
        ("model_digest", _TEXT),
        ("feature_fingerprint", _TEXT),
        ("configuration_digest", _TEXT),
        ("platform_id", _TEXT),
        ("request", pa.map_(_TEXT, _TEXT)),
        ("stored", pa.map_(_TEXT, _TEXT)),
        ("features", pa.map_(_TEXT, pa.float64())),
        ("statuses", pa.map_(_TEXT, _TEXT)),
        ("event_ts", pa.map_(_TEXT, _TIME)),
        ("overrides", pa.list_(_TEXT)),
        ("score", pa.float64()),
        ("label", pa.bool_()),
        ("class_label", _TEXT),
        ("class_scores", pa.map_(_TEXT, pa.float64())),
        ("error_code", _TEXT),
        ("error_field", _TEXT),
        ("request_rows", pa.int32()),
        ("lookup_us", pa.int64()),
        ("features_us", pa.int64()),
        ("model_us", pa.int64()),
    ]
)
"""One row an answer. `request` has the JSON text of each declared field that the row carried, `stored` that of each stored field as
the model read it, in the wire form. `label` is of models of two classes; `class_label` and `class_scores` (by class, in the model's
order) are of models of several, and null in rows of others. Logs of older versions lack `stored`, or these two. Latencies are of the
whole request."""
