"""Which stored rows a request needs, and what its columns are once they were read: all of a look-up but the reading.

`plan` says which keys of which views are wanted; whoever has a store reads them; `assemble` makes columns of what was found, by
the same as-of rule and the same missing-key policy as the look-up in the batch kernel. It does no I/O and reads no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, concat, take, values_and_valid
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError, UnavailableError
from feature_pipelines.lookup import Status
from feature_pipelines.missing import apply_missing
from feature_pipelines.request_rows import Requests
from feature_pipelines.schema import Field, Reason, RowError, build_column
from feature_pipelines.stores.base import Key, StoredRow, resolve
from feature_pipelines.stores.encoding import decode_rows
from feature_pipelines.views import FeatureView

__all__ = ["Assembled", "Found", "Plan", "ViewPlan", "assemble", "plan"]

_NO_KEY = -1
Found = Sequence[Sequence[StoredRow | None]] | UnavailableError | ContractError


@dataclass(frozen=True)
class ViewPlan:
    """What a request needs of one view.

    Args:
        view: the declaration.
        keys: to read, each once.
        positions: of each row its key's place in `keys`; -1 = nothing is read for the row.
        statuses: of each row what is known without reading: OVERRIDDEN, NULL, else PRESENT.
        sent: of each row the view's fields that it sends itself.
    """

    view: FeatureView
    keys: list[Key]
    positions: list[int]
    statuses: list[int]
    sent: list[Sequence[str]]


@dataclass(frozen=True)
class Plan:
    """What a request needs of all views, in their order; `errors` are of rows that cannot be looked up."""

    requests: Requests
    views: list[ViewPlan]
    errors: list[RowError] = field(default_factory=list)

    def wanted(self) -> list[tuple[FeatureView, Sequence[Key]]]:
        """Return what to read: the argument of `OnlineStore.read`. Empty = there is nothing to read."""
        return [(one.view, one.keys) for one in self.views if one.keys]


@dataclass
class Assembled:
    """The stored fields of a request's rows.

    Args:
        columns: every field of every view, a row each.
        statuses: by view, each row's Status, int8.
        event_ts: by view, of each row the event_ts of the row that the store returned, None without one; microseconds.
        overrides: of each row the stored fields that it sent itself.
        errors: of the rows that are refused, in the views' order.
    """

    columns: dict[str, Column]
    statuses: dict[str, NDArray[np.int8]]
    event_ts: dict[str, list[int | None]]
    overrides: list[list[str]]
    errors: list[RowError]


def plan(feature_set: FeatureSet, requests: Requests, *, has_store: bool) -> Plan:
    """Return what to read for a request.

    A row that sends all fields of a view is not looked up there; one that sends some is, and its own values win. Rows with an error
    are not looked up at all.

    Args:
        feature_set: the model's features.
        requests: the rows as `RequestReader` read them.
        has_store: whether there is a store. If not, a row that sends a field of a view is taken to send them all (null where it
            does not name one), and a row that sends none is refused.
    """
    broken = {error.row for error in requests.errors}
    made = Plan(requests, [])
    for view in feature_set.views:
        names = view.fields.names
        sent: list[Sequence[str]] = [[name for name in names if name in row] for row in requests.rows]
        if has_store:
            made.views.append(_view_plan(view, requests, sent, broken))
            continue
        for i in [i for i, of_row in enumerate(sent) if not of_row and i not in broken]:
            made.errors.append(RowError(i, Reason.STORED_FEATURES_MISSING, view.name, _no_store(view)))
        statuses: list[int] = [Status.OVERRIDDEN if of_row else Status.PRESENT for of_row in sent]
        made.views.append(ViewPlan(view, [], [_NO_KEY] * len(sent), statuses, [o and names for o in sent]))
    return made


def _no_store(view: FeatureView) -> str:
    return (
        f"send the stored fields of view {view.name!r} (null where there is no value); no store is configured to look them "
        "up in (ONESCORE_STORE_URL)"
    )


def _view_plan(
    view: FeatureView, requests: Requests, sent: list[Sequence[str]], broken: set[int]
) -> ViewPlan:
    places: dict[Key, int] = {}
    positions, statuses = [_NO_KEY] * len(sent), [int(Status.PRESENT)] * len(sent)
    parts = [_key_values(requests.columns[name]) for name in view.keys.values()]
    n_fields = len(view.fields.fields)
    for i, key in enumerate(zip(*parts, strict=True)):
        if i in broken:
            continue
        if len(sent[i]) == n_fields:
            statuses[i] = Status.OVERRIDDEN
        elif None in key:
            statuses[i] = Status.NULL
        else:
            positions[i] = places.setdefault(key, len(places))
    return ViewPlan(view, list(places), positions, statuses, sent)


def _key_values(column: Column) -> list[Any]:
    values, valid = values_and_valid(column)
    if valid is None or valid.all():
        return values.tolist()
    return [value if ok else None for value, ok in zip(values.tolist(), valid.tolist(), strict=True)]


def assemble(planned: Plan, found: Found, as_of: Sequence[int]) -> Assembled:
    """Return the stored columns of a request's rows.

    Args:
        planned: what `plan` returned.
        found: what the store returned for `planned.wanted()`, or the error that it raised.
        as_of: of each row, microseconds.
    """
    if not isinstance(found, Exception):
        try:
            return _assembled(planned, found, as_of)
        except ContractError as unreadable:
            found = unreadable
    return _assembled(planned, found, as_of)


def _assembled(planned: Plan, found: Found, as_of: Sequence[int]) -> Assembled:
    rows = planned.requests.rows
    made = Assembled({}, {}, {}, [[] for _ in rows], list(planned.errors))
    answers = None if isinstance(found, Exception) else iter(found)
    for one in planned.views:
        stored = next(answers) if answers is not None and one.keys else ()
        statuses, event_ts, taken = _resolved(one, stored if answers is not None else None, as_of)
        made.event_ts[one.view.name] = event_ts
        refused: list[int] = []
        if isinstance(found, ContractError):
            refused = [i for i, position in enumerate(one.positions) if position != _NO_KEY]
            statuses[refused] = Status.UNAVAILABLE
            made.errors += [RowError(i, Reason.STORE_UNAVAILABLE, one.view.name, str(found)) for i in refused]
        made.statuses[one.view.name] = statuses
        columns: dict[str, Column] = {}
        if not all(len(sent) == len(one.view.fields.fields) for sent in one.sent):
            columns, errors = apply_missing(one.view, _decoded(one.view, stored, taken), statuses)
            made.errors += [error for error in errors if error.row not in refused]
        for declared in one.view.fields:
            _override(declared, one, planned.requests, columns, made)
        made.columns.update(columns)
    return made


def _resolved(
    one: ViewPlan, stored: Sequence[StoredRow | None] | None, as_of: Sequence[int]
) -> tuple[NDArray[np.int8], list[int | None], list[int]]:
    """Return each row's status, the event_ts of its stored row, and which of `stored` gives its values (-1: none does)."""
    statuses, event_ts = list(one.statuses), [None] * len(one.positions)
    times: list[int | None] = list(event_ts)
    taken = [_NO_KEY] * len(one.positions)
    for i, position in enumerate(one.positions):
        if position == _NO_KEY:
            continue
        if stored is None:
            statuses[i] = Status.UNAVAILABLE
            continue
        row = stored[position]
        statuses[i] = resolve(one.view, row, as_of[i])
        if row is not None:
            times[i] = row.event_ts
        if statuses[i] == Status.PRESENT:
            taken[i] = position
    return np.array(statuses, dtype=np.int8), times, taken


