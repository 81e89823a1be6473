"""Whole CSV files, as Spark hands them over, as rows of text: by the project's own reader, so that a stream reads what an upload reads.

A task holds a file as a whole: it must fit into an executor's memory, and into the 2 GiB of a value of Spark's. This module does not
know the types of cells; see `wire_rows`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice

import pyarrow as pa

from feature_pipelines.errors import did_you_mean
from feature_pipelines.reasons import Reason
from jobs.online.csv_text import CsvLine, CsvText
from jobs.runs.stream_task import FILE, ORDINAL, PROBLEM, REFUSED, VALUE

__all__ = ["CsvFiles"]

_BATCH_ROWS = 10_000


class CsvFiles:
    """A function for `mapInArrow`: files into the rows below their first lines, in order, whatever the order of their columns.

    A column that a file lacks is null in each of its rows, as a field is that a JSON row does not bring; a row of a file with a column
    that is not declared is refused, as a JSON row with such a field is.

    Args:
        names: of the declared columns.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of files.

        Args:
            batches: columns VALUE (bytes, a file's content) and FILE.
        """
        for files in batches:
            for content, name in zip(files.column(VALUE), files.column(FILE), strict=True):
                table = CsvText(content.as_py())
                lines = enumerate(table)
                while chunk := list(islice(lines, _BATCH_ROWS)):
                    yield self._batch(table, chunk, name.as_py())

    def _batch(self, table: CsvText, chunk: Sequence[tuple[int, CsvLine]], file: str) -> pa.RecordBatch:
        lines = [line for _, line in chunk]
        problems = [self._problem(table, line) for line in lines]
        places = {name: position for position, name in enumerate(table.names)}
        is_table = not table.problem
        arrays = []
        for name in self._names:
            at = places.get(name) if is_table else None
            cells = [None if at is None or line.problem else line.cells[at] for line in lines]
            arrays.append(pa.array(cells, pa.string()))
        texts = [
            line.text.encode("utf-8", "surrogateescape") if problem else None
            for line, problem in zip(lines, problems, strict=True)
        ]
        return pa.RecordBatch.from_arrays(
            [
                *arrays,
                pa.array(texts, pa.binary()).view(pa.string()),  # of what is not UTF-8 the bytes are kept
                pa.array(problems, pa.string()),
                pa.array([file] * len(lines), pa.string()),
                pa.array([number for number, _ in chunk], pa.int64()),
            ],
            names=[*self._names, REFUSED, PROBLEM, FILE, ORDINAL],
        )

    def _problem(self, table: CsvText, line: CsvLine) -> str | None:
        """Return why a line is refused, as the code, field and message of its error in JSON; None where it is not."""
        said = table.problem or line.problem
        if said:
            return json.dumps([Reason.UNREADABLE_ROW, "", said])
        unknown = next((name for name in table.names if name not in self._names), None)
        if unknown is None:
            return None
        return json.dumps(
            [Reason.UNKNOWN_FIELD, unknown, f"unknown field.{did_you_mean(unknown, self._names)}"]
        )
