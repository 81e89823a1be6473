"""The distribution of scores of any range in a bounded number of exact counts that add up.

Bins are aligned: [i * 2**k, (i + 1) * 2**k). Those of a larger k are unions of those of a smaller one, so two distributions add up
exactly whatever they have seen, and k grows as the range does. Scores of [0, 1] are counted in twentieths besides, which people read.
This module knows nothing of time.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ScoreBins"]

_MOST = 64
_SHOWN = 32
_UNIT_EDGES = np.arange(1, 20) / 20
_FINEST = 30  # bits below the largest score: what is closer together than that is shown as one bin


@dataclass
class ScoreBins:
    """Counts of scores; see the module.

    >>> seen = ScoreBins()
    >>> seen.add(np.array([3.0, 5.0, 5.5, 11.0, float("nan")]))
    >>> (seen.n, seen.not_finite, seen.smallest, seen.largest)
    (4, 1, 3.0, 11.0)
    >>> sum(found["rows"] for found in seen.bins())
    4
    """

    counts: Counter[int] = field(default_factory=Counter)
    exponent: int | None = None
    twentieths: NDArray[np.int64] = field(default_factory=lambda: np.zeros(20, np.int64))
    n: int = 0
    not_finite: int = 0
    total: float = 0.0
    smallest: float = math.inf
    largest: float = -math.inf

    def add(self, scores: NDArray[np.float64]) -> None:
        """Count scores; what is not finite is counted apart."""
        finite = scores[np.isfinite(scores)]
        self.not_finite += len(scores) - len(finite)
        if not len(finite):
            return
        self.n += len(finite)
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # of scores near the largest double: then there is no mean
            self.total += float(finite.sum())
        lowest, highest = float(finite.min()), float(finite.max())
        self.smallest, self.largest = min(self.smallest, lowest), max(self.largest, highest)
        self._widen(_exponent(lowest, highest))
        exponent = self.exponent or 0
        places = np.floor(np.ldexp(finite, -exponent)).astype(np.int64)
        places[(finite < 0) & (places == 0)] = -1  # it went to zero on the way
        keys, counts = np.unique(places, return_counts=True)
        self.counts.update(dict(zip(keys.tolist(), counts.tolist(), strict=True)))
        unit = finite[(finite >= 0) & (finite <= 1)]
        self.twentieths = self.twentieths + np.bincount(
            np.searchsorted(_UNIT_EDGES, unit, side="right"), minlength=20
        )

    def merge(self, other: ScoreBins) -> None:
        """Add another's counts."""
        self.not_finite += other.not_finite
        if other.exponent is None:
            return
        self.n += other.n
        self.total += other.total
        self.smallest = min(self.smallest, other.smallest)
        self.largest = max(self.largest, other.largest)
        self.twentieths = self.twentieths + other.twentieths
        self._widen(other.exponent)
        shift = (self.exponent or 0) - other.exponent
        for key, count in other.counts.items():
            self.counts[key >> shift] += count

    def bins(self, *, is_share: bool = False) -> list[dict[str, float]]:
        """Return [{"from", "to", "rows"}], ascending, without a hole: `from` is inclusive, `to` is not.

        Args:
            is_share: the scores are meant to be in [0, 1]: twentieths are returned, if all of them are; the last includes 1.
        """
        if is_share and self.twentieths.sum() == self.n:
            return [
                {"from": i / 20, "to": (i + 1) / 20, "rows": int(n)} for i, n in enumerate(self.twentieths)
            ]
        if self.exponent is None:
            return []
        shift = 0
        low, high = min(self.counts), max(self.counts)
        while (high >> shift) - (low >> shift) >= _SHOWN:
            shift += 1
        merged: Counter[int] = Counter()
        for key, count in self.counts.items():
            merged[key >> shift] += count
        width = 2.0 ** (self.exponent + shift)
        keys = range(low >> shift, (high >> shift) + 1)
        return [{"from": key * width, "to": (key + 1) * width, "rows": merged[key]} for key in keys]

    def summary(self) -> dict[str, Any]:
        """Return mean, smallest and largest score (None of none), and how many were not finite."""
        if not self.n:
            return {"mean": None, "min": None, "max": None, "not_finite": self.not_finite}
        mean = self.total / self.n
        return {
            "mean": mean if math.isfinite(mean) else None,
            "min": self.smallest,
            "max": self.largest,
            "not_finite": self.not_finite,
        }

    def _widen(self, exponent: int) -> None:
        """Take an exponent no smaller than this and one's own, under which all that was seen is in few enough bins."""
        wanted = exponent if self.exponent is None else max(exponent, self.exponent)
        while _place(self.largest, wanted) - _place(self.smallest, wanted) >= _MOST:
            wanted += 1
        if self.exponent is not None and wanted > self.exponent:
            widened: Counter[int] = Counter()
            for key, count in self.counts.items():
                widened[key >> (wanted - self.exponent)] += count
            self.counts = widened
        self.exponent = wanted


def _place(score: float, exponent: int) -> int:
    """Return the bin of a score; one that goes to zero on the way stays on its side of it."""
    place = math.floor(math.ldexp(score, -exponent))
    return min(place, -1) if score < 0 else place


def _exponent(lowest: float, highest: float) -> int:
    """Return a k by which [lowest, highest] is cut into bins fine enough, and no finer than doubles of that size can tell apart."""
    _, magnitude = math.frexp(max(abs(lowest), abs(highest)))
    _, spread = math.frexp(highest / 2 - lowest / 2)
    return max(spread - 5, magnitude - _FINEST, -1000)
