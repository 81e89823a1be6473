"""Keys with more rows than one task should have: their rows are split by time, and each slice is told what came before it.

A slice of a key is found from a row's time alone, features and requests alike, so it may be joined by itself if it also gets the
carry: the key's newest row of all slices before. Where one instant has more rows than a slice should have (every request as of the
same moment, a bulk load), its rows are dealt out at random, and each part is told all that the instant has. This module does
not know what a newest row is made of; columns have the names of `view_batches`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

__all__ = ["NEWEST", "SALT", "SLICE", "TIME", "HotKey", "carries", "find_hot_keys", "with_slices"]

TIME, SALT, SLICE, NEWEST = "__time", "__salt", "__slice", "__newest"
_MAX_SLICES = 1_000
_NULL_PARTS = 1_009


@dataclass(frozen=True)
class HotKey:
    """How one key is split.

    Args:
        key: its values.
        rows: how many it has, on both sides together.
        bounds: instants, ascending, microseconds; slice i has the times in (bounds[i - 1], bounds[i]].
        parts: for each bound, into how many parts the rows of that very instant are dealt; 1 = they stay in the slice.
    """

    key: tuple[Any, ...]
    rows: int
    bounds: tuple[int, ...]
    parts: tuple[int, ...]

    @property
    def offsets(self) -> tuple[int, ...]:
        """For each bound the number of its first part."""
        ends = itertools.accumulate(self.parts, initial=len(self.bounds) + 1)
        return tuple(itertools.islice(ends, len(self.parts)))

    def slices(self) -> list[tuple[int, int, int]]:
        """Return (number, place in time, place before which everything is carried into it) of each slice."""
        whole = [(i, 2 * i, 2 * i) for i in range(len(self.bounds) + 1)]
        dealt = [
            (offset + part, 2 * i + 1, 2 * i + 2)
            for i, (offset, parts) in enumerate(zip(self.offsets, self.parts, strict=True))
            if parts > 1
            for part in range(parts)
        ]
        return whole + dealt


def find_hot_keys(times: DataFrame, keys: Sequence[str], limit: int) -> list[HotKey]:
    """Return the keys with more than `limit` rows, split into slices of about that many; runs one or two Spark jobs.

    Args:
        times: a row for each row of either side: the key columns, none null, and TIME (long; null = at no time).
        keys: the key columns.
        limit: rows, at least 1.
    """
    counts = times.groupBy(*keys).count().where(F.col("count") > limit).collect()
    if not counts:
        return []
    rows = {tuple(row[:-1]): row[-1] for row in counts}
    n = min(math.ceil(max(rows.values()) / limit), _MAX_SLICES)
    hot = _local(times, keys, list(rows))
    quantiles = (
        times.join(F.broadcast(hot), [*keys], "inner")
        .groupBy(*keys)
        .agg(F.percentile_approx(TIME, [i / n for i in range(1, n)], max(10_000, 100 * n)))
    )
    return [
        _split(tuple(row[:-1]), rows[tuple(row[:-1])], limit, row[-1] or []) for row in quantiles.collect()
    ]


def _split(key: tuple[Any, ...], rows: int, limit: int, quantiles: Sequence[int]) -> HotKey:
    """A quantile that comes m times is an instant with about m - 1 to m + 1 slices' worth of rows."""
    wanted = min(math.ceil(rows / limit), len(quantiles) + 1)
    grid = len(quantiles) + 1
    chosen = sorted(quantiles[round(i * grid / wanted) - 1] for i in range(1, wanted))
    grouped = [(bound, len(list(same))) for bound, same in itertools.groupby(chosen)]
    return HotKey(
        key, rows, tuple(bound for bound, _ in grouped), tuple(m + 1 if m > 1 else 1 for _, m in grouped)
    )


def with_slices(rows: DataFrame, keys: Sequence[str], hot: Sequence[HotKey]) -> DataFrame:
    """Return the rows with their SLICE: 0 but for hot keys; rows with a null in the key, which find nothing, are dealt out."""
    number = F.lit(0)
    if hot:
        rows = rows.join(F.broadcast(_bounds(rows, keys, hot)), [*keys], "left")
        place = F.expr(f"array_position(__bounds, {TIME}) - 1")
        parts = F.get("__parts", place)
        dealt = F.get("__offsets", place) + F.pmod(F.col(SALT), parts)
        before = F.size(F.filter("__bounds", lambda bound: bound < F.col(TIME)))
        number = (
            F.when(F.col("__bounds").isNull(), F.lit(0))
            .when(parts > 1, dealt)
            .otherwise(F.greatest(before, F.lit(0)))
        )
    has_null = F.lit(False)
    for key in keys:
        has_null = has_null | F.col(key).isNull()
    number = F.when(has_null, -1 - F.pmod(F.col(SALT), F.lit(_NULL_PARTS))).otherwise(number)
    return rows.withColumn(SLICE, number.cast("int")).drop("__bounds", "__parts", "__offsets")


def carries(features: DataFrame, keys: Sequence[str], hot: Sequence[HotKey]) -> DataFrame:
    """Return for each slice of a hot key the newest row of all slices before it: the key columns, SLICE, NEWEST.

    Args:
        features: the key columns, SLICE and NEWEST, whose greatest is the newest.
        keys: the key columns.
        hot: at least one.
    """
    slices = _slices(features, keys, hot)
    target = slices.select(*keys, F.col(SLICE).alias("__target"), "__before")
    place = slices.select(*keys, SLICE, "__place")
    newest = (
        features.join(F.broadcast(place), [*keys, SLICE], "inner")
        .groupBy(*keys, "__place")
        .agg(F.max(NEWEST).alias(NEWEST))
    )
    carried = newest.join(F.broadcast(target), [*keys], "inner").where(F.col("__place") < F.col("__before"))
    return (
        carried.groupBy(*keys, "__target")
        .agg(F.max(NEWEST).alias(NEWEST))
        .withColumnRenamed("__target", SLICE)
    )


def _bounds(like: DataFrame, keys: Sequence[str], hot: Sequence[HotKey]) -> DataFrame:
    rows = [(*one.key, list(one.bounds), list(one.parts), list(one.offsets)) for one in hot]
    return _local(like, keys, rows, "__bounds array<bigint>, __parts array<int>, __offsets array<int>")


def _slices(like: DataFrame, keys: Sequence[str], hot: Sequence[HotKey]) -> DataFrame:
    rows = [(*one.key, *numbers) for one in hot for numbers in one.slices()]
    return _local(like, keys, rows, f"{SLICE} int, __place int, __before int")


def _local(like: DataFrame, keys: Sequence[str], rows: list[tuple[Any, ...]], rest: str = "") -> DataFrame:
    types = dict(like.select(*keys).dtypes)
    ddl = ", ".join([*(f"`{key}` {types[key]}" for key in keys), *filter(None, [rest])])
    return like.sparkSession.createDataFrame(rows, ddl)
