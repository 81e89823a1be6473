"""The charts of a skew report as inline SVG: plain shapes and text whose colours the page's style decides, light or dark.

Lengths along the page are percentages and heights are pixels, so a chart takes the width it is given and its text keeps its size, on
a phone as on a wall. Every chart has a title and a description that says in words what it shows. Knows nothing of files or tables.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from markupsafe import Markup

from jobs.reports.skew_words import FAMILIES, count, family, plural, share, short_cause

__all__ = ["bar", "causes_chart", "hours_chart", "ulps_chart"]

_PLOT = 170
"""Height of a plot, pixels; labels stand below it."""

_TRAFFIC = 34
_TALL = _PLOT + 8 + _TRAFFIC
_MOST_COLUMNS = 96
_APART = 16.0
"""Where the columns of scores that differ begin, per cent: the one of equal scores stands apart on the left."""

_ULP_COLUMNS = 56
_LANDMARKS = {0: "last bit", 28: "float32", 52: "twice"}
"""What a distance of so many powers of two is: a last bit, the rounding to float32, one value twice the other."""

_STEPS = (1, 2, 3, 4, 6, 8, 12, 24, 48, 72, 168, 336, 720, 2160, 8760)


def ulps_chart(histogram: Sequence[Mapping[str, Any]], equal: int) -> Markup:
    """Return how far scores lie apart: a column for equal ones, then one for each power of two of ULPs, log scale.

    The axis is the same in every report (it grows only beyond a factor of eight), with three landmarks on it.

    Args:
        histogram: {"at_least", "below", "rows"}, ULPs of the scores that differ; ascending or not, empty bins or none.
        equal: the number of scores with equal bits.
    """
    rows_of: dict[int, int] = {}
    for entry in histogram:
        exponent = max(0, math.floor(math.log2(max(float(entry["at_least"]), 1.0))))
        rows_of[exponent] = rows_of.get(exponent, 0) + int(entry["rows"])
    rows_of = {exponent: rows for exponent, rows in rows_of.items() if rows > 0}
    top = max([equal, 1, *rows_of.values()])
    columns = max([_ULP_COLUMNS, *(exponent + 1 for exponent in rows_of)])
    step = (100 - _APART) / columns
    parts = [
        _log_grid(top),
        _column(0, _APART * 0.7, equal, top, "ok", f"{plural(equal, 'score')}: every bit equal"),
    ]
    parts.append(_text(_APART * 0.35, "equal", "below"))
    for exponent, name in _LANDMARKS.items():
        x = _APART + step * (exponent + 0.5)
        parts.append(
            Markup('<line x1="{0:.3f}%" x2="{0:.3f}%" y1="4" y2="{1}" class="mark-line"/>').format(x, _TALL)
            + _text(x, name, "below", -4)
        )
    for exponent, rows in sorted(rows_of.items()):
        x = _APART + step * exponent
        told = f"{plural(rows, 'score')}: {_ulps(exponent)}"
        parts.append(_column(x + step * 0.08, step * 0.84, rows, top, "bad", told))
    for n, exponent in enumerate(range(0, columns, 8)):
        parts.append(
            _text(_APART + step * (exponent + 0.5), _power(exponent), "below minor" if n % 2 else "below")
        )
    said = f"{plural(equal, 'score')} equal in every bit, {count(sum(rows_of.values()))} apart"
    if rows_of:
        said += f", from {_ulps(min(rows_of))} to {_ulps(max(rows_of))}"
    else:
        parts.append(_text((100 + _APART) / 2, "no score differs", "said", _TALL / 2))
    return _svg("ulps", "How far scores lie apart, in ULPs", f"{said}.", _TALL + 28, parts)


def hours_chart(hours: Sequence[Mapping[str, Any]]) -> Markup:
    """Return rows that differ over time, decisions flipped among them, and below it how many rows were compared.

    Args:
        hours: {"hour", "compared", "differing", "flips"}; hours without rows may be missing, and the chart leaves their place
            empty. Over 96 hours are drawn in steps of several.
    """
    read = sorted((_hour(entry["hour"]), entry) for entry in hours)
    if not read:
        return Markup("")
    start = read[0][0]
    span = int((read[-1][0] - start) / timedelta(hours=1)) + 1
    step = next((s for s in _STEPS if span / s <= _MOST_COLUMNS), _STEPS[-1])
    columns = math.ceil(span / step)
    sums: dict[int, list[int]] = {}
    for hour, entry in read:
        of = sums.setdefault(int((hour - start) / timedelta(hours=step)), [0, 0, 0])
        for i, name in enumerate(("compared", "differing", "flips")):
            of[i] += int(entry[name])
    most = max(differing for _, differing, _ in sums.values())
    busiest = max([1, *(compared for compared, _, _ in sums.values())])
    width = 100 / max(columns, 4)
    parts = [_grid(most)]
    for i, (compared, differing, flips) in sums.items():
        when = (start + timedelta(hours=step * i)).strftime("%Y-%m-%d %H:%M")
        told = f"{when} UTC: {count(differing)} of {count(compared)} differ, {plural(flips, 'flip')}"
        box = (width * i + width * 0.06, width * 0.88)
        shapes = [
            _rect(*box, 0, _PLOT + 8 + _TRAFFIC, "hit"),
            _rect(*box, _PLOT * (1 - differing / max(most, 1)), _PLOT * differing / max(most, 1), "bad"),
            _rect(*box, _PLOT * (1 - flips / max(most, 1)), _PLOT * flips / max(most, 1), "flip"),
            _rect(*box, _PLOT + 8, max(1.0, _TRAFFIC * compared / busiest), "traffic"),
        ]
        parts.append(Markup("<g><title>{}</title>{}</g>").format(told, Markup("").join(shapes)))
    parts += [_text(width * (i + 0.5), label, css) for i, label, css in _time_labels(start, step, columns)]
    total = sum(differing for _, differing, _ in sums.values())
    per = "hour" if step == 1 else f"{step} hours"
    said = (
        f"{plural(total, 'row')} differ; at most {count(most)} per {per}"
        if total
        else "No row differs at any time"
    )
    if not total:
        parts.append(_text(50, "no row differs", "said", _PLOT / 2))
    said += f". Below: rows compared, at most {count(busiest)} per {per}."
    return _svg("hours", f"Rows that differ, per {per}", said, _TALL + 28, parts)


def causes_chart(causes: Sequence[Mapping[str, Any]]) -> Markup:
    """Return rows by cause, each a bar with its count and share, coloured by the family of the cause; largest first.

    Args:
        causes: {"cause", "rows", "share"}; the entries of one cause, which name several places, are added up.
    """
    sums: dict[str, list[float]] = {}
    for entry in causes:
        of = sums.setdefault(str(entry["cause"]), [0, 0.0])
        of[0] += int(entry["rows"])
        of[1] += float(entry["share"])
    ranked = sorted(sums.items(), key=lambda item: (-item[1][0], item[0]))
    most = max([1.0, *(rows for _, (rows, _) in ranked)])
    parts = []
    for i, (cause, (rows, part)) in enumerate(ranked):
        y = i * 40
        css = family(cause)
        told = f"{short_cause(cause)} ({FAMILIES[css]}): {plural(int(rows), 'row')}, {share(part)}"
        shapes = [
            Markup('<text x="0" y="{}">{}</text>').format(y + 13, short_cause(cause)),
            Markup('<text x="100%" y="{}" class="end">{} · {}</text>').format(
                y + 13, count(rows), share(part)
            ),
            _rect(0, 100, y + 19, 10, "rail"),
            _rect(0, 100 * rows / most, y + 19, 10, f"family-{css}"),
        ]
        parts.append(Markup("<g><title>{}</title>{}</g>").format(told, Markup("").join(shapes)))
    said = "; ".join(f"{short_cause(cause)}: {count(rows)} ({share(part)})" for cause, (rows, part) in ranked)
    return _svg("causes", "Rows that differ, by cause", f"{said}.", 40 * len(ranked), parts)


def bar(part: float, css: str) -> Markup:
    """Return a small bar for a table's cell, which has the figure beside it: a share from 0 to 1."""
    width = min(100.0, max(0.0, 100 * part))
    return Markup('<svg class="bar" aria-hidden="true">{}{}</svg>').format(
        _rect(0, 100, 0, 6, "rail"), _rect(0, width, 0, 6, css)
    )


