"""The faults that happen online: what each does to a request, to what a store answers, or to the model that answers.

A fault says which *part* of serving it touches (a request field, a view, the model, its code) and under which cause a person would
file what it did to one row there: a frozen store gives an older row (STALE), none (MISSING) or one beyond its ttl (EXPIRED). Where
two faults meet in one part, the part has both causes. This module knows neither the offline side nor what explains differences.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from feature_pipelines.columns import Column, freeze
from feature_pipelines.lookup import Status
from feature_pipelines.stores.base import Answer, Key, StoredRow, resolve
from feature_pipelines.stores.encoding import decode_rows, encode_rows, payload_digest
from feature_pipelines.views import FeatureView
from tests.toy.past import Past

__all__ = [
    "CODE",
    "FAULTS",
    "MODEL",
    "PATCH",
    "PLATFORM",
    "ModelParts",
    "Touched",
    "is_faulty",
    "model_parts",
    "pair_halves",
    "store_answer",
    "touch_request",
]

HOUR = 3_600_000_000
OUTAGE_EVERY, OUTAGE_HOURS = 8 * HOUR, 3 * HOUR
MODEL, CODE, PATCH, PLATFORM = "(model)", "(code)", "(patch)", "(platform)"

FAULTS = (
    "stale_store",  # every 8 hours nothing reaches the store for 3 hours
    "late_hour",  # a row reaches the store an hour after it became visible
    "missing_key",  # the store has lost every fourth key
    "float32_store",  # whoever fills the store holds floats in 32 bits
    "null_fill_store",  # whoever fills the store writes 0 for null
    "float32_request",  # the client holds floats in 32 bits
    "int_through_float",  # the client holds integers in doubles
    "naive_local_time",  # the client sends local times as if they were UTC
    "null_fill_client",  # the client writes -1 for null
    "new_fingerprint",  # a version of changed code serves
    "patched_function",  # a function of the loaded model was replaced in memory
    "older_version",  # an older version serves
    "other_platform",  # it serves on a processor that rounds otherwise
)


_SPLIT_SEED = 20130310


def pair_halves() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return all pairs of faults in two halves: while explanations were written the first was looked at, the second was not."""
    pairs = list(itertools.combinations(FAULTS, 2))
    random.Random(_SPLIT_SEED).shuffle(pairs)
    half = len(pairs) // 2
    return sorted(pairs[:half]), sorted(pairs[half:])


