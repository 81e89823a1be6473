"""Which inputs of a row differ between the log and the batch, grouped as they were obtained, and what cause each group would be.

A view's row is one group, because it is read whole; each request field is one. A view that was looked up by another key does not
differ for a reason of its own: it goes with the key. Nothing is scored here, so nothing is explained yet: see swaps and causes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.lookup import Status
from feature_pipelines.views import FeatureView
from jobs.proof.differences import How, differences, is_data_type
from jobs.proof.pairs import NO_TIME, Pairs

__all__ = [
    "ABSENT",
    "ORDER",
    "Cause",
    "Group",
    "Groups",
    "code_of",
    "distinct_columns",
    "input_groups",
    "status_causes",
]


class Cause(StrEnum):
    """Why a row differs, in the order in which single swaps are tried.

    MODEL_VERSION: another version answered: its constants, estimator and threshold. FEATURE_CODE: other feature functions, with or
    without a new fingerprint. Of stored inputs, online against batch: MISSING: no row was found, the key was null or the store did
    not answer. STALE: an older row, or one that the table no longer shows. FUTURE: a newer one, or none because the store was
    beyond the as-of time. EXPIRED: the store's row, or the batch's alone, was older than the ttl. Of values: DATA_TYPE: the same
    after a conversion of types, or refused by the contract. NULL_FILL: null on one side, or another default. EXTRACTED: any other
    value. CONFIGURATION: the label or a refusal differs though the score and the inputs do not. PLATFORM: last bits, on another
    platform. INTERACTION: several of these together, and no single one. UNEXPLAINED: no swap closes the gap.
    """

    MODEL_VERSION = "MODEL_VERSION"
    FEATURE_CODE = "FEATURE_CODE"
    MISSING = "MISSING"
    STALE = "STALE"
    FUTURE = "FUTURE"
    EXPIRED = "EXPIRED"
    DATA_TYPE = "DATA_TYPE"
    NULL_FILL = "NULL_FILL"
    EXTRACTED = "EXTRACTED"
    CONFIGURATION = "CONFIGURATION"
    PLATFORM = "PLATFORM"
    INTERACTION = "INTERACTION"
    UNEXPLAINED = "UNEXPLAINED"


ORDER: Final = tuple(Cause)
ABSENT: Final = -1
"""The code of a group that does not differ; of another it is the place of its cause in ORDER."""

_CODES: Final = {cause: code for code, cause in enumerate(ORDER)}
_WITHOUT_ROW: Final = (Status.NOT_FOUND, Status.NULL, Status.UNAVAILABLE)
_NO_SLOT: Final = -1


def code_of(cause: Cause) -> int:
    """Return the place of a cause in ORDER.

    >>> code_of(Cause.MODEL_VERSION), code_of(Cause.FEATURE_CODE)
    (0, 1)
    """
    return _CODES[cause]


def distinct_columns(matrix: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the distinct columns of a matrix, in the order of their first, and of each column which of them it is.

    >>> distinct, which = distinct_columns(np.array([[1, 0, 1], [2, 3, 2]]))
    >>> distinct.tolist(), which.tolist()
    ([[1, 0], [2, 3]], [0, 1, 0])
    """
    rows, n = np.ascontiguousarray(matrix.T), matrix.shape[1]
    content, size = rows.tobytes(), rows.itemsize * matrix.shape[0]
    places: dict[bytes, int] = {}  # far fewer than columns, so that this is faster than sorting them
    which = [places.setdefault(content[i * size : (i + 1) * size], len(places)) for i in range(n)]
    distinct = np.frombuffer(b"".join(places), dtype=matrix.dtype).reshape(len(places), matrix.shape[0])
    return distinct.T, np.array(which, dtype=np.int64)


