"""A Delta table as a streaming source of Spark's, through delta-rs: the rows that commits add, each once, with no Delta jars.

A query begins with the table as it is then, file by file, and goes on with the files that later commits add. An offset is the next
file to read: {version, index, snapshot, table}; `index` counts the files of that version's commit, or, while `snapshot` is true, of the
whole table at that version; `table` is the table's own id (older offsets have none), so that another one made under its name is refused,
and not read on from the middle. Compaction and z-order add no rows and are passed over. A commit that takes rows out (DELETE, UPDATE,
MERGE, overwrite) cannot be read as added rows and is refused, unless `skipChangeCommits` says to pass it over as a whole.

Spark notes where a batch ends, and asks again where the first one begins: when it plans it, and after a restart. So whoever starts a
query asks `first_offset` once, keeps the answer with the query and gives it to every reader: the table goes on growing meanwhile.

Options: path; onescoreStart (the offset kept); maxFilesPerTrigger (1000); startingVersion (a version, or `latest`: no snapshot; see
`first_offset`); skipChangeCommits (false). Workers import this module to read files, so Delta is imported where the driver asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition
from pyspark.sql.streaming.datasource import (
    ReadAllAvailable,
    ReadLimit,
    ReadMaxFiles,
    SupportsTriggerAvailableNow,
)
from pyspark.sql.types import StructType

from feature_pipelines.errors import ConfigurationError, TableError
from jobs.tables.files import child_uri, filesystem_of
from jobs.tables.units import Unit, read_unit

if TYPE_CHECKING:
    from jobs.tables.pinned import InputFile

__all__ = ["DELTA", "START", "DeltaFiles", "DeltaStream", "DeltaStreamReader", "Offset", "first_offset"]

DELTA = "onescore_delta"
START = "onescoreStart"
"""The option with the offset at which the query began, as JSON."""
_BATCH_ROWS = 10_000
_PLACES = 2
_VERSIONS = 100
"""After so many commits that add nothing the offset moves on all the same: the log's entries do not stay for ever."""
Offset = dict[str, Any]


