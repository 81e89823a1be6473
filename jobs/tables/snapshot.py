"""Pinning an input for a direct scan: tasks read Parquet row groups themselves, and no row passes through the JVM.

    pin_snapshot(source) -> Snapshot      driver, once; goes into the manifest
    plan_units(snapshot) -> [Unit]        driver; the units of work
    read_unit(unit)      -> batches       task

A source is a Delta table, Parquet files, or a table of a Spark catalog; which of these it is, is settled here. This module does
not know what the rows are for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from feature_pipelines.errors import TableError, did_you_mean
from jobs.tables.catalog import describe_table, is_table_name
from jobs.tables.delta_read import is_delta, open_table, require_plain, table_schema
from jobs.tables.files import child_uri, normal_uri
from jobs.tables.parquet_source import list_parquet, parquet_exists
from jobs.tables.pinned import InputFile, Snapshot, check_snapshot
from jobs.tables.units import Unit, plan_units, read_unit

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = [
    "CATALOG",
    "InputFile",
    "Snapshot",
    "Unit",
    "check_snapshot",
    "logged_files",
    "pin_snapshot",
    "plan_units",
    "read_unit",
]

CATALOG = "catalog:"


def pin_snapshot(
    source: str,
    *,
    version: int | None = None,
    partitions: Mapping[str, Any] | None = None,
    spark: SparkSession | None = None,
) -> Snapshot:
    """Return an input as it is now, or as a Delta table was at a version.

    Args:
        source: path or URI of a Delta table, of a Parquet file or of a directory of them, or a table of the catalog:
            `db.table`, or `catalog:db.table` where a directory has that name too (a directory wins otherwise).
        version: of a Delta table; None means the newest.
        partitions: only the files with these values of partition columns; None means null. No match gives no files.
        spark: needed for catalog tables only; classic or Connect.

    Raises:
        TableError: nothing found (lists what was tried), a format or a feature that cannot be read directly, an unknown
            partition column or version.
    """
    tried = []
    name = source.removeprefix(CATALOG)
    if not source.startswith(CATALOG):
        if is_delta(source):
            return _pin_delta(source, source, version, partitions)
        tried.append(f"a Delta table at {normal_uri(source)}")
        if parquet_exists(source):
            return _pin_parquet(source, source, None, version, partitions)
        tried.append(f"Parquet files at {normal_uri(source)}")
    if is_table_name(name):
        found = describe_table(spark, name) if spark is not None else None
        if found is not None:
            if found.provider == "delta":
                return _pin_delta(source, found.location, version, partitions)
            return _pin_parquet(source, found.location, found.schema, version, partitions)
        tried.append(
            f"table {name} of the catalog" + (" (no Spark session was given)" if spark is None else "")
        )
    raise TableError(
        f"{source}: no such input. Tried: {'; '.join(tried) or 'nothing'}.", source=source, tried=tried
    )


def _pin_delta(source: str, uri: str, version: int | None, partitions: Mapping[str, Any] | None) -> Snapshot:
    table = open_table(uri, version)
    require_plain(table, uri)
    schema = table_schema(table)
    columns = list(table.metadata().partition_columns)
    actions = pa.table(table.get_add_actions())
    values = [
        pc.cast(pc.struct_field(actions.column("partition"), name), pa.string()).to_pylist()
        for name in columns
    ]
    rows = zip(
        *(actions.column(name).to_pylist() for name in ("path", "size_bytes", "modification_time")),
        strict=True,
    )
    files = [
        InputFile(
            _absolute(uri, path), size, modified, {c: v[i] for c, v in zip(columns, values, strict=True)}
        )
        for i, (path, size, modified) in enumerate(rows)
    ]
    chosen = _in_partitions(source, files, schema, columns, partitions)
    return Snapshot(source, "delta", table.version(), chosen, schema)


def logged_files(uri: str, actions: Sequence[Mapping[str, Any]]) -> list[InputFile]:
    """Return the files that `add` actions of a Delta table's log name, in their order."""
    return [
        InputFile(
            _absolute(uri, add["path"]),
            add["size"],
            add["modificationTime"],
            dict(add.get("partitionValues") or {}),
        )
        for add in actions
    ]


def _absolute(uri: str, logged: str) -> str:
    """Where a file of a Delta table is; the log percent-encodes paths, and names a cloned table's files in full."""
    if "://" in logged or logged.startswith("file:"):
        return normal_uri(logged)
    return child_uri(uri, unquote(logged))


def _pin_parquet(
    source: str,
    uri: str,
    declared: pa.Schema | None,
    version: int | None,
    partitions: Mapping[str, Any] | None,
) -> Snapshot:
    if version is not None:
        raise TableError(
            f"{source}: Parquet files have no versions, but version {version} was asked for.", source=source
        )
    listing = list_parquet(uri, declared)
    columns = list(listing.files[0].partition_values) if listing.files else listing.schema.names
    chosen = _in_partitions(source, list(listing.files), listing.schema, columns, partitions)
    return Snapshot(source, "parquet", None, chosen, listing.schema)


def _in_partitions(
    source: str,
    files: list[InputFile],
    schema: pa.Schema,
    columns: list[str],
    wanted: Mapping[str, Any] | None,
) -> tuple[InputFile, ...]:
    """The files whose partition values equal the wanted ones as values of the declared type ("03" is 3 for an integer)."""
    keep = files
    for name, value in (wanted or {}).items():
        if name not in columns:
            raise TableError(
                f"{source}: {name!r} is not a partition column.{did_you_mean(name, columns)}", column=name
            )
        type_ = schema.field(name).type
        target = _typed(source, name, _text(value), type_)
        keep = [file for file in keep if _typed(source, name, file.partition_values[name], type_) == target]
    return tuple(keep)


def _typed(source: str, name: str, text: str | None, type_: pa.DataType) -> Any:
    try:
        return pa.scalar(text, pa.string()).cast(type_).as_py()
    except pa.ArrowInvalid as exc:
        raise TableError(
            f"{source}: partition column {name!r} is {type_}, and a value given for it is not.", column=name
        ) from exc


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return (
        value.isoformat(sep=" ")
        if isinstance(value, datetime)
        else value.isoformat()
        if isinstance(value, date)
        else str(value)
    )
