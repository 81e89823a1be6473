"""Reads a prediction log as it grows, and gives the board each file's rows once.

Files appear whole and never change, so one that is no log is given up at once; one that the disk does not give is tried again later.
After a start the newest are read first, so the last minutes are right at once and the day soon after; what is older than any window is
never opened. Retention may delete files at any time. This module computes no figure.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Set
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.dashboard.board import Board
from jobs.dashboard.logged_rows import LoggedRows, columns_of, is_log
from jobs.dashboard.recent import shown_columns
from jobs.dashboard.skew_status import SkewWatch
from jobs.dashboard.windows import LONGEST_SECONDS
from jobs.online.log_gaps import GapWatch, Missing
from udfs.prediction_files import FILE_NAME

__all__ = ["Follower", "Progress"]

_LOGGER = logging.getLogger("onescore.dashboard")
_MARGIN = timedelta(hours=1)
_FILES_AT_ONCE = 200
_MOST_TRIES = 10


class Progress(NamedTuple):
    """What one look at the log found.

    Args:
        n_waiting: files that are there and not read yet.
        is_there: whether there is a log at all.
        is_news: whether the board knows more than before.
    """

    n_waiting: int
    is_there: bool
    is_news: bool


class _Unread(NamedTuple):
    """A file that could not be read: of which model, how often that was tried, and at which look it is tried again."""

    model: str
    tries: int
    due: int


class Follower:
    """Follows one log.

    Args:
        directory: the log; it may come later.
        board: takes the rows, under `lock`.
        skew: where skew reports are.
        gaps: what the log lacks.
        gap_polls: how many looks at new files there are to one at what the log lacks, which lists all of it.
    """

    def __init__(
        self, directory: Path, board: Board, skew: SkewWatch, gaps: GapWatch, *, gap_polls: int = 5
    ) -> None:
        self._directory, self._board, self._skew, self._gaps = directory, board, skew, gaps
        self._gap_polls, self._polls = gap_polls, 0
        self._seen: set[Path] = set()
        self._unread: dict[Path, _Unread] = {}
        self._missing: dict[str, Missing] = {}
        self.lock = threading.Lock()

    def poll(self, now: int) -> Progress:
        """Read what is new, up to some hundred files.

        Args:
            now: microseconds.
        """
        dates = _dates(now)
        found = {path: (model, changed) for path, model, changed in self._files(dates)}
        self._seen = {
            path for path in self._seen if path.parent.name in dates
        }  # not: that are there; a disk may come back
        self._unread = {
            path: unread for path, unread in self._unread.items() if path in self._seen or path in found
        }
        later = {path for path, unread in self._unread.items() if unread.due > self._polls}
        new = sorted(found.keys() - self._seen - later, key=lambda path: (-found[path][1], path.name))
        for path in new[:_FILES_AT_ONCE]:
            if self._read(path, found[path][0], now):
                self._seen.add(path)
        with self.lock:
            self._board.note_unreadable(Counter(unread.model for unread in self._unread.values()))
        is_news = self._note(now, is_due=self._polls % self._gap_polls == 0)
        self._polls += 1
        n_waiting = max(len(new) - _FILES_AT_ONCE, 0)
        return Progress(n_waiting, self._directory.is_dir(), bool(new) or is_news)

    def _files(self, dates: Set[str]) -> Iterator[tuple[Path, str, float]]:
        """Yield (path, model, time of change) of the files of some days."""
        for directory in self._models():
            for date in dates:
                try:
                    with os.scandir(directory / date) as entries:
                        for entry in entries:
                            if FILE_NAME.fullmatch(entry.name):
                                yield Path(entry.path), unquote(directory.name), entry.stat().st_mtime
                except OSError:
                    continue  # no answer on that day, or retention was quicker

    def _models(self) -> list[Path]:
        """Return the directories of the models that the board takes."""
        try:
            found = sorted(path for path in self._directory.iterdir() if path.is_dir())
        except OSError:
            return []
        found = [path for path in found if not path.name.startswith(".")]
        return [path for path in found if self._board.knows(unquote(path.name))]

    def _read(self, path: Path, model: str, now: int) -> bool:
        """Give the board a file's rows; return whether it is not to be read again."""
        try:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
                if not is_log(schema):
                    raise pa.ArrowInvalid("it has other columns")
                rows = LoggedRows.of(file.read(columns=columns_of(schema)))
                wanted = shown_columns(schema) if self._board.wants_recent(model, rows) else []
                shown = file.read(columns=wanted) if wanted else None
        except FileNotFoundError:
            self._unread.pop(path, None)
            return True  # retention was quicker
        except (OSError, pa.ArrowException, ValueError) as exc:
            tries = self._unread[path].tries + 1 if path in self._unread else 1
            self._unread[path] = _Unread(model, tries, self._polls + 2**tries)
            if tries == 1:
                _LOGGER.error("a file of the prediction log cannot be read: %s", type(exc).__name__)
            return not isinstance(exc, OSError) or tries >= _MOST_TRIES
        self._unread.pop(path, None)
        with self.lock:
            self._board.add(model, rows, now)
            if shown is not None:
                self._board.add_recent(model, shown)
        return True

    def _note(self, now: int, *, is_due: bool) -> bool:
        """Note what the log lacks and what skew reports say; return whether that is news."""
        directories = self._models()
        if is_due:
            self._missing = self._gaps.look(directories)
        is_news = False
        for directory in directories:
            model = unquote(directory.name)
            skew = self._skew.newest(model)
            with self.lock:
                is_news |= self._board.note(model, missing=self._missing.get(directory.name), skew=skew)
        with self.lock:
            self._board.forget(now)
        return is_news


def _dates(now: int) -> set[str]:
    """Return the directories of the days that a window may reach."""
    at = datetime.fromtimestamp(now / 1e6, UTC)
    days = (at - timedelta(seconds=LONGEST_SECONDS) - _MARGIN, at - timedelta(days=1), at, at + _MARGIN)
    return {f"date={day:%Y-%m-%d}" for day in days}
