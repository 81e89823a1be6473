"""Plain Parquet as an input: one file, or a directory of files with hive partition directories (`month=3/part-0.parquet`).

A directory declares nothing, so nothing is guessed: a partition column is a string, and the files must agree on every type they
share. Directories that only look like plain Parquet (a part of a Delta table, an Iceberg or Hudi table) are refused, because
they also hold rows that are no longer in the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from feature_pipelines.errors import TableError
from jobs.tables.files import child_uri, filesystem_of, list_files, normal_uri
from jobs.tables.pinned import InputFile

__all__ = ["FOOTER_THREADS", "ParquetListing", "list_parquet", "open_parquet", "parquet_exists"]

FOOTER_THREADS = 16
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_FOREIGN = {"Hudi": r"^\.hoodie/", "Iceberg": r"^metadata/[^/]*\.metadata\.json$"}
_UTC = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class ParquetListing:
    """What a path of Parquet files holds: the files, and the schema that they agree on."""

    files: tuple[InputFile, ...]
    schema: pa.Schema


def parquet_exists(uri: str) -> bool:
    """Return whether there is a file or a directory with files."""
    filesystem, path = filesystem_of(uri)
    return bool(filesystem.get_file_info(path).is_file) or bool(list_files(uri))


def open_parquet(uri: str, **options: object) -> pq.ParquetFile:
    """Return an open Parquet file; its footer has been read.

    Args:
        uri: the file.
        **options: of `pyarrow.parquet.ParquetFile`.

    Raises:
        TableError: it is missing or no Parquet file.
    """
    filesystem, path = filesystem_of(uri)
    try:
        return pq.ParquetFile(path, filesystem=filesystem, coerce_int96_timestamp_unit="us", **options)
    except FileNotFoundError as exc:
        raise TableError(
            f"{uri}: missing; it was deleted or vacuumed after the input was pinned.", uri=uri
        ) from exc
    except (pa.ArrowInvalid, OSError) as exc:
        raise TableError(
            f"{uri}: not a readable Parquet file ({str(exc).splitlines()[0][:200]}).", uri=uri
        ) from exc


def list_parquet(uri: str, declared: pa.Schema | None = None) -> ParquetListing:
    """Return the files of a path and their schema.

    Args:
        uri: a Parquet file, or a directory; names that begin with "_" or "." are not data.
        declared: the schema that a catalog knows; then no footer is read.

    Raises:
        TableError: part of a table of another format, files that disagree on a type or on the partition columns, or no
            file and no declared schema.
    """
    base = normal_uri(uri)
    _refuse_part_of_delta(base)
    filesystem, path = filesystem_of(base)
    info = filesystem.get_file_info(path)
    if info.is_file:
        files = [InputFile(base, info.size, _modified(info))]
    else:
        listed = _relative(base)
        _refuse_other_formats(base, [relative for _, relative in listed])
        files = [
            InputFile(child_uri(base, relative), found.size, _modified(found), _partition_values(relative))
            for found, relative in listed
            if _is_data(relative)
        ]
    if declared is not None:
        return ParquetListing(tuple(files), declared)
    if not files:
        raise TableError(
            f"{uri}: no Parquet files there, so nothing says what columns the input has.", uri=uri
        )
    return ParquetListing(tuple(files), _schema_of(files, _partition_columns(files)))


def _relative(base: str) -> list[tuple[pafs.FileInfo, str]]:
    """All files below a directory, each with its path from there."""
    _, root = filesystem_of(base)
    return [(info, info.path[len(root) + 1 :]) for info in list_files(base)]


def _is_data(relative: str) -> bool:
    parts = relative.split("/")
    return not any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in parts)


def _modified(info: pafs.FileInfo) -> int:
    return 0 if info.mtime_ns is None else int(info.mtime_ns // 1_000_000)


def _partition_values(relative: str) -> dict[str, str | None]:
    parts = (part.partition("=") for part in relative.split("/")[:-1])
    return {unquote(k): None if v == _HIVE_NULL else unquote(v) for k, equals, v in parts if equals and k}


def _partition_columns(files: Iterable[InputFile]) -> list[str]:
    by_columns = {tuple(file.partition_values): file.uri for file in files}
    if len(by_columns) > 1:
        examples = "; ".join(
            f"{uri} has {list(names) or 'none'}" for names, uri in sorted(by_columns.items())[:5]
        )
        raise TableError(f"the files do not agree on the partition columns: {examples}.")
    return list(next(iter(by_columns)))


def _refuse_part_of_delta(base: str) -> None:
    above = base
    while above.rpartition("/")[0].rstrip("/:") not in ("", above.partition(":")[0]):
        above = above.rpartition("/")[0]
        filesystem, path = filesystem_of(child_uri(above, "_delta_log"))
        if filesystem.get_file_info(path).type == pafs.FileType.Directory:
            raise TableError(
                f"{base}: part of the Delta table {above}. Name the table, with partitions to choose a part of it; the "
                f"bare files include rows that the table no longer has.",
                uri=base,
            )


def _refuse_other_formats(base: str, relative_paths: Iterable[str]) -> None:
    for path in relative_paths:
        found = [name for name, marker in _FOREIGN.items() if re.match(marker, path)]
        if found:
            raise TableError(
                f"{base}: a table of format {found[0]}. Its bare files include rows that the table no longer has; export it "
                f"as Delta or Parquet first.",
                uri=base,
            )


def _schema_of(files: list[InputFile], partition_columns: list[str]) -> pa.Schema:
    """The union of the files' columns in order of first appearance; a column that some lack is nullable."""
    with ThreadPoolExecutor(FOOTER_THREADS) as threads:
        schemas = list(threads.map(lambda file: _plain_schema(file.uri), files))
    fields: dict[str, pa.Field] = {}
    origin: dict[str, str] = {}
    problems = []
    for file, schema in zip(files, schemas, strict=True):
        for column in schema:
            known = fields.get(column.name)
            if known is None or pa.types.is_null(known.type):
                fields[column.name], origin[column.name] = column, file.uri
            elif column.type != known.type and not pa.types.is_null(column.type):
                problems.append(
                    f"{column.name} is {known.type} in {origin[column.name]} and {column.type} in {file.uri}"
                )
    if problems:
        raise TableError(
            f"{len(problems)} disagreement(s) on the type of a column: {'; '.join(problems[:5])}.",
            problems=problems[:5],
        )
    optional = {
        name
        for name in fields
        if any(name not in schema.names or schema.field(name).nullable for schema in schemas)
    }
    columns = [
        fields[name].with_nullable(name in optional) for name in fields if name not in partition_columns
    ]
    return pa.schema([*columns, *(pa.field(name, pa.string()) for name in partition_columns)])


def _plain_schema(uri: str) -> pa.Schema:
    with open_parquet(uri) as parquet:
        physical = {
            parquet.schema.column(i).path: parquet.schema.column(i).physical_type
            for i in range(len(parquet.schema))
        }
        return pa.schema(
            [
                f.with_type(
                    _UTC if physical.get(f.name) == "INT96" else _plain_type(f.type)
                ).remove_metadata()
                for f in parquet.schema_arrow
            ]
        )


def _plain_type(type_: pa.DataType) -> pa.DataType:
    """What a writer's choice of encoding stands for: L5 wants the type to say what a value is, not how it was kept."""
    if pa.types.is_dictionary(type_):
        return _plain_type(type_.value_type)
    if pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_):
        return pa.binary()
    return type_