def is_faulty(row_id: str, seed: int, share: float) -> bool:
    """Return whether the faulty process serves a row: by a hash of its id, so the same rows whatever the fault."""
    digest = hashlib.sha256(f"{seed} {row_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


@dataclass
class Touched:
    """What faults did to one row: by part of serving, the causes. A part that is not in it is as it would be without faults."""

    parts: dict[str, set[str]] = field(default_factory=dict)

    def add(self, part: str, cause: str) -> None:
        self.parts.setdefault(part, set()).add(cause)


# --- the request -----------------------------------------------------------------------------------------------------


def touch_request(row: Mapping[str, Any], faults: Sequence[str], touched: Touched) -> dict[str, Any]:
    """Return a request as the faulty client sends it."""
    sent = dict(row)
    for fault in faults:
        for name, change, cause in _REQUEST.get(fault, ()):
            value = change(sent)
            if value != sent.get(name):
                sent[name] = value
                touched.add(name, cause)
    return sent


def _as_float32(row: Mapping[str, Any]) -> Any:
    return None if row["load_t"] is None else float(np.float32(row["load_t"]))


def _local(name: str) -> Callable[[Mapping[str, Any]], Any]:
    def change(row: Mapping[str, Any]) -> Any:
        time = datetime.fromisoformat(row[name]).astimezone(UTC)
        local = time + timedelta(minutes=row["sched_dep_utc_offset_minutes"])
        return local.isoformat().replace("+00:00", "Z")

    return change


_REQUEST: Mapping[str, Sequence[tuple[str, Callable[[Mapping[str, Any]], Any], str]]] = {
    "float32_request": [("load_t", _as_float32, "DATA_TYPE")],
    "int_through_float": [("booking_id", lambda row: int(float(row["booking_id"])), "DATA_TYPE")],
    "naive_local_time": [(name, _local(name), "DATA_TYPE") for name in ("sched_dep_ts", "sched_arr_ts")],
    "null_fill_client": [
        ("load_t", lambda row: -1.0 if row["load_t"] is None else row["load_t"], "NULL_FILL")
    ],
}


# --- the store -------------------------------------------------------------------------------------------------------


def store_answer(
    view: FeatureView,
    key: Key,
    fresh: Answer,
    as_of: int,
    faults: Sequence[str],
    past: Past,
    touched: Touched,
) -> Answer:
    """Return what a faulty store answers for a key at a time at which a good one answers `fresh`."""
    if isinstance(fresh, Exception) or resolve(view, fresh, as_of) is not Status.PRESENT:
        return fresh  # an older row than one beyond its ttl, or than none, is none either
    row: StoredRow | None = fresh
    causes: set[str] = set()
    for time in [_frozen_at(fault, as_of) for fault in faults if fault in ("stale_store", "late_hour")]:
        held = past.at(view.name, key, time)
        if _order(held) < _order(row):
            row = held
    if "missing_key" in faults and _is_lost(view, key):
        row = None
    status = resolve(view, row, as_of)
    if status is not Status.PRESENT:
        causes = {"EXPIRED" if status is Status.EXPIRED else "MISSING"}
    else:
        causes = {"STALE"} if row is not fresh else set()
        for fault in ("float32_store", "null_fill_store"):
            if fault in faults and row is not None:
                changed = _rewritten(view, row, fault)
                if changed.payload != row.payload:
                    causes.add("DATA_TYPE" if fault == "float32_store" else "NULL_FILL")
                row = changed
    for cause in causes:
        touched.add(view.name, cause)
    return row


def _order(row: StoredRow | None) -> tuple[int, int, bytes]:
    return (-(2**63), 0, b"") if row is None else row.order


def _frozen_at(fault: str, as_of: int) -> int:
    """Return up to when the rows are in the store."""
    if fault == "late_hour":
        return as_of - HOUR
    begun = as_of // OUTAGE_EVERY * OUTAGE_EVERY
    return begun if as_of < begun + OUTAGE_HOURS else as_of


def _is_lost(view: FeatureView, key: Key) -> bool:
    return hashlib.sha256(f"{view.name} {key}".encode()).digest()[0] % 4 == 0


def _rewritten(view: FeatureView, row: StoredRow, fault: str) -> StoredRow:
    """Return a stored row with its floats as another program would write them."""
    columns: dict[str, Column] = dict(decode_rows(view, [row.payload]))
    for declared in view.fields:
        if declared.dtype.kind == "float64":
            values = np.array(columns[declared.name], dtype=np.float64)
            changed = values.astype(np.float32).astype(np.float64) if fault == "float32_store" else values
            if fault == "null_fill_store":
                changed = np.where(np.isnan(values), 0.0, values)
            columns[declared.name] = freeze(changed)
    (payload,) = encode_rows(view, columns, 1)
    return row._replace(payload=payload, digest=payload_digest(payload))


# --- the model -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelParts:
    """Which model serves: whose fit, whose code, and whether a function of it was replaced."""

    is_older: bool = False
    is_changed: bool = False
    is_patched: bool = False

    @property
    def name(self) -> str:
        """Return which of the world's models it is."""
        return {
            (False, False): "reference",
            (True, False): "older",
            (False, True): "changed",
            (True, True): "older_changed",
        }[self.is_older, self.is_changed]


def model_parts(faults: Sequence[str], touched: Touched) -> ModelParts:
    """Return which model the faulty process serves with."""
    parts = ModelParts("older_version" in faults, "new_fingerprint" in faults, "patched_function" in faults)
    for is_so, part, cause in (
        (parts.is_older, MODEL, "MODEL_VERSION"),
        (parts.is_changed, CODE, "FEATURE_CODE"),
        (parts.is_patched, PATCH, "FEATURE_CODE"),
    ):
        if is_so:
            touched.add(part, cause)
    return parts
