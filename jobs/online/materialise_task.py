"""What a Spark task does for an online store: read its part of a view's table, keep the newest of each key, write them.

Nothing here is exactly-once, and nothing needs to be: the store keeps the newest row whoever writes it, so a task that is
repeated, or runs beside another, changes nothing. It runs on workers, so it needs neither Delta nor pydantic.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from feature_pipelines.stores.base import OnlineStore
from feature_pipelines.stores.opening import open_store
from feature_pipelines.views import FeatureView
from jobs.online.view_batch import ViewRows, concat_rows, newest, read_batch, stored, table_columns
from jobs.tables.units import Unit, read_unit

__all__ = ["MaterialiseTask", "PartResult", "Portion"]

_BUFFERED_ROWS = 100_000


@dataclass(frozen=True)
class Portion:
    """Units for one task, all of them with the same lower bound of visibility (None = from the beginning)."""

    units: tuple[Unit, ...]
    after_ts: int | None

    @property
    def rows(self) -> int:
        """Rows to read."""
        return sum(unit.rows for unit in self.units)


@dataclass(frozen=True)
class PartResult:
    """What became of one portion.

    Args:
        part: its number.
        read: good rows that became visible in the range.
        sent: of these, the newest of their keys within the portion.
        written: of these, those that changed the store.
        bad: rows that break the contract; reasons: per "CODE field" how often.
    """

    part: int
    read: int = 0
    sent: int = 0
    written: int = 0
    bad: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict, hash=False)

    def to_json(self) -> str:
        """Return one line for `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PartResult:
        """Return what `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class MaterialiseTask:
    """A function for `mapInArrow` over the numbers of portions; it travels to the workers by pickle.

    Args:
        view: the declaration.
        portions: by number.
        source_schema: the table's schema, serialised.
        through_ts: rows visible later are left out, microseconds.
        store_url: with its password; never logged.
        timeout_ms: of one step of writing.
        batch_rows: rows in memory at once.
    """

    view: FeatureView
    portions: tuple[Portion, ...]
    source_schema: bytes
    through_ts: int
    store_url: str = field(repr=False)
    timeout_ms: int
    batch_rows: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Materialise the portions whose numbers the batches hold; yield one line of JSON for each."""
        store = open_store(self.store_url, timeout_ms=self.timeout_ms)
        try:
            for batch in batches:
                for number in batch.column(0).to_pylist():
                    line = self.run(number, store).to_json()
                    yield pa.RecordBatch.from_arrays([pa.array([line], pa.string())], names=["result"])
        finally:
            store.close()

    def run(self, number: int, store: OnlineStore) -> PartResult:
        """Materialise one portion."""
        schema = pa.ipc.read_schema(pa.py_buffer(self.source_schema))
        columns = table_columns(self.view, schema.names)
        portion = self.portions[number]
        read = sent = written = bad = 0
        reasons: Counter[str] = Counter()
        held: list[ViewRows] = []
        for unit in portion.units:
            for batch in read_unit(unit, columns, batch_rows=self.batch_rows, schema=schema):
                rows, n_bad, why = read_batch(
                    self.view, batch, after_ts=portion.after_ts, through_ts=self.through_ts
                )
                read += len(rows)
                bad += n_bad
                reasons += why
                held.append(newest(rows))
                if sum(map(len, held)) > _BUFFERED_ROWS:
                    held = [newest(concat_rows(held))]
                    if len(held[0]) > _BUFFERED_ROWS // 2:
                        sent, written = _add(sent, written, self._write(store, held.pop()))
        if held:
            sent, written = _add(sent, written, self._write(store, newest(concat_rows(held))))
        return PartResult(number, read, sent, written, bad, dict(reasons))

    def _write(self, store: OnlineStore, rows: ViewRows) -> tuple[int, int]:
        if not len(rows):
            return 0, 0
        return len(rows), store.write(self.view, *stored(self.view, rows))


def _add(sent: int, written: int, more: tuple[int, int]) -> tuple[int, int]:
    return sent + more[0], written + more[1]
