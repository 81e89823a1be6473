"""When somebody is to be told: a rule is one line of text, and says exactly what is measured over which time.

    error_share > 0.05 over 5m from 100 rows
    error_share.STORE_UNAVAILABLE > 0 over 5m
    score_share[0.9..1] > 0.3 over 15m
    class_share.true < 0.01 over 1h from 1000 rows
    latency_ms.total.p99 > 20 over 5m
    age_seconds.weather.p50 > 7200 over 15m
    status_share.weather.NOT_FOUND > 0.2 over 15m
    rows_per_second < 0.1 over 10m
    lost_rows > 0
    silent_seconds > 600
    skew_differing_rows > 0
    skew_age_seconds > 172800

A share is of the rows of the window (of a class or a range of scores: of the scored ones; of a status: of the view's look-ups). Without
rows, or with fewer than `from`, a rule says nothing. This module knows nothing of files, and of time only what it is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.dashboard.cell import PARTS, Cell, ScoreRange
from jobs.dashboard.windows import COARSE_SECONDS, FINE_SECONDS, LONGEST_SECONDS

__all__ = ["Facts", "Rule", "parse_rule"]

_RULE = re.compile(
    r"(?P<measure>[a-z_]+)(?P<argument>(?:\[[^\]]*\]|\.\S+)?)\s*(?P<sign>[<>])\s*(?P<limit>-?[0-9.eE+-]+)"
    r"(?:\s+over\s+(?P<over>[0-9]+)(?P<unit>[smh]))?(?:\s+from\s+(?P<rows>[0-9]+)\s+rows)?"
)
_RANGE = re.compile(r"\[(?P<low>-?[0-9.]+)\.\.(?P<high>-?[0-9.]+)\]")
_UNITS = {"s": 1, "m": 60, "h": 3_600}
_FIGURES = ("p50", "p90", "p99", "max")
_OF_WINDOWS = (
    "error_share",
    "score_share",
    "class_share",
    "latency_ms",
    "age_seconds",
    "status_share",
    "rows_per_second",
)
_OF_STATE = ("lost_rows", "silent_seconds", "skew_differing_rows", "skew_age_seconds")


@dataclass(frozen=True)
class Facts:
    """What rules may ask besides a window's counts; None = not known, and then a rule says nothing.

    Args:
        lost_rows: numbered answers that are in no file and will not be.
        silent_seconds: since the newest answer was served.
        skew_differing_rows, skew_age_seconds: of the newest skew report.
    """

    lost_rows: float | None = None
    silent_seconds: float | None = None
    skew_differing_rows: float | None = None
    skew_age_seconds: float | None = None


@dataclass(frozen=True)
class Rule:
    """One rule.

    Args:
        name: of the rule, as configured.
        text: as it was written.
        is_above: whether a value above the limit, or one below, is what somebody is told of.
        limit: neither above nor below.
        over_seconds: the window; None = it asks no window.
        from_rows: how many rows the window must have.
        range: of scores that must be counted for it.
    """

    name: str
    text: str
    is_above: bool
    limit: float
    over_seconds: int | None
    from_rows: int
    range: ScoreRange | None
    measure: Callable[[Cell, Facts, int], float | None]

    def value(self, cell: Cell, facts: Facts) -> float | None:
        """Return what is measured, None if that cannot be said.

        Args:
            cell: the counts of its window; of no window, whatever.
            facts: what is known now.
        """
        if self.over_seconds is not None and cell.rows < self.from_rows:
            return None
        return self.measure(cell, facts, self.over_seconds or 0)

    def is_met(self, value: float) -> bool:
        """Return whether a value is beyond the limit."""
        return value > self.limit if self.is_above else value < self.limit


def parse_rule(name: str, text: str) -> Rule:
    """Return the rule that a line says.

    Raises:
        ValueError: it says none; the message says what was expected.
    """
    found = _RULE.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"{text!r} is no rule; expected such as 'error_share > 0.05 over 5m from 100 rows': measure, < or >, number, "
            "and for what is measured over time 'over' with s, m or h"
        )
    measure, sign, rows = found["measure"], found["sign"], found["rows"]
    argument: Sequence[str] = found["argument"].lstrip(".").split(".") if found["argument"] else ()
    if measure not in (*_OF_WINDOWS, *_OF_STATE):
        raise ValueError(
            f"{text!r}: no measure {measure!r}; there are {', '.join((*_OF_WINDOWS, *_OF_STATE))}"
        )
    of_window = measure in _OF_WINDOWS
    if of_window != (found["over"] is not None) or (rows and not of_window):
        wanted = (
            "needs 'over', such as 'over 5m'" if of_window else "is as it is now: leave out 'over' and 'from'"
        )
        raise ValueError(f"{text!r}: {measure} {wanted}")
    try:
        limit = float(found["limit"])
    except ValueError:
        raise ValueError(f"{text!r}: {found['limit']!r} is no number") from None
    asked, score_range = _measure(measure, found["argument"], argument, text)
    at_least = int(rows) if rows else (0 if measure == "rows_per_second" else 1)
    over = _seconds(found["over"], found["unit"], text) if found["over"] else None
    return Rule(name, " ".join(text.split()), sign == ">", limit, over, at_least, score_range, asked)


def _seconds(number: str, unit: str, text: str) -> int:
    seconds = int(number) * _UNITS[unit]
    width = FINE_SECONDS if seconds <= 3_600 else COARSE_SECONDS
    if not width <= seconds <= LONGEST_SECONDS or seconds % width:
        raise ValueError(
            f"{text!r}: a window has 10s to 24h, up to an hour in multiples of {FINE_SECONDS} seconds, beyond that of "
            f"{COARSE_SECONDS // 60} minutes"
        )
    return seconds


def _measure(measure: str, raw: str, given: Sequence[str], text: str) -> tuple[Any, ScoreRange | None]:
    """Return the function that measures, and the range of scores that it needs counted."""
    if measure == "error_share" and len(given) <= 1:
        return (_refused(given[0]) if given else _any_refused), None
    if measure == "score_share" and (found := _RANGE.fullmatch(raw)):
        between = (float(found["low"]), float(found["high"]))
        return _in_range(between), between
    if measure == "class_share" and given:
        return _labelled(".".join(given)), None
    if measure == "latency_ms" and len(given) == 2 and given[0] in (*PARTS, "total") and given[1] in _FIGURES:
        return _latency(*given), None
    if measure == "age_seconds" and len(given) == 2 and given[1] in _FIGURES:
        return _age(*given), None
    if measure == "status_share" and len(given) == 2:
        return _status(*given), None
    if measure == "rows_per_second" and not raw:
        return (lambda cell, _, seconds: cell.rows / seconds), None
    if measure in _OF_STATE and not raw:
        return (lambda _, facts, __: getattr(facts, measure)), None
    forms = {
        "error_share": "error_share or error_share.CODE",
        "score_share": "score_share[0.9..1]",
        "class_share": "class_share.LABEL",
        "latency_ms": f"latency_ms.PART.FIGURE, of {', '.join((*PARTS, 'total'))} and {', '.join(_FIGURES)}",
        "age_seconds": f"age_seconds.VIEW.FIGURE, of {', '.join(_FIGURES)}",
        "status_share": "status_share.VIEW.STATUS",
    }
    raise ValueError(f"{text!r}: expected {forms.get(measure, measure)}")


def _any_refused(cell: Cell, _: Facts, __: int) -> float | None:
    return _share(cell.refused.total(), cell.rows)


def _refused(code: str) -> Any:
    return lambda cell, *_: _share(cell.refused[code], cell.rows)


def _in_range(between: ScoreRange) -> Any:
    return lambda cell, *_: _share(cell.in_range[between], cell.scored)


def _labelled(label: str) -> Any:
    return lambda cell, *_: _share(cell.labels[label], cell.scored)


def _status(view: str, status: str) -> Any:
    def measure(cell: Cell, *_: Any) -> float | None:
        of_view = cell.statuses.get(view)
        return None if of_view is None else _share(of_view[status], of_view.total())

    return measure


def _latency(part: str, figure: str) -> Any:
    def measure(cell: Cell, *_: Any) -> float | None:
        us = cell.spent[part].quantiles().get(figure) if part in cell.spent else None
        return None if us is None else us / 1_000

    return measure


def _age(view: str, figure: str) -> Any:
    return lambda cell, *_: cell.ages[view].quantiles().get(figure) if view in cell.ages else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