def _svg(name: str, title: str, said: str, height: int, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart {name}" role="img" height="{height}" aria-labelledby="{name}-title {name}-desc">'
        '<title id="{name}-title">{title}</title><desc id="{name}-desc">{said}</desc>{parts}</svg>'
    ).format(name=name, title=title, said=said, height=height, parts=Markup("").join(parts))


def _rect(x: float, width: float, y: float, height: float, css: str) -> Markup:
    return Markup('<rect x="{:.3f}%" width="{:.3f}%" y="{:.1f}" height="{:.1f}" class="{}"/>').format(
        x, width, y, height, css
    )


def _column(x: float, width: float, rows: int, top: int, css: str, told: str) -> Markup:
    """Return a column whose height is the logarithm of its rows; one row is still seen."""
    if rows <= 0:
        return Markup("")
    height = _TALL * _log(rows, top)
    return Markup("<g><title>{}</title>{}</g>").format(told, _rect(x, width, _TALL - height, height, css))


def _log(rows: int, top: int) -> float:
    return (math.log10(rows) + 0.15) / (math.log10(max(top, 10)) + 0.15)


def _text(x: float, text: str, css: str, y: float = _TALL + 18) -> Markup:
    return Markup('<text x="{:.3f}%" y="{:.1f}" class="{}">{}</text>').format(x, y, css, text)


