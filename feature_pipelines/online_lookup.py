"""Which stored rows a request needs, and what its columns are once they were read: all of a look-up but the reading.

`plan` says which keys of which views are wanted; whoever has a store reads them; `assemble` makes columns of what was found, by
the same as-of rule and the same missing-key policy as the look-up in the batch kernel. It does no I/O and reads no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, concat, take, values_and_valid
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError, UnavailableError
from feature_pipelines.lookup import Status
from feature_pipelines.missing import apply_missing
from feature_pipelines.request_rows import Requests
from feature_pipelines.schema import Field, Reason, RowError, build_column
from feature_pipelines.stores.base import Answer, Key, StoredRow, resolve
from feature_pipelines.stores.encoding import decode_rows
from feature_pipelines.views import FeatureView

__all__ = ["Assembled", "Found", "Plan", "ViewPlan", "assemble", "plan"]

_NO_KEY = -1
_PRESENT, _UNAVAILABLE = int(Status.PRESENT), int(Status.UNAVAILABLE)
_STORED = "_lookup_stored_names"
Found = Sequence[Sequence[Answer]] | UnavailableError | ContractError


class ViewPlan(NamedTuple):
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


class Plan(NamedTuple):
    """What a request needs of all views, in their order; `errors` are of rows that cannot be looked up."""

    requests: Requests
    views: list[ViewPlan]
    errors: list[RowError]

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
        failures: what the store said where it could not answer for a view or a key: for the log, each once.
        retryable: the rows that are refused because a view cannot be served now.
    """

    columns: dict[str, Column]
    statuses: dict[str, NDArray[np.int8]]
    event_ts: dict[str, list[int | None]]
    overrides: list[list[str]]
    errors: list[RowError]
    failures: list[UnavailableError | ContractError] = field(default_factory=list)
    retryable: set[int] = field(default_factory=set)


def plan(feature_set: FeatureSet, requests: Requests, *, has_store: bool) -> Plan:
    """Return what to read for a request.

    A row that sends all fields of a view is not looked up there; one that sends some is, and its own values win. Rows with an error
    are not looked up at all.

    Args:
        feature_set: the model's features.
        requests: the rows as `RequestReader` read them.
        has_store: whether there is a store. If not, a row that does not send every field of a view is refused, as a batch is that
            brings a view in part.
    """
    broken = {error.row for error in requests.errors}
    made = Plan(requests, [], [])
    stored = _stored_names(feature_set)
    sends_any = [not stored.isdisjoint(row) for row in requests.rows]
    sends_none: list[Sequence[str]] = [()] * len(sends_any)
    keys: dict[str, list[Any]] = {}
    for view in feature_set.views:
        names = view.fields.names
        sent = sends_none
        if True in sends_any:
            sent = [
                [name for name in names if name in row] if sends else ()
                for row, sends in zip(requests.rows, sends_any, strict=True)
            ]
        if has_store:
            for name in view.keys.values():
                if name not in keys:
                    keys[name] = _key_values(requests.columns[name])
            made.views.append(_view_plan(view, [keys[name] for name in view.keys.values()], sent, broken))
            continue
        is_whole = [len(of_row) == len(names) for of_row in sent]
        for i in [i for i, whole in enumerate(is_whole) if not whole and i not in broken]:
            made.errors.append(
                RowError(i, Reason.STORED_FEATURES_MISSING, view.name, _no_store(view, sent[i]))
            )
        statuses: list[int] = [Status.OVERRIDDEN if whole else Status.PRESENT for whole in is_whole]
        made.views.append(ViewPlan(view, [], [_NO_KEY] * len(sent), statuses, sent))
    return made


def _stored_names(feature_set: FeatureSet) -> frozenset[str]:
    """Return the names of all stored fields, found once per feature set."""
    held: frozenset[str] | None = feature_set.__dict__.get(_STORED)
    if held is None:
        held = frozenset(name for view in feature_set.views for name in view.fields.names)
        feature_set.__dict__[_STORED] = held
    return held


def _no_store(view: FeatureView, sent: Sequence[str]) -> str:
    lacking = [name for name in view.fields.names if name not in sent]
    return (
        f"send all stored fields of view {view.name!r} (null where there is no value), it lacks {', '.join(lacking[:5])}"
        f"{', ...' if len(lacking) > 5 else ''}; no store is configured to look them up in (ONESCORE_STORE_URL)"
    )


def _view_plan(
    view: FeatureView, parts: list[list[Any]], sent: list[Sequence[str]], broken: set[int]
) -> ViewPlan:
    places: dict[Key, int] = {}
    positions, statuses = [_NO_KEY] * len(sent), [_PRESENT] * len(sent)
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
    if valid is None or np.count_nonzero(valid) == len(valid):
        return values.tolist()
    return [value if ok else None for value, ok in zip(values.tolist(), valid.tolist(), strict=True)]


