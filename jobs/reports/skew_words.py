"""How a skew report says things: the verdict, counts, shares, times, values and causes in words that page and terminal share.

Knows neither HTML nor the width of a terminal. Text of requests is made harmless for both here as far as it can be: what is not
printable (control characters, direction marks, half surrogates) is written as an escape.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.proof.skew import SkewReport

__all__ = [
    "FAMILIES",
    "Verdict",
    "beside",
    "bits",
    "budget_lines",
    "caveats",
    "count",
    "family",
    "long_cause",
    "moment",
    "number",
    "parts_text",
    "plain",
    "plural",
    "share",
    "short_cause",
    "signed",
    "value",
    "verdict",
]

FAMILIES = {
    "data": "data extracted differently",
    "types": "data types or platform differ",
    "code": "different code",
    "several": "several at once",
    "unexplained": "unexplained",
}
"""The groups of causes: the three that skew has, and what is none of them alone."""

_CAUSES = {
    "model_version": ("code", "model version", "another model version answered than the one compared with"),
    "feature_code": (
        "code",
        "feature code",
        "other feature functions ran than those of the reference version",
    ),
    "missing": ("data", "missing", "the store had no row, or did not answer, where the offline view has one"),
    "stale": ("data", "stale", "the store's row was older than the newest one visible at the same as-of"),
    "future": ("data", "future", "the store's row was newer than the request's as-of"),
    "expired": ("data", "expired", "the row was older than the view's ttl on one side only"),
    "data_type": (
        "types",
        "data type",
        "the same value, but through another type: float32, a float, a local time",
    ),
    "null_fill": ("data", "null fill", "a null on one side, or filled with another default"),
    "extracted": ("data", "extracted", "the field was read as another value"),
    "configuration": (
        "code",
        "configuration",
        "the threshold, or what a view answers when a row is missing, differs",
    ),
    "platform": ("types", "platform", "another processor or library: a few ULP that nothing else explains"),
    "interaction": ("several", "interaction", "no single swap closes the gap; these together do"),
    "unexplained": ("unexplained", "unexplained", "no swap that was tried closes the gap"),
}
_LIMITS = {
    "max_differing_share": "rows that differ",
    "max_flip_share": "decisions flipped",
    "max_unexplained_share": "rows unexplained",
    "max_lost_share": "rows lost from the log",
    "max_uncompared_share": "logged rows not compared",
}


@dataclass(frozen=True)
class Verdict:
    """The answer to "are we equal?".

    Args:
        state: "equal", "partly" (what was compared is equal, and rows were lost or left out), "differs" or "nothing" (no row was
            compared, so nothing is proved).
        headline: the answer.
        detail: what else must be known beside it, one sentence.
    """

    state: str
    headline: str
    detail: str


def verdict(report: SkewReport) -> Verdict:
    """Return the answer of a report; rows that were not compared never count as equal."""
    if report.rows_compared == 0:
        return Verdict(
            "nothing", "Nothing was compared", "No row of the log lies in this range: nothing is proved."
        )
    flips = int(report.decisions["flips"])
    if report.is_equal_where_compared and not report.is_equal:
        corrected = f"; {count(report.rows_corrected)} of them are corrected" if report.rows_corrected else ""
        detail = f"{plural(report.rows_compared, 'row')} compared, and none differs{corrected}."
        return Verdict("partly", f"Not proved equal: {' and '.join(_not_compared(report))}", detail)
    if report.is_equal and report.rows_corrected:
        detail = f"{plural(report.rows_compared, 'row')} compared; {count(report.rows_corrected)} answered otherwise and are corrected."
        return Verdict("equal", "Equal after corrections", detail)
    if report.is_equal:
        rows = plural(report.rows_compared, "row")
        return Verdict("equal", "Equal", f"{rows}, every bit equal: all features, all scores, all decisions.")
    headline = f"{count(report.rows_differing)} of {plural(report.rows_compared, 'row')} differ"
    flipped = f"{plural(flips, 'decision')} flipped" if flips else "No decision flipped"
    scores = f"{plural(report.score.differing, 'score')} of {count(report.score.compared)} differ"
    return Verdict("differs", headline, f"{flipped}; {scores}.")


def caveats(report: SkewReport) -> list[str]:
    """Return what the verdict does not cover: rows lost, not compared or not extracted anew, and values that were not logged."""
    found = [
        *((1, text) for text in _not_compared(report)),
        (
            report.rows_not_yet_written,
            f"{plural(report.rows_not_yet_written, 'row')} not yet written to the log",
        ),
        (
            report.requests_not_in_table,
            f"{plural(report.requests_not_in_table, 'request')} taken from the log, not in the table",
        ),
        (len(report.unlogged), f"{plural(len(report.unlogged), 'field')} not in the log for some rows"),
    ]
    return [text for n, text in found if n > 0]


def _not_compared(report: SkewReport) -> list[str]:
    left_out = report.rows_logged - report.rows_compared
    found = [
        (report.rows_lost, f"{plural(report.rows_lost, 'row')} of the log lost"),
        (left_out, f"{plural(left_out, 'logged row')} not compared"),
    ]
    return [text for n, text in found if n > 0]


def budget_lines(report: SkewReport) -> list[tuple[str, str, bool]]:
    """Return (what, "found of at most allowed", whether exceeded) for every limit of the budget that is set."""
    exceeded = [str(name) for name in report.budget.get("exceeded", ())]
    compared = max(report.rows_compared, 1)
    found = {
        "max_differing_share": report.rows_differing / compared,
        "max_flip_share": report.decisions["flips"] / compared,
        "max_unexplained_share": report.unexplained / compared,
        "max_lost_share": report.rows_lost / max(report.rows_logged + report.rows_lost, 1),
        "max_uncompared_share": (report.rows_logged - report.rows_compared) / max(report.rows_logged, 1),
    }
    lines = []
    for name, what in _LIMITS.items():
        limit = report.budget.get(name)
        if limit is not None:
            text = f"{share(found[name])}, at most {share(limit)} allowed"
            lines.append((what, text, any(name in entry for entry in exceeded)))
    rest = [entry for entry in exceeded if not any(name in entry for name in _LIMITS)]
    return [*lines, *((plain(entry), "exceeded", True) for entry in rest)]


def family(cause: str) -> str:
    """Return the key in FAMILIES of a cause; an unknown one is unexplained."""
    return _CAUSES.get(cause.lower(), ("unexplained", "", ""))[0]


def short_cause(cause: str) -> str:
    """Return a cause's name for people."""
    return _CAUSES[cause.lower()][1] if cause.lower() in _CAUSES else plain(cause)


