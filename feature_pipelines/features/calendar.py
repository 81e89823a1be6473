"""Calendar and angle tables whose bits are the same on every machine.

Sines and dates come from integer arithmetic alone: no platform's libm, time zone database or locale takes part. The
Gregorian calendar repeats after 400 years (146,097 days, a whole number of weeks), so a table of that length answers for
every day there is, before 1970 too.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DAYS_IN_CYCLE",
    "DAYS_SINCE_HOLIDAY",
    "DAYS_TO_HOLIDAY",
    "DAY_OF_YEAR",
    "MONTH",
    "WEEKDAY",
    "YEAR",
    "circle",
]

Number = TypeVar("Number", bound=np.generic)
_BITS = 256
_KEPT = 200


def circle(steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sines and the cosines of `steps` equal parts of a circle, each the float64 nearest to the true value.

    Works in 256-bit fixed point: the angle of one step by its Taylor series, the others by rotation. The error stays below
    2^-200, far from any float64 rounding boundary, and Python's division of integers rounds correctly.

    Args:
        steps: how many parts, 2 or more; entry k is the angle 2 pi k / steps.

    >>> circle(4)[0].tolist()
    [0.0, 1.0, 0.0, -1.0]
    """
    angle = 2 * _pi() // steps
    step_sin, step_cos = _taylor(angle, first_power=1), _taylor(angle, first_power=0)
    sin, cos = 0, 1 << _BITS
    sines, cosines = [], []
    for _ in range(steps):
        sines.append(_nearest(sin))
        cosines.append(_nearest(cos))
        sin, cos = (sin * step_cos + cos * step_sin) >> _BITS, (cos * step_cos - sin * step_sin) >> _BITS
    return _locked(np.array(sines)), _locked(np.array(cosines))


def _pi() -> int:
    """Machin's formula: pi = 16 atan(1/5) - 4 atan(1/239)."""

    def arctan_of_inverse(n: int) -> int:
        total, power, k = 0, (1 << _BITS) // n, 0
        while power:
            total += (-1) ** k * (power // (2 * k + 1))
            power //= n * n
            k += 1
        return total

    return 16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)


def _taylor(angle: int, first_power: int) -> int:
    """Return the fixed-point sine (first_power 1) or cosine (first_power 0) of a fixed-point angle."""
    size = angle if first_power else 1 << _BITS
    total, sign, power = 0, 1, first_power
    while size:
        total += sign * size
        power += 2
        sign = -sign
        size = (size * angle * angle >> 2 * _BITS) // (power * (power - 1))
    return total


def _nearest(fixed: int) -> float:
    """Drop the bits that rounding has spoilt, so that 0, 1/2 and 1 are exact, and round once."""
    drop = _BITS - _KEPT
    return ((fixed + (1 << (drop - 1))) >> drop) / (1 << _KEPT)


def _locked(table: NDArray[Number]) -> NDArray[Number]:
    table.flags.writeable = False
    return table


DAYS_IN_CYCLE = 146_097
"""Days after which the calendar repeats: 400 years."""


def _civil(day: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return (year, month, day of year from 0) of days since 1970-01-01.

    Source: Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    """
    shifted = day + 719_468
    era = shifted // DAYS_IN_CYCLE
    day_of_era = shifted - era * DAYS_IN_CYCLE
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_from_march = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * day_from_march + 2) // 153
    month = np.where(month < 10, month + 3, month - 9)
    year = year_of_era + 400 * era + (month <= 2)
    return year, month, day - _first_of_january(year)


def _first_of_january(year: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the day, since 1970-01-01, on which each year begins."""
    before = year - 1
    return 365 * (year - 1970) + (before // 4 - 492) - (before // 100 - 19) + (before // 400 - 4)


def _nth_weekday(year: NDArray[np.int64], month: int, weekday: int, nth: int) -> NDArray[np.int64]:
    """Return the day of the nth (from 1) such weekday (Monday = 0) of a month of each year."""
    first = _day_of(year, month, 1)
    return first + (weekday - (first + 3)) % 7 + 7 * (nth - 1)


def _day_of(year: NDArray[np.int64], month: int, day: int) -> NDArray[np.int64]:
    is_leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    before = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)[month - 1]
    days: NDArray[np.int64] = _first_of_january(year) + before + (is_leap & (month > 2)) + day - 1
    return days


def _holidays() -> NDArray[np.int64]:
    """Return the days, sorted, of the US holidays that move air traffic, for the cycle and a year on each side.

    New Year's Day, Martin Luther King Day, Presidents' Day, Memorial Day, Independence Day, Labor Day, Thanksgiving, Christmas.
    Source: 5 U.S.C. 6103(a), legal public holidays.
    """
    year = np.arange(1969, 1970 + 401, dtype=np.int64)
    days = [
        _day_of(year, 1, 1),
        _nth_weekday(year, 1, 0, 3),
        _nth_weekday(year, 2, 0, 3),
        _nth_weekday(year, 6, 0, 1) - 7,
        _day_of(year, 7, 4),
        _nth_weekday(year, 9, 0, 1),
        _nth_weekday(year, 11, 3, 4),
        _day_of(year, 12, 25),
    ]
    return np.sort(np.concatenate(days))


_DAYS = np.arange(DAYS_IN_CYCLE, dtype=np.int64)
_YEARS, _MONTHS, _DAYS_OF_YEAR = _civil(_DAYS)
_HOLIDAYS = _holidays()
_NEXT_HOLIDAY = _HOLIDAYS[np.searchsorted(_HOLIDAYS, _DAYS, side="left")]
_LAST_HOLIDAY = _HOLIDAYS[np.searchsorted(_HOLIDAYS, _DAYS, side="right") - 1]

# Each table is indexed by the day since 1970-01-01, modulo DAYS_IN_CYCLE.
YEAR = _locked(_YEARS)
"""The year, 1970 to 2369; add 400 for each cycle after (before) the first."""
MONTH = _locked(_MONTHS.astype(np.int32))
"""The month, 1 to 12."""
DAY_OF_YEAR = _locked(_DAYS_OF_YEAR)
"""The day of the year, 0 to 365."""
WEEKDAY = _locked((_DAYS + 3) % 7)
"""The day of the week, 0 = Monday."""
DAYS_TO_HOLIDAY = _locked((_NEXT_HOLIDAY - _DAYS).astype(np.int32))
"""Days until the next holiday, 0 on one."""
DAYS_SINCE_HOLIDAY = _locked((_DAYS - _LAST_HOLIDAY).astype(np.int32))
"""Days since the last holiday, 0 on one."""
