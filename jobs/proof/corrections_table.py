"""The Delta table of corrected scores: written once for a report, however often that is asked for; read by process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from jobs.proof.corrections import CORRECTIONS_SCHEMA, corrections_of
from jobs.tables.delta import add_columns, commit_files, ensure_table, open_table
from jobs.tables.delta_read import is_delta
from jobs.tables.sink import ParquetSink

__all__ = ["read_corrections", "write_corrections"]


def write_corrections(
    uri: str,
    differing: Iterable[pa.Table],
    *,
    report_id: str,
    model: str,
    version: str,
    digest: str,
    corrected_ts: int,
) -> int:
    """Append the corrections of a report's differing rows in one transaction; return how many there are.

    A report whose corrections are in the table already adds none.

    Args:
        uri: root of the table, created if there was none.
        differing: rows as a reconciliation writes them, a part at a time.
        report_id: names the report.
        model, version, digest: of the reference.
        corrected_ts: when, microseconds.
    """
    if is_delta(uri):  # an older version made it, before there were models of several classes
        add_columns(uri, CORRECTIONS_SCHEMA)
    ensure_table(uri, CORRECTIONS_SCHEMA, description="Corrected scores of logged predictions")
    app_id = f"corrections/{report_id}"
    if open_table(uri).transaction_version(app_id) is not None:
        return 0
    n = 0
    with ParquetSink(uri, CORRECTIONS_SCHEMA, "corrections") as sink:
        for part in differing:
            made = corrections_of(
                part, model=model, version=version, digest=digest, corrected_ts=corrected_ts
            )
            sink.append(made)
            n += made.num_rows
        written = sink.close()
    committed = commit_files(
        uri, [written] if written is not None else [], app_id=app_id, schema=CORRECTIONS_SCHEMA
    )
    return n if committed else 0


def read_corrections(uri: str, model: str, processes: Sequence[str] | None = None) -> pa.Table:
    """Return a model's corrections; of some processes of the log, or of all. Empty where there is no table."""
    if not is_delta(uri):
        return CORRECTIONS_SCHEMA.empty_table()
    wanted = pc.field("model") == model
    if processes is not None:
        wanted &= pc.field("process").isin(list(processes))
    dataset = open_table(uri).to_pyarrow_dataset()
    there = [name for name in CORRECTIONS_SCHEMA.names if name in dataset.schema.names]
    rows = dataset.to_table(columns=there, filter=wanted)
    for declared in CORRECTIONS_SCHEMA:
        if declared.name not in there:
            rows = rows.append_column(declared.name, pa.nulls(rows.num_rows, declared.type))
    return rows.select(CORRECTIONS_SCHEMA.names).cast(CORRECTIONS_SCHEMA)
