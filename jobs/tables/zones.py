"""Local clock times to instants and back, for whole columns at once.

A timetable says "08:19 at the destination": neither the date nor the offset is written. The rules that turn it into an instant
are here, over the IANA zones of `zoneinfo`, evaluated once per change of a zone's offset and not once per row. This module
knows nothing of flights, tables or Arrow; all instants are int64 microseconds since 1970-01-01T00:00Z.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

__all__ = ["MINUTE_US", "Zone"]

MINUTE_US = 60_000_000
_DAY_US = 86_400_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_Instants = NDArray[np.int64]


class Zone:
    """The UTC offsets of one IANA zone over a span of time.

    Args:
        name: IANA name, such as "America/New_York".
        first_us: the earliest instant that will be asked about.
        last_us: the latest one; answers reach two days beyond either end.

    Raises:
        zoneinfo.ZoneInfoNotFoundError: no such zone.
        OverflowError: the span reaches beyond the years 1 to 9999.

    >>> zone = Zone("America/New_York", 0, 86_400_000_000)
    >>> zone.offset_minutes(np.array([0])).tolist()
    [-300]
    """

    def __init__(self, name: str, first_us: int, last_us: int) -> None:
        self.name = name
        self._info = ZoneInfo(name)
        first_day = int(first_us) // _DAY_US - 4
        last_day = int(last_us) // _DAY_US + 5
        starts, offsets = [first_day * _DAY_US], [self._offset_at(first_day * _DAY_US)]
        for day in range(first_day, last_day):
            after = self._offset_at((day + 1) * _DAY_US)
            if after != offsets[-1]:
                starts.append(self._change_within(day * _DAY_US, (day + 1) * _DAY_US, after))
                offsets.append(after)
        self._starts = np.array(starts, np.int64)
        self._offsets = np.array(offsets, np.int64)

    def offset_minutes(self, instants: _Instants) -> NDArray[np.int32]:
        """Return local time minus UTC, in whole minutes (towards minus infinity), for each instant."""
        return (self._offset_us(instants) // MINUTE_US).astype(np.int32)

    def instant_of(self, wall_us: _Instants, *, later: bool = False) -> _Instants:
        """Return the instant at which the local clock shows a date and time.

        A time that the clock shows twice (autumn) is the earlier instant, or the later one on request. A time that it skips
        (spring) is read with the offset in force before the change: 02:30 becomes what the clock shows as 03:30.

        Args:
            wall_us: local date and time, as microseconds of the same reading in UTC; shape (n,).
            later: which of two instants to take.
        """
        before = wall_us - self._offset_us(wall_us - _DAY_US)
        after = wall_us - self._offset_us(wall_us + _DAY_US)
        reads_before = before + self._offset_us(before) == wall_us
        reads_after = after + self._offset_us(after) == wall_us
        if later:
            return np.where(reads_after, after, before)
        return np.where(reads_before | ~reads_after, before, after)

    def next_instant(self, minute_of_day: NDArray[np.int64], after_us: _Instants) -> _Instants:
        """Return the first instant strictly after another at which the local clock shows a time of day.

        Args:
            minute_of_day: 0 to 1440, shape (n,); 1440 is midnight at the end of the day, the same as 0.
            after_us: the instants to start from, shape (n,).
        """
        wall_time = (minute_of_day % 1440) * MINUTE_US
        midnight = (after_us + self._offset_us(after_us)) // _DAY_US * _DAY_US
        best = np.full(len(after_us), np.iinfo(np.int64).max, np.int64)
        for days in (0, 1):
            for later in (False, True):
                instant = self.instant_of(midnight + days * _DAY_US + wall_time, later=later)
                best = np.where((instant > after_us) & (instant < best), instant, best)
        return best

    def _offset_us(self, instants: _Instants) -> _Instants:
        return self._offsets[np.searchsorted(self._starts, instants, side="right") - 1]

    def _offset_at(self, instant_us: int) -> int:
        local = (_EPOCH + timedelta(microseconds=instant_us)).astimezone(self._info)
        offset = local.utcoffset()
        return 0 if offset is None else offset // timedelta(microseconds=1)

    def _change_within(self, low: int, high: int, after: int) -> int:
        """The first whole second of (low, high] at which the offset is `after`; one change in a day is assumed."""
        while high - low > 1_000_000:
            middle = (low + high) // 2_000_000 * 1_000_000
            low, high = (low, middle) if self._offset_at(middle) == after else (middle, high)
        return high
