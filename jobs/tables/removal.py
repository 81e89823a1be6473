"""Taking rows out of a Delta table for good: out of its newest version now, and out of its old files when vacuum is run.

Which rows, a mask over some columns says. The files that hold them are written again without them and swapped in one transaction.
This module does not know why rows must go.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from numpy.typing import NDArray

from feature_pipelines.errors import TableError
from jobs.tables.delta import ParquetSink, WrittenFile, delete_orphans, open_table, swap_files, table_schema
from jobs.tables.delta_read import require_plain
from jobs.tables.files import child_uri, filesystem_of, list_files, normal_uri

__all__ = ["Owed", "RowTest", "count_rows", "owed", "remove_rows", "vacuum_command"]

_PREFIX = "without-"
_RETENTION = "delta.deletedFileRetentionDuration"
_DEFAULT_RETENTION = "interval 1 week"
_LEFT_OVER = timedelta(days=1)


@dataclass(frozen=True)
class RowTest:
    """Which rows: a mask over a batch of some columns."""

    columns: tuple[str, ...]
    mask: Callable[[pa.RecordBatch], NDArray[np.bool_]]


@dataclass(frozen=True)
class Owed:
    """What vacuum has not removed yet.

    Args:
        files, bytes: on disk, in no newest version, and holding such rows.
        unreadable: further files in no newest version that cannot be read (perhaps being written now).
        retention: how long Delta keeps them.
    """

    files: int
    bytes: int
    unreadable: int
    retention: str


def count_rows(uri: str, test: RowTest) -> int:
    """Return how many rows of a table's newest version are such rows."""
    return sum(_count(uri, unquote(path), test) for path in _paths(_opened(uri)))


def remove_rows(uri: str, test: RowTest, now: datetime) -> int:
    """Take such rows out of a table, in one transaction, beside other writers; return how many. None found, nothing committed.

    Args:
        uri: root of the table.
        test: which rows.
        now: an aware time: from then on vacuum counts; older files that a dead attempt of this left are deleted.

    Raises:
        TableError: no such table, a partitioned one or one with deletion vectors, or too many lost races.
    """
    removed = 0
    waiting: list[WrittenFile] = []

    def decide(table: DeltaTable) -> dict[str, WrittenFile | None]:
        nonlocal removed
        while waiting:  # of an attempt that lost its race
            filesystem, path = filesystem_of(child_uri(uri, waiting.pop().path))
            with contextlib.suppress(FileNotFoundError):
                filesystem.delete_file(path)
        removed, swapped = 0, {}
        for path in _paths(table):
            if n := _count(uri, unquote(path), test):
                removed += n
                swapped[path] = _rewritten(uri, unquote(path), test, table)
        waiting.extend(file for file in swapped.values() if file is not None)
        return swapped

    _opened(uri)
    delete_orphans(uri, _PREFIX, modified_before=now - _LEFT_OVER)
    swap_files(uri, decide, what="taking out rows", deleted_at_ms=int(now.timestamp() * 1000))
    return removed


def owed(uri: str, test: RowTest) -> Owed:
    """Return which files outside a table's newest version still hold such rows."""
    table = _opened(uri)
    _, root = filesystem_of(uri)
    current = {unquote(path) for path in _paths(table)}
    files = size = unreadable = 0
    for info in list_files(uri):
        path = info.path[len(root) + 1 :]
        if path.startswith("_delta_log/") or not path.endswith(".parquet") or path in current:
            continue
        try:
            n = _count(uri, path, test)
        except FileNotFoundError:  # somebody vacuums
            continue
        except (OSError, pa.ArrowException):
            unreadable += 1
            continue
        files, size = files + bool(n), size + (info.size if n else 0)
    retention = table.metadata().configuration.get(_RETENTION) or _DEFAULT_RETENTION
    return Owed(files, size, unreadable, retention)


def vacuum_command(uri: str) -> str:
    """Return what removes, when the retention has passed, the files that a table's newest version does not need."""
    call = f"DeltaTable({normal_uri(uri)!r}).vacuum(full=True, dry_run=False)"
    return f'python -c "from deltalake import DeltaTable; {call}"'


def _opened(uri: str) -> DeltaTable:
    table = open_table(uri)
    require_plain(table, uri)
    columns = table.metadata().partition_columns
    if columns:
        raise TableError(
            f"{uri}: the table is partitioned by {', '.join(columns)}, and rows are taken out of unpartitioned tables only; "
            "where Delta's Spark package is installed, SQL deletes them",
            uri=uri,
        )
    return table


def _paths(table: DeltaTable) -> list[str]:
    """Return a version's files as the log names them; a name that may be spelled in two ways cannot be taken out safely."""
    paths: list[str] = pa.table(table.get_add_actions()).column("path").to_pylist()
    foreign = [path for path in paths if "://" in path or path.startswith("/") or unquote(path) != path]
    if foreign:
        raise TableError(
            f"{table.table_uri}: {len(foreign)} files lie elsewhere or have escaped names, such as {foreign[0]}; write the table "
            "again, then repeat this",
            paths=foreign[:5],
        )
    return paths


def _dataset(uri: str, path: str, schema: pa.Schema | None = None) -> ds.Dataset:
    filesystem, full_path = filesystem_of(child_uri(uri, path))
    return ds.dataset(full_path, schema=schema, filesystem=filesystem, format="parquet")


def _count(uri: str, path: str, test: RowTest) -> int:
    dataset = _dataset(uri, path)
    if not set(test.columns) <= set(dataset.schema.names):
        return 0
    return sum(int(test.mask(batch).sum()) for batch in dataset.to_batches(columns=list(test.columns)))


def _rewritten(uri: str, path: str, test: RowTest, table: DeltaTable) -> WrittenFile | None:
    """Write a file's other rows to a new one, and return it; None if there are none."""
    schema = table_schema(table)
    with ParquetSink(uri, schema, f"{_PREFIX}{table.version()}") as sink:
        for batch in _dataset(uri, path, schema).to_batches(columns=schema.names):
            sink.append(batch.filter(pa.array(~test.mask(batch.select(list(test.columns))))))
        return sink.close()
