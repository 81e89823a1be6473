"""Explanations held against the truth, row by row: which were right, and a confusion matrix of the others.

An explanation is right if its parts are the causes of the parts of serving that the difference takes. Where two faults met in one
part (a frozen row of floats in 32 bits), either of their causes will do, or both: which of them would close the gap alone cannot be
told from what is served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.proof.causes import Explained
from jobs.proof.pairs import Pairs
from tests.proof.traffic import TruthRow

__all__ = ["Judged", "described", "is_right", "judge"]

_TOGETHER, _NEVER = "INTERACTION", "nothing"


@dataclass
class Judged:
    """What explanations were worth.

    Args:
        matrix: how many rows, by (true causes, assigned cause).
        by_variant: (right, all) rows that differ, by variant.
        said: how many rows, by (variant, assigned cause).
        wrong: of each wrong row its variant, id, truth and what was said.
        undetected, invented: rows that differ and were not found, and that were found and do not.
    """

    matrix: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_variant: dict[str, list[int]] = field(default_factory=dict)
    said: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    undetected: int = 0
    invented: int = 0

    @property
    def share_right(self) -> float:
        """Which share of the differing rows has the right causes."""
        right, rows = (sum(counts[i] for counts in self.by_variant.values()) for i in (0, 1))
        return right / max(rows, 1)

    def below(self, least: Callable[[str], float]) -> dict[str, str]:
        """Return the variants with a smaller share of right causes than `least` says, and that share."""
        return {
            name: f"{right} of {rows}"
            for name, (right, rows) in self.by_variant.items()
            if right < least(name) * rows
        }

    def table(self) -> str:
        """Return the confusion matrix for people: a line for each true cause, with the assigned ones."""
        lines = []
        for true in sorted({true for true, _ in self.matrix}):
            said = {name: n for (of, name), n in sorted(self.matrix.items()) if of == true}
            lines.append(f"{true:<42} " + "  ".join(f"{name} {n}" for name, n in said.items()))
        return "\n".join(lines)


def judge(
    judged: Judged,
    variant: str,
    pairs: Pairs,
    truth: Mapping[str, TruthRow],
    found: Explained,
) -> None:
    """Add what was said of a variant's rows.

    Args:
        judged: added to.
        variant: its name.
        pairs: its rows, of one version.
        truth: of each row, by id.
        found: what was said of each row.
    """
    counts = judged.by_variant.setdefault(variant, [0, 0])
    for row_id, cause, of_row in zip(pairs.row_id, found.cause, found.parts, strict=True):
        true = truth[row_id]
        if not true.differs:
            judged.invented += cause is not None
            continue
        counts[1] += 1
        if cause is None:
            judged.undetected += 1
        said = frozenset(str(part) for part in of_row) if str(cause) == _TOGETHER else frozenset({str(cause)})
        right = is_right(true, str(cause), said)
        counts[0] += right
        shown = "+".join(sorted(said)) if cause is not None else _NEVER
        judged.matrix[_shown(true), shown] += 1
        judged.said[variant, shown] += 1
        if not right:
            judged.wrong.append(
                {
                    "variant": variant,
                    "row": row_id,
                    "true": _shown(true),
                    "said": shown,
                    "parts": dict(true.parts),
                }
            )


def is_right(true: TruthRow, cause: str, said: frozenset[str]) -> bool:
    """Return whether an explanation is right: see the module's docstring."""
    if cause == _TOGETHER and len(said) < 2:
        return False
    for needed in true.needed:
        of_parts = [set(true.parts[part]) for part in needed]
        if said <= set().union(*of_parts) and all(said & causes for causes in of_parts):
            return True
    return False


def _shown(true: TruthRow) -> str:
    ways = ["+".join(sorted({"/".join(true.parts[part]) for part in needed})) for needed in true.needed]
    return " or ".join(dict.fromkeys(ways))


def described(rows: Iterable[Mapping[str, Any]], most: int = 20) -> str:
    """Return some wrong rows for people."""
    counted = Counter((row["variant"], row["true"], row["said"]) for row in rows)
    return "\n".join(f"{n:>6} {' | '.join(key)}" for key, n in counted.most_common(most))
