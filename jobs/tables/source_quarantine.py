"""The table of source rows that a view could not use: each once, however often they are found again.

A row is known by the view and by its content; equal rows are counted. What is to be added is decided on the snapshot that the
commit builds on, so runs at the same time do not double it. This module knows nothing of Spark.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from jobs.tables.delta import ParquetSink, WrittenFile, commit_when, ensure_table

__all__ = ["SOURCE_QUARANTINE_SCHEMA", "RefusedRow", "quarantine_rows"]

SOURCE_QUARANTINE_SCHEMA = pa.schema(
    [
        *(
            pa.field(name, pa.string(), nullable=False)
            for name in ("view", "code", "field", "message", "row", "row_digest", "source")
        ),
        pa.field("quarantined_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)


class RefusedRow(NamedTuple):
    """A source row that breaks a view's contract: why, and the row as JSON."""

    code: str
    field: str
    message: str
    row: str

    @property
    def digest(self) -> str:
        """What names the row's content."""
        return hashlib.sha256(self.row.encode("utf-8", "surrogatepass")).hexdigest()


def quarantine_rows(uri: str, view: str, source: str, rows: Sequence[RefusedRow], now: datetime) -> int:
    """Add the rows that the table does not hold for this view yet, in one transaction, and return how many those were.

    Args:
        uri: root of the table; created if there is none.
        view, source: whose rows they are.
        rows: all that were found.
        now: what `quarantined_at` says.
    """
    if not rows:
        return 0
    ensure_table(uri, SOURCE_QUARANTINE_SCHEMA)
    added = 0

    def decide(table: DeltaTable) -> list[WrittenFile] | None:
        nonlocal added
        held = table.to_pyarrow_dataset().to_table(columns=["row_digest"], filter=pc.field("view") == view)
        known = Counter(held.column("row_digest").to_pylist())
        fresh: list[RefusedRow] = []
        for row in rows:
            known[row.digest] -= 1
            if known[row.digest] < 0:
                fresh.append(row)
        added = len(fresh)
        return _write(uri, view, source, fresh, now) if fresh else None

    commit_when(uri, decide, schema=SOURCE_QUARANTINE_SCHEMA, what=f"the quarantine of view {view}")
    return added


def _write(uri: str, view: str, source: str, rows: list[RefusedRow], now: datetime) -> list[WrittenFile]:
    records = [
        {**row._asdict(), "view": view, "row_digest": row.digest, "source": source, "quarantined_at": now}
        for row in rows
    ]
    with ParquetSink(uri, SOURCE_QUARANTINE_SCHEMA, "quarantine") as sink:
        sink.append(pa.Table.from_pylist(records, SOURCE_QUARANTINE_SCHEMA))
        written = sink.close()
    return [written] if written else []
