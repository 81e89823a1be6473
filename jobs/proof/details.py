"""What a closing set is about, in names and in words, for people who read a report; nothing is decided here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import values_and_valid
from feature_pipelines.parity import differing_bits
from jobs.proof.differences import How, utc_offset
from jobs.proof.groups import ORDER, Cause, Group, distinct_columns
from jobs.proof.pairs import NO_TIME
from jobs.proof.swaps import Swaps
from jobs.proof.worlds import Mask

__all__ = ["detail_of", "where_of"]

_PER_MINUTE, _SAME_ROW = (
    1_000,
    100,
)  # codes of texts: of How, then whether both sides had one row, then the offset


def where_of(swaps: Swaps, chosen: Mask) -> list[str]:
    """Return the names of each row's swapped groups; for code and platform, of the features that differ by it.

    Args:
        swaps: n rows.
        chosen: (n_groups, n).
    """
    by_feature = [i for i, group in enumerate(swaps.groups) if group.kind in ("code", "platform")]
    features = _features_named(swaps)
    key = chosen if not by_feature else np.concatenate([chosen, features & chosen[by_feature].any(axis=0)])
    distinct, of_row = distinct_columns(key)
    k = len(swaps.groups)
    texts = [_names(swaps, column[:k], column[k:]) for column in distinct.T]
    return [texts[i] for i in of_row.tolist()]


def _features_named(swaps: Swaps) -> Mask:
    """Where the features that the answering version's code gives, or was logged with, are not the batch's for these inputs."""
    names = swaps.reference.scorer.feature_set.feature_names
    left = swaps.left
    if left is None:
        return np.zeros((len(names), len(swaps.pairs)), dtype=np.bool_)
    if left.world.scorer.feature_set.feature_names != names:
        return differing_bits(swaps.pairs.online.matrix, swaps.pairs.offline.matrix)
    return left.differs | swaps.changed_by_code()


def _names(swaps: Swaps, chosen: Mask, features: Mask) -> str:
    names = [
        n for n, on in zip(swaps.reference.scorer.feature_set.feature_names, features, strict=False) if on
    ]
    found: list[str] = []
    for group, on in zip(swaps.groups, chosen, strict=True):
        if on:
            found += _of_group(group, names)
    return ", ".join(dict.fromkeys(found))


def _of_group(group: Group, features: list[str]) -> list[str]:
    if group.kind == "code":
        return features or [group.name]
    if group.kind == "platform":
        return features or ["score"]
    return [group.name]


def detail_of(swaps: Swaps, chosen: Mask) -> list[str]:
    """Return what there is to say of each row's swapped groups: how values differ, by how much a row is older.

    Args:
        swaps: n rows.
        chosen: (n_groups, n).
    """
    facts = _Facts(chosen.shape[1])
    for i, group in enumerate(swaps.groups):
        rows = np.flatnonzero(chosen[i])
        if not rows.size:
            continue
        if group.kind == "view":
            of_row = swaps.cause[i, rows] <= ORDER.index(Cause.EXPIRED)
            _add_ages(swaps, group, rows[of_row], facts)
            _add_hows(swaps, group, rows[~of_row], facts)
        elif group.kind == "field":
            _add_hows(swaps, group, rows, facts)
        elif group.kind == "platform" and swaps.left is not None:
            facts.add(rows, swaps.left.replayed[rows].astype(np.int64), {0: "not replayed", 1: "replayed"})
    return facts.texts()


class _Facts:
    """What is said of n rows: codes with few distinct texts, so that texts are made once for all rows that are alike."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._codes: list[NDArray[np.int64]] = []
        self._said: list[dict[int, str]] = []

    def add(self, rows: NDArray[np.int64], codes: NDArray[np.int64], said: dict[int, str]) -> None:
        """Say a code's text of each of the rows; one that `said` has not says nothing."""
        of_all = np.full(self.n, np.iinfo(np.int64).min)
        of_all[rows] = codes
        self._codes.append(of_all)
        self._said.append(said)

    def texts(self) -> list[str]:
        """Return all that is said of each row, each text once."""
        if not self._codes:
            return [""] * self.n
        distinct, of_row = distinct_columns(np.stack(self._codes))
        texts = []
        for column in distinct.T.tolist():
            said = [of_code.get(code, "") for code, of_code in zip(column, self._said, strict=True)]
            texts.append("; ".join(dict.fromkeys(text for text in said if text)))
        return [texts[i] for i in of_row.tolist()]


def _add_ages(swaps: Swaps, group: Group, rows: NDArray[np.int64], facts: _Facts) -> None:
    ours, theirs = (side.event_ts[group.name][rows] for side in (swaps.pairs.online, swaps.pairs.offline))
    known = (ours != NO_TIME) & (theirs != NO_TIME) & (ours != theirs)
    seconds = (ours[known] - theirs[known]) // 1_000_000
    said = {int(value): f"{abs(value)} s {'older' if value < 0 else 'newer'}" for value in np.unique(seconds)}
    facts.add(rows[known], seconds, said)


def _add_hows(swaps: Swaps, group: Group, rows: NDArray[np.int64], facts: _Facts) -> None:
    ours, theirs = (
        side.event_ts.get(group.name, np.full(len(swaps.pairs), NO_TIME))
        for side in (swaps.pairs.online, swaps.pairs.offline)
    )
    same_row = (ours[rows] == theirs[rows]) & (ours[rows] != NO_TIME)
    for name in group.fields:
        how = swaps.inputs.how.get(name)
        if how is None or not rows.size:
            continue
        codes = how[rows].astype(np.int64)
        said = {code: How(code).said for code in np.unique(codes).tolist() if code != How.SAME}
        if How.UTC_OFFSET in said:
            codes, said = _with_offsets(swaps, name, rows, codes, said)
        # of one event_ts: a correction that the store lacks, or a value that was put there otherwise
        said |= {code + _SAME_ROW: f"under the same event_ts: {text}" for code, text in said.items()}
        facts.add(rows, codes + _SAME_ROW * same_row, said)


def _with_offsets(
    swaps: Swaps, name: str, rows: NDArray[np.int64], codes: NDArray[np.int64], said: dict[int, str]
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Give each offset a code of its own."""
    sides = (swaps.pairs.online, swaps.pairs.offline)
    online, offline = (np.asarray(values_and_valid(side.columns[name])[0])[rows] for side in sides)
    minutes = np.where(codes == How.UTC_OFFSET, utc_offset(online, offline), 0)
    offsets = {
        _PER_MINUTE * int(m) + How.UTC_OFFSET: How.UTC_OFFSET.said + _offset(int(m))
        for m in np.unique(minutes)
        if m
    }
    return codes + _PER_MINUTE * minutes, said | offsets


def _offset(minutes: int) -> str:
    """Write a difference from UTC.

    >>> _offset(345), _offset(-240)
    (' (+05:45)', ' (-04:00)')
    """
    hours, rest = divmod(abs(minutes), 60)
    return f" ({'-' if minutes < 0 else '+'}{hours:02d}:{rest:02d})"