class DeltaFiles:
    """The files that a table's log adds, in the order in which a stream reads them.

    Args:
        uri: root of the table.
        skip_changes: pass over commits that take rows out, instead of refusing them.
    """

    def __init__(self, uri: str, *, skip_changes: bool = False) -> None:
        self.uri = uri
        self._skip_changes = skip_changes
        self._cache: dict[tuple[int, bool], list[InputFile]] = {}

    def newest(self) -> int:
        """Return the table's newest version."""
        return self.now()[0]

    def now(self) -> tuple[int, str]:
        """Return the table's newest version, and its id."""
        from jobs.tables.delta_read import open_table

        table = open_table(self.uri)
        return int(table.version()), str(table.metadata().id)

    def require_same(self, *offsets: Offset, start: Offset | None = None) -> tuple[int, str]:
        """Return what `now` does, having seen that offsets are of the table that is there now.

        Args:
            offsets: where a batch begins or ends.
            start: where the query began, which may be at a version that is still to come.

        Raises:
            TableError: it is another one, or has not come as far as they.
        """
        newest, table = self.now()
        known = next((o["table"] for o in offsets if o.get("table") not in (None, table)), None)
        if known is not None:
            raise TableError(
                f"{self.uri}: the stream is of the table with id {known}, and the table there now has id {table}: it was dropped and made "
                "anew. Restore the old one, or start a new query with a checkpoint of its own",
                expected=known,
                found=table,
            )
        furthest = max((o["version"] for o in offsets if o != start), default=0)
        if newest + 1 < furthest:
            raise TableError(
                f"{self.uri}: the stream goes on at version {furthest}, and the table's newest is {newest}: it was put back or made anew. "
                "Restore it, or start a new query with a checkpoint of its own",
                version=furthest,
            )
        return newest, table

    def of(self, version: int, snapshot: bool) -> list[InputFile]:
        """Return the files that a version's commit adds, or all that the table has at that version.

        Raises:
            TableError: the version is no longer there, it takes rows out, or it changes the schema.
        """
        key = (version, snapshot)
        if key not in self._cache:
            if len(self._cache) > 1_000:
                self._cache.clear()
            self._cache[key] = self._snapshot(version) if snapshot else self._added(version)
        return self._cache[key]

    def advance(self, start: Offset, newest: int, limit: int | None) -> tuple[Offset, list[InputFile]]:
        """Return the offset after the next `limit` files (None = all) up to a version, and these files."""
        version, index, snapshot = start["version"], start["index"], start["snapshot"]
        table = start.get("table")
        taken: list[InputFile] = []
        while version <= newest:
            files = self.of(version, snapshot)[index:]
            room = len(files) if limit is None else max(limit - len(taken), 0)
            taken += files[:room]
            if room < len(files):
                return _offset(version, index + room, snapshot, table), taken
            version, index, snapshot = version + 1, 0, False
        return _offset(version, index, snapshot, table), taken

    def between(self, start: Offset, end: Offset) -> list[InputFile]:
        """Return the files from one offset to another.

        Raises:
            TableError: the one is after the other, or they count the files of different lists: a batch of them would lose rows.
        """
        found: list[InputFile] = []
        version, index, snapshot = start["version"], start["index"], start["snapshot"]
        while version < end["version"]:
            found += self._from(version, index, snapshot)
            version, index, snapshot = version + 1, 0, False
        if (version, snapshot) != (end["version"], end["snapshot"]) or index > end["index"]:
            raise self._apart(start, end)
        if index == end["index"]:
            return found
        last = self._from(version, index, snapshot)
        if len(last) < end["index"] - index:
            raise self._apart(start, end)
        return found + last[: end["index"] - index]

    def _from(self, version: int, index: int, snapshot: bool) -> list[InputFile]:
        files = self.of(version, snapshot)
        if index > len(files):
            raise TableError(
                f"{self.uri}: the stream is at file {index} of version {version}, which has {len(files)}: it is another table than the "
                "one that the query began with. Restore it, or start a new query with a checkpoint and tables of its own",
                version=version,
            )
        return files[index:]

    def _apart(self, start: Offset, end: Offset) -> TableError:
        return TableError(
            f"{self.uri}: a batch from {_text(start)} to {_text(end)} is no stretch of the table's files, and reading it would lose rows: "
            "the checkpoint or the table was put back or changed by others. Restore both, or start a new query with a checkpoint and "
            "tables of its own",
            version=end["version"],
        )

    def _snapshot(self, version: int) -> list[InputFile]:
        from jobs.tables.snapshot import pin_snapshot

        # By name: the log lists a version's files in another order once it is compacted into a checkpoint.
        return sorted(pin_snapshot(self.uri, version=version).files, key=lambda file: file.uri)

    def _added(self, version: int) -> list[InputFile]:
        from jobs.tables.snapshot import logged_files

        actions = self._log(version)
        if any("metaData" in action for action in actions) and self._changes_columns(version):
            raise TableError(
                f"{self.uri}: version {version} changes the table's columns, and a stream's columns are fixed; start a "
                "new query with a checkpoint and tables of its own, or one that begins after it (stream.options.startingVersion) and, with "
                "--beside, adds to these",
                version=version,
            )
        removed = [
            a["remove"] for a in actions if a.get("remove", {}).get("dataChange", True) and "remove" in a
        ]
        if removed:
            if self._skip_changes:
                return []
            raise TableError(
                f"{self.uri}: version {version} takes rows out (DELETE, UPDATE, MERGE or overwrite), so what it adds is not new rows. "
                "stream.options.skipChangeCommits=true passes such commits over, rows that they add included",
                version=version,
            )
        return logged_files(
            self.uri, [a["add"] for a in actions if "add" in a and a["add"].get("dataChange", True)]
        )

    def _changes_columns(self, version: int) -> bool:
        from jobs.tables.delta_read import open_table, table_schema

        if not version:
            return False
        before, after = (table_schema(open_table(self.uri, v)) for v in (version - 1, version))
        return not before.equals(after)

    def _log(self, version: int) -> list[dict[str, Any]]:
        filesystem, path = filesystem_of(child_uri(self.uri, f"_delta_log/{version:020d}.json"))
        try:
            with filesystem.open_input_stream(path) as stream:
                return [json.loads(line) for line in stream.read().splitlines() if line.strip()]
        except OSError as exc:
            raise TableError(
                f"{self.uri}: the log's entry of version {version} is gone, so the stream cannot tell what it added; start a new query "
                "with a checkpoint and tables of its own",
                version=version,
            ) from exc


def first_offset(uri: str, options: Mapping[str, str]) -> Offset:
    """Return where a query that begins now begins; to be asked once, and kept.

    Args:
        uri: root of the table.
        options: of the source.

    Raises:
        ConfigurationError: startingVersion is neither a version nor `latest`. TableError: there is no such table.
    """
    starting = _option(options, "startingVersion")
    if starting is not None and starting != "latest":
        return _offset(_version(starting), 0, False, DeltaFiles(uri).now()[1])
    newest, table = DeltaFiles(uri).now()
    return _offset(newest, 0, True, table) if starting is None else _offset(newest + 1, 0, False, table)


@dataclass
class _File(InputPartition):
    """One file to read."""

    uri: str
    partition_values: dict[str, str | None]


