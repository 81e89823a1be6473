"""Skew reports as the reconciliation makes them: one in which all is equal, a bad one, one of no rows, and one full of HTML."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from jobs.proof.skew import FieldSkew, SkewReport

__all__ = ["HOSTILE", "bad", "clean", "empty", "hostile", "hostile_classes", "of_classes"]

HOSTILE = (
    "<script>alert('x')</script><img src=https://example.com/p.png onerror=alert(1)>&amp;\"'\x1b[31m\u202e"
)
_NAMES = (
    *("arr_hour_sin", "arr_hour_cos", "carrier_code", "dep_day_of_week", "dep_hour_cos", "dep_hour_sin"),
    *(
        "dep_minute_of_day",
        "distance_miles",
        "plane_age_years",
        "plane_flights_7d",
        "plane_is_late_share_28d",
    ),
    *("plane_seats", "route_arr_delay_minutes_mean_7d", "route_is_late_share_28d", "scheduled_minutes"),
    *("weather_precip_inches", "weather_visib_miles", "weather_wind_speed_mph"),
)
_START = datetime(2013, 6, 1, tzinfo=UTC)


def _hour(i: int) -> str:
    return (_START + timedelta(hours=i)).isoformat().replace("+00:00", "Z")


def field(name: str, compared: int, differing: int = 0, **more: Any) -> FieldSkew:
    """Return what one field's comparison found; quantiles are made up from its size."""
    sizes = {"p50": 1.0, "p90": 3.0, "p99": 2.0**29, "max": 2.0**52 + 7} if differing else {}
    absolute = {key: ulps * 2.0**-54 for key, ulps in sizes.items()}
    nulls = {"online_only_null": 0, "offline_only_null": 0, **more}
    return FieldSkew(
        name=name,
        compared=compared,
        exact=compared - differing,
        differing=differing,
        ulps=sizes,
        absolute=absolute,
        **nulls,
    )


def clean(rows: int = 1_000_000) -> SkewReport:
    """Return the report of rows that are all equal, over two days."""
    hours = [
        {
            "hour": _hour(i),
            "compared": rows // 48 + (i * 7919) % (rows // 100),
            "differing": 0,
            "flips": 0,
            "score_ulps_max": 0.0,
        }
        for i in range(48)
    ]
    return SkewReport(
        model="flights",
        reference_version="3",
        reference_digest="sha256:4d1f0c8a2b7e6a5c9f3b1e0d7c6a5b4f3e2d1c0b9a8f7e6d5c4b3a2f1e0d9c8b",
        log=".onescore/predictions/flights",
        created_ts="2013-06-03T00:04:10Z",
        from_ts="2013-06-01T00:00:00Z",
        to_ts="2013-06-03T00:00:00Z",
        rows_logged=rows,
        rows_compared=rows,
        rows_equal=rows,
        rows_differing=0,
        rows_refused_online=0,
        rows_refused_offline=0,
        requests_not_in_table=0,
        gaps=[],
        rows_lost=0,
        score=field("score", rows),
        features=[field(name, rows) for name in _NAMES],
        decisions={"threshold": 0.35, "flips": 0, "to_positive": 0, "to_negative": 0},
        by_hour=hours,
        by_version=[
            {"version": "3", "digest": "sha256:4d1f0c8a2b7e", "compared": rows, "differing": 0, "flips": 0}
        ],
        causes=[],
        unexplained=0,
        ulps_histogram=[],
        worst=[],
        repair={},
        budget={
            "max_differing_share": 0.0,
            "max_flip_share": 0.0,
            "max_unexplained_share": None,
            "max_lost_share": 0.0,
            "max_uncompared_share": 0.0,
            "exceeded": [],
        },
        rates={"seconds": 4.1, "rows_per_second": 243_902.4},
    )


def _worst(i: int, cause: str, where: str) -> dict[str, Any]:
    return {
        "row_id": f"2013-06-01-AA-{1895 + i}-EWR-0615",
        "as_of": "2013-06-01T10:15:00Z",
        "served_ts": f"2013-06-01T10:15:{i:02d}.048131Z",
        "version": "3",
        "process": "a1b2c3d4e5f6",
        "sequence": 4_211 + i,
        "cause": cause,
        "where": where,
        "score": {
            "online": 0.3512345678901234 + i / 100,
            "offline": 0.34829183710293847,
            "ulps": 53_012_345_678_901.0,
            "absolute": 0.0029427307871849,
        },
        "features": [
            {"name": "plane_flights_7d", "online": 11.0, "offline": 12.0},
            {"name": "plane_is_late_share_28d", "online": 0.1875, "offline": 0.17647058823529413},
            {"name": "weather_wind_speed_mph", "online": float("nan"), "offline": 9.2062},
        ],
        "inputs": [
            {"name": "tailnum", "online": "N3ELAA", "offline": "N3ELAA"[: 6 - i % 2]},
            {"name": "flight_number", "online": 9007199254740992, "offline": 9007199254740993},
            {"name": "distance_miles", "online": 1085.0999755859375, "offline": 1085.1},
            {"name": "plane_type", "online": None, "offline": "Fixed wing multi engine"},
        ],
        "statuses": {"plane": ["PRESENT", "PRESENT"], "weather": ["NOT_FOUND", "PRESENT"]},
        "event_ts": {
            "plane": ["2013-05-30T08:00:00Z", "2013-05-31T11:33:20Z"],
            "weather": [None, "2013-06-01T10:00:00Z"],
        },
        "label": [True, False],
        "error": [None, None],
    }


