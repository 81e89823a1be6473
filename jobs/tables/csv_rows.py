"""Rows of a CSV file, parsed column by column, where a cell that cannot be read costs its row and no other.

Every line ends up in exactly one of two places: among the rows that were read, or among the rejected ones with the original
text, a reason, the field and a message. This module knows nothing of what the columns mean.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from feature_pipelines.errors import ContractError
from feature_pipelines.schema import Reason

__all__ = ["REJECTED_SCHEMA", "CsvRows"]

REJECTED_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("field", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("row_json", pa.string(), nullable=False),
    ]
)
_INTEGER = r"^-?[0-9]{1,18}$"
_NUMBER = r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_INSTANT = "%Y-%m-%dT%H:%M:%SZ"

_TEXT = pa.dictionary(pa.int32(), pa.string())
_Mask = NDArray[np.bool_]


class CsvRows:
    """The lines of one file, and which of them have been refused so far.

    Each parsing method returns a whole column (n rows, in file order; what stands in a refused row is arbitrary) and refuses
    the rows it cannot read; the first reason counts.

    Args:
        source: the file's name, for messages.
        stream: CSV with a header, UTF-8, comma-separated.
        columns: what the header must contain; other columns are kept in the original text only.
        missing: how a missing number is written. In text columns it is a value like any other.

    Raises:
        ContractError: the header lacks columns.
    """

    def __init__(
        self, source: str, stream: IO[bytes], columns: Sequence[str], *, missing: str = "NA"
    ) -> None:
        self.source = source
        self._missing = missing
        self._malformed: list[pacsv.InvalidRow] = []
        self._raw = self._read(stream, columns)
        self.n: int = self._raw.num_rows
        self.ok: _Mask = np.ones(self.n, np.bool_)
        self._refusals: list[tuple[NDArray[np.int64], str, str, str]] = []

    @property
    def n_lines(self) -> int:
        """All lines below the header, malformed ones included."""
        return self.n + len(self._malformed)

    def text(self, name: str) -> pa.Array:
        """Return a column as it is written; an empty cell is refused."""
        values = self._column(name).dictionary_decode()
        self.refuse(
            _mask(pc.equal(values, "")), Reason.NULL_NOT_ALLOWED, name, "expected a text, got nothing"
        )
        return values

    def integers(self, name: str, low: int, high: int) -> NDArray[np.int64]:
        """Return a column of integers from `low` to `high`; anything else is refused."""
        values, valid = self.nullable_integers(name, low, high)
        self.refuse(
            ~valid & self.ok, Reason.NULL_NOT_ALLOWED, name, "expected an integer, got a missing value"
        )
        return values

    def nullable_integers(self, name: str, low: int, high: int) -> tuple[NDArray[np.int64], _Mask]:
        """Return a column of integers from `low` to `high` and where it has a value; 0 stands where it has none."""
        parsed = self._numbers(name, _INTEGER, pa.int64(), "an integer")
        valid = _mask(pc.is_valid(parsed))
        values = parsed.fill_null(0).to_numpy(zero_copy_only=False)
        outside = valid & ((values < low) | (values > high))
        self.refuse(outside, Reason.OUT_OF_RANGE, name, f"expected {low} to {high}")
        return np.where(outside, 0, values), valid & ~outside

    def nullable_floats(self, name: str) -> pa.Array:
        """Return a column of float64, null where the number is missing."""
        values = self._numbers(name, _NUMBER, pa.float64(), "a number")
        infinite = _mask(pc.is_inf(values).fill_null(False))
        self.refuse(infinite, Reason.NOT_FINITE, name, "expected a number that float64 can hold")
        return values

    def clock_times(self, name: str) -> NDArray[np.int64]:
        """Return a column of times of day written HHMM (0 to 2400), as minutes."""
        minutes, valid = self.nullable_clock_times(name)
        self.refuse(
            ~valid & self.ok, Reason.NULL_NOT_ALLOWED, name, "expected a time HHMM, got a missing value"
        )
        return minutes

    def nullable_clock_times(self, name: str) -> tuple[NDArray[np.int64], _Mask]:
        """Return times of day written HHMM (0 to 2400) as minutes 0 to 1440, and where there is one."""
        written, valid = self.nullable_integers(name, 0, 2400)
        self.refuse(
            written % 100 > 59, Reason.BAD_TIMESTAMP, name, "expected a time HHMM with minutes up to 59"
        )
        return written // 100 * 60 + np.minimum(written % 100, 59), valid

    def instants(self, name: str, first_year: int, last_year: int) -> NDArray[np.int64]:
        """Return a column of instants written 2013-01-31T10:00:00Z, as microseconds since 1970-01-01T00:00Z."""
        column = self._column(name)
        written, row = column.dictionary, column.indices.to_numpy()
        parsed = pc.strptime(written, format=_INSTANT, unit="s", error_is_null=True)
        # strptime reads 31 February as 3 March; written again it is not the same.
        real = _mask(pc.equal(pc.strftime(parsed, format=_INSTANT), written).fill_null(False))
        self.refuse(~real[row], Reason.BAD_TIMESTAMP, name, "expected a time like 2013-01-31T10:00:00Z")
        years = pc.year(parsed).fill_null(0).to_numpy(zero_copy_only=False)
        inside = (years >= first_year) & (years <= last_year)
        self.refuse(
            ~inside[row], Reason.OUT_OF_RANGE, name, f"expected the years {first_year} to {last_year}"
        )
        seconds = parsed.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        return np.asarray(np.where(real & inside, seconds, 0)[row] * 1_000_000, np.int64)

    def refuse(self, rows: _Mask, code: str, field: str, message: str) -> None:
        """Refuse the rows of a mask that were not refused before."""
        fresh = np.flatnonzero(rows & self.ok)
        if len(fresh):
            self._refusals.append((fresh, str(code), field, message))
            self.ok[fresh] = False

    def accepted(self, schema: pa.Schema, columns: Sequence[pa.Array]) -> pa.Table:
        """Return the rows that were not refused as a table.

        Args:
            schema: of the table.
            columns: its columns, n rows each; cast to the schema's types.
        """
        keep = pa.array(self.ok)
        arrays = [
            pc.filter(column, keep).cast(field.type) for field, column in zip(schema, columns, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=schema)

    def rejected(self) -> pa.Table:
        """Return the refused rows and the malformed lines, in file order."""
        lines = self._line_numbers()
        records = []
        for rows, code, field, message in self._refusals:
            originals = self._raw.take(pa.array(rows)).to_pylist()
            for row, original in zip(rows.tolist(), originals, strict=True):
                records.append((int(lines[row]), code, field, message, original))
        for bad in self._malformed:
            message = f"expected {bad.expected_columns} cells, got {bad.actual_columns}"
            records.append((bad.number + 1, Reason.UNREADABLE_ROW.value, "", message, {"text": bad.text}))
        records.sort(key=lambda record: record[0])
        rejected = [
            dict(
                zip(
                    REJECTED_SCHEMA.names,
                    (self.source, *record[:4], json.dumps(record[4], ensure_ascii=False)),
                    strict=True,
                )
            )
            for record in records
        ]
        return pa.Table.from_pylist(rejected, REJECTED_SCHEMA)

    def _read(self, stream: IO[bytes], columns: Sequence[str]) -> pa.Table:
        def keep_malformed(row: pacsv.InvalidRow) -> str:
            self._malformed.append(row)
            return "skip"

        header = stream.readline().decode("utf-8-sig").strip().split(",")
        missing = [name for name in columns if name not in header]
        if missing:
            raise ContractError(
                f"{self.source}: the header lacks {', '.join(missing)}; it has {', '.join(header)}.",
                missing=missing,
            )
        body = stream.read()
        if not body.strip():
            return pa.table({name: pa.array([], _TEXT) for name in header})
        return pacsv.read_csv(
            io.BytesIO(body),
            read_options=pacsv.ReadOptions(use_threads=False, column_names=header),
            parse_options=pacsv.ParseOptions(invalid_row_handler=keep_malformed),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(header, _TEXT), strings_can_be_null=False
            ),
        )

    def _column(self, name: str) -> pa.DictionaryArray:
        """A column as indices into its distinct texts: each of those is parsed once."""
        column = self._raw.column(name).unify_dictionaries().combine_chunks()
        return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column

    def _numbers(self, name: str, pattern: str, type_: pa.DataType, what: str) -> pa.Array:
        column = self._column(name)
        readable = pc.match_substring_regex(column.dictionary, pattern)
        known = _mask(pc.or_(readable, pc.equal(column.dictionary, self._missing)))
        self.refuse(
            ~known[column.indices.to_numpy()], Reason.WRONG_TYPE, name, f"expected {what} or {self._missing}"
        )
        values = pc.if_else(readable, column.dictionary, pa.scalar(None, pa.string())).cast(type_)
        return values.take(column.indices)

    def _line_numbers(self) -> NDArray[np.int64]:
        """The line of each well-formed row; the header is line 1."""
        everything = np.arange(1, 1 + self.n_lines)
        return np.setdiff1d(everything, [bad.number for bad in self._malformed]) + 1


def _mask(values: pa.Array) -> _Mask:
    return np.asarray(values.to_numpy(zero_copy_only=False), np.bool_)