def assemble(planned: Plan, found: Found, as_of: Sequence[int]) -> Assembled:
    """Return the stored columns of a request's rows.

    A stored value that cannot be read refuses the rows that wanted it, and a view that cannot be served is what its `unavailable`
    says; rows and views beside them are as ever.

    Args:
        planned: what `plan` returned.
        found: what the store returned for `planned.wanted()`, or the error that it raised: then every key's answer is that error.
        as_of: of each row, microseconds.
    """
    made = Assembled({}, {}, {}, [[] for _ in planned.requests.rows], list(planned.errors))
    answers = None if isinstance(found, Exception) else iter(found)
    for one in planned.views:
        stored: Sequence[Answer] = ()
        if one.keys:
            stored = next(answers) if answers is not None else [found] * len(one.keys)  # type: ignore[list-item]
        _assemble_view(one, stored, planned.requests, as_of, made)
    return made


def _assemble_view(
    one: ViewPlan, stored: Sequence[Answer], requests: Requests, as_of: Sequence[int], made: Assembled
) -> None:
    """Add a view's columns, statuses and errors to what was made of those before it."""
    found = _resolved(one, stored, as_of)
    columns: dict[str, Column] = {}
    sends_any = any(one.sent)
    if not (sends_any and all(len(sent) == len(one.view.fields.fields) for sent in one.sent)):
        try:
            columns = _decoded(one.view, stored, found.taken)
        except ContractError:
            _refuse_unreadable(one.view, stored, found)
            columns = _decoded(one.view, stored, found.taken)
        columns, errors = apply_missing(one.view, columns, found.statuses)
        made.errors += _explained(one.view, found, errors, made) if found.failed else errors
    made.event_ts[one.view.name] = found.event_ts
    made.statuses[one.view.name] = found.statuses
    for declared in one.view.fields if sends_any else ():
        _override(declared, one, requests, columns, made)
    made.columns.update(columns)


class _Resolved(NamedTuple):
    """What was found for each row of a request.

    Args:
        statuses: int8.
        event_ts: of its stored row.
        taken: which of the answers gives its values; -1 = none does.
        failed: why there is no answer, of the rows for which there is none.
    """

    statuses: NDArray[np.int8]
    event_ts: list[int | None]
    taken: list[int]
    failed: dict[int, UnavailableError | ContractError]


def _resolved(one: ViewPlan, stored: Sequence[Answer], as_of: Sequence[int]) -> _Resolved:
    statuses = list(one.statuses)
    times: list[int | None] = [None] * len(one.positions)
    taken = [_NO_KEY] * len(one.positions)
    failed: dict[int, UnavailableError | ContractError] = {}
    for i, position in enumerate(one.positions):
        if position == _NO_KEY:
            continue
        row = stored[position]
        if isinstance(row, Exception):
            statuses[i] = _UNAVAILABLE
            failed[i] = row
            continue
        status = resolve(one.view, row, as_of[i])
        if row is not None:
            times[i] = row.event_ts
        if status is Status.PRESENT:
            taken[i] = position
        else:
            statuses[i] = status
    return _Resolved(np.array(statuses, dtype=np.int8), times, taken, failed)


def _refuse_unreadable(view: FeatureView, stored: Sequence[Answer], found: _Resolved) -> None:
    """Take out the rows whose values cannot be decoded; the same rows whoever stands beside them."""
    for position in {position for position in found.taken if position != _NO_KEY}:
        row = stored[position]
        try:
            decode_rows(view, [row.payload if isinstance(row, StoredRow) else None])
        except ContractError as unreadable:
            for i in [i for i, taken in enumerate(found.taken) if taken == position]:
                found.statuses[i], found.taken[i], found.failed[i] = Status.UNAVAILABLE, _NO_KEY, unreadable


def _explained(
    view: FeatureView, found: _Resolved, errors: list[RowError], made: Assembled
) -> list[RowError]:
    """Return a view's errors, those of its unavailable rows as the store explains them; note what it said.

    What breaks the contract refuses a row whatever the view's policy: defaults are for a store that is away.
    """
    of_row = {error.row: error for error in errors}
    for i, failure in found.failed.items():
        if all(failure is not known for known in made.failures):
            made.failures.append(failure)
        if isinstance(failure, ContractError):
            of_value = bool(failure.evidence.get("concerns_row"))
            code = Reason.STORED_VALUE_UNREADABLE if of_value else Reason.STORE_UNAVAILABLE
            of_row[i] = RowError(i, code, view.name, str(failure))
        elif i in of_row and of_row[i].code is Reason.STORE_UNAVAILABLE:
            made.retryable.add(i)
            if "view" in failure.evidence:  # said of the view; what is said of the store is for the log
                of_row[i] = of_row[i]._replace(message=str(failure))
    return [of_row[row] for row in sorted(of_row)]


def _decoded(view: FeatureView, stored: Sequence[Answer], taken: Sequence[int]) -> dict[str, Column]:
    """Return the view's fields for each row of `taken`; each stored value is decoded once, and none that no row takes."""
    if len(taken) == 1:
        row = stored[taken[0]] if taken[0] != _NO_KEY else None
        return decode_rows(view, [row.payload if isinstance(row, StoredRow) else None])
    used = set(taken)
    payloads = [
        row.payload if isinstance(row, StoredRow) and position in used else None
        for position, row in enumerate(stored)
    ]
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
