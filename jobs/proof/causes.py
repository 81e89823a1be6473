"""Why each row differs, found by replay: swap one thing at a time and see what closes the gap, bit for bit.

Sets are tried in this order, and the first that closes a row's gap is its explanation:

1. nothing: if that closes it, the batch's own figures are not what its code gives here, and nothing is claimed;
2. each group of the row alone, in the order of `Cause`, then of the feature set;
3. all groups of one cause, in the order of `Cause`: a late store makes every view stale, and that is one cause;
4. every pair, triple, ... of causes, each with all of its groups: an INTERACTION (of more than 6 causes: pairs, then all).

A set of several groups is then reduced by the groups that it does not need. "Closes" means that features, score and label become
those that were logged. A row that was refused online has no features to compare: its reason, and what became of its look-ups, say
why (see refusals). What the log leaves out stands in the pairs as the batch's value: an input then differs in nothing, and of a
feature that a swap changes the score alone decides.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jobs.proof.details import detail_of, where_of
from jobs.proof.groups import ABSENT, ORDER, Cause, distinct_columns
from jobs.proof.pairs import Pairs
from jobs.proof.refusals import explain_refusals
from jobs.proof.swaps import Swaps
from jobs.proof.worlds import Mask, PlatformReplay, World

__all__ = ["Cause", "Explained", "World", "explain"]

_MOST_CAUSES: Final = 6
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Explained:
    """Why each of n rows differs.

    Args:
        cause: None where the row does not differ.
        where: the view, fields or features that the closing swap is about; "version 3", "threshold"; "" where nothing is named.
        parts: of an INTERACTION which causes together close the gap, in the order of Cause; else empty.
        detail: in words, how it shows: "went through float32", "3600 s older", "not replayed"; "" where there is nothing to say.
    """

    cause: list[Cause | None]
    where: list[str]
    parts: list[tuple[Cause, ...]]
    detail: list[str]


def explain(
    pairs: Pairs, reference: World, served: World | None, replay: PlatformReplay | None = None
) -> Explained:
    """Return why each row differs.

    Args:
        pairs: rows of one served version.
        reference: the version that the batch scored with.
        served: the version that answered, None = it cannot be loaded: then what needs it is UNEXPLAINED. Where the reference
            answered, it is not looked at.
        replay: scores as another platform does (jobs.proof.platforms); None = no platform is replayed.
    """
    n = len(pairs)
    made = Explained([None] * n, [""] * n, [()] * n, [""] * n)
    rows = np.flatnonzero(pairs.differing())
    is_refused = np.array([pairs.online.error[row] is not None for row in rows], dtype=np.bool_)
    refused, scored = rows[is_refused], rows[~is_refused]
    if refused.size:
        causes = explain_refusals(pairs.take(refused), reference, served)
        for row, one in zip(refused.tolist(), causes, strict=True):
            made.cause[row], made.where[row], made.parts[row], made.detail[row] = one
    if scored.size:
        _explain_scored(Swaps(pairs.take(scored), reference, served, replay), scored, made)
    return made


def _explain_scored(swaps: Swaps, at: Rows, made: Explained) -> None:
    chosen, parts, is_closed = _search(swaps)
    lost = _why_not(swaps)
    where = where_of(swaps, chosen)
    detail = detail_of(swaps, chosen)
    for i, row in enumerate(at.tolist()):
        if not is_closed[i] or not parts[i]:
            made.cause[row] = Cause.UNEXPLAINED
            made.detail[row] = "the batch's side is not what its code gives here" if is_closed[i] else lost
            continue
        made.cause[row] = parts[i][0] if len(parts[i]) == 1 else Cause.INTERACTION
        made.parts[row] = parts[i] if len(parts[i]) > 1 else ()
        made.where[row], made.detail[row] = where[i], detail[i]


def _why_not(swaps: Swaps) -> str:
    if swaps.is_other_version and swaps.served is None:
        version = swaps.pairs.version[0]
        return f"version {version} cannot be loaded, or reads what was not logged"
    return "no swap closes the gap"


@dataclass(frozen=True, eq=False)
class _Plan:
    """The sets to try for rows that differ in the same groups: (k, n_groups), and the causes of each."""

    sets: Mask
    parts: list[tuple[Cause, ...]]


def _search(swaps: Swaps) -> tuple[Mask, list[tuple[Cause, ...]], Mask]:
    """Return the closing set of each row (n_groups, n), its causes, and whether there is one."""
    n = len(swaps.pairs)
    patterns, pattern_of = distinct_columns(swaps.cause)
    plans = [_plan(pattern) for pattern in patterns.T]
    longest = max(len(plan.parts) for plan in plans)
    sets = np.zeros((len(plans), longest, len(swaps.groups)), dtype=np.bool_)
    for p, plan in enumerate(plans):
        sets[p, : len(plan.parts)] = plan.sets
    length = np.array([len(plan.parts) for plan in plans])
    chosen = np.zeros((len(swaps.groups), n), dtype=np.bool_)
    found = np.full(n, -1, dtype=np.int64)
    for turn in range(longest):
        rows = np.flatnonzero((found < 0) & (turn < length[pattern_of]))
        if not rows.size:
            break
        trial = sets[pattern_of[rows], turn].T
        closed = swaps.closes(rows, trial)
        found[rows[closed]] = turn
        chosen[:, rows[closed]] = trial[:, closed]
    _reduce(swaps, chosen)
    parts = [plans[p].parts[k] if k >= 0 else () for p, k in zip(pattern_of, found, strict=True)]
    return chosen, parts, found >= 0


def _plan(pattern: NDArray[np.int8]) -> _Plan:
    """Return the sets for one pattern of causes by group; see the module's docstring for their order."""
    present = [int(i) for i in np.flatnonzero(pattern != ABSENT)]
    by_cause: dict[int, list[int]] = {}
    for i in sorted(present, key=lambda i: (pattern[i], i)):
        by_cause.setdefault(int(pattern[i]), []).append(i)
    sets: list[list[int]] = [[]]
    parts: list[tuple[Cause, ...]] = [()]
    for code, members in by_cause.items():
        sets += [[i] for i in members]
        parts += [(ORDER[code],)] * len(members)
    for code, members in by_cause.items():
        if len(members) > 1:
            sets.append(members)
            parts.append((ORDER[code],))
    for size in _sizes(len(by_cause)):
        for codes in itertools.combinations(by_cause, size):
            sets.append([i for code in codes for i in by_cause[code]])
            parts.append(tuple(ORDER[code] for code in codes))
    mask = np.zeros((len(sets), len(pattern)), dtype=np.bool_)
    for k, members in enumerate(sets):
        mask[k, members] = True
    return _Plan(mask, parts)


def _sizes(n_causes: int) -> list[int]:
    """Return how many causes to swap together.

    >>> _sizes(1), _sizes(3), _sizes(8)
    ([], [2, 3], [2, 8])
    """
    return list(range(2, n_causes + 1)) if n_causes <= _MOST_CAUSES else [2, n_causes]


def _reduce(swaps: Swaps, chosen: Mask) -> None:
    """Take out of each set the groups that it does not need, in place, but the last of a cause."""
    codes = swaps.cause
    for i in range(len(swaps.groups)):
        alike = (codes == codes[i]) & chosen
        rows = np.flatnonzero(chosen[i] & (alike.sum(axis=0) > 1))
        if not rows.size:
            continue
        trial = chosen[:, rows].copy()
        trial[i] = False
        closed = swaps.closes(rows, trial)
        chosen[i, rows[closed]] = False
