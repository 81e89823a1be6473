"""The row ids that stand in the files of a table, read back from storage: what was written, not what was meant to be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.runs.ids import IdSum, id_sum
from jobs.tables.files import child_uri, filesystem_of
from jobs.tables.sink import WrittenFile

__all__ = ["ids_in_files", "read_ids"]


def ids_in_files(
    uri: str, files: Iterable[WrittenFile], hashes: list[NDArray[np.uint64]] | None = None
) -> IdSum:
    """Return the sum of the ids that stand in written files of a table, read back from storage; `hashes` as for `id_sum`."""
    return sum((id_sum(ids, hashes) for ids in read_ids(uri, files)), IdSum())


def read_ids(uri: str, files: Iterable[WrittenFile]) -> Iterator[pa.Array]:
    """Yield the row ids that stand in written files of a table, in batches."""
    for file in files:
        filesystem, path = filesystem_of(child_uri(uri, file.path))
        with filesystem.open_input_file(path) as opened:
            for batch in pq.ParquetFile(opened).iter_batches(columns=["row_id"]):
                yield batch.column(0)
