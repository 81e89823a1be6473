"""Spark frames for building a view with history: what its source holds, what is new in it, and which rows new versions touch.

All plain DataFrame operations, so that they run on classic Spark and Spark Connect alike. What is computed from the rows is in
`feature_pipelines.history`; this module never collects a row but for one line of totals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import IntegralType, StringType, TimestampType

from feature_pipelines.errors import ContractError
from feature_pipelines.history_arrow import IS_DELETED, source_columns
from feature_pipelines.lookup_arrow import CREATED_TS, EVENT_TS
from feature_pipelines.views import FeatureView

__all__ = [
    "STORED",
    "SourceTotals",
    "created_between",
    "events_of",
    "source_totals",
    "touched",
    "with_stored",
]

STORED = "__stored"
_SEEDS = (0x0BE5C0DE, 0x51DEFEED)
_MODULUS = 2**63


@dataclass(frozen=True)
class SourceTotals:
    """A source at one moment.

    Args:
        through: the newest created_ts among the rows of interest, microseconds; None if there is none.
        rows, checksum: of all rows with created_ts up to there; the checksum does not depend on their order.
        rows_before, checksum_before: of those that an earlier build has seen.
        undated: rows without a created_ts.
    """

    through: int | None
    rows: int
    checksum: tuple[int, int]
    rows_before: int
    checksum_before: tuple[int, int]
    undated: int


def events_of(frame: DataFrame, view: FeatureView) -> DataFrame:
    """Return the source's columns that the view reads.

    Raises:
        ContractError: a key, a time or a required field is missing, or a time is neither an instant nor an integer.
    """
    optional = {f.name for f in view.source or () if f.accepts_null}
    lacking = [name for name in source_columns(view) if name not in frame.columns]
    if missing := [name for name in lacking if name not in optional]:
        raise ContractError(
            f"view {view.name!r}: its source lacks {', '.join(missing)}. It has: {', '.join(frame.columns)}",
            missing=missing,
        )
    for name in (EVENT_TS, CREATED_TS):
        kind = frame.schema[name].dataType
        if not isinstance(kind, TimestampType | IntegralType):
            raise ContractError(
                f"view {view.name!r}: {name} of its source is {kind.simpleString()}; expected an instant (timestamp with time "
                "zone) or integer microseconds"
            )
    for name in view.keys:
        kind = frame.schema[name].dataType
        if not isinstance(kind, StringType | IntegralType):
            raise ContractError(
                f"view {view.name!r}: key {name} of its source is {kind.simpleString()}, no string or integer"
            )
    return frame.select(*(name for name in source_columns(view) if name not in lacking))


def source_totals(events: DataFrame, before: int | None, through: int | None) -> SourceTotals:
    """Return what the source holds, in one pass.

    Args:
        events: see `events_of`.
        before: what an earlier build has seen, microseconds; None = nothing.
        through: rows known later do not count; None = all count.
    """
    created = _micros(events, CREATED_TS)
    counts = created.isNotNull() if through is None else created <= through
    seen = F.lit(False) if before is None else created <= before
    hashes = [_hash(events, seed) for seed in _SEEDS]
    row = events.agg(
        F.max(F.when(counts, created)).alias("through"),
        F.count(F.when(counts, 1)).alias("rows"),
        *(F.sum(F.when(counts, one)).alias(f"checksum_{i}") for i, one in enumerate(hashes)),
        F.count(F.when(seen, 1)).alias("rows_before"),
        *(F.sum(F.when(seen, one)).alias(f"before_{i}") for i, one in enumerate(hashes)),
        F.count(F.when(created.isNull(), 1)).alias("undated"),
    ).collect()[0]

    def checksum(name: str) -> tuple[int, int]:
        low, high = (int(row[f"{name}_{i}"] or 0) % _MODULUS for i in range(2))
        return low, high

    return SourceTotals(
        row["through"],
        row["rows"],
        checksum("checksum"),
        row["rows_before"],
        checksum("before"),
        row["undated"],
    )


def created_between(
    events: DataFrame, after: int | None, through: int, *, or_undated: bool = False
) -> DataFrame:
    """Return the rows with created_ts in (after, through], and if asked those without."""
    created = _micros(events, CREATED_TS)
    inside = created <= through if after is None else (created > after) & (created <= through)
    return events.where(inside | created.isNull() if or_undated else inside)


def touched(events: DataFrame, view: FeatureView, after: int | None, through: int) -> DataFrame:
    """Return the rows that versions in (after, through] are computed from: of each key with new rows, those near them."""
    known = created_between(events, None, through)
    if after is None:
        return known
    width = view.longest_window_seconds * 1_000_000
    keys = [F.col(name) for name in view.keys]
    ranges = (
        created_between(events, after, through)
        .groupBy(*(key.alias(f"__{i}") for i, key in enumerate(keys)))
        .agg(
            F.min(_micros(events, EVENT_TS)).alias("__first"),
            F.max(_micros(events, EVENT_TS)).alias("__last"),
        )
    )
    near = (_micros(events, EVENT_TS) > F.col("__first") - width) & (
        _micros(events, EVENT_TS) < F.col("__last") + width
    )
    same = [key == F.col(f"__{i}") for i, key in enumerate(keys)]
    condition = near
    for one in same:
        condition = condition & one
    return known.join(ranges, on=condition, how="left_semi")


def with_stored(events: DataFrame, stored: DataFrame, view: FeatureView) -> DataFrame:
    """Return both in one frame, told apart by STORED; the stored fields have names of their own."""
    fields = [F.col(name).alias(f"__{name}") for name in (*view.fields.names, IS_DELETED)]
    right = stored.select(*view.keys, EVENT_TS, CREATED_TS, *fields, F.lit(True).alias(STORED))
    left = events.withColumn(STORED, F.lit(False))
    return left.unionByName(right, allowMissingColumns=True)


def _micros(events: DataFrame, name: str) -> Column:
    is_time = isinstance(events.schema[name].dataType, TimestampType)
    return F.unix_micros(F.col(name)) if is_time else F.col(name).cast("bigint")


def _hash(events: DataFrame, seed: int) -> Column:
    parts: list[Any] = [F.lit(seed)]
    for name in events.columns:  # a null leaves a hash as it is, so where it stands is hashed too
        parts += [F.col(name).isNull(), F.col(name)]
    return F.xxhash64(*parts).cast("decimal(20,0)")
