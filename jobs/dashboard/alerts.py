"""Which rules are met now, since when, and who is told when that changes.

A rule is judged for each model. Whoever is to be told is a `Notifier`; one that fails costs a log line and nothing else. After a restart,
what still holds is told again: it may have come while nobody looked. The time is passed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jobs.dashboard.cell import Cell
from jobs.dashboard.rules import Facts, Rule

__all__ = ["Alert", "Alerts", "LogNotifier", "Notice", "Notifier"]

_LOGGER = logging.getLogger("onescore.dashboard")


@dataclass(frozen=True)
class Notice:
    """What somebody is told; it holds no data of requests.

    Args:
        model, rule, text: whose rule it is, its name, and what it says.
        is_firing: the rule is met; else it was, and is no more.
        value: what was measured; None if that can no longer be said.
        since_ts: when it came to be met, microseconds.
        ts: now, microseconds.
    """

    model: str
    rule: str
    text: str
    is_firing: bool
    value: float | None
    since_ts: int
    ts: int

    @property
    def title(self) -> str:
        """One line that says it all."""
        return f"{'ALERT' if self.is_firing else 'Over'}: {self.rule} ({self.model})"

    @property
    def body(self) -> str:
        """The rule and what was measured."""
        measured = "nothing to measure" if self.value is None else f"measured {self.value:.6g}"
        return f"{self.text}: {measured}"


class Notifier(Protocol):
    """Tells somebody; returns soon, and never blocks on a network for longer than that."""

    def notify(self, notice: Notice) -> None:
        """Tell of one change."""


class LogNotifier:
    """Tells the log of this process."""

    def notify(self, notice: Notice) -> None:
        """Write one line."""
        level = logging.WARNING if notice.is_firing else logging.INFO
        _LOGGER.log(level, "%s: %s", notice.title, notice.body)


@dataclass
class Alert:
    """A rule of a model as it stands.

    Args:
        state: "ok", "firing" or "unknown" (too few rows, or nothing to measure).
        value: what was measured.
        since_ts: since when it stands so, microseconds.
        told_ts: when somebody was last told that it fires; None = that is to be told, or nothing is.
    """

    rule: Rule
    state: str
    value: float | None
    since_ts: int
    told_ts: int | None = None


class Alerts:
    """Judges rules as often as it is asked.

    Args:
        rules: each is judged for each model.
        notifiers: are told of each change, and again while it lasts.
        repeat_seconds: how long until somebody is told again of what still holds.
    """

    def __init__(
        self, rules: Sequence[Rule], notifiers: Sequence[Notifier], *, repeat_seconds: float
    ) -> None:
        self.rules = tuple(rules)
        self._notifiers = tuple(notifiers)
        self._repeat_us = round(repeat_seconds * 1_000_000)
        self._alerts: dict[tuple[str, str], Alert] = {}

    def judge(self, model: str, cell_of: Callable[[int], Cell], facts: Facts, now: int) -> bool:
        """Judge every rule for a model; return whether a state changed.

        Args:
            model: whose answers.
            cell_of: returns the counts of the window of so many seconds that ends now.
            facts: what is known besides.
            now: microseconds.
        """
        changed = False
        cells: dict[int, Cell] = {}
        for rule in self.rules:
            if rule.over_seconds is not None and rule.over_seconds not in cells:
                cells[rule.over_seconds] = cell_of(rule.over_seconds)
            value = rule.value(cells.get(rule.over_seconds or 0, Cell()), facts)
            state = "unknown" if value is None else "firing" if rule.is_met(value) else "ok"
            changed |= self._take(model, rule, state, value, now)
        return changed

    def of(self, model: str) -> list[Alert]:
        """Return how the rules stand for a model, in the order of the rules."""
        found = (self._alerts.get((model, rule.name)) for rule in self.rules)
        return [alert for alert in found if alert is not None]

    def _take(self, model: str, rule: Rule, state: str, value: float | None, now: int) -> bool:
        alert = self._alerts.get((model, rule.name))
        if alert is None:
            alert = self._alerts[model, rule.name] = Alert(rule, "unknown", None, now)
        was, since = alert.state, alert.since_ts
        alert.value = value
        if state != was:
            alert.state, alert.since_ts = state, now
        if state == "firing" and (was != state or now - (alert.told_ts or now) >= self._repeat_us):
            alert.told_ts = now
            self._tell(Notice(model, rule.name, rule.text, True, value, alert.since_ts, now))
        elif was == "firing" and state != was:
            alert.told_ts = None
            self._tell(Notice(model, rule.name, rule.text, False, value, since, now))
        return state != was

    def _tell(self, notice: Notice) -> None:
        for notifier in self._notifiers:
            try:
                notifier.notify(notice)
            except Exception as exc:  # noqa: BLE001 - whoever fails to be told, the others are, and the dashboard goes on
                _LOGGER.error("%s could not be told: %s", type(notifier).__name__, type(exc).__name__)
