from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.tables.zones import MINUTE_US, Zone

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 12, 31, tzinfo=UTC)
ZONES = [
    "America/New_York",
    "America/Phoenix",
    "Pacific/Honolulu",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
]


def us(moment):
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - EPOCH) // timedelta(microseconds=1)


def at(instant):
    return (EPOCH + timedelta(microseconds=int(instant))).isoformat()


def zone(name="America/New_York"):
    return Zone(name, us(FIRST), us(LAST))


instants = st.integers(us(FIRST), us(LAST)).map(lambda at_us: EPOCH + timedelta(microseconds=at_us))


@given(st.sampled_from(ZONES), instants)
def test_offset_minutes_agrees_with_zoneinfo(name, instant):
    expected = instant.astimezone(ZoneInfo(name)).utcoffset() // timedelta(minutes=1)

    assert zone(name).offset_minutes(np.array([us(instant)])).tolist() == [expected]


def test_offset_minutes_changes_at_the_very_second():
    change = us(datetime(2013, 11, 3, 6, tzinfo=UTC))

    assert zone().offset_minutes(np.array([change - 1, change])).tolist() == [-240, -300]


@given(st.sampled_from(ZONES), instants, st.booleans())
def test_instant_of_agrees_with_zoneinfo_folds(name, instant, later):
    wall = instant.replace(tzinfo=None)
    expected = wall.replace(tzinfo=ZoneInfo(name), fold=int(later))
    if expected.astimezone(UTC).astimezone(ZoneInfo(name)).replace(tzinfo=None) != wall:
        return  # skipped by the clock: has a rule of its own

    assert (
        at(zone(name).instant_of(np.array([us(wall)]), later=later)[0])
        == expected.astimezone(UTC).isoformat()
    )


@pytest.mark.parametrize(
    ("later", "expected"), [(False, "2013-11-03T05:30:00+00:00"), (True, "2013-11-03T06:30:00+00:00")]
)
def test_instant_of_a_time_shown_twice_is_the_earlier_unless_asked(later, expected):
    wall = np.array([us(datetime(2013, 11, 3, 1, 30))])  # noqa: DTZ001

    assert at(zone().instant_of(wall, later=later)[0]) == expected


@pytest.mark.parametrize("later", [False, True])
def test_instant_of_a_time_skipped_reads_on_with_the_old_offset(later):
    wall = np.array([us(datetime(2013, 3, 10, 2, 30))])  # noqa: DTZ001

    assert at(zone().instant_of(wall, later=later)[0]) == "2013-03-10T07:30:00+00:00"


@pytest.mark.parametrize(
    ("after", "hhmm", "expected"),
    [
        ("2013-07-01T12:00+00:00", (8, 19), "2013-07-01T12:19:00+00:00"),
        ("2013-07-01T12:19+00:00", (8, 19), "2013-07-02T12:19:00+00:00"),  # strictly after
        ("2013-07-02T02:00+00:00", (24, 0), "2013-07-02T04:00:00+00:00"),  # 2400 is the coming midnight
        ("2013-07-02T02:00+00:00", (0, 0), "2013-07-02T04:00:00+00:00"),
        ("2013-11-03T04:50+00:00", (1, 30), "2013-11-03T05:30:00+00:00"),  # shown twice: the first after
        (
            "2013-11-03T05:40+00:00",
            (1, 30),
            "2013-11-03T06:30:00+00:00",
        ),  # shown twice: only the second is after
        ("2013-11-03T06:40+00:00", (1, 30), "2013-11-04T06:30:00+00:00"),
        ("2013-03-10T05:00+00:00", (2, 30), "2013-03-10T07:30:00+00:00"),  # skipped: 02:30 EST is 03:30 EDT
    ],
)
def test_next_instant_is_the_first_after_at_which_the_clock_shows_the_time(after, hhmm, expected):
    minutes = np.array([hhmm[0] * 60 + hhmm[1]])

    assert at(zone().next_instant(minutes, np.array([us(datetime.fromisoformat(after))]))[0]) == expected


@given(st.sampled_from(ZONES[:5]), instants, st.integers(0, 1440))
def test_next_instant_lies_within_25_hours_and_shows_the_time_or_skips_it(name, after, minutes):
    there = zone(name)

    found = there.next_instant(np.array([minutes]), np.array([us(after)]))

    assert 0 < found[0] - us(after) <= 25 * 60 * MINUTE_US
    shown = (found + there.offset_minutes(found).astype(np.int64) * MINUTE_US) // MINUTE_US % 1440
    assert shown[0] in (minutes % 1440, (minutes + 60) % 1440)
