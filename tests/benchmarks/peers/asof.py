"""The as-of look-up of the peers that are Python all the way: a small view in memory, one binary search per row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_SPAN = 2**50  # microseconds: 35 years between the earliest and the latest time of a view


class NewestVisible:
    """For each request the newest row of its key with event_ts and created_ts not after it, and not older than the ttl."""

    def __init__(self, path: str, key: str, ttl_us: int | None = None) -> None:
        table = pq.read_table(path)
        self.key, self.ttl_us = key, ttl_us
        self.keys = pc.unique(table[key])
        event, created = (table[name].cast(pa.int64()).to_numpy() for name in ("event_ts", "created_ts"))
        code = pc.index_in(table[key], self.keys).to_numpy().astype(np.int64)
        self.base = np.maximum(event, created).min()
        place = code * _SPAN + np.maximum(event, created) - self.base
        order = np.lexsort((created, event, place))
        self.place, self.event = place[order], event[order]
        self.fields = (
            table.drop_columns([key, "event_ts", "created_ts"]).take(pa.array(order)).combine_chunks()
        )

    def join(self, requests: pa.Table, as_of: str = "sched_dep_ts") -> pa.Table:
        time = requests[as_of].cast(pa.int64()).to_numpy()
        code = pc.index_in(requests[self.key], self.keys).fill_null(-1).to_numpy().astype(np.int64)
        row = (
            np.searchsorted(self.place, code * _SPAN + np.clip(time - self.base, -1, _SPAN - 1), side="right")
            - 1
        )
        found = (code >= 0) & (row >= 0) & (self.place[row] // _SPAN == code)
        if self.ttl_us is not None:
            found &= self.event[row] >= time - self.ttl_us
        fields = self.fields.take(pa.array(row, mask=~found))
        for name in fields.column_names:
            requests = requests.append_column(name, fields[name])
        return requests


def views(job: dict) -> list[NewestVisible]:
    """Return the views that a job's requests lack."""
    if job["workload"] == "A":
        return []
    return [
        NewestVisible(job["weather"], "origin", job["weather_ttl_us"]),
        NewestVisible(job["planes"], "tailnum"),
    ]
