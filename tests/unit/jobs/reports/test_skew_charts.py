from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest

from jobs.reports.skew_charts import bar, causes_chart, hours_chart, ulps_chart
from tests.unit.jobs.reports.skew_samples import HOSTILE, bad

START = datetime(2013, 6, 1, tzinfo=UTC)


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def rects(svg: str, css: str) -> list[dict[str, float]]:
    """Return position and size of each rectangle of a class: per cent along the page, pixels down."""
    return [
        {name: float((rect.get(name) or "").rstrip("%")) for name in ("x", "width", "y", "height")}
        for rect in drawn(svg).iter("rect")
        if rect.get("class") == css
    ]


def described(svg: str) -> str:
    return drawn(svg).findtext("desc") or ""


def titles(svg: str) -> list[str]:
    return [title.text or "" for title in drawn(svg).iter("title")]


def hour(i: int, compared: int = 10, differing: int = 0, flips: int = 0) -> dict[str, Any]:
    when = (START + timedelta(hours=i)).isoformat().replace("+00:00", "Z")
    return {"hour": when, "compared": compared, "differing": differing, "flips": flips}


# ULPs


def test_ulps_grow_to_the_right_and_rows_upwards() -> None:
    bins = [
        {"at_least": 2.0**k, "below": 2.0 ** (k + 1), "rows": n} for k, n in [(52, 10), (0, 1000), (28, 1)]
    ]

    svg = ulps_chart(bins, equal=5)

    last_bit, float32, twice = rects(svg, "bad")
    (equal,) = rects(svg, "ok")
    assert equal["x"] + equal["width"] < last_bit["x"] < float32["x"] < twice["x"] < 100
    assert last_bit["height"] > twice["height"] > float32["height"] > 0
    assert "1,000 scores: 1 ULP" in titles(svg)
    assert described(svg) == "5 scores equal in every bit, 1,011 apart, from 1 ULP to 2⁵² to 2⁵³ ULPs."


def test_ulps_of_equal_scores_are_one_column_and_a_word() -> None:
    svg = ulps_chart([], equal=1_000_000)

    assert rects(svg, "bad") == []
    assert len(rects(svg, "ok")) == 1
    assert "no score differs" in svg


def test_largest_distance_there_is_stays_in_the_picture() -> None:
    (column,) = rects(ulps_chart([{"at_least": 2.0**63, "below": 2.0**64, "rows": 3}], equal=0), "bad")
    assert column["x"] + column["width"] <= 100


# Hours


def test_hours_without_rows_leave_their_place_empty() -> None:
    svg = hours_chart([hour(0, differing=4, flips=1), hour(1, differing=2), hour(9, differing=4)])

    first, second, last = rects(svg, "bad")
    assert last["x"] - first["x"] == pytest.approx(9 * (second["x"] - first["x"]), rel=1e-3)
    assert first["height"] == last["height"] == 2 * second["height"]
    assert rects(svg, "flip")[0]["height"] == first["height"] / 4
    assert titles(svg)[1] == "2013-06-01 00:00 UTC: 4 of 10 differ, 1 flip"


def test_a_year_of_hours_is_drawn_in_steps_and_loses_no_row() -> None:
    svg = hours_chart([hour(i, differing=i % 3) for i in range(8760)])

    assert len(rects(svg, "traffic")) <= 96
    counted = [re.search(r": ([\d,]+) of ([\d,]+) differ", title) for title in titles(svg)[1:]]
    sums = [sum(int(found[i].replace(",", "")) for found in counted if found) for i in (1, 2)]
    assert sums == [8760, 87_600]


def test_hours_without_a_difference_say_so() -> None:
    svg = hours_chart([hour(0), hour(1)])
    assert "no row differs" in svg
    assert described(svg).startswith("No row differs at any time")


def test_no_hours_are_no_chart() -> None:
    assert hours_chart([]) == ""


# Causes


def test_places_of_one_cause_are_one_bar_and_the_largest_is_first() -> None:
    svg = causes_chart(bad().causes)

    first = next(rect for rect in drawn(svg).iter("rect") if "family-" in (rect.get("class") or ""))
    assert (first.get("class"), first.get("width")) == ("family-data", "100.000%")
    assert described(svg).startswith("stale: 3,621 (59.05 %); data type: 1,204 (19.63 %)")


def test_unknown_cause_is_text_and_unexplained() -> None:
    svg = causes_chart([{"cause": HOSTILE, "where": "", "rows": 1, "flips": 0, "share": 1.0}])

    assert len(rects(svg, "family-unexplained")) == 1
    assert not list(drawn(svg).iter("script"))


@pytest.mark.parametrize(("part", "width"), [(-1.0, 0.0), (0.25, 25.0), (7.0, 100.0)])
def test_bar_stays_in_its_cell(part: float, width: float) -> None:
    assert rects(bar(part, "bad"), "bad")[0]["width"] == width