def _repair(causes: list[dict[str, Any]], rows: int) -> dict[str, Any]:
    again = "python -m jobs.score_batch --model flights --set model.version=3 --from 2013-06-01T00:00:00Z"
    return {
        "rows": rows,
        "scores_to_correct": rows - 252,
        "corrections": "flights_corrections",
        "decisions": {"flips": 211, "to_positive": 140, "to_negative": 71, "net": 69},
        "steps": [
            {**entry, "parts": entry.get("parts", []), "do": "Bring the store up to date.", "command": None}
            for entry in causes
        ],
        "backfill": [
            {"from": "2013-06-01T00:00:00Z", "to": "2013-06-02T00:00:00Z", "rows": rows, "command": again}
        ],
        "refused_offline": 3,
        "not_in_table": 37,
        "commands": [
            "python -m jobs.materialize_features --model flights --view plane_history",
            f"{again} --to 2013-06-02T00:00:00Z",
            "python -m jobs.reconcile_scores --model flights --model-version 3 --corrections",
        ],
        "notes": ["The last command stands there twice."],
    }


def bad() -> SkewReport:
    """Return the report of two days with every family of causes, gaps, refusals, two versions and an exceeded budget."""
    rows, differing, flips = 48_211, 6_132, 211
    of_hour = [0] * 9 + [0, 12, 340, 701, 1210, 1105, 940, 612, 480, 303, 201, 121, 60, 33, 14] + [0] * 24
    hours = [
        {
            "hour": _hour(i),
            "compared": 700 + (i * 7919) % 600,
            "differing": n,
            "flips": n // 29,
            "score_ulps_max": float(n),
        }
        for i, n in enumerate(of_hour)
        if i not in (30, 31)
    ]
    rows_by = [
        ("stale", "plane_history", 3_010, 122),
        ("data_type", "distance_miles", 1_204, 0),
        ("stale", "weather", 611, 40),
        ("feature_code", "hour_sin", 402, 3),
        ("missing", "plane", 377, 31),
        ("interaction", "plane_history, distance_miles", 211, 11),
        ("model_version", "version 2", 188, 4),
        ("platform", "", 77, 0),
        ("unexplained", "", 52, 0),
    ]
    causes = [
        {"cause": c, "where": w, "rows": n, "flips": f, "share": n / differing} for c, w, n, f in rows_by
    ]
    causes[5]["parts"] = ["stale", "data_type"]
    features = [field(name, rows) for name in _NAMES]
    features[7] = field("distance_miles", rows, 1_204)
    features[9] = field("plane_flights_7d", rows, 3_010, online_only_null=41)
    features[17] = field("weather_wind_speed_mph", rows, 988, online_only_null=377, offline_only_null=2)
    return replace(
        clean(rows),
        rows_logged=rows + 12,
        rows_equal=rows - differing,
        rows_differing=differing,
        rows_refused_online=14,
        rows_refused_offline=3,
        requests_not_in_table=37,
        rows_duplicated=2,
        rows_not_comparable=12,
        unlogged={"passenger_name": 48_211, "weather_wind_speed_mph": 12},
        gaps=[
            {"process": "a1b2c3d4e5f6", "first": 901, "last": 1_012, "missing": 112, "is_tail": False},
            {"process": "0f9e8d7c6b5a", "first": 17, "last": 17, "missing": 1, "is_tail": False},
            {"process": "0f9e8d7c6b5a", "first": 40, "last": 46, "missing": 7, "is_tail": True},
        ],
        rows_lost=113,
        rows_not_yet_written=7,
        score=field("score", rows, 5_880),
        features=features,
        decisions={"threshold": 0.35, "flips": flips, "to_positive": 140, "to_negative": 71},
        by_hour=hours,
        by_version=[
            {
                "version": "3",
                "digest": "sha256:4d1f0c8a2b7e6a5c",
                "compared": rows - 900,
                "differing": differing - 188,
                "flips": 207,
            },
            {
                "version": "2",
                "digest": "sha256:99ab0c8a2b7e6a5c",
                "compared": 900,
                "differing": 188,
                "flips": 4,
            },
        ],
        causes=causes,
        unexplained=52,
        ulps_histogram=[
            {"at_least": 2.0**k, "below": 2.0 ** (k + 1), "rows": n}
            for k, n in [(0, 71), (1, 22), (2, 5), (26, 40), (27, 300), (28, 620), (29, 244)]
            + [(k, 40 + (k * 37) % 400) for k in range(40, 53)]
        ],
        worst=[
            _worst(
                i,
                *[("stale", "plane_history"), ("missing", "weather"), ("data_type", "distance_miles")][i % 3],
            )
            for i in range(20)
        ],
        repair=_repair(causes, differing),
        budget={
            "max_differing_share": 0.0,
            "max_flip_share": 0.001,
            "max_unexplained_share": 0.01,
            "max_lost_share": 0.01,
            "max_uncompared_share": 0.01,
            "exceeded": ["max_differing_share", "max_flip_share"],
        },
        rates={"seconds": 21.7, "rows_per_second": 2_221.7},
    )


