"""What a closing set is about, in names and in words, for people who read a report; nothing is decided here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import values_and_valid
from feature_pipelines.parity import differing_bits
from jobs.proof.differences import How, utc_offset
from jobs.proof.groups import ORDER, Cause, Group
from jobs.proof.pairs import NO_TIME
from jobs.proof.swaps import Swaps
from jobs.proof.worlds import Mask

__all__ = ["detail_of", "where_of"]


def where_of(swaps: Swaps, chosen: Mask) -> list[str]:
    """Return the names of each row's swapped groups; for code and platform, of the features that differ by it.

    Args:
        swaps: n rows.
        chosen: (n_groups, n).
    """
    by_feature = [i for i, group in enumerate(swaps.groups) if group.kind in ("code", "platform")]
    features = _features_named(swaps)
    key = chosen if not by_feature else np.concatenate([chosen, features & chosen[by_feature].any(axis=0)])
    distinct, of_row = np.unique(key, axis=1, return_inverse=True)
    k = len(swaps.groups)
    texts = [_names(swaps, column[:k], column[k:]) for column in distinct.T]
    return [texts[i] for i in of_row.reshape(-1)]


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
    said: list[list[str]] = [[] for _ in range(chosen.shape[1])]
    for i, group in enumerate(swaps.groups):
        rows = np.flatnonzero(chosen[i])
        if not rows.size:
            continue
        for row, text in zip(rows.tolist(), _said(swaps, i, group, rows), strict=True):
            if text:
                said[row].append(text)
    return ["; ".join(dict.fromkeys(texts)) for texts in said]


def _said(swaps: Swaps, i: int, group: Group, rows: NDArray[np.int64]) -> list[str]:
    if group.kind == "view" and (swaps.cause[i, rows] <= ORDER.index(Cause.EXPIRED)).all():
        return _ages(swaps, group, rows)
    if group.kind in ("view", "field"):
        return _hows(swaps, group, rows)
    if group.kind == "platform" and swaps.left is not None:
        return ["replayed" if done else "not replayed" for done in swaps.left.replayed[rows].tolist()]
    return [""] * len(rows)


def _ages(swaps: Swaps, group: Group, rows: NDArray[np.int64]) -> list[str]:
    ours = swaps.pairs.online.event_ts[group.name][rows].tolist()
    theirs = swaps.pairs.offline.event_ts[group.name][rows].tolist()
    texts = []
    for a, b in zip(ours, theirs, strict=True):
        if a == b or NO_TIME in (a, b):
            texts.append("")
        else:
            texts.append(f"{abs(a - b) / 1_000_000:.0f} s {'older' if a < b else 'newer'}")
    return texts


def _hows(swaps: Swaps, group: Group, rows: NDArray[np.int64]) -> list[str]:
    texts: list[dict[str, None]] = [{} for _ in rows]
    for name in group.fields:
        how = swaps.inputs.how.get(name)
        if how is None:
            continue
        codes = how[rows].tolist()
        shift = _shift(swaps, name, rows) if How.UTC_OFFSET in codes else [0] * len(rows)
        for text, code, minutes in zip(texts, codes, shift, strict=True):
            if code != How.SAME:
                text[How(code).said + (_offset(minutes) if code == How.UTC_OFFSET else "")] = None
    lead = "under the same event_ts: " if group.kind == "view" and _same_row(swaps, group, rows) else ""
    return ["; ".join(lead + part for part in text) for text in texts]


def _same_row(swaps: Swaps, group: Group, rows: NDArray[np.int64]) -> bool:
    """Whether both sides had rows of one event_ts: a correction that the store lacks, or a value that was put there otherwise."""
    ours, theirs = swaps.pairs.online.event_ts[group.name], swaps.pairs.offline.event_ts[group.name]
    return bool(((ours[rows] == theirs[rows]) & (ours[rows] != NO_TIME)).all())


def _shift(swaps: Swaps, name: str, rows: NDArray[np.int64]) -> list[int]:
    online, _ = values_and_valid(swaps.pairs.online.columns[name])
    offline, _ = values_and_valid(swaps.pairs.offline.columns[name])
    shift: list[int] = utc_offset(np.asarray(online)[rows], np.asarray(offline)[rows]).tolist()
    return shift


def _offset(minutes: int) -> str:
    """Write a difference from UTC.

    >>> _offset(345), _offset(-240)
    (' (+05:45)', ' (-04:00)')
    """
    hours, rest = divmod(abs(minutes), 60)
    return f" ({'-' if minutes < 0 else '+'}{hours:02d}:{rest:02d})"
