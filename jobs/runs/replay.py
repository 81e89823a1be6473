"""Quarantined rows as an input: the originals of a run's quarantined rows, restored with their types, to be scored again."""

from __future__ import annotations

import filecmp
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from feature_pipelines.errors import TableError, did_you_mean
from jobs.runs.conf import Conf
from jobs.runs.manifest import RunDirectory, runs_directory
from jobs.runs.row_json import rows_from_json
from jobs.tables.delta import open_table
from jobs.tables.pinned import Snapshot

__all__ = ["ROW_ID", "stage_replay"]

ROW_ID = "row_id"


def stage_replay(conf: Conf, run_id: str, directory: Path) -> Path:
    """Write the quarantined rows of a run to a Parquet file and return it; the rows keep their ids in the column `row_id`.

    Args:
        conf: says where runs and the quarantine table are.
        run_id: the run whose quarantined rows are wanted.
        directory: where the file is written; the same run gives the same file, which is then left as it is.

    Raises:
        TableError: there is no such run.
    """
    schema = _source_schema(runs_directory(conf.storage.runs), run_id)
    table = open_table(conf.table_location(conf.output.quarantine)).to_pyarrow_table(
        columns=[ROW_ID, "row"], filters=[("run_id", "=", run_id)]
    )
    table = table.sort_by(ROW_ID)
    rows = rows_from_json(table.column("row").to_pylist(), pa.schema([f for f in schema if f.name != ROW_ID]))
    restored = pa.Table.from_batches([rows]).append_column(ROW_ID, table.column(ROW_ID).cast(pa.string()))
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"replay-{run_id}.parquet"
    partial = directory / f".{target.name}.{os.getpid()}"
    pq.write_table(restored, partial)
    if target.exists() and filecmp.cmp(partial, target, shallow=False):
        partial.unlink()  # a run pins its input by file and time: written again, it would be another input
    else:
        os.replace(partial, target)
    return target


def _source_schema(runs: Path, run_id: str) -> pa.Schema:
    found = sorted(runs.glob(f"*/{run_id}/manifest"))
    if not found:
        known = [path.parent.name for path in runs.glob("*/*/manifest")]
        raise TableError(f"there is no run {run_id!r} in {runs}.{did_you_mean(run_id, known)}", run_id=run_id)
    return Snapshot.from_json(RunDirectory(found[0].parent).manifest()["input"]).schema
