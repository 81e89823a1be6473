"""Taking an entity's rows out of an online store, whose interface deletes by key and cannot be searched.

A view keyed by exactly the fields that name the entity is deleted by key. Of a view keyed by those fields and more, the keys are
those that its offline table names. Any other view is left alone, and it is said why. Nothing here prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from feature_pipelines.errors import OnescoreError
from feature_pipelines.stores.base import Key, OnlineStore, ViewState
from feature_pipelines.stores.encoding import declared_schema
from feature_pipelines.views import FeatureView
from jobs.online.entity import Entity
from jobs.tables.snapshot import pin_snapshot, plan_units, read_unit

__all__ = ["ForgottenView", "forget_in_store"]

_AT_ONCE = 5_000
_ROWS = 1_000_000


@dataclass(frozen=True)
class ForgottenView:
    """What became of a view: how many rows were (or would be) removed, and what is to be said of it; "" = nothing."""

    rows: int
    remark: str


def forget_in_store(
    store: OnlineStore,
    views: Sequence[FeatureView],
    entity: Entity,
    table_of: Callable[[str], str | None],
    *,
    dry_run: bool,
) -> dict[str, ForgottenView]:
    """Delete the entity from each view, and return what became of each, by name.

    Args:
        store: the store; a view that it does not know holds nothing.
        views: the feature set's.
        entity: what to forget.
        table_of: where a view's offline table is; None = not configured.
        dry_run: count, and delete nothing.

    Raises:
        UnavailableError: the store does not answer.
    """
    states = store.states(views)
    return {view.name: _forget(store, view, states[view.name], entity, table_of, dry_run) for view in views}


def _forget(
    store: OnlineStore,
    view: FeatureView,
    state: ViewState | None,
    entity: Entity,
    table_of: Callable[[str], str | None],
    dry_run: bool,
) -> ForgottenView:
    fields, given = tuple(view.keys.values()), set(entity.names)
    keyed_by = f"keyed by {', '.join(fields)}"
    if state is None:
        return ForgottenView(0, "not in the store")
    if not given & set(fields):
        return ForgottenView(0, f"{keyed_by}: does not know this entity")
    if not given <= set(fields):
        shared = [name for name in entity.names if name in fields]
        return ForgottenView(
            0,
            f"NOT TOUCHED: {keyed_by}, so its rows are not this entity's alone; if they shall go, run with "
            f"--key {', --key '.join(shared)} alone",
        )
    if given == set(fields):
        keys: list[Key] = [tuple(entity.values[name] for name in fields)]
        remark = ""
    else:
        try:
            keys = _named_keys(view, entity, table_of(view.name))
        except OnescoreError as exc:
            return ForgottenView(
                0, f"NOT TOUCHED: {keyed_by}; a store cannot be searched, and its table names no keys: {exc}"
            )
        remark = (
            f"{keyed_by}: the {len(keys):,} keys that its table names; others in the store cannot be found"
        )
    parts = [keys[at : at + _AT_ONCE] for at in range(0, len(keys), _AT_ONCE)]
    if not dry_run:
        return ForgottenView(sum(store.delete(view, part) for part in parts), remark)
    if state.through_ts is None or state.schema != declared_schema(view):
        return ForgottenView(0, f"it cannot be read now: up to {len(keys):,} rows")
    found = (row for part in parts for row in store.read([(view, part)])[0])
    return ForgottenView(sum(row is not None for row in found), remark)


def _named_keys(view: FeatureView, entity: Entity, table: str | None) -> list[Key]:
    """Return the distinct keys with the entity's values in a view's table.

    Raises:
        OnescoreError: there is no table, or it cannot be read here.
    """
    if table is None:
        raise OnescoreError("none is configured")
    found: dict[Key, None] = {}
    for batch in _key_batches(view, table):
        found.update(dict.fromkeys(_matching(view, batch, entity)))
    return list(found)


def _key_batches(view: FeatureView, table: str) -> Iterator[pa.RecordBatch]:
    snapshot = pin_snapshot(table)
    names = list(view.keys)
    for unit in plan_units(snapshot, unit_rows=_ROWS):
        yield from read_unit(unit, names, batch_rows=_ROWS, schema=snapshot.schema)


def _matching(view: FeatureView, batch: pa.RecordBatch, entity: Entity) -> Iterator[Key]:
    tests = [
        pc.equal(_plain(batch.column(column), entity.values[name]), pa.scalar(entity.values[name]))
        for column, name in view.keys.items()
        if name in entity.values
    ]
    kept = batch.filter(reduce(pc.and_, tests))
    for key in zip(*(kept.column(name).to_pylist() for name in view.keys), strict=True):
        if None not in key:
            yield key


def _plain(column: pa.Array, value: str | int) -> pa.Array:
    return column.cast(pa.string() if isinstance(value, str) else pa.int64())
