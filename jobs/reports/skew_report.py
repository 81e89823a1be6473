"""A skew report as one HTML page that answers "are we equal?" in one look. It loads nothing and runs no script.

The page is a Jinja2 template with autoescape beside this module, because rows hold texts of callers; charts are SVG from
`skew_charts`, words are from `skew_words`. Knows nothing of how rows are compared: a SkewReport goes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from jobs.reports import skew_words as words
from jobs.reports.skew_charts import bar, causes_chart, hours_chart, ulps_chart

if TYPE_CHECKING:
    from jobs.proof.skew import SkewReport

__all__ = ["render_report", "write_report"]

_MOST_MOVES = 20
_SECTIONS = (
    ("figures", "Figures"),
    ("causes", "Causes"),
    ("repair", "Repair"),
    ("fields", "Features"),
    ("worst", "Worst rows"),
    ("compared", "What was compared"),
)


def write_report(report: SkewReport, path: Path | str) -> None:
    """Write the page; a file that is there is replaced, its directory must exist.

    Args:
        report: what was found.
        path: the .html file.

    Raises:
        OSError: the file cannot be written.
    """
    Path(path).write_text(render_report(report), encoding="utf-8")


def render_report(report: SkewReport) -> str:
    """Return the page: the verdict, figures, charts, causes, repair, fields, worst rows and what was compared.

    Every text is escaped, and what is not printable is written as an escape. The same report gives the same page.
    """
    fields = sorted(report.features, key=lambda field: (-field.differing, field.name))
    all_fields = [report.score, *report.classes, *fields]
    budget = words.budget_lines(report)
    repair = report.repair if report.repair.get("rows") else None
    shown = {"causes": report.causes, "repair": repair, "worst": report.worst}
    return _template().render(
        report=report,
        style=Markup(_resource("skew_report.css")),  # noqa: S704 - our own file
        verdict=words.verdict(report),
        caveats=words.caveats(report),
        budget=budget,
        exceeded=any(over for _, _, over in budget),
        sections=[(name, text) for name, text in _SECTIONS if shown.get(name, True)],
        share_equal=words.share(report.rows_equal / report.rows_compared) if report.rows_compared else "–",
        flips_note=_flips_note(report),
        moves=report.decisions.get("moves", [])[:_MOST_MOVES],
        fields_lead=_fields_lead(report),
        differing=[field for field in all_fields if field.differing],
        equal=[field for field in all_fields if field.compared and not field.differing],
        families=_families(report),
        causes=_causes(report.causes),
        repair=repair,
        worst=[_worst(row) for row in report.worst],
        ulps_chart=ulps_chart(report.ulps_histogram, report.score.exact),
        hours_chart=hours_chart(report.by_hour),
        causes_chart=causes_chart(report.causes),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update({name: getattr(words, name) for name in words.__all__}, bar=bar)
    return environment.from_string(_resource("skew_report.html.jinja"))


def _resource(name: str) -> str:
    return files("jobs.reports").joinpath(name).read_text(encoding="utf-8")


def _flips_note(report: SkewReport) -> str:
    up, down = report.decisions["to_positive"], report.decisions["to_negative"]
    return f": {words.count(up)} to positive, {words.count(down)} to negative" if up or down else ""


def _fields_lead(report: SkewReport) -> str:
    wrong = sum(1 for field in report.features if field.differing)
    if not report.score.compared:
        return "No row was compared."
    if not wrong and not report.score.differing:
        return f"The score and all {words.plural(len(report.features), 'feature')}: every bit equal in every row."
    return f"{words.count(wrong)} of {words.plural(len(report.features), 'feature')} differ."


def _families(report: SkewReport) -> list[tuple[str, str]]:
    present = {words.family(str(entry["cause"])) for entry in report.causes}
    return [(key, text) for key, text in words.FAMILIES.items() if key in present]


def _causes(causes: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    """Return each entry with what it means: an interaction's parts, or the cause's meaning where the cause stands first."""
    told: set[str] = set()
    entries = []
    for entry in causes:
        cause = str(entry["cause"])
        entries.append((entry, words.parts_text(entry) or ("" if cause in told else words.long_cause(cause))))
        told.add(cause)
    return entries


def _worst(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return one row as texts: a head, and groups of lines with both sides' values."""
    groups = [
        ("Answer", _answer(row)),
        ("Inputs that differ", [_line(f["name"], *_sides(f)) for f in row["inputs"]]),
        ("Look-ups", [*_statuses(row["statuses"]), *_times(row["event_ts"])]),
        ("Features that differ", [_line(f["name"], *map(_float, _sides(f))) for f in row["features"]]),
    ]
    groups = [(title, lines) for title, lines in groups if lines]
    served = f"served {words.moment(row['served_ts'])} by version {words.plain(str(row['version']))}"
    place = f"row {words.count(row['sequence'])} of process {words.plain(str(row['process']))}"
    where = words.plain(str(row["where"] or ""))
    cause = words.short_cause(str(row["cause"] or "unexplained"))
    detail = words.plain(str(row.get("detail") or ""))
    return {
        "row_id": words.plain(str(row["row_id"])),
        "cause": f"{cause}: {where}" if where else cause,
        "family": words.family(str(row["cause"] or "unexplained")),
        "parts": words.parts_text(row),
        "detail": detail,
        "caption": f"{_distance(row['score'])}; as of {words.moment(row['as_of'])}, {served}, {place}",
        "score": dict(
            zip(("online", "offline"), map(words.value, map(_float, _sides(row["score"]))), strict=True)
        ),
        "groups": groups,
        "bits": [
            line for _, lines in groups for line in lines if line["online_bits"] or line["offline_bits"]
        ],
    }


def _distance(score: Mapping[str, Any]) -> str:
    if score["ulps"] is None:
        return "One side has no score"
    return f"Scores {words.number(score['ulps'])} ULPs, {words.number(score['absolute'])} apart"


def _sides(of: Mapping[str, Any]) -> tuple[Any, Any]:
    return of["online"], of["offline"]


def _float(of: Any) -> Any:
    """Return a feature's or score's value as a float where the wire form wrote it as text."""
    return float(of) if of in ("NaN", "Infinity", "-Infinity") else of


def _answer(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the score and, where the sides differ in them, the scores of classes, label and error code."""
    lines = [_line("score", *map(_float, _sides(row["score"])))]
    lines += [_line(f"score of {one['name']}", *map(_float, _sides(one))) for one in row.get("classes", ())]
    for name in ("label", "error"):
        online, offline = row.get(name) or (None, None)
        if online != offline:
            lines.append(_line(name, online, offline))
    return lines


def _line(name: Any, online: Any, offline: Any) -> dict[str, str]:
    left, right = words.beside(online, offline)
    if online is None and offline is None:  # they differ, and only of personal data is no value given
        left = right = "not shown"
    return {
        "name": words.plain(str(name)),
        "online": left,
        "offline": right,
        "online_bits": words.bits(online),
        "offline_bits": words.bits(offline),
    }


def _statuses(statuses: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        _words(f"{name}: status", *(words.plain(str(s)) for s in both)) for name, both in statuses.items()
    ]


def _times(times: Mapping[str, Any]) -> list[dict[str, str]]:
    return [_words(f"{name}: event time", *(words.moment(t) for t in both)) for name, both in times.items()]


def _words(name: str, online: str, offline: str) -> dict[str, str]:
    return {
        "name": words.plain(name),
        "online": online,
        "offline": offline,
        "online_bits": "",
        "offline_bits": "",
    }