def empty() -> SkewReport:
    """Return the report of a time in which nothing was logged."""
    return replace(
        clean(100),
        rows_logged=0,
        rows_compared=0,
        rows_equal=0,
        score=field("score", 0),
        features=[field(name, 0) for name in _NAMES],
        by_hour=[],
        by_version=[],
        from_ts=None,
        to_ts=None,
    )


def partly() -> SkewReport:
    """Return the report of two days in which every compared row is equal, some were lost and some could not be compared."""
    return replace(
        clean(1_000),
        rows_logged=1_012,
        rows_not_comparable=12,
        rows_lost=113,
        rows_not_yet_written=7,
        gaps=bad().gaps,
        budget={"max_lost_share": 0.2, "max_uncompared_share": 0.0, "exceeded": ["max_uncompared_share"]},
    )


def of_classes(fair: str = "fair") -> SkewReport:
    """Return the bad report as that of a model of three classes."""
    moves = [{"from": fair, "to": "dear", "rows": 150}, {"from": "cheap", "to": fair, "rows": 61}]
    worst = [
        {
            **row,
            "label": [fair, "dear"],
            "classes": [
                {"name": fair, "online": 0.75, "offline": 0.125},
                {"name": "dear", "online": 0.125, "offline": 0.75},
            ],
        }
        for row in bad().worst
    ]
    return replace(
        bad(),
        decisions={
            **bad().decisions,
            "threshold": None,
            "to_positive": 0,
            "to_negative": 0,
            "classes": ["cheap", fair, "dear"],
            "moves": moves,
        },
        classes=[
            field("score_cheap", 48_211),
            field(f"score_{fair}", 48_211, 1_204),
            field("score_dear", 48_211, 1_204),
        ],
        worst=worst,
    )


def hostile_classes() -> SkewReport:
    """Return the same with a class that is HTML, escapes and direction marks."""
    return of_classes(HOSTILE)


def hostile() -> SkewReport:
    """Return a bad report in which every text that people or requests bring is HTML, escapes and direction marks."""
    worst = {
        **_worst(0, "extracted", HOSTILE),
        "row_id": HOSTILE,
        "version": HOSTILE,
        "process": HOSTILE,
        "features": [{"name": HOSTILE, "online": float("inf"), "offline": -0.0}],
        "inputs": [
            {"name": HOSTILE, "online": HOSTILE, "offline": "\ud800"},
            {"name": "note", "online": "x" * 5_000 + HOSTILE, "offline": "x" * 5_000},
        ],
        "statuses": {HOSTILE: [HOSTILE, "PRESENT"]},
        "event_ts": {HOSTILE: [None, HOSTILE]},
        "error": [HOSTILE, None],
    }
    return replace(
        bad(),
        model=HOSTILE,
        reference_version=HOSTILE,
        reference_digest=HOSTILE,
        log=HOSTILE,
        created_ts=HOSTILE,
        from_ts=HOSTILE,
        gaps=[{"process": HOSTILE, "first": 1, "last": 2, "missing": 2, "is_tail": False}],
        features=[field(HOSTILE, 10, 3), field(HOSTILE * 2, 10)],
        by_version=[{"version": HOSTILE, "digest": HOSTILE, "compared": 10, "differing": 3, "flips": 1}],
        causes=[
            {"cause": HOSTILE, "where": HOSTILE, "rows": 3, "flips": 1, "share": 1.0, "parts": [HOSTILE]}
        ],
        worst=[worst],
        repair={
            **_repair([], 3),
            "corrections": HOSTILE,
            "steps": [
                {"cause": HOSTILE, "where": HOSTILE, "parts": [HOSTILE], "rows": 3, "flips": 0, "do": HOSTILE}
            ],
            "backfill": [{"from": HOSTILE, "to": HOSTILE, "rows": 3}],
            "commands": [HOSTILE],
            "notes": [HOSTILE],
        },
        budget={"max_differing_share": 0.0, "exceeded": [HOSTILE]},
        unlogged={HOSTILE: 3},
    )