def _decoded(
    view: FeatureView, stored: Sequence[StoredRow | None], taken: Sequence[int]
) -> dict[str, Column]:
    """Return the view's fields for each row of `taken`; each stored value is decoded once."""
    if len(taken) == 1:
        row = stored[taken[0]] if taken[0] != _NO_KEY else None
        return decode_rows(view, [None if row is None else row.payload])
    payloads: list[bytes | None] = [None if row is None else row.payload for row in stored]
    columns = decode_rows(view, [*payloads, None])
    index = np.array(taken, dtype=np.int64)  # -1 is the last: the null row
    return {name: take(column, index) for name, column in columns.items()}


def _override(
    declared: Field, one: ViewPlan, requests: Requests, columns: dict[str, Column], made: Assembled
) -> None:
    """Put the values that rows send themselves in the place of those found."""
    name = declared.name
    senders = [i for i, sent in enumerate(one.sent) if name in sent]
    if not senders:
        return
    column, broken = build_column(declared, [requests.rows[i].get(name) for i in senders])
    made.errors += [error._replace(row=senders[error.row]) for error in broken]
    for i in senders:
        if name in requests.rows[i]:
            made.overrides[i].append(name)
    if len(senders) == len(one.sent):
        columns[name] = column
        return
    index = np.arange(len(one.sent), dtype=np.int64)
    index[senders] = len(one.sent) + np.arange(len(senders))
    columns[name] = take(concat([columns[name], column]), index)
