"""What two passes logged, as pairs: the good process stands for the batch, so that explanations are judged without Spark.

That the batch gives what the good process does is another test's matter (test_clean_run). This module reads logs and no truth.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.lookup import Status
from feature_pipelines.schema import build_column
from jobs.proof.pairs import NO_TIME, Pairs, Side

__all__ = ["logged_rows", "pairs_of"]

Row = dict[str, Any]


def logged_rows(log: Path) -> dict[str, Row]:
    """Return the rows of a log by flight."""
    found = {}
    for file in sorted(log.glob("*/date=*/part-*.parquet")):
        for row in pq.read_table(file, partitioning=None).to_pylist():
            for name in ("request", "stored", "features", "statuses", "event_ts"):
                row[name] = dict(row[name])
            found[json.loads(row["request"]["flight_id"])] = row
    return found


def pairs_of(features: FeatureSet, faulty: dict[str, Row], good: dict[str, Row]) -> Pairs:
    """Return the rows of a faulty process (of one version) beside the good process's answers to the same requests."""
    ids = sorted(faulty)
    online, offline = [faulty[i] for i in ids], [good[i] for i in ids]

    def said(name: str) -> list[Any]:
        return [row[name] for row in online]

    n = len(ids)
    return Pairs(
        row_id=ids,
        as_of=_times(said("as_of_ts")),
        served_ts=_times(said("served_ts")),
        online=_side(features, online),
        offline=_side(features, offline),
        version=said("model_version"),
        digest=said("model_digest"),
        fingerprint=said("feature_fingerprint"),
        configuration=said("configuration_digest"),
        platform=said("platform_id"),
        request_in_table=np.ones(n, dtype=np.bool_),
        sent={f.name: np.array([f.name in row["request"] for row in online]) for f in features.request},
        process=said("process"),
        sequence=np.array(said("sequence"), dtype=np.int64),
    )


def _side(features: FeatureSet, rows: Sequence[Row]) -> Side:
    columns = {}
    for declared in features.sources:
        where = "request" if declared.name in features.request else "stored"
        values = [json.loads(row[where].get(declared.name, "null")) for row in rows]
        if where == "stored":  # no store checks bounds, so the model read whatever stood there
            declared = dataclasses.replace(declared, minimum=None, maximum=None)
        columns[declared.name], _ = build_column(declared, values)
    matrix = [[row["features"].get(name, np.nan) for row in rows] for name in features.feature_names]
    canonical = np.array(matrix, dtype=np.float64)
    canonical[np.isnan(canonical)] = np.nan
    views = [view.name for view in features.views]
    return Side(
        columns=columns,
        matrix=canonical,
        score=np.array([np.nan if row["score"] is None else row["score"] for row in rows]),
        label=np.array([bool(row["label"]) for row in rows]),
        statuses={v: np.array([Status[row["statuses"][v]] for row in rows], dtype=np.int8) for v in views},
        event_ts={v: _times([row["event_ts"].get(v) for row in rows]) for v in views},
        error=np.array([row["error_code"] for row in rows], dtype=np.object_),
    )


def _times(times: Sequence[Any]) -> Any:
    exact = [NO_TIME if time is None else round(time.timestamp() * 1_000_000) for time in times]
    return np.array(exact, dtype=np.int64)
