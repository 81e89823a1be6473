"""A request table of any size from the real requests: for load tests, and labelled so that nobody takes it for data.

Row i is the real request i while there are any, then a copy of a real request chosen by a hash of (seed, i): the same rows
come out whatever the number of tasks, machines or attempts. Fewer rows than there are real ones are a subset chosen by the
same hash. This module knows the columns `flight_id` and `is_resampled` and nothing else of what a request is.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import jobs
from feature_pipelines.errors import TableError, VerificationError
from jobs.tables.delta import WrittenFile, ensure_table, recorded_digest, replace_files
from jobs.tables.resample_task import FILE_ROWS, PREFIX, ResampleTask, read_all, resampled_rows
from jobs.tables.snapshot import Snapshot, pin_snapshot

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["FILE_ROWS", "PREFIX", "holds_scaled", "read_all", "resampled_rows", "write_scaled"]

RULES = 1


def holds_scaled(source_uri: str, target_uri: str, *, rows: int, seed: int = 0) -> bool:
    """Return whether a table holds already what `write_scaled` would write; needs no Spark."""
    return recorded_digest(target_uri) == _digest(pin_snapshot(source_uri), rows, seed)


def write_scaled(spark: SparkSession, source_uri: str, target_uri: str, *, rows: int, seed: int = 0) -> bool:
    """Make a table hold `rows` requests, written by Spark tasks and committed once.

    Args:
        spark: classic or Connect; its workers reach both tables, and get this code if they do not have it.
        source_uri: the real requests.
        target_uri: created if there is none; what it held is replaced.
        rows: at least 1.
        seed: of the choice.

    Returns:
        True if it was written, False if the table held exactly this already.

    Raises:
        TableError: no source, or an empty one, or another schema in the target.
        VerificationError: the tasks did not write as many rows as were asked for.
    """
    from udfs.shipped import ship_code  # here, because what a table holds is told without Spark

    source = pin_snapshot(source_uri)
    digest = _digest(source, rows, seed)
    if recorded_digest(target_uri) == digest:
        return False
    if not source.files:
        raise TableError(f"{source_uri}: no requests to resample from.", uri=source_uri)
    description = (
        "For load tests, not data: the real requests first, then copies of them under new ids (is_resampled)."
    )
    ensure_table(
        target_uri, source.schema, description=description, properties={"onescore.resampled": "true"}
    )
    ship_code(spark, (jobs,))
    n_files = -(-rows // FILE_ROWS)
    task = ResampleTask(source.to_json(), target_uri, rows, seed)
    tasks = spark.range(0, n_files, 1, n_files).mapInArrow(task, "file string")
    files = [WrittenFile.from_json(row["file"]) for row in tasks.collect()]
    written = sum(file.rows for file in files)
    if written != rows:
        raise VerificationError(f"{target_uri}: expected {rows} rows from the tasks, got {written}.")
    facts = {"onescore_resampled_from": source.label, "onescore_rows": rows, "onescore_seed": seed}
    return replace_files(target_uri, files, digest=digest, schema=source.schema, metadata=facts)


def _digest(source: Snapshot, rows: int, seed: int) -> str:
    """The identity of a scaled table's content: its source's snapshot, size, seed and these rules."""
    return hashlib.sha256(f"{RULES} {FILE_ROWS} {rows} {seed} {source.digest()}".encode()).hexdigest()
