"""Answers over the last minutes, hours and day, in cells of time that never become more, however many answers there are.

Ten seconds are kept for an hour, five minutes for a day. A window ends with the step that the time is in, so its figures are exactly
those of the rows served from `from_ts` (inclusive) to `to_ts` (exclusive). Rows may be added in any order, and late. The time is
passed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jobs.dashboard.cell import Cell, ScoreRange
from jobs.dashboard.logged_rows import LoggedRows

__all__ = [
    "COARSE_SECONDS",
    "FINE_SECONDS",
    "LONGEST_SECONDS",
    "WINDOWS",
    "Window",
    "Windows",
    "latest",
    "span_of",
]

FINE_SECONDS, COARSE_SECONDS = 10, 300
_FINE_KEPT_SECONDS, LONGEST_SECONDS = 3_600, 86_400
_SECOND = 1_000_000
WINDOWS = {300: 10, 900: 30, 3_600: 60, 21_600: 300, 86_400: 900}
"""The windows that are shown, and the step of their charts; seconds."""


@dataclass(frozen=True)
class Window:
    """Answers of a stretch of time.

    Args:
        from_ts, to_ts: microseconds, inclusive and exclusive.
        cell: the counts of all.
    """

    from_ts: int
    to_ts: int
    cell: Cell


class Windows:
    """The cells of one model.

    Args:
        ranges: of scores, that are counted for rules.
    """

    def __init__(self, ranges: Sequence[ScoreRange] = ()) -> None:
        self._ranges = tuple(ranges)
        self._fine: dict[int, Cell] = {}
        self._coarse: dict[int, Cell] = {}

    def add(self, rows: LoggedRows, now: int) -> int:
        """Count rows; return how many were not counted because a clock is ahead. What no window reaches any more is left out.

        Args:
            rows: in any order.
            now: microseconds.
        """
        first, last = self._oldest(now, COARSE_SECONDS), latest(now)
        ahead = 0
        for start, part in rows.cells(FINE_SECONDS * _SECOND):
            if start > last:
                ahead += len(part)
            if not first <= start <= last:
                continue
            cell = Cell.of(part, self._ranges)
            coarse = start // (COARSE_SECONDS * _SECOND) * (COARSE_SECONDS * _SECOND)
            self._coarse.setdefault(coarse, Cell()).merge(cell)
            if start >= self._oldest(now, FINE_SECONDS):
                self._fine.setdefault(start, Cell()).merge(cell)
        return ahead

    def forget(self, now: int) -> None:
        """Drop cells that no window reaches any more."""
        for cells, width in ((self._fine, FINE_SECONDS), (self._coarse, COARSE_SECONDS)):
            oldest = self._oldest(now, width)
            for start in [start for start in cells if start < oldest]:
                del cells[start]

    def window(self, seconds: int, now: int, step_seconds: int | None = None) -> Window:
        """Return the counts of a window that ends with the step that the time is in; see `span_of`."""
        from_ts, to_ts = span_of(seconds, now, step_seconds)
        return Window(from_ts, to_ts, self._between(from_ts, to_ts, self._cells(seconds)))

    def steps(self, seconds: int, now: int, step_seconds: int) -> Iterator[Cell]:
        """Yield the counts of each step of that window, ascending."""
        from_ts, to_ts = span_of(seconds, now, step_seconds)
        for start in range(from_ts, to_ts, step_seconds * _SECOND):
            yield self._between(start, start + step_seconds * _SECOND, self._cells(seconds))

    def _cells(self, seconds: int) -> dict[int, Cell]:
        return self._fine if seconds <= _FINE_KEPT_SECONDS else self._coarse

    def _between(self, from_ts: int, to_ts: int, cells: dict[int, Cell]) -> Cell:
        merged = Cell()
        width = (FINE_SECONDS if cells is self._fine else COARSE_SECONDS) * _SECOND
        for start in range(from_ts, to_ts, width):
            cell = cells.get(start)
            if cell is not None:
                merged.merge(cell)
        return merged

    def _oldest(self, now: int, width: int) -> int:
        kept, step = (
            (_FINE_KEPT_SECONDS, WINDOWS[3_600])
            if width == FINE_SECONDS
            else (LONGEST_SECONDS, WINDOWS[86_400])
        )
        return span_of(kept, now, step)[0] - step * _SECOND


def latest(now: int) -> int:
    """Return until when rows may be served that are counted: another machine's clock may be ahead, but not by much."""
    return now + COARSE_SECONDS * _SECOND


def span_of(seconds: int, now: int, step_seconds: int | None = None) -> tuple[int, int]:
    """Return (from_ts, to_ts) of a window: it ends with the step that `now` is in.

    Args:
        seconds: length; a multiple of the step.
        now: microseconds.
        step_seconds: a multiple of the cells that the window is made of; None = one cell.
    """
    width = (step_seconds or (FINE_SECONDS if seconds <= _FINE_KEPT_SECONDS else COARSE_SECONDS)) * _SECOND
    to_ts = (now // width + 1) * width
    return to_ts - seconds * _SECOND, to_ts
