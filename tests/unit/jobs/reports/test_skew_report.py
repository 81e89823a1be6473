from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from configparser import ConfigParser
from dataclasses import replace
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jobs.proof.skew import SkewReport
from jobs.reports.skew_report import render_report, write_report
from tests.unit.jobs.reports.skew_samples import (
    HOSTILE,
    bad,
    clean,
    empty,
    hostile,
    hostile_classes,
    of_classes,
    partly,
)

SAMPLES = [clean, bad, partly, empty, hostile, of_classes, hostile_classes]
VOID = {"meta", "br", "hr", "img", "input", "link"}
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "a", "header", "main", "nav", "footer", "section"),
    *("h1", "h2", "h3", "p", "span", "strong", "code", "pre", "ul", "ol", "li", "dl", "dt", "dd", "div"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "details", "summary"),
    *("svg", "g", "rect", "line", "path", "circle", "text", "desc"),
}


class Page(HTMLParser):
    """A page as a browser reads it: its elements with their attributes, their text, and what is wrong with the nesting."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.wrong: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        self.wrong += [f"<{tag}> is not closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.texts[tag][-1] += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(sample: Callable[[], SkewReport]) -> Page:
    return Page(render_report(sample()))


# The answer


def test_equal_rows_are_said_to_be_equal() -> None:
    page = page_of(clean)
    assert page.texts["h1"] == ["Equal"]
    text = page.texts["body"][0]
    assert "1,000,000 rows, every bit equal" in text
    assert "Within budget" in text
    assert "no score differs" in text
    assert "no row differs" in text
    assert "Why they differ" not in text
    assert "Repair" not in text


def test_rows_that_differ_are_counted_with_flips_and_budget() -> None:
    page = page_of(bad)
    assert page.texts["h1"] == ["6,132 of 48,211 rows differ"]
    text = page.texts["body"][0]
    assert "211 decisions flipped" in text
    assert "Budget exceeded: rows that differ 12.72 %, at most 0 % allowed" in text
    assert "Budget exceeded: rows unexplained" not in text
    assert "The last command stands there twice." in text
    for caveat in ("113 rows of the log lost", "37 requests taken from the log", "2 fields not in the log"):
        assert caveat in text


def test_rows_that_were_lost_or_left_out_are_no_equality() -> None:
    page = page_of(partly)
    assert page.texts["h1"] == ["Not proved equal: 113 rows of the log lost and 12 logged rows not compared"]
    text = page.texts["body"][0]
    assert "Budget exceeded: logged rows not compared 1.19 %, at most 0 % allowed" in text
    assert "113 rows in 2 gaps" in text
    assert "7 rows of processes that may still run" in text
    assert text.count("may yet be written") == 1
    assert "Within budget" not in text


def test_nothing_compared_is_neither_equal_nor_within_a_budget() -> None:
    page = page_of(empty)
    assert page.texts["h1"] == ["Nothing was compared"]
    assert "Within budget" not in page.texts["body"][0]


def test_features_that_differ_while_scores_do_not_are_no_equality() -> None:
    report = replace(clean(100), rows_differing=1, rows_equal=99)
    assert Page(render_report(report)).texts["h1"] == ["1 of 100 rows differ"]


def test_worst_rows_show_exact_values_and_bits_of_both_sides() -> None:
    page = page_of(bad)
    cells = page.texts["td"]
    for shown in ("1085.0999755859375", "1085.1", "9007199254740993", "9007199254740992", "NaN", "null"):
        assert shown in cells
    assert "0x4090f46660000000" in cells  # 1085.0999755859375
    assert "0x4090f46666666666" in cells  # 1085.1
    assert len(page.of("details")) >= len(bad().worst)


def test_refused_row_and_personal_data_have_no_values_to_show() -> None:
    report = bad()
    refused = {
        **report.worst[0],
        "cause": None,
        "detail": "not replayed",
        "score": {"online": None, "offline": 0.25, "ulps": None, "absolute": None},
        "label": [None, True],
        "error": ["STORE_UNAVAILABLE", None],
        "features": [],
        "inputs": [{"name": "passenger_name", "online": None, "offline": None}],
    }

    page = Page(render_report(replace(report, worst=[refused])))

    (caption,) = [text for text in page.texts["caption"] if "One side has no score" in text]
    assert caption.startswith("not replayed. One side has no score; as of 2013-06-01 10:15:00 UTC")
    cells = page.texts["td"]
    assert '"STORE_UNAVAILABLE"' in cells
    assert cells.count("not shown") == 2
    assert "unexplained" in next(text for text in page.texts["summary"] if "EWR" in text)


def test_repair_commands_stand_whole_and_in_order() -> None:
    assert page_of(bad).texts["pre"] == bad().repair["commands"]


def test_report_without_a_registered_version_names_none() -> None:
    assert "flights, reference version 3" in page_of(clean).texts["dd"]
    assert "flights" in Page(render_report(replace(clean(), reference_version=""))).texts["dd"]


def test_classes_are_shown_with_what_goes_from_which_to_which() -> None:
    text = page_of(of_classes).texts["body"][0]
    assert "none: the highest of 3 classes decides" in text
    assert "Decisions that went to one class and belong to another" in text
    assert "fairdear150" in text.replace("\n", "")
    assert (
        "211 decisions that the correction moves to another class" in text.replace("  ", " ") or "211" in text
    )
    assert "score_dear" in text
    assert "score of fair" in text
    assert "to positive" not in text


def test_regression_has_no_threshold() -> None:
    report = replace(bad(), decisions={"threshold": None, "flips": 0, "to_positive": 0, "to_negative": 0})
    assert "none: a regression" in render_report(report)


@pytest.mark.parametrize("sample", SAMPLES)
def test_report_read_back_from_json_gives_the_same_page(sample: Callable[[], SkewReport]) -> None:
    report = sample()
    read = SkewReport.from_json(json.loads(json.dumps(report.to_json())))
    assert render_report(read) == render_report(report)


# What a page may do


@pytest.mark.parametrize("sample", SAMPLES)
def test_page_loads_nothing_and_runs_nothing(sample: Callable[[], SkewReport]) -> None:
    page = page_of(sample)
    assert {tag for tag, _ in page.elements} <= TAGS
    names = {name for _, attributes in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")} | names & {
        "src",
        "srcset",
        "style",
        "action",
    }
    assert all((link["href"] or "").startswith("#") for link in page.of("a"))
    assert not re.search(r"url\(|@import|expression\(", page.texts["style"][0])
    policy = next(m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_texts_of_requests_are_text_alone() -> None:
    html = render_report(hostile())
    page = Page(html)
    shown = HOSTILE.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")
    assert shown in page.texts["header"][0]
    assert page.texts["summary"][1].count(shown) == 2
    assert page.texts["pre"] == [shown]
    assert not [c for c in html if not c.isprintable() and c != "\n"]


def test_long_texts_are_shown_where_they_begin_to_differ() -> None:
    cells = page_of(hostile).texts["td"]
    cut = next(cell for cell in cells if cell.startswith("…x"))
    assert "<script>" in cut
    assert len(cut) < 150


def test_page_is_written_as_utf8_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(bad(), path)
    write_report(hostile(), path)
    assert path.read_bytes().decode("utf-8") == render_report(hostile())


# Whom it serves


@pytest.mark.parametrize("sample", SAMPLES)
def test_page_is_well_formed_and_can_be_read_aloud(sample: Callable[[], SkewReport]) -> None:
    page = page_of(sample)
    assert page.wrong == []
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = {
        name for _, attributes in page.elements for name in (attributes.get("aria-labelledby") or "").split()
    }
    assert named | {(link["href"] or "")[1:] for link in page.of("a")} <= set(ids)
    assert len(page.of("table")) == len(page.of("caption"))
    assert all(cell.get("scope") for cell in page.of("th"))
    assert all(svg.get("role") == "img" or svg.get("aria-hidden") == "true" for svg in page.of("svg"))
    assert ("html", {"lang": "en"}) in page.elements
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in itertools.pairwise(levels))


def luminance(colour: str) -> float:
    """Source: WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_have_contrast_in_light_and_dark() -> None:
    style = page_of(clean).texts["style"][0]
    themes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    light, dark = (theme for theme in themes if theme)
    texts = [("ink", "page"), ("ink", "card"), ("soft", "page"), ("soft", "card"), ("ink", "rail")]
    texts += [(name, f"{name}-tint") for name in ("ok", "bad", "none", "warn")]
    shapes = [(name, "card") for name in ("data", "types", "code", "several", "unexplained", "ok", "bad")]
    assert light.keys() == dark.keys()
    for theme in (light, dark):
        for pairs, least in ((texts, 4.5), (shapes, 3.0)):
            for one, other in pairs:
                high, low = sorted((luminance(theme[one]), luminance(theme[other])), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= least, (one, other)


def test_template_and_style_are_in_the_package(root: Path) -> None:
    setup = ConfigParser()
    setup.read(root / "setup.cfg", encoding="utf-8")
    patterns = setup["options.package_data"]["jobs.reports"].split(", ")
    files = [
        file.name for file in (root / "jobs" / "reports").iterdir() if file.is_file() and file.suffix != ".py"
    ]
    assert len(files) >= 2
    assert all(any(fnmatch(file, pattern) for pattern in patterns) for file in files)