class DeltaStreamReader(DataSourceStreamReader, SupportsTriggerAvailableNow):
    """Spark's side of the source; see the module.

    Args:
        options: of the source.
        schema: the table's columns, then file and ordinal.
    """

    def __init__(self, options: dict[str, str], schema: StructType) -> None:
        self._files = DeltaFiles(options["path"], skip_changes=_truth(options, "skipChangeCommits"))
        kept = _option(options, START)
        self._start: Offset | None = None if kept is None else json.loads(kept)
        self._limit = _count(options, "maxFilesPerTrigger", 1_000)
        self._schema = schema
        self._target: int | None = None
        self._found: Offset | None = None

    def initialOffset(self) -> Offset:  # noqa: N802 - Spark's name
        """Return where the query began, the same at each call.

        Raises:
            ConfigurationError: nobody kept it. TableError: see `DeltaFiles.require_same`.
        """
        if self._start is None:
            raise ConfigurationError(
                f"{self._files.uri}: it is not known at which version of the table the query began, and none of its batches is done; "
                "start a new query with a checkpoint of its own"
            )
        self._files.require_same(self._start, start=self._start)
        return self._start

    def getDefaultReadLimit(self) -> ReadLimit:  # noqa: N802 - Spark's name
        """Return how many files a batch has at most."""
        return ReadMaxFiles(self._limit)

    def prepareForTriggerAvailableNow(self) -> None:  # noqa: N802 - Spark's name
        """Note up to where this run reads."""
        self._target = self._files.newest()

    def latestOffset(self, start: Offset, limit: ReadLimit) -> Offset:  # noqa: N802 - Spark's name
        """Return where the next batch ends."""
        newest, table = self._files.require_same(start, start=self._start)
        newest = newest if self._target is None else self._target
        n = None if isinstance(limit, ReadAllAvailable) else int(getattr(limit, "max_files", self._limit))
        end, files = self._files.advance({**start, "table": table}, newest, n)
        is_far = end["version"] - start["version"] > _VERSIONS
        self._found = end if files or is_far else start
        return self._found

    def partitions(self, start: Offset, end: Offset) -> Sequence[InputPartition]:
        """Return the files of a batch."""
        if end != self._found:  # of a batch that is repeated
            self._files.require_same(start, end, start=self._start)
        return [_File(f.uri, dict(f.partition_values)) for f in self._files.between(start, end)]

    def read(self, partition: InputPartition) -> Iterator[pa.RecordBatch]:
        """Yield a file's rows, with the place of each; called on a worker."""
        from pyspark.sql.pandas.types import to_arrow_schema

        if not isinstance(partition, _File):
            raise TypeError(f"expected a file, got {type(partition).__name__}")
        try:
            yield from self._rows(partition, form=to_arrow_schema(self._schema, timezone="UTC"))
        except (OSError, pa.ArrowInvalid) as exc:
            said = " ".join(str(exc).split())
            raise TableError(
                f"{partition.uri}: the stream's next file cannot be read; it is gone (vacuumed) or damaged: {said}. Restore it, or start a "
                "new query with a checkpoint of its own",
                file=partition.uri,
            ) from exc

    def _rows(self, partition: _File, form: pa.Schema) -> Iterator[pa.RecordBatch]:
        columns = pa.schema(list(form)[:-_PLACES])
        unit = _unit(partition)
        ordinal = 0
        for batch in read_unit(unit, columns.names, batch_rows=_BATCH_ROWS, schema=columns) if unit else ():
            n = batch.num_rows
            arrays = [_plain(a, f.type) for a, f in zip(batch.columns, columns, strict=True)]
            arrays += [pa.array([partition.uri] * n, pa.string()), pa.array(np.arange(ordinal, ordinal + n))]
            ordinal += n
            yield pa.RecordBatch.from_arrays(arrays, schema=form)


class DeltaStream(DataSource):
    """The source as Spark registers it."""

    @classmethod
    def name(cls) -> str:
        """Return its format."""
        return DELTA

    def schema(self) -> StructType:
        """Say that whoever reads must give the schema.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(f"{DELTA}: read it with a schema")

    def streamReader(self, schema: StructType) -> DataSourceStreamReader:  # noqa: N802 - Spark's name
        """Return the reader."""
        return DeltaStreamReader(dict(self.options), schema)


def _unit(file: _File) -> Unit | None:
    filesystem, path = filesystem_of(file.uri)
    with filesystem.open_input_file(path) as opened:
        footer = pq.read_metadata(opened)
    if not footer.num_rows:
        return None
    return Unit(file.uri, tuple(range(footer.num_row_groups)), 0, footer.num_rows, file.partition_values)


def _plain(array: pa.Array, type_: pa.DataType) -> pa.Array:
    decoded = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
    return decoded if decoded.type == type_ else decoded.cast(type_)


def _offset(version: int, index: int, snapshot: bool, table: str | None) -> Offset:
    return {"version": version, "index": index, "snapshot": snapshot, "table": table}


def _text(offset: Offset) -> str:
    return f"file {offset['index']} of {'the table at ' if offset['snapshot'] else ''}version {offset['version']}"


def _option(options: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in options.items() if key.lower() == name.lower()), None)


def _truth(options: dict[str, str], name: str) -> bool:
    return (_option(options, name) or "false").lower() == "true"


def _count(options: dict[str, str], name: str, default: int) -> int:
    text = _option(options, name)
    if text is None:
        return default
    if not text.isdigit() or not int(text):
        raise ConfigurationError(f"stream.options.{name}: expected a whole number above 0, got {text!r}")
    return int(text)


def _version(text: str) -> int:
    if not text.isdigit():
        raise ConfigurationError(
            f"stream.options.startingVersion: expected a version or latest, got {text!r}"
        )
    return int(text)
