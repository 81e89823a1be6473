"""CSV as rows in the wire form, exactly: a cell in quotes is a text, one with nothing in it at all is null.

So CSV can say both null and the empty text, which a reader that forgets the quotes cannot. Numbers are read from their own digits.
Uploads, submissions and streams read CSV here, so that one file has one meaning. This module needs the standard library alone; it
knows nothing of files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.reasons import Reason, RowError
from feature_pipelines.request_rows import fields_of_row
from jobs.online.protocol import Asked, refuse

__all__ = ["CsvLine", "CsvText", "cell_value", "kinds_of", "rows_of_csv"]

_CELL = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^,"\r\n]*))(,|\r\n|\n|\r|\Z)')
_LINE = re.compile(r"([^\r\n]*)(?:\r\n|\n|\r|\Z)")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"-?[0-9]+")
_TRUTH = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_BROKEN_QUOTE = "a quote stands where none may, or is never closed"
_TWICE = "the first line names a field twice"


@dataclass(frozen=True)
class CsvLine:
    """One line of a table, which quotes may spread over several of the file's.

    Args:
        cells: its values, None = nothing was there.
        text: as the file has it, without the end of the line; what is not UTF-8 in it is escaped by lone surrogates.
        problem: why it is no row, "" = it is one.
    """

    cells: Sequence[str | None]
    text: str
    problem: str


class CsvText:
    """A CSV file: its columns, and its lines one after the other; empty lines are none.

    A line that cannot be read costs itself and no other, unless its quotes are broken: then nobody can tell where rows begin, and each
    line from there on is no row.

    Args:
        content: UTF-8, comma-separated, as RFC 4180 has it; its first line names the columns.
    """

    def __init__(self, content: bytes) -> None:
        self._lines = _lines(content.decode("utf-8", "surrogateescape").removeprefix("\ufeff"))
        self._header = next(self._lines, None)
        cells = self._header.cells if self._header is not None else ()
        self.names: tuple[str, ...] = tuple(str(name or "") for name in cells)
        """The columns' names, () = there are none."""

    @property
    def problem(self) -> str:
        """Why no line of it can be a row, "" = they can."""
        if self._header is not None and self._header.problem:
            return self._header.problem
        if not any(self.names):
            return "the first line names no field"
        return _TWICE if len(set(self.names)) != len(self.names) else ""

    def __iter__(self) -> Iterator[CsvLine]:
        """Yield the lines below the first, each once."""
        n = len(self.names)
        for line in self._lines:
            fits = len(line.cells) == n or line.problem
            said = f"it has {len(line.cells)} values, and the header has {n}"
            yield line if fits else CsvLine((), line.text, said)


def rows_of_csv(content: bytes, feature_set: FeatureSet, *, max_rows: int) -> Asked:
    """Return the rows of a CSV file whose first line names the fields.

    A column that is there is taken to be sent, nulls included: one of a stored field overrides the look-up. A line of another length
    than the first costs its row and no other; empty lines are none.

    Args:
        content: UTF-8, comma-separated, as RFC 4180 has it.
        feature_set: declares the fields.
        max_rows: more are refused.

    Raises:
        ContractError: evidence `status` (400 or 413) and `code`: it is not CSV, names a column twice, or has too many rows.
    """
    try:
        content.decode()
    except UnicodeDecodeError:
        refuse(400, "MALFORMED_CSV", "the file is not UTF-8")
    table = CsvText(content)
    if table.problem:
        refuse(400, "DUPLICATE_FIELD" if table.problem == _TWICE else "MALFORMED_CSV", table.problem)
    kinds = kinds_of(table.names, feature_set)
    rows: list[Any] = []
    refused: list[RowError] = []
    for line in table:
        if line.problem == _BROKEN_QUOTE:
            refuse(400, "MALFORMED_CSV", line.problem)
        if len(rows) >= max_rows:
            refuse(413, "TOO_MANY_ROWS", f"more than {max_rows} rows")
        if line.problem:
            refused.append(RowError(len(rows), Reason.UNREADABLE_ROW, "", line.problem))
            rows.append(None)
            continue
        named = zip(table.names, line.cells, strict=True)
        rows.append({name: cell_value(kinds.get(name), cell) for name, cell in named})
    return Asked(rows, refused, False)


def kinds_of(names: Sequence[str], feature_set: FeatureSet) -> dict[str, str]:
    """Return the kind of the declared type of each column that has one, for `cell_value`."""
    declared = fields_of_row(feature_set)
    return {name: declared[name].dtype.kind for name in names if name in declared}


def cell_value(kind: str | None, text: str | None) -> Any:
    """Return a cell in the wire form; what it cannot be is left as text, for the contract to refuse.

    Args:
        kind: of the field's declared type, None = it is not declared.
        text: of the cell, None = nothing was there.
    """
    if text is None or kind is None:
        return text
    if kind in ("float64", "float32"):
        return float(text) if _NUMBER.fullmatch(text) else text
    if kind == "bool":
        return _TRUTH.get(text, text)
    if kind == "timestamp" and _INTEGER.fullmatch(text):
        return int(text) if len(text) < 20 else text
    return text


def _lines(text: str) -> Iterator[CsvLine]:
    at = begin = 0
    cells: list[str | None] = []
    while at < len(text) or cells:
        cell = _CELL.match(text, at)
        if cell is None:
            yield from _unread(text, begin)
            return
        quoted, plain, end = cell.groups()
        cells.append(quoted.replace('""', '"') if quoted is not None else (plain or None))
        at = cell.end()
        if end != ",":
            if cells != [None]:
                whole = text[begin : at - len(end)]
                yield CsvLine(cells, whole, "" if _is_unicode(whole) else "the row is not UTF-8")
            cells, begin = [], at


def _unread(text: str, at: int) -> Iterator[CsvLine]:
    """Yield the file's lines from where its quotes are broken."""
    while at < len(text):
        line = _LINE.match(text, at)
        if line is None:  # never: an empty line matches
            return
        if line[1]:
            yield CsvLine((), line[1], _BROKEN_QUOTE)
        at = line.end()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
