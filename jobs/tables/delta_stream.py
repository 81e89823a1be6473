"""A Delta table as a streaming source of Spark's, through delta-rs: the rows that commits add, each once, with no Delta jars.

Which files they are, and in which order, is said by `delta_additions`.

Spark notes where a batch ends, and asks again where the first one begins: when it plans it, and after a restart. So whoever starts a
query asks `first_offset` once, keeps the answer with the query and gives it to every reader: the table goes on growing meanwhile.

Options: path; onescoreStart (the offset kept); maxFilesPerTrigger (1000); startingVersion (a version, or `latest`: no snapshot; see
`first_offset`); skipChangeCommits (false). Workers import this module to read files, so Delta is imported where the driver asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
from jobs.tables.delta_additions import DeltaFiles, Offset, option_of
from jobs.tables.files import filesystem_of
from jobs.tables.units import Unit, read_unit

__all__ = ["DELTA", "START", "DeltaStream", "DeltaStreamReader"]

DELTA = "onescore_delta"
START = "onescoreStart"
"""The option with the offset at which the query began, as JSON."""
_BATCH_ROWS = 10_000
_PLACES = 2
_VERSIONS = 100
"""After so many commits that add nothing the offset moves on all the same: the log's entries do not stay for ever."""


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
        kept = option_of(options, START)
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


def _truth(options: dict[str, str], name: str) -> bool:
    return (option_of(options, name) or "false").lower() == "true"


def _count(options: dict[str, str], name: str, default: int) -> int:
    text = option_of(options, name)
    if text is None:
        return default
    if not text.isdigit() or not int(text):
        raise ConfigurationError(f"stream.options.{name}: expected a whole number above 0, got {text!r}")
    return int(text)
