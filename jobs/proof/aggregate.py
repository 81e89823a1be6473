"""Counts of a comparison, a task's or all tasks': they add up, and their size does not grow with the rows.

Differing rows are counted here and listed elsewhere; of all of them a few of the largest are kept whole. This module scores nothing and
reads no file.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.parity import ulp_distance
from jobs.proof.histogram import Histogram
from jobs.proof.skew import FieldSkew

__all__ = ["WORST", "FieldCounts", "Totals"]

WORST = 20
_HOUR_US = 3_600_000_000
_NO_ULPS = np.uint64(np.iinfo(np.uint64).max)


@dataclass
class FieldCounts:
    """How a feature, or the score, compares: see FieldSkew."""

    compared: int = 0
    differing: int = 0
    online_only_null: int = 0
    offline_only_null: int = 0
    ulps: Histogram = field(default_factory=Histogram)
    absolute: Histogram = field(default_factory=Histogram)

    def add(self, compared: int, online: NDArray[np.float64], offline: NDArray[np.float64]) -> None:
        """Count rows.

        Args:
            compared: how many both sides have.
            online, offline: the values of those that differ by bits.
        """
        self.compared += compared
        if not len(online):
            return
        null, other_null = np.isnan(online), np.isnan(offline)
        self.differing += len(online)
        self.online_only_null += int((null & ~other_null).sum())
        self.offline_only_null += int((other_null & ~null).sum())
        both = ~(null | other_null)
        self.ulps.add(ulp_distance(online[both], offline[both]).astype(np.float64))
        with np.errstate(all="ignore"):
            distance = np.abs(online[both] - offline[both])
        self.absolute.add(distance[~np.isnan(distance)])

    def merge(self, other: FieldCounts) -> None:
        """Add another's counts."""
        for name in ("compared", "differing", "online_only_null", "offline_only_null"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.ulps.merge(other.ulps)
        self.absolute.merge(other.absolute)

    def skew(self, name: str) -> FieldSkew:
        """Return the figures."""
        return FieldSkew(
            name,
            self.compared,
            self.compared - self.differing,
            self.differing,
            self.online_only_null,
            self.offline_only_null,
            self.ulps.quantiles(),
            self.absolute.quantiles(),
        )

    def to_json(self) -> list[Any]:
        """Return JSON values."""
        counts = [self.compared, self.differing, self.online_only_null, self.offline_only_null]
        return [*counts, self.ulps.to_json(), self.absolute.to_json()]

    @classmethod
    def from_json(cls, value: list[Any]) -> FieldCounts:
        """Return what `to_json` wrote."""
        compared, differing, online, offline, ulps, absolute = value
        histograms = Histogram.from_json(ulps), Histogram.from_json(absolute)
        return cls(compared, differing, online, offline, *histograms)


@dataclass
class Totals:
    """All counts.

    Args:
        counts: "logged", "compared", "differing", "refused_online", "refused_offline", "not_in_table", "duplicated",
            "not_comparable", "corrected"; of the differing rows "flips", "to_positive" and "to_negative" (what correcting does to
            decisions), "to_correct" (score, label or refusal differ), "to_correct_not_in_table", "differing_refused_offline".
        fields: by feature, and "score"; of several classes each one's score, and as "score" that of a row's which is furthest apart.
        hours: by hour (microseconds of its beginning): compared, differing, flips, most ULPs of a score.
        versions: by (version, digest): compared, differing, flips.
        causes: by (cause, where, parts): rows, flips.
        moves: of several classes, rows by (class as answered, class as recomputed) where these differ.
        days: rows to correct that the batch can write again, by the day of their as-of time, since 1970.
        worst: whole rows, with "rank", largest first.
        unlogged: by field or feature the rows of which the log does not hold the value.
        seconds: by stage.
    """

    counts: Counter[str] = field(default_factory=Counter)
    fields: dict[str, FieldCounts] = field(default_factory=lambda: defaultdict(FieldCounts))
    hours: dict[int, list[float]] = field(default_factory=dict)
    versions: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    causes: dict[tuple[str, str, str], list[int]] = field(default_factory=dict)
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    days: Counter[int] = field(default_factory=Counter)
    worst: list[dict[str, Any]] = field(default_factory=list)
    unlogged: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)

    def add_hours(
        self,
        times: NDArray[np.int64],
        differing: NDArray[np.bool_],
        flips: NDArray[np.bool_],
        ulps: NDArray[np.uint64],
    ) -> None:
        """Count compared rows by the hour; `ulps` of the score, the maximum where a side has none."""
        hours, inverse = np.unique(times // _HOUR_US, return_inverse=True)
        most = np.zeros(len(hours))
        np.maximum.at(most, inverse, np.where(ulps == _NO_ULPS, 0, ulps).astype(np.float64))
        compared, differ, flip = (
            np.bincount(inverse, weights=weights, minlength=len(hours))
            for weights in (None, differing.astype(np.float64), flips.astype(np.float64))
        )
        for i, hour in enumerate(hours.tolist()):
            held = self.hours.setdefault(hour * _HOUR_US, [0, 0, 0, 0.0])
            self.hours[hour * _HOUR_US] = [
                held[0] + int(compared[i]),
                held[1] + int(differ[i]),
                held[2] + int(flip[i]),
                max(held[3], float(most[i])),
            ]

    def add_version(self, version: str, digest: str, compared: int, differing: int, flips: int) -> None:
        """Count rows that a version answered."""
        _add(self.versions, (version, digest), [compared, differing, flips])

    def add_cause(self, cause: str, where: str, parts: str, rows: int, flips: int) -> None:
        """Count rows of one cause."""
        _add(self.causes, (cause, where, parts), [rows, flips])

    def add_worst(self, rows: Sequence[dict[str, Any]]) -> None:
        """Keep the largest differences; each row has "rank": a list that compares."""
        self.worst = sorted([*self.worst, *rows], key=lambda row: row["rank"], reverse=True)[:WORST]

    def merge(self, other: Totals) -> None:
        """Add another's counts."""
        self.counts.update(other.counts)
        self.moves.update(other.moves)
        self.days.update(other.days)
        self.unlogged.update(other.unlogged)
        self.seconds.update(other.seconds)
        for name, counts in other.fields.items():
            self.fields[name].merge(counts)
        for hour, values in other.hours.items():
            held = self.hours.setdefault(hour, [0, 0, 0, 0.0])
            self.hours[hour] = [
                *(a + b for a, b in zip(held[:3], values[:3], strict=True)),
                max(held[3], values[3]),
            ]
        for version, counted in other.versions.items():
            _add(self.versions, version, counted)
        for cause, counted in other.causes.items():
            _add(self.causes, cause, counted)
        self.add_worst(other.worst)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "counts": dict(self.counts),
            "fields": {name: counts.to_json() for name, counts in self.fields.items()},
            "hours": list(self.hours.items()),
            "versions": [[*key, *values] for key, values in self.versions.items()],
            "causes": [[*key, *values] for key, values in self.causes.items()],
            "moves": [[*key, rows] for key, rows in self.moves.items()],
            "days": list(self.days.items()),
            "worst": self.worst,
            "unlogged": dict(self.unlogged),
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Totals:
        """Return what `to_json` wrote."""
        made = cls(Counter(value["counts"]))
        for name, counts in value["fields"].items():
            made.fields[name] = FieldCounts.from_json(counts)
        made.hours = dict(value["hours"])
        made.versions = {(v, d): counted for v, d, *counted in value["versions"]}
        made.causes = {(c, w, p): counted for c, w, p, *counted in value["causes"]}
        made.moves = Counter({(a, b): rows for a, b, rows in value["moves"]})
        made.days, made.worst = Counter(dict(value["days"])), value["worst"]
        made.unlogged, made.seconds = Counter(value["unlogged"]), Counter(value["seconds"])
        return made


def _add(held: dict[Any, list[int]], key: Any, values: Sequence[int]) -> None:
    held[key] = [a + b for a, b in zip(held.get(key, [0] * len(values)), values, strict=True)]
