"""Windowed history: the rows of a view computed from the events of its source, as `views.History` declares.

For each key and each distinct event time t of its source rows there is one row per version: a version c for every distinct
created_ts c of the key's source rows in (t - longest window, t], from the first created_ts of a row at t itself on. It aggregates what
was known at c (created_ts <= c), so a late event gives new versions of every row whose window it touches, and changes none. A
created_ts before its event_ts is taken as it is: a reader sees a row from max(event_ts, created_ts) on.

Versions of c in (after, through] need no source row with created_ts > through, so what is computed step by step is what is computed
at once. This module reads no table and no clock; `history_ops` has the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, Columns, Strings, concat, freeze, take, values_and_valid
from feature_pipelines.errors import ContractError, DefinitionError
from feature_pipelines.history_ops import Aggregates, range_extreme
from feature_pipelines.packed import digest_ranks
from feature_pipelines.views import FeatureView, window_seconds

__all__ = ["HistoryRows", "windowed_history"]

_EARLIEST = np.iinfo(np.int64).min
_LATEST = np.iinfo(np.int64).max
_SPREAD_ROWS = 1 << 20

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HistoryRows:
    """Rows of a view, by key (in the order of its parts), event_ts, created_ts.

    Args:
        keys: the key columns, in the order of `view.keys`.
        event_ts, created_ts: int64 microseconds, shape (n,).
        fields: the view's fields, n rows each.
    """

    keys: tuple[Column, ...]
    event_ts: Ints
    created_ts: Ints
    fields: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.event_ts)


def windowed_history(
    view: FeatureView,
    keys: Sequence[Column],
    event_ts: Ints,
    created_ts: Ints,
    fields: Columns,
    *,
    created_after: int | None = None,
    created_through: int | None = None,
) -> HistoryRows:
    """Return the rows of a view with history, whatever the order of the source rows.

    Args:
        view: the declaration.
        keys: the key columns of n source rows, String or integer, in the order of `view.keys`; a row with a null key counts for
            no key. Of each key either all rows are given, or all that lie less than the longest window from a new one.
        event_ts, created_ts: int64 microseconds, shape (n,).
        fields: every field of `view.source`, n rows each. Equal rows are different events.
        created_after: compute versions of a later created_ts only; None = all.
        created_through: compute versions up to this created_ts, inclusive; None = all.

    Raises:
        DefinitionError: the view declares no history. ContractError: a key column of another kind, or a sum beyond its type.
    """
    if view.source is None:
        raise DefinitionError(f"view {view.name!r} declares no history")
    after = _EARLIEST if created_after is None else created_after
    through = _LATEST if created_through is None else created_through
    rows = _Sorted.of(view, keys, event_ts, created_ts, fields, through)
    groups = _Groups.of(view, rows)
    parts = [part for part in _parts(rows, groups, after, created_after is None) if len(part.group)]
    if not parts:
        parts = [_Part.empty(groups)]
    of_part = [_aggregated(view, fields, rows, part) for part in parts]
    group = np.concatenate([part.group for part in parts])
    created = np.concatenate([part.created for part in parts])
    order = np.lexsort((created, group))
    group = group[order]
    source_row = rows.row[groups.start[group]]
    return HistoryRows(
        tuple(take(key, source_row) for key in keys),
        freeze(groups.event[group]),
        freeze(created[order]),
        {name: take(concat([one[name] for one in of_part]), order) for name in view.fields.names},
    )


@dataclass(frozen=True, eq=False)
class _Sorted:
    """The source rows that count, in the total order within each key.

    Args:
        row: where each was in the input.
        entity, event, created: of each.
    """

    row: Ints
    entity: Ints
    event: Ints
    created: Ints

    @classmethod
    def of(
        cls,
        view: FeatureView,
        keys: Sequence[Column],
        event_ts: Ints,
        created_ts: Ints,
        fields: Columns,
        through: int,
    ) -> _Sorted:
        entity, has_key = _entities(view, keys, len(event_ts))
        row = np.flatnonzero(has_key & (created_ts <= through))
        order = np.lexsort((created_ts[row], event_ts[row], entity[row]))
        row = row[order]
        if any("last" in one.ops for one in view.history):
            row = _ties_by_digest(view, row, (entity, event_ts, created_ts), fields)
        return cls(row, entity[row], event_ts[row], created_ts[row])


@dataclass(frozen=True, eq=False)
class _Groups:
    """The distinct (key, event_ts) and the rows in their windows.

    Args:
        start, stop: the group's own rows.
        event: its event_ts.
        first: the first created_ts of its own rows.
        low: by window, the first row in the window, which ends at `stop`.
        longest: the name of the longest window.
    """

    start: Ints
    stop: Ints
    event: Ints
    first: Ints
    low: Mapping[str, Ints]
    longest: str

    @classmethod
    def of(cls, view: FeatureView, rows: _Sorted) -> _Groups:
        n = len(rows.row)
        is_first = np.ones(n, dtype=np.bool_)
        is_first[1:] = (rows.entity[1:] != rows.entity[:-1]) | (rows.event[1:] != rows.event[:-1])
        start = np.flatnonzero(is_first)
        event, entity = rows.event[start], rows.entity[start]
        times = np.unique(rows.event)
        place = rows.entity * (len(times) + 1) + np.searchsorted(times, rows.event)
        low: dict[str, Ints] = {}
        windows = {window for one in view.history for window in one.windows}
        for window in windows:
            width = window_seconds(window) * 1_000_000
            bound = np.maximum(event, _EARLIEST + width) - width
            rank = np.where(event < _EARLIEST + width, 0, np.searchsorted(times, bound, side="right"))
            low[window] = np.searchsorted(place, entity * (len(times) + 1) + rank)
        longest = max(windows, key=window_seconds)
        return cls(start, np.append(start[1:], n)[: len(start)], event, rows.created[start], low, longest)


@dataclass(frozen=True, eq=False)
class _Part:
    """Output rows, each an aggregate over ranges of `index`.

    Args:
        group, created: of each output row.
        index: positions of source rows in `_Sorted`.
        ranges: by window, first and after last position in `index`.
    """

    group: Ints
    created: Ints
    index: Ints
    ranges: Mapping[str, tuple[Ints, Ints]]

    @classmethod
    def empty(cls, groups: _Groups) -> _Part:
        none = np.zeros(0, dtype=np.int64)
        return cls(none, none, none, dict.fromkeys(groups.low, (none, none)))


def _parts(rows: _Sorted, groups: _Groups, after: int, every: bool) -> Iterator[_Part]:
    """Yield the output rows: those of groups with one version at once, the others a manageable number at a time."""
    lowest = groups.low[groups.longest]
    latest = range_extreme(rows.created, lowest, groups.stop, least=False)
    is_new = (latest > after) | every
    single = np.flatnonzero((latest == groups.first) & is_new)
    ranges = {window: (low[single], groups.stop[single]) for window, low in groups.low.items()}
    yield _Part(single, groups.first[single], np.arange(len(rows.row)), ranges)
    several = np.flatnonzero((latest > groups.first) & is_new)
    for chosen in _chunks(several, (groups.stop - lowest)[several]):
        group, created = _versions(rows, groups, chosen)
        is_wanted = (created > after) | every
        group, created = group[is_wanted], created[is_wanted]
        for part in _chunks(np.arange(len(group)), (groups.stop - lowest)[group]):
            yield _known_then(rows, groups, group[part], created[part])


def _versions(rows: _Sorted, groups: _Groups, chosen: Ints) -> tuple[Ints, Ints]:
    """Return every (group, created_ts) of some groups."""
    owner, index = _spread(groups.low[groups.longest][chosen], groups.stop[chosen])
    group, created = chosen[owner], rows.created[index]
    counts = created >= groups.first[group]
    group, created = group[counts], created[counts]
    order = np.lexsort((created, group))
    group, created = group[order], created[order]
    is_first = np.ones(len(group), dtype=np.bool_)
    is_first[1:] = (group[1:] != group[:-1]) | (created[1:] != created[:-1])
    return group[is_first], created[is_first]


def _known_then(rows: _Sorted, groups: _Groups, group: Ints, created: Ints) -> _Part:
    """Return versions with, for each, a copy of the positions of the rows that it aggregates."""
    owner, index = _spread(groups.low[groups.longest][group], groups.stop[group])
    known = rows.created[index] <= created[owner]
    owner, index = owner[known], index[known]
    stop = np.cumsum(np.bincount(owner, minlength=len(group)))
    ranges = {}
    for window, low in groups.low.items():
        inside = index >= low[group][owner]
        ranges[window] = (stop - np.bincount(owner[inside], minlength=len(group)), stop)
    return _Part(group, created, index, ranges)


def _aggregated(view: FeatureView, fields: Columns, rows: _Sorted, part: _Part) -> dict[str, Column]:
    found: dict[str, Column] = {}
    source = view.source
    names = dict.fromkeys(one.column for one in view.history)
    for name in names if source is not None else ():
        column = take(fields[name], rows.row[part.index])
        aggregates = Aggregates(source[name], column, part.ranges)  # type: ignore[index]
        for one in view.history:
            if one.column == name:
                for op, window, field in one.named():
                    found[field] = aggregates.compute(op, window, f"view {view.name!r} field {field!r}")
    return found


def _entities(view: FeatureView, keys: Sequence[Column], n: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Return each row's key as a number, in the order of the keys, and whether no part of it is null."""
    entity = np.zeros(n, dtype=np.int64)
    has_key = np.ones(n, dtype=np.bool_)
    for key in keys:
        values, valid = values_and_valid(key)
        if isinstance(values, Strings):
            place = {name: i for i, name in enumerate(sorted(set(values.categories)))}
            part = np.array([place[name] for name in values.categories], dtype=np.int64)[values.codes]
        elif values.dtype.kind == "i":
            part = np.unique(values, return_inverse=True)[1]
        else:
            raise ContractError(
                f"view {view.name!r}: a key column must be String or an integer, not {values.dtype}"
            )
        width = int(part.max()) + 1 if n else 1
        entity = np.unique(entity * width + part, return_inverse=True)[1].astype(np.int64)
        if valid is not None:
            has_key &= valid
    return entity, has_key