@dataclass(frozen=True)
class Group:
    """What is swapped as one: a view or a request field, and its fields; or "model", "code", "configuration", "platform"."""

    kind: str
    name: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups in which some of n rows differ.

    Args:
        groups: in the order of the feature set: views, then request fields.
        cause: int8, (n_groups, n): the code of what the group would be the cause of, ABSENT where it does not differ.
        carried: by view, the place in `groups` of the key field that its difference belongs to, -1 where it is a group itself; (n,).
        sent: by stored field that some row sent itself and that differs there, in which rows: there it is a group of its own.
        how: by field that differs somewhere, How it does, int8, (n,).
    """

    groups: list[Group]
    cause: NDArray[np.int8]
    carried: Mapping[str, NDArray[np.int16]]
    sent: Mapping[str, NDArray[np.bool_]]
    how: Mapping[str, NDArray[np.int8]]


def input_groups(pairs: Pairs, feature_set: FeatureSet, read: Collection[str]) -> Groups:
    """Return the groups of inputs in which rows differ.

    Args:
        pairs: n rows.
        feature_set: of the reference version.
        read: the source fields that some function reads; the others cannot change a feature.
    """
    keys = {name for view in feature_set.views for name in view.keys.values()}
    how = {
        f.name: differences(f.dtype, pairs.online.columns[f.name], pairs.offline.columns[f.name])
        for f in feature_set.sources
        if f.name in read or f.name in keys
    }
    how = {name: of_field for name, of_field in how.items() if of_field.any()}
    stored = {f.name for view in feature_set.views for f in view.fields}
    sent = {
        name: how[name] * mask for name, mask in pairs.overrides.items() if name in how and name in stored
    }
    sent = {name: of_field for name, of_field in sent.items() if of_field.any()}
    fields = [
        f.name for f in feature_set.sources if f.name in sent or (f.name in how and f.name not in stored)
    ]
    views = [view for view in feature_set.views if any(f.name in how for f in view.fields)]
    groups = [Group("view", view.name, tuple(f.name for f in view.fields)) for view in views]
    groups += [Group("field", name, (name,)) for name in fields]
    place = {group.name: i for i, group in enumerate(groups) if group.kind == "field"}
    cause = np.full((len(groups), len(pairs)), ABSENT, dtype=np.int8)
    carried = {}
    for i, view in enumerate(views):
        hows = [
            how[f.name] * (sent[f.name] == 0) if f.name in sent else how[f.name]
            for f in view.fields
            if f.name in how
        ]
        changed = np.logical_or.reduce([of_field != How.SAME for of_field in hows])
        carried[view.name] = _carried(view, how, place, len(pairs))
        own = changed & (carried[view.name] == _NO_SLOT)
        cause[i, own] = _view_causes(pairs, view, hows)[own]
    for name in fields:
        cause[place[name]] = _value_causes([sent.get(name, how[name])])
    return Groups(
        groups, cause, carried, {name: of_field != How.SAME for name, of_field in sent.items()}, how
    )


def _carried(
    view: FeatureView, how: Mapping[str, NDArray[np.int8]], place: Mapping[str, int], n: int
) -> NDArray[np.int16]:
    slot = np.full(n, _NO_SLOT, dtype=np.int16)
    for name in view.keys.values():
        if name in how:
            slot[(slot == _NO_SLOT) & (how[name] != How.SAME)] = place[name]
    return slot


def _view_causes(pairs: Pairs, view: FeatureView, hows: list[NDArray[np.int8]]) -> NDArray[np.int8]:
    """Return the code of the cause that a view's difference would be, of rows in which it differs; int8, (n,).

    What became of the look-ups and the event_ts of their rows decide; the values do where both sides have the same row.
    """
    by_status = status_causes(pairs, view)
    by_value = _value_causes(hows)
    same_absence = (pairs.online.statuses[view.name] == pairs.offline.statuses[view.name]) & (
        pairs.online.statuses[view.name] != Status.PRESENT
    )
    filled = same_absence & (pairs.online.statuses[view.name] != Status.OVERRIDDEN)
    # nothing was found on either side, so what stands there is a default
    by_value[filled] = _CODES[Cause.NULL_FILL]
    return np.where(by_status == ABSENT, by_value, by_status).astype(np.int8)


def status_causes(pairs: Pairs, view: FeatureView) -> NDArray[np.int8]:
    """Return the code of MISSING, STALE, FUTURE or EXPIRED where look-ups or their rows differ so, else ABSENT; int8, (n,)."""
    ours, theirs = pairs.online.statuses[view.name], pairs.offline.statuses[view.name]
    ours_ts, theirs_ts = pairs.online.event_ts[view.name], pairs.offline.event_ts[view.name]
    found = np.full(len(pairs), ABSENT, dtype=np.int8)
    both = (ours == Status.PRESENT) & (theirs == Status.PRESENT)
    known = both & (ours_ts != NO_TIME) & (theirs_ts != NO_TIME)
    found[known & (ours_ts < theirs_ts)] = _CODES[Cause.STALE]
    found[known & (ours_ts > theirs_ts)] = _CODES[Cause.FUTURE]
    alone = (ours == Status.PRESENT) & ~both & (theirs != Status.OVERRIDDEN)
    found[alone] = _CODES[Cause.STALE]  # deleted or purged in the table, still in the store
    found[alone & (theirs == Status.EXPIRED)] = _CODES[Cause.EXPIRED]
    found[alone & (ours_ts != NO_TIME) & (ours_ts > pairs.as_of)] = _CODES[Cause.FUTURE]
    differs = ours != theirs
    found[differs & np.isin(ours, _WITHOUT_ROW)] = _CODES[Cause.MISSING]
    found[differs & (ours == Status.EXPIRED)] = _CODES[Cause.EXPIRED]
    found[ours == Status.FUTURE] = _CODES[Cause.FUTURE]
    return found


def _value_causes(hows: list[NDArray[np.int8]]) -> NDArray[np.int8]:
    """Return the codes for values that differ so; of several fields the least specific difference counts."""
    every = np.stack(hows)
    found = np.full(every.shape[1], ABSENT, dtype=np.int8)
    found[is_data_type(every).any(axis=0)] = _CODES[Cause.DATA_TYPE]
    found[(every == How.NULL).any(axis=0)] = _CODES[Cause.NULL_FILL]
    found[(every == How.OTHER).any(axis=0)] = _CODES[Cause.EXTRACTED]
    return found
