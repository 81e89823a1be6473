"""A report survives its own JSON, which any reader of JSON takes."""

from __future__ import annotations

import dataclasses
import json

from jobs.proof.skew import FieldSkew, SkewReport

SCORE = FieldSkew("score", 3, 2, 1, ulps={"max": 1.0}, absolute={"max": float("inf")})
REPORT = SkewReport(
    model="houses",
    reference_version="1",
    reference_digest="d",
    log="/log",
    created_ts="2020-01-01T00:00:00Z",
    from_ts=None,
    to_ts=None,
    rows_logged=3,
    rows_compared=3,
    rows_equal=2,
    rows_differing=1,
    rows_refused_online=0,
    rows_refused_offline=0,
    requests_not_in_table=0,
    gaps=[],
    rows_lost=0,
    score=SCORE,
    features=[FieldSkew("area", 3, 3, 0)],
    decisions={"threshold": 0.5, "flips": 0, "to_positive": 0, "to_negative": 0},
    by_hour=[],
    by_version=[],
    causes=[],
    unexplained=0,
    ulps_histogram=[],
    worst=[{"score": {"online": float("nan"), "offline": 1.0}}],
    repair={},
    budget={"max_differing_share": 0.0, "exceeded": ["max_differing_share"]},
    rates={"seconds": 1.0, "rows_per_second": 3.0},
)


def test_report_is_json_and_comes_back() -> None:
    text = json.dumps(REPORT.to_json(), allow_nan=False)
    again = SkewReport.from_json(json.loads(text))
    assert again.worst == [{"score": {"online": "NaN", "offline": 1.0}}]
    assert again.score == dataclasses.replace(SCORE, absolute={"max": "Infinity"})  # type: ignore[dict-item]
    assert again.to_json() == REPORT.to_json()


def test_nothing_compared_is_not_equal() -> None:
    assert not REPORT.is_equal
    assert dataclasses.replace(REPORT, rows_differing=0).is_equal
    assert not dataclasses.replace(REPORT, rows_differing=0, rows_compared=0).is_equal
    equal = dataclasses.replace(REPORT, rows_differing=0)
    for lacking in ({"rows_lost": 1}, {"rows_logged": equal.rows_compared + 1}):
        report = dataclasses.replace(equal, **lacking)
        assert (report.is_equal, report.is_equal_where_compared) == (False, True)
    assert dataclasses.replace(equal, rows_not_yet_written=9).is_equal