def long_cause(cause: str) -> str:
    """Return what a cause means, or nothing for an unknown one."""
    return _CAUSES[cause.lower()][2] if cause.lower() in _CAUSES else ""


def parts_text(entry: Mapping[str, Any]) -> str:
    """Return the causes that an interaction is made of, or nothing."""
    parts: Sequence[str] = entry.get("parts") or ()
    return " + ".join(short_cause(str(part)) for part in parts)


def count(n: float) -> str:
    """Return a whole number with its thousands apart.

    >>> count(1234567)
    '1,234,567'
    """
    return f"{int(n):,}"


def signed(n: int) -> str:
    """Return a change of a count.

    >>> signed(1200), signed(-3), signed(0)
    ('+1,200', '-3', '0')
    """
    return f"{n:+,}" if n else "0"


def plural(n: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "row"), plural(2000, "row")
    ('1 row', '2,000 rows')
    """
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"


def share(part: float) -> str:
    """Return a share as a percentage that is 0 % or 100 % only where it is so exactly.

    >>> share(0.0), share(1e-7), share(0.01234), share(0.999999), share(1.0)
    ('0 %', '< 0.01 %', '1.23 %', '> 99.99 %', '100 %')
    """
    if part in (0, 1):
        return f"{part * 100:.0f} %"
    if part < 0.0001:
        return "< 0.01 %"
    if 0.9999 < part < 1:
        return "> 99.99 %"
    return f"{part * 100:.2f} %"


def number(amount: float | None) -> str:
    """Return a measured amount for reading, three digits; ULPs and absolute differences.

    >>> number(3.0), number(123456.0), number(2.0 ** 40), number(1.3877787807814457e-17), number(None)
    ('3', '123,456', '1.10e12', '1.39e-17', '–')
    """
    if amount is None or math.isnan(amount):
        return "–"
    if math.isinf(amount):
        return "∞" if amount > 0 else "-∞"
    if abs(amount) < 1e9 and amount == int(amount):
        return count(amount)
    if 0.001 <= abs(amount) < 1e6:
        return f"{amount:,.3g}" if abs(amount) < 1000 else f"{amount:,.0f}"
    mantissa, _, exponent = f"{amount:.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def moment(when: Any) -> str:
    """Return a time for reading, in UTC, to the microsecond where it has them; what is no RFC 3339 time stays as it is.

    >>> moment("2013-06-01T12:15:00+02:00"), moment("2013-06-01T10:15:00.000250Z"), moment(None)
    ('2013-06-01 10:15:00 UTC', '2013-06-01 10:15:00.000250 UTC', '–')
    """
    if when is None:
        return "–"
    try:
        read = datetime.fromisoformat(str(when)).astimezone(UTC)
    except (ValueError, OverflowError):
        return plain(str(when))
    return f"{read.replace(tzinfo=None).isoformat(sep=' ')} UTC"


def plain(text: str, limit: int = 400) -> str:
    r"""Return a text with everything unprintable written as an escape, cut where it is longer than `limit`.

    >>> plain("a\x1b[31mb\u202e")
    'a\\x1b[31mb\\u202e'
    """
    cut = text if len(text) <= limit else f"{text[:limit]}… ({count(len(text))} characters)"
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cut
    )


def value(of: Any) -> str:
    """Return one side's value exactly: shortest digits that read back to the same bits, text in quotes, null as null.

    >>> value(0.1), value(-0.0), value(9007199254740993), value("é"), value(None), value(True)
    ('0.1', '-0.0', '9007199254740993', '"é"', 'null', 'true')
    """
    if of is None:
        return "null"
    if isinstance(of, bool):
        return "true" if of else "false"
    if isinstance(of, str):
        return f'"{plain(of)}"'
    if isinstance(of, float):
        return (
            repr(float(of))
            if math.isfinite(of)
            else {"inf": "Infinity", "-inf": "-Infinity"}.get(str(of), "NaN")
        )
    return plain(str(of))


def bits(of: Any) -> str:
    """Return what a value is made of: a float's 64 bits, an integer's hex digits, the code points of a text beyond ASCII.

    >>> bits(0.1), bits(255), bits("e\u0301")
    ('0x3fb999999999999a', '0xff', 'U+0065 U+0301')
    """
    if isinstance(of, bool) or of is None:
        return ""
    if isinstance(of, float):
        return f"0x{struct.pack('>d', of).hex()}"
    if isinstance(of, int):
        return f"{of:#x}"
    text = str(of)
    return "" if text.isascii() or len(text) > 64 else " ".join(f"U+{ord(c):04X}" for c in text)


def beside(online: Any, offline: Any, width: int = 72) -> tuple[str, str]:
    """Return both sides' values; of long texts the part where they begin to differ."""
    left, right = value(online), value(offline)
    if max(len(left), len(right)) <= width:
        return left, right
    if isinstance(online, str) and isinstance(offline, str):
        left, right = f'"{plain(online, len(online))}"', f'"{plain(offline, len(offline))}"'
    first = next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )
    start = max(0, first - width // 3)
    return _window(left, start, width), _window(right, start, width)


def _window(text: str, start: int, width: int) -> str:
    before = "…" if start else ""
    after = f"… ({count(len(text))} characters)" if len(text) > start + width else ""
    return f"{before}{text[start : start + width]}{after}"
