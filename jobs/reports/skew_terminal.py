"""A skew report for a terminal: the verdict, figures, causes, fields and the repair in at most 100 columns.

The words are those of the page. Texts of requests are cut, and what is not printable is written as an escape, so that no row can
move the cursor or colour the screen.
"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from jobs.reports import skew_words as words

if TYPE_CHECKING:
    from jobs.proof.skew import SkewReport

__all__ = ["terminal_table"]

_COLUMNS = 100
_MOST_FIELDS = 10
_MOST_CAUSES = 12


def terminal_table(report: SkewReport) -> str:
    """Return the report as lines of at most 100 characters, but that the words of a command are never broken.

    Args:
        report: what was found.

    Returns:
        Blocks with an empty line between them: verdict, what was compared, causes (up to 12), fields that differ (the score, and
        up to 10 features), commands of the repair. A block with nothing to say is left out.
    """
    blocks = [_verdict(report), _compared(report), _causes(report), _fields(report), _repair(report)]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _verdict(report: SkewReport) -> list[str]:
    answer = words.verdict(report)
    headline = {"differs": f"NOT EQUAL: {answer.headline}.", "partly": f"{answer.headline}."}.get(
        answer.state, f"{answer.headline.upper()}:"
    )
    lines = _wrapped(f"{headline} {answer.detail}")
    for what, text, over in words.budget_lines(report):
        lines += _wrapped(f"{'BUDGET EXCEEDED' if over else 'within budget'}: {what} {text}")
    return [*lines, *(line for text in words.caveats(report) for line in _wrapped(f"note: {text}"))]


def _compared(report: SkewReport) -> list[str]:
    start = words.moment(report.from_ts) if report.from_ts else "the beginning"
    end = words.moment(report.to_ts) if report.to_ts else "the end"
    figures = [
        f"{words.count(report.rows_logged)} rows logged",
        f"{words.count(report.rows_compared)} compared",
        f"{words.count(report.rows_equal)} equal",
        f"{words.count(report.rows_refused_online)} refused online",
        f"{words.count(report.rows_refused_offline)} refused in batch",
    ]
    version = (
        f", reference version {words.plain(report.reference_version)}" if report.reference_version else ""
    )
    model = f"{words.plain(report.model)}{version}"
    return [
        *_wrapped(f"{model}: {', '.join(figures)}"),
        *_wrapped(f"log {words.plain(report.log)}, {start} to {end}"),
        *_versions(report),
    ]


def _versions(report: SkewReport) -> list[str]:
    if len(report.by_version) < 2:
        return []
    told = (
        f"version {words.plain(str(entry['version']))}: {words.count(entry['differing'])} of {words.count(entry['compared'])} differ"
        for entry in report.by_version
    )
    return _wrapped(f"answered by {'; '.join(told)}")


def _causes(report: SkewReport) -> list[str]:
    rows = [
        (
            words.short_cause(str(entry["cause"])),
            words.parts_text(entry) or words.plain(str(entry["where"])),
            words.count(entry["rows"]),
            words.share(entry["share"]),
            words.count(entry["flips"]),
        )
        for entry in report.causes
    ]
    return _table(("Cause", "Where", "Rows", "Share", "Flips"), (20, 44), rows, _MOST_CAUSES)


def _fields(report: SkewReport) -> list[str]:
    features = sorted((f for f in report.features if f.differing), key=lambda f: (-f.differing, f.name))
    score = [one for one in (report.score, *report.classes) if one.differing]
    rows = [
        (
            words.plain(field.name),
            words.count(field.differing),
            words.share(field.differing / field.compared),
            words.count(field.online_only_null),
            words.count(field.offline_only_null),
            words.number(field.ulps.get("p50")),
            words.number(field.ulps.get("max")),
            words.number(field.absolute.get("max")),
        )
        for field in (*score, *features)
    ]
    heads = ("Field", "Differ", "Share", "Null onl.", "Null off.", "ULPs p50", "ULPs max", "|diff| max")
    return _table(heads, (24,), rows, _MOST_FIELDS + len(score))


def _repair(report: SkewReport) -> list[str]:
    plan = report.repair
    if not plan.get("rows"):
        return []
    net = f"{words.signed(plan['decisions']['net'])} positive decisions"
    if report.decisions.get("classes"):
        net = f"{words.plural(plan['decisions']['flips'], 'decision')} moved to another class"
    lines = [f"Repair: {words.plural(plan['scores_to_correct'], 'score')} to correct, {net}"]
    for step in plan["steps"][:_MOST_CAUSES]:
        where = f" ({words.plain(step['where'])})" if step["where"] else ""
        lines += _wrapped(f"- {words.short_cause(str(step['cause']))}{where}: {words.plain(step['do'])}")
    for command in plan["commands"]:
        lines += _command(words.plain(str(command), 4000))
    for note in plan.get("notes", ()):
        lines += _wrapped(f"note: {words.plain(note)}")
    return lines


def _command(command: str) -> list[str]:
    """Return a command over several lines where it is long, to be copied as it stands: broken before its options."""
    try:
        parts = shlex.split(command)
    except ValueError:  # not a command of a shell: as it is
        return [f"  {command}"]
    lines = [""]
    for _, option in groupby(_numbered(parts), key=lambda numbered: numbered[0]):
        text = shlex.join(part for _, part in option)
        if lines[-1] and len(lines[-1]) + len(text) > _COLUMNS - 8:
            lines[-1] += " \\"
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{text}"
    return [f"  {lines[0]}", *(f"    {line}" for line in lines[1:])]


def _numbered(parts: Iterable[str]) -> Iterable[tuple[int, str]]:
    """Yield each word with the number of its option: a word that begins with two dashes starts one."""
    option = 0
    for part in parts:
        option += part.startswith("--")
        yield option, part


def _table(
    heads: Sequence[str], widths: Sequence[int], rows: Sequence[Sequence[Any]], most: int
) -> list[str]:
    """Return a head and lines: the first columns are texts cut to `widths`, the others figures to the right."""
    if not rows:
        return []
    cells = [heads, *rows[:most]]
    texts = len(widths)
    sizes = [
        min(max(len(row[i]) for row in cells), widths[i] if i < texts else _COLUMNS)
        for i in range(len(heads))
    ]
    lines = [
        "  ".join(
            _cut(cell, size).ljust(size) if i < texts else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(row, sizes, strict=True))
        ).rstrip()
        for row in cells
    ]
    return [*lines, f"… and {len(rows) - most} more"] if len(rows) > most else lines


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[: size - 1]}…"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, subsequent_indent="  ", break_on_hyphens=False)
