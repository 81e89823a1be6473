"""The prediction log's files: how one appears whole, how a process counts its rows, and which rows are in no file.

    <directory>/<model>/date=YYYY-MM-DD/part-<process>-<first>-<last>.parquet
    <directory>/<model>/.sequence-<process>    how many rows the process has numbered, and whether it ended in good order
    <directory>/<model>/.removed               which numbers of which process were removed on purpose, files and all
    <directory>/<model>/_platform-<id>.json    what the platform is that rows name by its id

It knows nothing of what a row holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = [
    "FILE_NAME",
    "SEQUENCE",
    "Gap",
    "Journal",
    "ended",
    "gaps",
    "read_platforms",
    "record_platform",
    "record_removed",
    "write_file",
]

SEQUENCE = ".sequence-"
_REMOVED = ".removed"
_PLATFORM = "_platform-"
FILE_NAME = re.compile(r"part-(?P<process>[0-9a-f-]+)-(?P<first>[0-9]{12})-(?P<last>[0-9]{12})\.parquet")
"""The name of a file of the log, with who wrote it and the first and last number in it."""


class Gap(NamedTuple):
    """Numbers first to last of a process that are in no file. `is_tail`: its last ones; if it still runs, they may yet be written."""

    process: str
    first: int
    last: int
    is_tail: bool


@dataclass
class Journal:
    """What this process has numbered for one model: rows 1 to `claimed`."""

    directory: Path
    process: str
    started_ts: int
    descriptor: int | None
    claimed: int = 0

    def claim(self, n: int) -> int:
        """Number n rows and return the first number; the count outlives this process."""
        first = self.claimed + 1
        self.claimed += n
        self._write(self.claimed, is_closed=False)
        return first

    def path(self, date: str, first: int, last: int) -> Path:
        """Return the file for rows first to last, served on a date."""
        return self.directory / f"date={date}" / f"part-{self.process}-{first:012d}-{last:012d}.parquet"

    def close(self) -> None:
        """Say that no number follows."""
        self._write(self.claimed, is_closed=True)
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def _write(self, claimed: int, *, is_closed: bool) -> None:
        if self.descriptor is not None:
            with contextlib.suppress(OSError):
                os.pwrite(self.descriptor, f"{claimed:012d} {int(is_closed)}\n".encode(), 0)


def write_file(path: Path, table: pa.Table) -> None:
    """Write a file so that it appears whole or not at all, also after a power cut; one of that name is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_whole(path, lambda file: pq.write_table(table, file))


def _write_whole(path: Path, write: Callable[[BinaryIO], object], suffix: str = "") -> None:
    hidden = path.with_name(f".{path.name}{suffix}.tmp")
    try:
        with hidden.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        hidden.rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            hidden.unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def gaps(directory: Path, names: Iterable[str] | None = None) -> list[Gap]:
    """Return which numbers are in no file of one model's log, by process: rows that were answered and lost, or not yet written.

    Numbers of files that retention removed are none of them.

    Args:
        directory: <log>/<model>.
        names: of the files it had when it was looked at; None = looks now. Numbers written since then are those of a tail.
    """
    if names is None:
        names = (path.name for path in directory.glob("date=*/part-*.parquet"))
    written = _ranges(names)
    for process, ranges in _removed(directory).items():
        written.setdefault(process, []).extend(ranges)
    claimed = {process: n for process, (n, _) in _claimed(directory).items()}
    found = []
    for process in sorted(written.keys() | claimed.keys()):
        ranges = sorted(written.get(process, []))
        end = max([claimed.get(process, 0), *(last for _, last in ranges)])
        expected = 1
        for first, last in [*ranges, (end + 1, end)]:
            if first > expected:
                found.append(Gap(process, expected, first - 1, first == end + 1))
            expected = max(expected, last + 1)
    return found


def ended(directory: Path) -> set[str]:
    """Return the processes that ended in good order, so that what of their numbers is in no file now never will be.

    Args:
        directory: <log>/<model>.
    """
    return {process for process, (_, is_closed) in _claimed(directory).items() if is_closed}


def record_removed(directory: Path, names: Iterable[str]) -> None:
    """Remember, before files are removed on purpose, which numbers they stand for; one process at a time may do so.

    Args:
        directory: <log>/<model>.
        names: of the files.
    """
    removed = _removed(directory)
    for process, ranges in _ranges(names).items():
        removed[process] = _joined([*removed.get(process, []), *ranges])
    text = json.dumps(removed, separators=(",", ":"))
    _write_whole(directory / _REMOVED, lambda file: file.write(text.encode()))


def record_platform(directory: Path, platform_id: str, described: Mapping[str, Any]) -> None:
    """Say once what platform an id names; any number of processes may do so at a time, for all would say the same.

    Args:
        directory: <log>/<model>.
        platform_id: as in the rows.
        described: see `describe_platform`.
    """
    path = directory / f"{_PLATFORM}{platform_id}.json"
    if not path.exists():
        text = json.dumps(described, sort_keys=True, indent=1)
        _write_whole(path, lambda file: file.write(text.encode()), f".{secrets.token_hex(4)}")


def read_platforms(directory: Path) -> dict[str, dict[str, Any]]:
    """Return by id the platforms that rows of a model's log were answered on; not those of logs that older versions wrote.

    Args:
        directory: <log>/<model>.
    """
    paths = sorted(directory.glob(f"{_PLATFORM}*.json"))
    return {path.stem.removeprefix(_PLATFORM): json.loads(path.read_text()) for path in paths}


def _claimed(directory: Path) -> dict[str, tuple[int, bool]]:
    """Return by process how many rows it has numbered, and whether it ended in good order."""
    found = {}
    for path in directory.glob(f"{SEQUENCE}*"):
        text = path.read_text().split()
        found[path.name.removeprefix(SEQUENCE)] = (int(text[0]) if text else 0, text[1:] == ["1"])
    return found


def _removed(directory: Path) -> dict[str, list[tuple[int, int]]]:
    try:
        text = (directory / _REMOVED).read_text()
    except FileNotFoundError:
        return {}
    return {
        process: [(first, last) for first, last in ranges] for process, ranges in json.loads(text).items()
    }


def _ranges(names: Iterable[str]) -> dict[str, list[tuple[int, int]]]:
    """Return the numbers that files stand for, by process."""
    found: dict[str, list[tuple[int, int]]] = {}
    for match in filter(None, map(FILE_NAME.fullmatch, names)):
        found.setdefault(match["process"], []).append((int(match["first"]), int(match["last"])))
    return found


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined
