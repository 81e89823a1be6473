"""The as-of join by shuffle, for views that fit in no memory: the bits of AsOfIndex, row for row.

Both sides are united, spread by key, and sorted by the time at which a row is visible (a feature row before the requests of that
instant); the answer is the running maximum of (event_ts, created_ts, digest, values), which is the one total order. Which keys are
hot and which rows are tied is asked first, by aggregates over keys and times alone. This module knows nothing of models, runs
or where tables are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from feature_pipelines.errors import ContractError, did_you_mean
from feature_pipelines.lookup import Status
from feature_pipelines.lookup_arrow import CREATED_TS, EVENT_TS, IS_DELETED, view_columns
from feature_pipelines.offline.hot_keys import (
    NEWEST,
    SALT,
    SLICE,
    TIME,
    HotKey,
    carries,
    find_hot_keys,
    with_slices,
)
from feature_pipelines.offline.spark_types import spark_type
from feature_pipelines.offline.view_batches import (
    CREATED,
    DELETED,
    DIGEST,
    EVENT,
    Ties,
    ViewBatches,
    key_names,
    value_names,
)
from feature_pipelines.views import FeatureView

__all__ = ["FOUND_TS", "JoinPlan", "as_of_join", "batches_ddl", "join_prepared", "plan_join"]

FOUND_TS = "__found_ts"
"""The event_ts of the row that was found, also of an expired one, microseconds: `join_prepared` gives it beside the answer."""
_LEFT, _SIDE = "__left", "__side"
_MAX_TIES = 50_000
_NEVER = -(2**63)
_INTEGERS = ("tinyint", "smallint", "int", "bigint")


def as_of_join(
    requests: DataFrame, features: DataFrame, view: FeatureView, *, as_of: str, hot_key_rows: int | None
) -> DataFrame:
    """Return the requests with what a view held for each as of its time.

    A row of the view is visible at T when event_ts <= T and created_ts <= T. A request gets the newest visible row of its key, whole,
    if that is no tombstone and not older than the view's ttl (inclusive), else nulls. Newest is by (event_ts, created_ts, digest). A
    null in the key matches nothing. Every request comes out once, its columns as they were; the order of rows is not kept.

    Calling it runs small Spark jobs over keys and times, to find ties and hot keys; the join itself runs with the result. Workers
    need this package (`udfs.shipped.ship_code` sends it).

    Args:
        requests: any columns, among them those that `view.keys` names (string or integer) and `as_of`.
        features: the view's table: `view_columns(view)` and perhaps `is_deleted`. A row that breaks the view's declaration fails the
            query with a ContractError.
        view: the declaration.
        as_of: the requests' as-of column: a timestamp, or integer microseconds. Null: nothing is visible.
        hot_key_rows: rows of one key, both sides together, above which it is split by time into slices of about so many, which are
            joined by themselves: the same rows, other tasks. None = never.

    Returns:
        The requests' columns, then the view's fields (a float's NaN is null), `{view}__status` (int, see Status) and
        `{view}__event_ts` (timestamp, null where nothing was found).

    Raises:
        ContractError: a column is missing or of a type that cannot be joined; a column of the result is there already.
    """
    _check(requests, features, view, as_of)
    keys = key_names(view)
    kinds = dict(features.dtypes)
    asked = [
        _key(requests, view, field, kinds[name] in _INTEGERS).alias(key)
        for key, (name, field) in zip(keys, view.keys.items(), strict=True)
    ]
    left = [F.col(f"`{name}`") for name in requests.columns]
    salt = [F.col(f"`{name}`") for name, type_ in requests.dtypes if not _is_unhashable(type_)]
    prepared = requests.select(
        *asked,
        _microseconds(requests, as_of).alias(TIME),
        F.xxhash64(*salt).alias(SALT),
        F.struct(*left).alias(_LEFT),
    )
    wanted = [name for name in (*view_columns(view), IS_DELETED) if name in features.columns]
    whole = features.select(*(f"`{name}`" for name in wanted))
    times = features.select(*(f"`{name}`" for name in (*view.keys, EVENT_TS, CREATED_TS)))
    types = ["bigint" if kinds[name] in _INTEGERS else "string" for name in view.keys]
    plan = plan_join(
        prepared.select(*keys, TIME),
        times.mapInArrow(ViewBatches(view, times_only=True), batches_ddl(view, types, times_only=True)),
        view,
        hot_key_rows,
    )
    rows = whole.mapInArrow(ViewBatches(view, plan.ties), batches_ddl(view, types))
    return join_prepared(prepared, rows, view, plan).drop(FOUND_TS)


@dataclass(frozen=True)
class JoinPlan:
    """What is known before the join: which rows of the view are tied (None = unknown), and the hot keys."""

    ties: Ties | None
    hot: tuple[HotKey, ...]


def batches_ddl(view: FeatureView, key_types: Sequence[str], *, times_only: bool = False) -> str:
    """Return the columns that `ViewBatches` gives.

    Args:
        view: the declaration.
        key_types: for each key "bigint" or "string".
        times_only: see ViewBatches.
    """
    columns = [f"{name} {type_}" for name, type_ in zip(key_names(view), key_types, strict=True)]
    columns += [f"{EVENT} bigint", f"{CREATED} bigint"]
    if not times_only:
        columns += [f"{DIGEST} binary", f"{DELETED} boolean"]
        for name, field in zip(value_names(view), view.fields, strict=True):
            columns.append(f"{name} {spark_type(field.dtype)}")
    return ", ".join(columns)


def plan_join(requests: DataFrame, times: DataFrame, view: FeatureView, hot_key_rows: int | None) -> JoinPlan:
    """Find the ties and the hot keys; runs a few Spark jobs.

    Args:
        requests: the key columns and TIME (microseconds).
        times: the view's rows by `ViewBatches(times_only=True)`.
        view: the declaration.
        hot_key_rows: see as_of_join.
    """
    keys = key_names(view)
    tied = times.groupBy(*keys, EVENT, CREATED).count().where(F.col("count") > 1).limit(_MAX_TIES + 1)
    ties = frozenset(tuple(row[:-1]) for row in tied.collect())
    hot: list[HotKey] = []
    if hot_key_rows is not None:
        visible = times.select(*keys, F.greatest(EVENT, CREATED).alias(TIME))
        hot = find_hot_keys(requests.dropna(subset=keys).unionByName(visible), keys, hot_key_rows)
    return JoinPlan(ties if len(ties) <= _MAX_TIES else None, tuple(hot))


def join_prepared(requests: DataFrame, rows: DataFrame, view: FeatureView, plan: JoinPlan) -> DataFrame:
    """Return the join of canonical sides: what `as_of_join` returns, and FOUND_TS.

    Args:
        requests: the key columns, TIME, SALT and the struct `__left`, whose columns come out.
        rows: the view's rows by `ViewBatches` with the plan's ties.
        view: the declaration.
        plan: of these very rows.
    """
    keys = key_names(view)
    values = value_names(view)
    newest = F.struct(EVENT, CREATED, DIGEST, DELETED, *values).alias(NEWEST)
    salt = F.xxhash64(EVENT, CREATED, *values).alias(SALT)
    features = rows.select(*keys, F.greatest(EVENT, CREATED).alias(TIME), salt, newest)
    features = with_slices(features, keys, plan.hot).drop(SALT)
    if plan.hot:
        carried = carries(features.drop(TIME), keys, plan.hot)
        time = F.greatest(F.col(NEWEST)[EVENT], F.col(NEWEST)[CREATED]).alias(TIME)
        features = features.unionByName(carried.select(*keys, SLICE, time, NEWEST))
    asked = with_slices(requests, keys, plan.hot).drop(SALT)
    both = asked.withColumn(_SIDE, F.lit(1)).unionByName(
        features.withColumn(_SIDE, F.lit(0)), allowMissingColumns=True
    )
    so_far = (
        Window.partitionBy(*keys, SLICE)
        .orderBy(F.col(TIME).asc_nulls_first(), _SIDE)
        .rowsBetween(Window.unboundedPreceding, Window.currentRow)
    )
    joined = both.withColumn(NEWEST, F.max(NEWEST).over(so_far)).where(F.col(_SIDE) == 1)
    return joined.select(f"{_LEFT}.*", *_answer(view, keys))


def _answer(view: FeatureView, keys: Sequence[str]) -> list[Column]:
    """Return the view's fields, the status, event_ts and FOUND_TS of each request, from its NEWEST and TIME."""
    newest = F.col(NEWEST)
    status = F.when(newest.isNull() | newest[DELETED], Status.NOT_FOUND.value)
    if view.ttl_seconds is not None:
        ttl = view.ttl_seconds * 1_000_000
        oldest = F.greatest(F.col(TIME), F.lit(_NEVER + ttl)) - F.lit(ttl)  # without it ANSI mode overflows
        status = status.when(newest[EVENT] < oldest, Status.EXPIRED.value)
    has_null = F.lit(False)
    for key in keys:
        has_null = has_null | F.col(key).isNull()
    status = F.when(has_null, Status.NULL.value).otherwise(status.otherwise(Status.PRESENT.value))
    present = status == Status.PRESENT.value
    fields = [
        F.when(present, newest[value]).alias(name)
        for name, value in zip(view.fields.names, value_names(view), strict=True)
    ]
    event_ts = F.timestamp_micros(F.when(present, newest[EVENT]))
    answer = [status.alias(f"{view.name}__status"), event_ts.alias(f"{view.name}__{EVENT_TS}")]
    found = status.isin(Status.PRESENT.value, Status.EXPIRED.value)
    return [*fields, *answer, F.when(found, newest[EVENT]).alias(FOUND_TS)]


def _check(requests: DataFrame, features: DataFrame, view: FeatureView, as_of: str) -> None:
    for name in (*view.keys.values(), as_of):
        if name not in requests.columns:
            raise ContractError(
                f"view {view.name!r}: the requests have no column {name!r}.{did_you_mean(name, requests.columns)}"
            )
    lacking = sorted(set(view_columns(view)) - set(features.columns))
    if lacking:
        raise ContractError(
            f"view {view.name!r}: its table lacks {', '.join(lacking)}. It has: {', '.join(features.columns)}",
            missing=lacking,
        )
    made = [*view.fields.names, f"{view.name}__status", f"{view.name}__{EVENT_TS}"]
    names = [*requests.columns, *made]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ContractError(
            f"view {view.name!r}: the result would have {', '.join(twice)} twice; rename or drop it in the requests",
            twice=twice,
        )


def _key(requests: DataFrame, view: FeatureView, name: str, is_integer: bool) -> Column:
    """Return a request's key column as the view's table has it."""
    type_ = dict(requests.dtypes)[name]
    if type_ not in _INTEGERS and not _is_string(type_):
        raise ContractError(
            f"view {view.name!r}: key {name!r} of the requests is {type_}; expected a string or an integer"
        )
    if (type_ in _INTEGERS) != is_integer:
        raise ContractError(f"view {view.name!r}: key {name!r} is a string in one of table and request only")
    return F.col(f"`{name}`").cast("bigint" if is_integer else "string")


def _is_string(type_: str) -> bool:
    return type_.startswith(("string", "varchar", "char"))


def _is_unhashable(type_: str) -> bool:
    return "map<" in type_ or "variant" in type_


def _microseconds(requests: DataFrame, name: str) -> Column:
    type_ = dict(requests.dtypes)[name]
    if type_ == "timestamp":
        return F.unix_micros(f"`{name}`")
    if type_ in _INTEGERS:
        return F.col(f"`{name}`").cast("bigint")
    raise ContractError(
        f"as_of: {name!r} is {type_}; expected a timestamp with a time zone, or integer microseconds",
        column=name,
    )
