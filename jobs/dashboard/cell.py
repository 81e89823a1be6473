"""What is counted of the answers of one stretch of time; two such counts add up to that of both.

A cell's size is bounded whatever a log holds: of codes, labels, versions and views it keeps so many by name, and the rest together.
Every figure of the dashboard is computed from cells alone. This module knows nothing of files or clocks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from jobs.dashboard.logged_rows import LoggedRows
from jobs.dashboard.score_bins import ScoreBins
from jobs.proof.histogram import Histogram

__all__ = ["OTHERS", "PARTS", "Cell", "ScoreRange"]

OTHERS = "(others)"
"""The name under which what is beyond the most names is counted together."""

PARTS = ("lookup", "features", "model")
_MOST_NAMES = 64

ScoreRange = tuple[float, float]
"""Scores from the first to the second, both inclusive."""


@dataclass
class Cell:
    """Counts of rows.

    Args:
        rows, scored: answered, and of them those with a score.
        calls: sets of rows that were scored together: a request, or several that waited together.
        refused, labels, versions, processes: rows by code, label, version, and who answered.
        statuses: look-ups by view and status; `ages`: of rows found there, how old they were as of the request, seconds;
            `newest_event`: the newest event time among them, microseconds.
        spent: by part and "total", of measured calls, microseconds; `spent_total`: their exact sum; `measured`: how many.
        scores: distribution.
        in_range: rows whose score is in each range that was asked for.
    """

    rows: int = 0
    scored: int = 0
    calls: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    processes: Counter[str] = field(default_factory=Counter)
    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    ages: dict[str, Histogram] = field(default_factory=dict)
    newest_event: dict[str, int] = field(default_factory=dict)
    spent: dict[str, Histogram] = field(default_factory=lambda: defaultdict(Histogram))
    spent_total: Counter[str] = field(default_factory=Counter)
    measured: int = 0
    scores: ScoreBins = field(default_factory=ScoreBins)
    in_range: Counter[ScoreRange] = field(default_factory=Counter)

    @classmethod
    def of(cls, rows: LoggedRows, ranges: Sequence[ScoreRange] = ()) -> Cell:
        """Return the counts of rows.

        Args:
            rows: all are counted.
            ranges: of scores, whose rows are counted besides.
        """
        cell = cls(
            rows=len(rows),
            scored=int(rows.is_scored.sum()),
            calls=len(rows.calls_served),
            refused=_bounded(rows.error.counts()),
            labels=_bounded(rows.label.counts()),
            versions=_bounded(rows.version.counts()),
            processes=_bounded(rows.process.counts()),
            measured=rows.calls.shape[1],
        )
        for view, (_, status) in list(rows.looked_up.items())[:_MOST_NAMES]:
            cell.statuses[view] = _bounded(status.counts())
        for view, (_, age, event) in list(rows.ages.items())[:_MOST_NAMES]:
            cell.ages[view] = Histogram()
            cell.ages[view].add(np.maximum(age, 0.0))
            cell.newest_event[view] = int(event.max())
        for part, us in zip((*PARTS, "total"), (*rows.calls[1:], rows.calls[1:].sum(axis=0)), strict=True):
            cell.spent[part].add(us.astype(np.float64))
            cell.spent_total[part] = int(us.sum())
        scores = rows.score[rows.is_scored]
        cell.scores.add(scores)
        for low, high in ranges:
            cell.in_range[low, high] = int(((scores >= low) & (scores <= high)).sum())
        return cell

    def merge(self, other: Cell) -> None:
        """Add another's counts."""
        self.rows += other.rows
        self.scored += other.scored
        self.calls += other.calls
        self.measured += other.measured
        for mine, its in (
            (self.refused, other.refused),
            (self.labels, other.labels),
            (self.versions, other.versions),
            (self.processes, other.processes),
        ):
            _add(mine, its)
        for view, of_view in other.statuses.items():
            if view in self.statuses or len(self.statuses) < _MOST_NAMES:
                _add(self.statuses.setdefault(view, Counter()), of_view)
        for view, age in other.ages.items():
            if view in self.ages or len(self.ages) < _MOST_NAMES:
                self.ages.setdefault(view, Histogram()).merge(age)
                newest = other.newest_event[view]
                self.newest_event[view] = max(self.newest_event.get(view, newest), newest)
        for part, of_part in other.spent.items():
            self.spent[part].merge(of_part)
        self.spent_total.update(other.spent_total)
        self.scores.merge(other.scores)
        self.in_range.update(other.in_range)


def _bounded(counts: Mapping[str, int]) -> Counter[str]:
    found: Counter[str] = Counter()
    _add(found, counts)
    return found


def _add(mine: Counter[str], its: Mapping[str, int]) -> None:
    """Add counts by name; a name beyond the most is counted among the others."""
    for name, n in its.items():
        mine[name if name in mine or len(mine) < _MOST_NAMES else OTHERS] += n
