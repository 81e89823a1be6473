"""A stand-in for a Spark session that runs the frames of a reconciliation in this process: quick, and nothing of Spark is tested by it."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from udfs import shipped

__all__ = ["LocalSession", "local_session"]


class LocalSession:
    """Knows ranges and archives."""

    master = "local[1]"
    applicationId = "local"  # noqa: N815 - Spark's name

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sparkContext = self

    def addArchive(self, path: str) -> None:
        """Unpack an archive."""
        zipped, _, name = path.partition("#")
        with zipfile.ZipFile(zipped) as archive:
            archive.extractall(self.directory / name)

    def addPyFile(self, path: str) -> None:
        """This process has the code."""

    def range(self, start: int, end: int, step: int, partitions: int) -> LocalFrame:
        """Return the numbers, each a partition of its own."""
        numbers = range(start, end, step)
        return LocalFrame(lambda: [[pa.RecordBatch.from_pydict({"id": [number]})] for number in numbers])


class LocalFrame:
    """Partitions of batches, made when they are asked for."""

    def __init__(self, made: Callable[[], list[list[pa.RecordBatch]]], ddl: str = "") -> None:
        self._made, self._ddl = made, ddl

    def mapInArrow(self, task: Any, schema: str) -> LocalFrame:
        """Run a task over each partition; as it travels, by pickle."""
        travelled = pickle.loads(pickle.dumps(task))
        return LocalFrame(lambda: [list(travelled(iter(part))) for part in self._made()], schema)

    def join(self, other: LocalFrame, *, on: str, how: str) -> LocalFrame:
        """Join on one column, keeping what is on the left."""
        assert how == "left"
        return self._changed(lambda left: left.join(other.table(), on, join_type="left outer"))

    def hint(self, name: str) -> LocalFrame:
        """Join as ever."""
        return self

    def drop(self, name: str) -> LocalFrame:
        """Drop a column."""
        return self._changed(lambda table: table.drop_columns([name]))

    def repartition(self, n: int, name: str) -> LocalFrame:
        """Leave all rows in one partition."""
        return self

    def sortWithinPartitions(self, *names: str) -> LocalFrame:
        """Sort the one partition."""
        return self._changed(lambda table: table.sort_by([(name, "ascending") for name in names]))

    def collect(self) -> list[tuple[Any, ...]]:
        """Return the rows."""
        return [tuple(row.values()) for part in self._made() for batch in part for row in batch.to_pylist()]

    def table(self) -> pa.Table:
        """Return all rows as a table."""
        batches = [batch for part in self._made() for batch in part]
        return pa.Table.from_batches(batches) if batches else _empty(self._ddl)

    def _changed(self, change: Callable[[pa.Table], pa.Table]) -> LocalFrame:
        return LocalFrame(lambda: [change(self.table()).combine_chunks().to_batches(max_chunksize=100)])


_TYPES = {
    "string": pa.string(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "binary": pa.binary(),
}


def _empty(ddl: str) -> pa.Table:
    """Return no rows of a schema."""
    columns = (column.strip().rsplit(" ", 1) for column in ddl.split(","))
    return pa.schema([(name.strip("`"), _TYPES[type_]) for name, type_ in columns]).empty_table()


@contextmanager
def local_session(directory: Path) -> Iterator[LocalSession]:
    """Return a session whose archives lie below a directory, as the tasks' loader finds them."""
    session = LocalSession(directory)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shipped, "_located", lambda name: directory / name)
        yield session
