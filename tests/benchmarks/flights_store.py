"""The flights' stored views in an online store as they were at one moment, and real requests of the hours after it.

Both benchmarks of serving and of the stores read it: every look-up finds what a server would have found at that moment, neither
the end of the data (all expired) nor its future (refused).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_pipelines.features.flights import FEATURES
from feature_pipelines.request_rows import AS_OF_TS
from feature_pipelines.stores.opening import open_store
from feature_pipelines.views import FeatureView
from jobs.online.materialise import materialise, plan_view
from jobs.runs.conf import Conf
from tests.benchmarks.workload import QUICK_ROWS

NOW = 1_387_130_400_000_000
"""2013-12-15T18:00:00Z, an afternoon at the airports."""
_HOURS = 6


def fill(spark: Any, conf: Conf, url: str) -> None:
    """Materialise all views through NOW."""
    for view in FEATURES.views:
        fill_view(spark, conf, url, view, NOW)


def fill_view(spark: Any, conf: Conf, url: str, view: FeatureView, through_ts: int) -> float:
    """Materialise one view and return the seconds that it took, opening the store included."""
    store = open_store(url, timeout_ms=conf.store.write_timeout_ms)
    begin = time.perf_counter()
    planned = plan_view(conf, view, through_ts, store.register(view), spark)
    materialise(spark, conf, url, store, planned)
    store.close()
    return time.perf_counter() - begin


def requests_of(home: Path, n: int) -> list[dict[str, Any]]:
    """Return n requests in the wire form, drawn from those of the hours after NOW that have a plane; asked at NOW.

    Raises:
        ValueError: there are fewer.
    """
    names = [field.name for field in FEATURES.request]
    files = sorted((home / f"requests_b-{QUICK_ROWS}").glob("*.parquet"))
    rows = pa.concat_tables([pq.read_table(file, columns=names) for file in files]).drop_null()
    for i, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type):
            rows = rows.set_column(i, field.name, rows[field.name].cast(pa.int64()))
    leaves = rows["sched_dep_ts"]
    end = NOW + _HOURS * 3_600_000_000
    rows = rows.filter(pc.and_(pc.greater_equal(leaves, NOW), pc.less(leaves, end)))
    if rows.num_rows < n:
        raise ValueError(f"{rows.num_rows} requests leave within {_HOURS} hours of NOW, {n} are wanted")
    drawn = rows.take(pa.array(np.random.default_rng(1).permutation(rows.num_rows)[:n]))
    return [row | {AS_OF_TS: NOW} for row in drawn.to_pylist()]
