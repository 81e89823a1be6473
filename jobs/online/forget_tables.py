"""How an entity is told in tables that jobs write: by repeated columns, the row id, the original row, or its place in the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.online.entity import Entity
from jobs.online.log_rewriting import places_of
from jobs.tables.removal import RowTest

__all__ = ["logged_test", "quarantine_test", "scored_test"]

_ID = "row_id"


def quarantine_test(entity: Entity) -> RowTest:
    """Return which quarantined rows are the entity's: by the original row, which is JSON."""
    return RowTest(("row",), lambda batch: _each(batch.column("row"), entity.is_row))


def logged_test(entity: Entity, places: Collection[str], row_id: tuple[str, ...]) -> RowTest:
    """Return which rows that stand for logged answers are the entity's: by their place in the log, or by the row's id.

    Args:
        entity: what to forget.
        places: of its rows in the log, "process/sequence".
        row_id: the fields that the row's id is made of; if they name the entity, rows are told that are in the log no more.
    """
    known = pa.array(sorted(set(places)), pa.string())
    by_id = scored_test(entity, [_ID], row_id)

    def mask(batch: pa.RecordBatch) -> NDArray[np.bool_]:
        found = pc.is_in(places_of(batch), known).to_numpy(zero_copy_only=False)
        if isinstance(by_id, RowTest):
            found = found | by_id.mask(batch)
        return np.asarray(found, np.bool_)

    return RowTest(("process", "sequence", _ID), mask)


def scored_test(entity: Entity, columns: list[str], row_id: tuple[str, ...]) -> RowTest | list[str]:
    """Return which scored rows are the entity's, or the fields by which they cannot be told.

    Args:
        entity: what to forget.
        columns: the scored table's.
        row_id: the fields that the row's id is made of; () = it is no key.
    """
    tests: dict[str, tuple[str, Callable[[object], bool]]] = {}
    for name in entity.names:
        if name in columns:
            tests[name] = (name, partial(entity.is_value, name))
        elif name in row_id and _ID in columns:
            tests[name] = (_ID, _in_id(entity, name, row_id))
    missing = [name for name in entity.names if name not in tests]
    if missing:
        return missing

    def mask(batch: pa.RecordBatch) -> NDArray[np.bool_]:
        found = np.ones(batch.num_rows, np.bool_)
        for column, is_wanted in tests.values():
            found &= _each(batch.column(column), is_wanted)
        return found

    return RowTest(tuple(dict.fromkeys(column for column, _ in tests.values())), mask)


def _in_id(entity: Entity, name: str, row_id: tuple[str, ...]) -> Callable[[object], bool]:
    """Return the test of a row's id: of one field its text, of several a JSON array; or else a place in the input."""
    if len(row_id) == 1:
        return lambda value: value == str(entity.values[name])

    def is_wanted(value: object) -> bool:
        try:
            parts = json.loads(str(value))
        except ValueError:
            return False
        return (
            isinstance(parts, list)
            and len(parts) == len(row_id)
            and entity.is_value(name, parts[row_id.index(name)])
        )

    return is_wanted


def _each(column: pa.Array, is_wanted: Callable[[str], bool] | Callable[[object], bool]) -> NDArray[np.bool_]:
    """Return which values are wanted; each distinct one is looked at once."""
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    wanted = np.array(
        [value is not None and is_wanted(value) for value in coded.dictionary.to_pylist()], np.bool_
    )
    indices = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)
    found: NDArray[np.bool_] = np.append(wanted, False)[indices]
    return found
