"""Calendar and angle tables against Python's own calendar and against sines to fifty digits."""

from __future__ import annotations

import datetime
from decimal import Decimal, localcontext

import numpy as np
import pytest

from feature_pipelines.features import calendar
from feature_pipelines.features.calendar import circle

EPOCH = datetime.date(1970, 1, 1)
# pi to 50 digits, from an independent source: OEIS A000796.
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


def exact(part: int, steps: int, *, cosine: bool) -> float:
    """The float64 nearest to the sine or cosine of 2 pi part / steps: a Taylor series in decimals, rounded once."""
    with localcontext() as context:
        context.prec = 70
        angle = 2 * PI * part / steps
        term, total, power = (Decimal(1), Decimal(0), 0) if cosine else (angle, Decimal(0), 1)
        while abs(term) > Decimal("1e-60"):
            total += term
            power += 2
            term = -term * angle * angle / (power * (power - 1))
        return float(0 if abs(total) < Decimal("1e-50") else total)


@pytest.mark.parametrize("steps", [2, 3, 7, 24, 360, 366])
def test_circle_is_rounded_correctly_everywhere(steps: int) -> None:
    sines, cosines = circle(steps)
    assert sines.tolist() == [exact(k, steps, cosine=False) for k in range(steps)]
    assert cosines.tolist() == [exact(k, steps, cosine=True) for k in range(steps)]


def test_circle_of_minutes_is_rounded_correctly() -> None:
    sines, cosines = circle(1440)
    parts = [*range(0, 1440, 13), 359, 360, 361, 719, 720, 721, 1439]
    assert [sines[k] for k in parts] == [exact(k, 1440, cosine=False) for k in parts]
    assert [cosines[k] for k in parts] == [exact(k, 1440, cosine=True) for k in parts]


def test_circle_is_exact_and_positive_at_zero() -> None:
    sines, cosines = circle(12)
    assert sines[[0, 1, 3, 5, 6, 9]].tolist() == [0.0, 0.5, 1.0, 0.5, 0.0, -1.0]
    assert cosines[[0, 2, 3, 6, 9]].tolist() == [1.0, 0.5, 0.0, -1.0, 0.0]
    assert not np.signbit(sines[sines == 0]).any()
    assert not np.signbit(cosines[cosines == 0]).any()


def test_every_day_of_the_cycle_is_that_of_the_gregorian_calendar() -> None:
    days = np.arange(calendar.DAYS_IN_CYCLE)
    dates = np.datetime64("1970-01-01") + days
    years = dates.astype("datetime64[Y]")
    assert (years.astype(np.int64) + 1970 == calendar.YEAR).all()
    assert (dates.astype("datetime64[M]").astype(np.int64) % 12 + 1 == calendar.MONTH).all()
    assert ((dates - years.astype("datetime64[D]")).astype(np.int64) == calendar.DAY_OF_YEAR).all()
    for day in range(0, calendar.DAYS_IN_CYCLE, 97):
        date = EPOCH + datetime.timedelta(day)
        assert calendar.WEEKDAY[day] == date.weekday()
    assert (np.diff(calendar.WEEKDAY) % 7 == 1).all()


def test_the_cycle_closes() -> None:
    assert (EPOCH + datetime.timedelta(calendar.DAYS_IN_CYCLE)).isoformat() == "2370-01-01"
    assert calendar.WEEKDAY[-1] == EPOCH.weekday() - 1
    assert (calendar.DAYS_TO_HOLIDAY[-1], calendar.DAYS_SINCE_HOLIDAY[0]) == (1, 0)


@pytest.mark.parametrize(
    ("year", "holidays"),
    [
        (2012, ["01-01", "01-16", "02-20", "05-28", "07-04", "09-03", "11-22", "12-25"]),
        (2013, ["01-01", "01-21", "02-18", "05-27", "07-04", "09-02", "11-28", "12-25"]),
        (2021, ["01-01", "01-18", "02-15", "05-31", "07-04", "09-06", "11-25", "12-25"]),
    ],
)
def test_holidays_are_those_of_the_year(year: int, holidays: list[str]) -> None:
    first = (datetime.date(year, 1, 1) - EPOCH).days
    days = range(first, first + 365)
    found = [f"{EPOCH + datetime.timedelta(day):%m-%d}" for day in days if calendar.DAYS_TO_HOLIDAY[day] == 0]
    assert found == holidays
    assert [day for day in days if calendar.DAYS_SINCE_HOLIDAY[day] == 0] == [
        day for day in days if calendar.DAYS_TO_HOLIDAY[day] == 0
    ]


def test_distances_count_days_to_and_from_holidays() -> None:
    christmas = (datetime.date(2013, 12, 25) - EPOCH).days
    assert calendar.DAYS_TO_HOLIDAY[christmas - 3 : christmas + 8].tolist() == [
        3,
        2,
        1,
        0,
        6,
        5,
        4,
        3,
        2,
        1,
        0,
    ]
    assert calendar.DAYS_SINCE_HOLIDAY[christmas - 3 : christmas + 8].tolist() == [
        24,
        25,
        26,
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        0,
    ]


def test_tables_are_read_only() -> None:
    tables = [
        getattr(calendar, name)
        for name in calendar.__all__
        if isinstance(getattr(calendar, name), np.ndarray)
    ]
    assert len(tables) == 6
    assert not any(table.flags.writeable for table in (*tables, *circle(4)))
