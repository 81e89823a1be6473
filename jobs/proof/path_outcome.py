"""What a path's answers are worth: compared by bits with what the model gave when it was logged, and shown as one table.

This module starts nothing and knows no path by name.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.parity import ulp_distance
from feature_pipelines.reasons import Reason
from jobs.proof.path_answers import Answer, Row, class_scores_of
from udfs.golden import GoldenRows
from udfs.scorer import OutputSpec

__all__ = ["Golden", "Outcome", "compared", "golden_of", "outcome_table"]

_EXAMPLES = 5


@dataclass(frozen=True)
class Golden:
    """The golden rows of a model, and what it gave for them when it was logged.

    Args:
        rows: in the wire form, stored fields included.
        expected: one answer per row, features included.
        digest: the model's.
        platform_id: where it was logged.
    """

    rows: Sequence[Row]
    expected: Sequence[Answer]
    digest: str
    platform_id: str


def golden_of(recorded: GoldenRows) -> Golden:
    """Return the golden rows that `read_golden` found, row by row, with the answers to expect."""
    info, n = recorded.info, len(recorded.score)
    features = recorded.matrix.T.tolist()
    columns = OutputSpec.from_json(info["output"]).columns(recorded.score)
    outputs = [
        dict(zip(columns, row, strict=True))
        for row in zip(*(c.tolist() for c in columns.values()), strict=True)
    ]
    finite = np.asarray(np.isfinite(recorded.score.reshape(n, -1)).all(axis=1))
    expected = [
        Answer(said["score"], said.get("label"), features[i], classes=class_scores_of(said))
        if finite[i]
        else Answer(code=str(Reason.NON_FINITE_SCORE), field="score")
        for i, said in enumerate(outputs)
    ]
    rows = [{name: values[i] for name, values in recorded.columns.items()} for i in range(n)]
    return Golden(rows, expected, info["digest"], info["platform_id"])


@dataclass(frozen=True)
class Outcome:
    """What became of the rows on one path: each is equal, differs, or could not be carried and was refused for that.

    Args:
        path: its name.
        rows: how many were asked.
        equal: rows with the expected bits in all that the path returns, or the expected refusal.
        score_bits, label_bits, feature_bits: how many bits differ, of several classes in all their scores; None where the path
            returns no such thing.
        worst_ulps: of the scores.
        cannot_carry: rows by the code with which they were refused.
        refused: rows that should have been scored, or refused otherwise, by code.
        differing: positions of the first rows that differ.
        seconds: that it took, without starting anything.
        verified: what the answers say of the model, where they do.
        status: "" (asked), "skipped", "failed" (it could not be asked), or "other model" (asked, and not the model in question).
        problem: that in words.
    """

    path: str
    rows: int
    equal: int = 0
    score_bits: int = 0
    label_bits: int | None = None
    feature_bits: int | None = None
    worst_ulps: int = 0
    cannot_carry: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    differing: Sequence[int] = ()
    seconds: float = 0.0
    verified: str = ""
    status: str = ""
    problem: str = ""

    @property
    def n_differing(self) -> int:
        """How many rows were answered, and differ."""
        return 0 if self.is_unasked else self.rows - self.equal - sum(self.cannot_carry.values())

    @property
    def is_all_refused(self) -> bool:
        """Whether the path was asked and carried no row at all, which proves nothing."""
        return not self.is_unasked and self.equal == 0 and sum(self.cannot_carry.values()) == self.rows > 0

    @property
    def is_unasked(self) -> bool:
        """Whether nothing is known of any row."""
        return self.status in ("skipped", "failed")

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**dataclasses.asdict(self), "n_differing": self.n_differing}


def compared(
    path: str,
    expected: Sequence[Answer],
    answers: Sequence[Answer],
    *,
    cannot_carry: frozenset[str] = frozenset(),
    seconds: float = 0.0,
) -> Outcome:
    """Return how a path's answers compare with those expected, row by row.

    Args:
        path: its name.
        expected: one per row.
        answers: one per row.
        cannot_carry: see ScoringPath; a refusal by such a code is counted apart, neither as equal nor as a difference.
        seconds: that it took.
    """
    apart, refused = Counter[str](), Counter[str]()
    differing: list[int] = []
    bits = {"score": 0, "label": 0, "features": 0}
    worst = equal = 0
    for i, (wanted, got) in enumerate(zip(expected, answers, strict=True)):
        if got.code is not None and got.code != wanted.code:
            (apart if got.code in cannot_carry else refused)[got.code] += 1
            if got.code not in cannot_carry:
                differing.append(i)
            continue
        if got.code is None and wanted.code is None:
            found = _differing_bits(wanted, got)
            for name, count in found.items():
                bits[name] += count
            if found["score"]:
                worst = max(worst, _ulps(wanted, got))
        if wanted.code != got.code or any(found.values() if got.code is None else ()):
            differing.append(i)
        else:
            equal += 1
    scored = [answer for answer in answers if answer.code is None]
    return Outcome(
        path=path,
        rows=len(expected),
        equal=equal,
        score_bits=bits["score"],
        label_bits=bits["label"] if any(a.label is not None for a in scored) else None,
        feature_bits=bits["features"] if any(a.features is not None for a in scored) else None,
        worst_ulps=worst,
        cannot_carry=dict(apart),
        refused=dict(refused),
        differing=differing[:_EXAMPLES],
        seconds=seconds,
        verified=", ".join(sorted({answer.verified for answer in scored if answer.verified})),
    )


def outcome_table(outcomes: Sequence[Outcome]) -> str:
    """Return the table for people: a line per path."""
    head = ["path", "rows", "equal", "differ", "score bits", "label bits", "feature bits", "cannot say", "s"]
    lines = [head, *(_line(outcome) for outcome in outcomes)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = []
    for line, outcome in zip(lines, [None, *outcomes], strict=True):
        cells = [
            cell.ljust(w) if i in (0, 7) else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
        text += _notes(outcome) if outcome is not None else []
    return "\n".join(text)


def _line(outcome: Outcome) -> list[str]:
    if outcome.is_unasked:
        return [outcome.path, str(outcome.rows), *["-"] * 6, f"{outcome.seconds:.1f}"]
    counts = [outcome.score_bits, outcome.label_bits, outcome.feature_bits]
    return [
        outcome.path,
        str(outcome.rows),
        str(outcome.equal),
        str(outcome.n_differing),
        *("-" if count is None else str(count) for count in counts),
        _counted(outcome.cannot_carry) or "-",
        f"{outcome.seconds:.1f}",
    ]


def _notes(outcome: Outcome) -> list[str]:
    notes = []
    if outcome.problem:
        notes.append(outcome.problem)
    if outcome.n_differing:
        notes.append(
            f"rows that differ: {', '.join(map(str, outcome.differing))}"
            f"{', ...' if outcome.n_differing > len(outcome.differing) else ''}; worst score by {outcome.worst_ulps} ULP"
        )
    if outcome.is_all_refused:
        notes.append(f"it refused every row: {_counted(outcome.cannot_carry)}")
    if outcome.refused:
        notes.append(f"refused, and should not be: {_counted(outcome.refused)}")
    if outcome.verified not in ("", "verified"):
        notes.append(f"the model that answered says: {outcome.verified}")
    return [f"    {note}" for note in notes]


def _counted(codes: Mapping[str, int]) -> str:
    return ", ".join(f"{code} {n}" for code, n in sorted(codes.items()))


def _differing_bits(wanted: Answer, got: Answer) -> dict[str, int]:
    """Return how many bits differ in the score, the label and the features, as far as both have them."""
    features = 0
    if got.features is not None and wanted.features is not None:
        features = _bits(np.array(wanted.features), np.array(got.features))
    return {
        "score": _bits(_scores(wanted), _scores(got))
        if list(wanted.classes or ()) == list(got.classes or ())
        else 64 * (1 + max(len(wanted.classes or ()), len(got.classes or ()))),
        "label": int(wanted.label is not None and got.label is not None and wanted.label != got.label),
        "features": features,
    }


def _bits(left: NDArray[np.float64], right: NDArray[np.float64]) -> int:
    """Return in how many bits two arrays differ; every NaN is the one canonical NaN, and all bits of a value too many differ."""
    if left.shape != right.shape:
        return 64 * max(len(left), len(right))
    changed = _canonical(left) ^ _canonical(right)
    return int(np.bitwise_count(changed).sum())


def _canonical(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    return np.where(np.isnan(values), np.nan, values).view(np.uint64)


def _ulps(wanted: Answer, got: Answer) -> int:
    left, right = _scores(wanted), _scores(got)
    n = min(len(left), len(right))
    return int(ulp_distance(left[:n], right[:n]).max())


def _scores(answer: Answer) -> NDArray[np.float64]:
    """Return the score, and of several classes each one's behind it."""
    score = np.nan if answer.score is None else answer.score
    return np.array([score, *(answer.classes or {}).values()], dtype=np.float64)
