"""The as-of look-up of the peers that are Python all the way: a small view in memory, one binary search per row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_SPAN = 2**50  # microseconds: 35 years between the earliest and the latest time of a view


class NewestVisible:
    """For each request the newest row of its key with event_ts and created_ts not after it, and not older than the ttl."""

    def __init__(self, path: str, keys: dict[str, str], ttl_us: int | None = None) -> None:
        table = pq.read_table(path)
        self.asked, self.ttl_us = list(keys.values()), ttl_us
        self.keys = [pc.unique(table[key]) for key in keys]
        event, created = (table[name].cast(pa.int64()).to_numpy() for name in ("event_ts", "created_ts"))
        code, _ = self._codes(table, list(keys))
        self.codes = np.unique(code)  # so that a place fits 64 bits whatever the keys
        self.base = np.maximum(event, created).min()
        place = np.searchsorted(self.codes, code) * _SPAN + np.maximum(event, created) - self.base
        order = np.lexsort((created, event, place))
        self.place, self.event = place[order], event[order]
        self.fields = (
            table.drop_columns([*keys, "event_ts", "created_ts"]).take(pa.array(order)).combine_chunks()
        )

    def _codes(self, table: pa.Table, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        code, known = np.zeros(table.num_rows, np.int64), np.ones(table.num_rows, np.bool_)
        for name, values in zip(names, self.keys, strict=True):
            part = pc.index_in(table[name], values).fill_null(-1).to_numpy().astype(np.int64)
            known &= part >= 0
            code = code * len(values) + part
        return code, known

    def join(self, requests: pa.Table, as_of: str = "sched_dep_ts") -> pa.Table:
        time = requests[as_of].cast(pa.int64()).to_numpy()
        whole, known = self._codes(requests, self.asked)
        code = np.searchsorted(self.codes, whole)
        known &= self.codes[np.minimum(code, len(self.codes) - 1)] == whole
        row = (
            np.searchsorted(self.place, code * _SPAN + np.clip(time - self.base, -1, _SPAN - 1), side="right")
            - 1
        )
        found = known & (row >= 0) & (self.place[row] // _SPAN == code)
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
    return [NewestVisible(view["path"], view["keys"], view["ttl_us"]) for view in job["views"]]
