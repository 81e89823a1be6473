"""A row of the file of differing rows: both sides' scores, decisions and refusals, and the cause. No inputs, no features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.proof.causes import Explained
from jobs.proof.class_scores import CLASS_SCORES, ulps_apart
from jobs.proof.logged_side import is_refused
from jobs.proof.pairs import Pairs, Side

__all__ = ["DIFFERING_SCHEMA", "differing_table"]

_TIME = pa.timestamp("us", tz="UTC")
DIFFERING_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("as_of_ts", _TIME),
        ("served_ts", _TIME),
        ("process", pa.string()),
        ("sequence", pa.int64()),
        ("model_version", pa.string()),
        ("model_digest", pa.string()),
        ("platform_id", pa.string()),
        ("request_in_table", pa.bool_()),
        ("cause", pa.string()),
        ("where", pa.string()),
        ("parts", pa.list_(pa.string())),
        ("detail", pa.string()),
        ("online_score", pa.float64()),
        ("offline_score", pa.float64()),
        ("ulps", pa.float64()),
        ("online_label", pa.bool_()),
        ("offline_label", pa.bool_()),
        ("online_class_label", pa.string()),
        ("offline_class_label", pa.string()),
        ("online_class_scores", CLASS_SCORES),
        ("offline_class_scores", CLASS_SCORES),
        ("online_error", pa.string()),
        ("offline_error", pa.string()),
        ("is_flip", pa.bool_()),
    ]
)
"""One row a differing row. `row_id` is null where the key holds personal data; `ulps` (of several classes the largest distance) where
a side has no score. `label` is of models of two classes, `class_label` and `class_scores` are of models of several."""


def differing_table(pairs: Pairs, explained: Explained, flips: NDArray[np.bool_]) -> pa.Table:
    """Return differing rows as rows of the file.

    Args:
        pairs: the rows.
        explained: why.
        flips: in which the decision differs.
    """
    online, offline = pairs.online, pairs.offline
    no_score = np.isnan(online.score) | np.isnan(offline.score)
    columns: dict[str, Any] = {
        "row_id": pa.array([text or None for text in pairs.row_id], pa.string()),
        "as_of_ts": pa.array(pairs.as_of).cast(_TIME),
        "served_ts": pa.array(pairs.served_ts).cast(_TIME),
        "process": pairs.process,
        "sequence": pairs.sequence,
        "model_version": pairs.version,
        "model_digest": pairs.digest,
        "platform_id": pairs.platform,
        "request_in_table": pairs.request_in_table,
        "cause": [None if cause is None else str(cause) for cause in explained.cause],
        "where": explained.where,
        "parts": [[str(part) for part in of_row] for of_row in explained.parts],
        "detail": explained.detail,
        "online_score": pa.array(online.score, mask=is_refused(online.error)),
        "offline_score": pa.array(offline.score, mask=is_refused(offline.error)),
        "ulps": pa.array(ulps_apart(online.scores, offline.scores)[0].astype(np.float64), mask=no_score),
        **_decisions("online", online),
        **_decisions("offline", offline),
        "online_error": list(online.error),
        "offline_error": list(offline.error),
        "is_flip": flips,
    }
    arrays = [
        value if isinstance(value := columns[f.name], pa.Array) else pa.array(value, f.type)
        for f in DIFFERING_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=DIFFERING_SCHEMA)


def _decisions(name: str, side: Side) -> dict[str, pa.Array]:
    """Return the columns of a side's labels, and of the scores by which those of several classes come about."""
    n, refused, classes = len(side), is_refused(side.error), side.classes
    label = None if side.label is None else pa.array(side.label, mask=refused)
    return {
        f"{name}_label": pa.nulls(n, pa.bool_()) if label is None or classes is not None else label,
        f"{name}_class_label": pa.nulls(n, pa.string()) if label is None or classes is None else label,
        f"{name}_class_scores": pa.nulls(n, CLASS_SCORES) if classes is None else classes.to_arrow(refused),
    }
