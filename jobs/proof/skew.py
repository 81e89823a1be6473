"""What a comparison of the prediction log with a batch recomputation found: plain data, for the report, the repair and the tests.

It holds no personal data: fields tagged "pii" appear by name alone. This module computes nothing but its own JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["FieldSkew", "SkewReport"]


@dataclass(frozen=True)
class FieldSkew:
    """How one feature, or the score, compares.

    Args:
        name: of the feature; "score".
        compared: rows in which both sides have it, or one has null: all rows that neither side refused and whose value is logged.
        exact: rows of equal bits; `differing`: the others.
        online_only_null, offline_only_null: differing rows in which one side alone is null (NaN).
        ulps: "p50", "p90", "p99" and "max" of the distance in units in the last place, among differing rows in which both are
            numbers; {} without any. Quantiles are exact below 32, else at most 1/16 too small; "max" is exact.
        absolute: the same of |online - offline|; quantiles at most 1/16 too small, "max" exact.
    """

    name: str
    compared: int
    exact: int
    differing: int
    online_only_null: int = 0
    offline_only_null: int = 0
    ulps: Mapping[str, float] = field(default_factory=dict)
    absolute: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SkewReport:
    """A comparison as a whole.

    Args:
        model, reference_version, reference_digest: what recomputed.
        log: the directory that was read.
        created_ts, from_ts, to_ts: RFC 3339; the bounds as they were asked for, None = none.
        rows_logged: rows read in the range, each once.
        rows_compared: those that could be recomputed; `rows_equal` + `rows_differing` + `rows_corrected`.
        rows_refused_online, rows_refused_offline: compared rows with an error on that side.
        requests_not_in_table: compared rows whose request came from the log.
        gaps: {"process", "first", "last", "missing", "is_tail"} each: numbers in no file of the log. `rows_lost`: the sum of
            "missing", without those of a tail, which a process that may still run has perhaps not yet written.
        score, features: see FieldSkew; features in the model's order. Of several classes, a row's `score` is that of them which is
            furthest apart, and `classes` has each one's.
        decisions: {"threshold": float | None, "flips", "to_positive", "to_negative"}: what a flip to the *offline* label would be.
            Of several classes besides "classes", their names, and "moves": {"from", "to" (offline), "rows"}, most rows first.
        by_hour: {"hour" (RFC 3339, of served_ts), "compared", "differing", "flips", "score_ulps_max"}, ascending.
        by_version: {"version", "digest", "compared", "differing", "flips"}, by version.
        causes: {"cause", "where", "rows", "flips", "share" (of the differing rows)} and, of an interaction, "parts"; most rows
            first. "where" is "" where the rows of a cause are too scattered to list one by one.
        unexplained: differing rows without a cause.
        ulps_histogram: {"at_least", "below", "rows"}: of the score's distance in ULPs, powers of two, differing rows alone.
        worst: up to 20 rows, largest difference of the score first, flips and refusals before: {"row_id", "as_of", "served_ts"
            (RFC 3339), "version", "process", "sequence", "cause", "where", "score": {"online", "offline", "ulps", "absolute"},
            "label": [online, offline], "error": [online, offline], "classes": as "features", the scores of classes that differ,
            "features" and "inputs": [{"name", "online", "offline"}] that differ, "statuses": {view: [online, offline]},
            "event_ts": {view: [online, offline]} (RFC 3339 or None)}.
        repair: what `jobs.proof.repair` made of it.
        budget: {"max_differing_share", "max_flip_share", "max_unexplained_share", "max_lost_share", "max_uncompared_share",
            "exceeded": [names]}.
        rates: {"seconds", "rows_per_second"}.
        rows_duplicated: rows that are in the log more than once, beyond the first.
        rows_not_comparable: rows read whose request is not in the table and not whole in the log (personal data).
        rows_corrected: compared rows that differed and have a correction that says what the batch says; neither equal nor differing.
        rows_not_yet_written: of the tails in `gaps`.
        unlogged: fields and features with rows of which the log does not hold the value, and in how many.
    """

    model: str
    reference_version: str
    reference_digest: str
    log: str
    created_ts: str
    from_ts: str | None
    to_ts: str | None
    rows_logged: int
    rows_compared: int
    rows_equal: int
    rows_differing: int
    rows_refused_online: int
    rows_refused_offline: int
    requests_not_in_table: int
    gaps: list[dict[str, Any]]
    rows_lost: int
    score: FieldSkew
    features: list[FieldSkew]
    decisions: dict[str, Any]
    by_hour: list[dict[str, Any]]
    by_version: list[dict[str, Any]]
    causes: list[dict[str, Any]]
    unexplained: int
    ulps_histogram: list[dict[str, Any]]
    worst: list[dict[str, Any]]
    repair: dict[str, Any]
    budget: dict[str, Any]
    rates: dict[str, float]
    rows_duplicated: int = 0
    rows_not_comparable: int = 0
    unlogged: dict[str, int] = field(default_factory=dict)
    rows_corrected: int = 0
    rows_not_yet_written: int = 0
    classes: list[FieldSkew] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """Whether every answered row was compared and is equal by bits or corrected: none is lost, and there is one."""
        return self.is_equal_where_compared and self.rows_lost == 0 and self.rows_compared == self.rows_logged

    @property
    def is_equal_where_compared(self) -> bool:
        """Whether every compared row is equal by bits or corrected, and there is one; others may be lost or left out."""
        return self.rows_compared > 0 and self.rows_differing == 0

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values; NaN and infinities as the strings of the wire form."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SkewReport:
        """Return what `to_json` wrote."""
        score = FieldSkew(**value["score"])
        features, classes = (
            [FieldSkew(**one) for one in value.get(name, [])] for name in ("features", "classes")
        )
        return cls(**{**value, "score": score, "features": features, "classes": classes})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value