def _line(y: float, label: str) -> Markup:
    return Markup(
        '<line x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}" class="grid"/><text x="-6" y="{1:.1f}" class="axis">{2}</text>'
    ).format(y, y + 4, label)


def _log_grid(top: int) -> Markup:
    powers = range(int(math.log10(max(top, 10))) + 1)
    every = 2 if len(powers) > 5 else 1
    lines = [_line(_TALL * (1 - _log(10**p, top)), _short(10**p)) for p in powers if p % every == 0]
    return Markup("").join(lines) + Markup('<line x1="0" x2="100%" y1="{0}" y2="{0}" class="grid"/>').format(
        _TALL
    )


def _grid(most: int) -> Markup:
    if most == 0:
        return _line(_PLOT, "0")
    rough = most / 4
    unit = 10 ** math.floor(math.log10(rough)) if rough >= 1 else 1
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    return Markup("").join(_line(_PLOT * (1 - n / most), _short(n)) for n in range(0, most + 1, int(step)))


def _short(n: int) -> str:
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if n >= unit:
            return f"{n / unit:g}{letter}"
    return str(n)


def _ulps(exponent: int) -> str:
    return "1 ULP" if exponent == 0 else f"{_power(exponent)} to {_power(exponent + 1)} ULPs"


def _power(exponent: int) -> str:
    return (
        count(2**exponent)
        if exponent < 10
        else f"2{str(exponent).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    )


def _hour(text: Any) -> datetime:
    return datetime.fromisoformat(str(text)).astimezone(UTC)


def _time_labels(start: datetime, step: int, columns: int) -> list[tuple[int, str, str]]:
    """Return (column, label, class) of at most eight labels; the date stands where a day begins, and on the first."""
    every = max(1, math.ceil(columns / 8))
    labels, day = [], None
    for n, i in enumerate(range(0, columns, every)):
        when = start + timedelta(hours=step * i)
        text = when.strftime("%d %b") if when.date() != day else when.strftime("%H:%M")
        labels.append((i, text, "below minor" if n % 2 else "below"))
        day = when.date()
    return labels
