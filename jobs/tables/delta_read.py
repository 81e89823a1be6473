"""Opening and reading Delta tables without the JVM's Delta reader.

What a Delta table is, is in its log; its rows are in Parquet files that anybody can read, unless deletion vectors or column
mapping change what they mean: such tables are refused. This module never writes.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from feature_pipelines.errors import TableError
from jobs.tables.files import child_uri, filesystem_of, is_local, normal_uri

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["is_delta", "open_table", "read_delta", "reason_of", "require_plain", "table_schema"]

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def is_delta(uri: str) -> bool:
    """Return whether a Delta table is at a place: a `_delta_log` with at least one commit.

    Raises:
        TableError: its store does not answer.
    """
    filesystem, log = filesystem_of(child_uri(uri, "_delta_log"))
    try:
        if filesystem.get_file_info(log).type != pafs.FileType.Directory:
            return False
        return bool(DeltaTable.is_deltatable(normal_uri(uri)))
    except (DeltaError, OSError) as exc:
        raise TableError(f"{uri}: the store does not answer ({reason_of(exc)}).", uri=uri) from exc


def open_table(uri: str, version: int | None = None) -> DeltaTable:
    """Return a Delta table as of a version; None means the newest.

    Raises:
        TableError: there is no such table or no longer such a version, or its store does not answer.
    """
    place = normal_uri(uri)
    try:
        return DeltaTable(place, version=version)
    except TableNotFoundError as exc:
        raise TableError(f"{uri}: no Delta table there.", uri=uri) from exc
    except (DeltaError, OSError) as exc:
        wanted = "" if version is None else f" at version {version}"
        raise TableError(f"{uri}: cannot open the Delta table{wanted} ({reason_of(exc)}).", uri=uri) from exc


def table_schema(table: DeltaTable) -> pa.Schema:
    """Return the schema of an open table, partition columns included, in Arrow's types (timestamps in microseconds)."""
    return pa.schema([column.remove_metadata() for column in pa.schema(table.schema().to_arrow())])


def read_delta(spark: SparkSession, uri: str, version: int | None = None) -> DataFrame:
    """Return a Delta table as a DataFrame through Spark's own Parquet reader; works through Spark Connect.

    Columns have the table's order and types; every column is nullable to Spark. An empty table gives no rows.

    Args:
        spark: classic or Connect session; its workers must reach the files.
        uri: root of the table.
        version: None means the newest.

    Raises:
        TableError: no such table or version, or rows are masked or renamed in ways that only Delta's reader knows.
    """
    from pyspark.sql.types import StructType

    table = open_table(uri, version)
    require_plain(table, uri)
    schema = StructType.fromJson(json.loads(table.schema().to_json()))
    base = f"file://{normal_uri(uri)}" if is_local(uri) else uri.rstrip("/")
    paths = [
        f"{base}/{unquote(path)}" for path in pa.table(table.get_add_actions()).column("path").to_pylist()
    ]
    if not paths:
        return spark.createDataFrame([], schema)
    return spark.read.schema(schema).option("basePath", base).parquet(*paths).select(*schema.names)


def require_plain(table: DeltaTable, uri: str) -> None:
    """Refuse a table whose Parquet files do not say by themselves which rows and columns it has.

    Raises:
        TableError: deletion vectors hide rows, or column mapping renames columns; the message has the command that ends it.
    """
    mode = table.metadata().configuration.get("delta.columnMapping.mode", "none")
    if mode != "none":
        raise TableError(
            f"{uri}: column mapping ({mode}) gives columns other names in the files. Write a plain copy where Delta's Spark "
            f"package is installed: spark.read.format('delta').load('{uri}').write.format('delta').save('{uri}_plain')",
            uri=uri,
        )
    if "deletionVectors" in (table.protocol().reader_features or []) and _has_deletion_vectors(table):
        raise TableError(
            f"{uri}: deletion vectors hide rows that are still in the files. Rewrite them where Delta's Spark package is "
            f"installed: REORG TABLE delta.`{uri}` APPLY (PURGE)",
            uri=uri,
        )


def _has_deletion_vectors(table: DeltaTable) -> bool:
    try:
        return any(batch.num_rows for batch in pa.RecordBatchReader.from_stream(table.deletion_vectors()))
    except DeltaError:  # there are some, and they cannot be read
        return True


def reason_of(error: Exception) -> str:
    """Return what an error of a storage library says, on one short line."""
    lines = (line.strip(" \t↳") for line in _COLOUR.sub("", str(error)).splitlines())
    return ": ".join(filter(None, lines))[:300] or type(error).__name__
