"""Rules: what a line says, what is refused and how; and who is told of what, once."""

from __future__ import annotations

import logging

import pytest

from feature_pipelines.errors import ConfigurationError
from jobs.dashboard.alerts import Alerts, LogNotifier, Notice
from jobs.dashboard.cell import Cell
from jobs.dashboard.logged_rows import LoggedRows
from jobs.dashboard.rules import Facts, parse_rule
from jobs.runs.conf import load
from tests.toy.answered_rows import NOW, answered, log_table

SECOND = 1_000_000
ROWS = [
    answered(
        i,
        NOW,
        score=None if i < 2 else i / 10,
        error_code="OUT_OF_RANGE" if i < 2 else None,
        label=None if i < 2 else i >= 8,
        statuses={"weather": "PRESENT" if i % 4 else "NOT_FOUND"},
        event_ts={"weather": NOW - i * SECOND} if i % 4 else {},
        lookup_us=1_000 * i,
    )
    for i in range(10)
]
CELL = Cell.of(LoggedRows.of(log_table(ROWS)), [(0.5, 0.7)])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("error_share > 0 over 5m", 0.2),
        ("error_share.OUT_OF_RANGE > 0 over 5m", 0.2),
        ("error_share.OTHER > 0 over 5m", 0.0),
        ("score_share[0.5..0.7] > 0 over 5m", 3 / 8),
        ("class_share.true < 1 over 300s", 2 / 8),
        ("status_share.weather.NOT_FOUND > 0 over 1h", 3 / 9),
        ("status_share.plane.NOT_FOUND > 0 over 1h", None),
        ("age_seconds.weather.max > 0 over 24h", 9.0),
        ("age_seconds.plane.max > 0 over 24h", None),
        ("latency_ms.lookup.max > 1 over 10s", 9.0),
        ("latency_ms.total.max > 1 over 10s", 9.027),
        ("rows_per_second < 1e-3 over 10s", 1.0),
        ("error_share > 0 over 5m from 11 rows", None),
        ("lost_rows > 0", 4.0),
        ("silent_seconds > 600", None),
        ("skew_differing_rows > 0", 0.0),
    ],
)
def test_a_rule_measures_what_it_says(text: str, value: float | None) -> None:
    # of the two refused rows, one was never looked up
    rule = parse_rule("r", text)
    assert rule.value(CELL, Facts(lost_rows=4.0, skew_differing_rows=0.0)) == value
    assert rule.text == text


def test_a_limit_itself_is_neither_above_nor_below() -> None:
    above, below = parse_rule("a", "lost_rows > 4"), parse_rule("b", "lost_rows < 4")
    assert [rule.is_met(v) for rule in (above, below) for v in (3.9, 4.0, 4.1)] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]


def test_no_rows_say_nothing_but_that_there_are_none() -> None:
    assert parse_rule("r", "error_share > 0 over 5m").value(Cell(), Facts()) is None
    assert parse_rule("r", "rows_per_second < 1 over 5m").value(Cell(), Facts()) == 0.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("many errors", "is no rule; expected such as 'error_share > 0.05 over 5m from 100 rows'"),
        ("errors > 1 over 5m", "no measure 'errors'; there are error_share, score_share"),
        ("error_share > 0.1", "error_share needs 'over', such as 'over 5m'"),
        ("lost_rows > 1 over 5m", "lost_rows is as it is now: leave out 'over'"),
        ("error_share > 1.2.3 over 5m", "'1.2.3' is no number"),
        ("error_share > 1 over 7s", "a window has 10s to 24h, up to an hour in multiples of 10 seconds"),
        ("error_share > 1 over 25h", "a window has 10s to 24h"),
        ("score_share > 1 over 5m", r"expected score_share\[0.9..1\]"),
        (
            "latency_ms.model > 1 over 5m",
            "expected latency_ms.PART.FIGURE, of lookup, features, model, total and p50",
        ),
        ("latency_ms.disk.p50 > 1 over 5m", "expected latency_ms.PART.FIGURE"),
        ("age_seconds.weather.mean > 1 over 5m", "expected age_seconds.VIEW.FIGURE"),
        ("class_share > 1 over 5m", "expected class_share.LABEL"),
        ("status_share.weather > 1 over 5m", "expected status_share.VIEW.STATUS"),
    ],
)
def test_what_is_no_rule_is_refused_and_says_what_would_be(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_rule("r", text)


def test_configuration_refuses_all_wrong_rules_at_once_and_null_takes_one_away() -> None:
    with pytest.raises(
        ConfigurationError, match=r"dashboard\.alerts .*one: 'x' is no rule.*two: .* no measure"
    ):
        load(overrides=["dashboard.alerts.one=x", "dashboard.alerts.two=y > 1"])
    assert load(overrides=["dashboard.alerts.lost=null"]).dashboard.alerts["lost"] is None


class Told:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []

    def notify(self, notice: Notice) -> None:
        """Remember."""
        self.notices.append(notice)


class Deaf:
    """Fails."""

    def notify(self, notice: Notice) -> None:
        """Raise."""
        raise ConnectionError("no network")


def test_each_change_is_told_once_and_what_lasts_again(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    alerts = Alerts([parse_rule("lost", "lost_rows > 0")], [Deaf(), told], repeat_seconds=60)

    def judge(lost: float | None, second: int) -> bool:
        return alerts.judge("toy", lambda _: Cell(), Facts(lost_rows=lost), NOW + second * SECOND)

    caplog.set_level(logging.ERROR)
    changes = [
        judge(lost, at) for lost, at in ((0, 0), (1, 1), (1, 2), (2, 61), (2, 62), (0, 70), (0, 71), (3, 80))
    ]
    assert changes == [True, True, False, False, False, True, False, True]
    assert [
        (n.is_firing, n.value, (n.since_ts - NOW) // SECOND, (n.ts - NOW) // SECOND) for n in told.notices
    ] == [
        (True, 1, 1, 1),
        (True, 2, 1, 61),
        (False, 0, 1, 70),
        (True, 3, 80, 80),
    ]
    assert [record.message for record in caplog.records] == ["Deaf could not be told: ConnectionError"] * 4
    assert told.notices[0].title == "ALERT: lost (toy)"
    assert told.notices[2].body == "lost_rows > 0: measured 0"


def test_an_alert_whose_measure_is_gone_is_over_and_says_so() -> None:
    told = Told()
    alerts = Alerts([parse_rule("lost", "lost_rows > 0")], [told], repeat_seconds=60)
    for lost in (1.0, None):
        alerts.judge("toy", lambda _: Cell(), Facts(lost_rows=lost), NOW)
    assert told.notices[1].title == "Over: lost (toy)"
    assert told.notices[1].body == "lost_rows > 0: nothing to measure"
    assert [alert.state for alert in alerts.of("toy")] == ["unknown"]


def test_without_anybody_else_the_log_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    LogNotifier().notify(Notice("toy", "lost", "lost_rows > 0", True, 2.0, NOW, NOW))
    LogNotifier().notify(Notice("toy", "lost", "lost_rows > 0", False, 0.0, NOW, NOW))
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("WARNING", "ALERT: lost (toy): lost_rows > 0: measured 2"),
        ("INFO", "Over: lost (toy): lost_rows > 0: measured 0"),
    ]