def _ties_by_digest(view: FeatureView, row: Ints, times: tuple[Ints, Ints, Ints], fields: Columns) -> Ints:
    """Return the sorted rows with those of equal key and times in the order of their digests."""
    columns = [column[row] for column in times]
    same = np.all([column[1:] == column[:-1] for column in columns], axis=0)
    tied = np.zeros(len(row), dtype=np.bool_)
    tied[1:] |= same
    tied[:-1] |= same
    where = np.flatnonzero(tied)
    if not len(where) or view.source is None:
        return row
    rank = digest_ranks(view.source, {f.name: take(fields[f.name], row[where]) for f in view.source})
    order = np.lexsort((rank, *(column[where] for column in reversed(columns))))
    row = row.copy()
    row[where] = row[where][order]
    return row


def _spread(low: Ints, stop: Ints) -> tuple[Ints, Ints]:
    """Return all positions of the ranges one after the other, and for each the number of its range."""
    lengths = stop - low
    owner = np.repeat(np.arange(len(low)), lengths)
    offset = low - (np.cumsum(lengths) - lengths)
    return owner, np.arange(len(owner)) + offset[owner]


def _chunks(items: Ints, sizes: Ints) -> Iterator[Ints]:
    """Yield the items in runs whose sizes add up to about `_SPREAD_ROWS`, at least one item in each."""
    if len(items):
        chunk = (np.cumsum(sizes) - sizes) // _SPREAD_ROWS
        yield from np.split(items, np.flatnonzero(np.diff(chunk)) + 1)
