"""A registered model as a Spark function: struct in, struct out, over the same kernel as the batch job.

    score = score_udf(spark, "models:/flights@champion", views={"weather": weather_df, "plane": plane_df})
    requests.select("flight_id", score(struct("*")).alias("s")).select("flight_id", "s.score")
    spark.udf.register("score", score)          # then in SQL: SELECT score(struct(*)) FROM requests

A row that breaks the contract does not fail the query: its scores are null and error_code, error_field and error_message say why.

Two kinds of vectorised function: `arrow` (Spark 4.1 and later) receives Arrow arrays, and every type arrives exactly. `pandas`
receives a pandas DataFrame, in which Spark has turned timestamps into naive local time and, before Spark 4.2, integers beside a
null into floats. What such a frame cannot say exactly is refused row by row (PRECISION_LOST, BAD_TIMESTAMP), never guessed. A time
that nanoseconds cannot hold (before 1677-09-22, after 2262-04-10) fails the query in Spark itself, before the function is called; a
TIMESTAMP_NTZ looks like a TIMESTAMP, and is read as local time.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark import TaskContext

from feature_pipelines.errors import ConfigurationError
from feature_pipelines.lookup_arrow import index_from_arrow
from feature_pipelines.schema import Field, Reason, RowError, Schema
from feature_pipelines.schema_arrow import arrow_type
from udfs.as_of import own_as_of
from udfs.bundle import load_bundle
from udfs.kernel import Kernel, status_fields
from udfs.rows import ScoredRows
from udfs.scorer import OutputSpec
from udfs.shipped import load_kernel, ship

__all__ = ["result_type", "score_udf"]

_FUNCTIONS: Any = importlib.import_module("pyspark.sql.functions")
_ZONE = "spark.sql.session.timeZone"
_INT_DTYPES = "spark.sql.execution.pythonUDF.pandas.preferIntExtensionDtype"
_ERRORS = ("error_code", "error_field", "error_message")
_DDL = {"float64": "double", "bool": "boolean", "string": "string"}


def score_udf(
    spark: Any,
    uri: str,
    *,
    views: Mapping[str, Any] | None = None,
    kind: str | None = None,
    cache: str | Path | None = None,
    allow_tolerance: bool = False,
) -> Any:
    """Return a vectorised Spark function that scores with one model version.

    The alias is resolved here, once; moving it later changes nothing in queries that use the function.

    Args:
        spark: a classic or Connect session.
        uri: models:/<name>@<alias> or models:/<name>/<version>; MLflow's tracking URI must be set.
        views: by view name, a DataFrame of its table; collected to the driver and sent to the workers. A view that is not
            given must be brought by the struct, with all its fields.
        kind: "arrow" or "pandas"; None = arrow where this Spark has it.
        cache: where fetched models are kept; None = a directory of this user's temporary files.
        allow_tolerance: whether scores within the model's recorded tolerance will do on another platform.

    Returns:
        A function of one struct column with the request fields, giving a struct: the model's outputs, then error_code,
        error_field and error_message (null for a scored row).

    Raises:
        ModelError, UnavailableError: see registry.resolve. ConfigurationError: no such kind here. ContractError: a view's table.
    """
    from udfs.registry import fetch, resolve  # here, so that workers do not import MLflow

    version = resolve(uri)
    bundle = fetch(version, Path(cache) if cache else Path(tempfile.gettempdir()) / "onescore-cache")
    scorer = load_bundle(bundle, expected_digest=version.digest, allow_tolerance=allow_tolerance)
    declared = {view.name: view for view in scorer.feature_set.views}
    unknown = sorted(set(views or {}) - set(declared))
    if unknown:
        raise ConfigurationError(
            f"model {version.name!r} has no view {unknown[0]!r}; it has: {', '.join(declared) or 'none'}"
        )
    indexes = {
        name: index_from_arrow(declared[name], _to_arrow(frame)) for name, frame in (views or {}).items()
    }
    name = ship(spark, bundle, indexes)
    returned = result_type(scorer.output)
    if _kind(kind) == "arrow":
        return _arrow_function(name, allow_tolerance, returned)
    return _pandas_function(spark, name, allow_tolerance, returned)


def result_type(output: OutputSpec) -> str:
    """Return the function's result type as DDL."""
    fields = [f"`{name}` {_DDL[dtype.kind]}" for name, dtype in output.fields.items()]
    return ", ".join([*fields, *(f"{name} string" for name in _ERRORS)])


def _kind(kind: str | None) -> str:
    has_arrow = hasattr(_FUNCTIONS, "arrow_udf")
    kind = kind or ("arrow" if has_arrow else "pandas")
    if kind not in ("arrow", "pandas") or (kind == "arrow" and not has_arrow):
        raise ConfigurationError(
            f"kind {kind!r}: expected 'pandas'{' or arrow' if has_arrow else ' (this Spark has no arrow_udf)'}"
        )
    return kind


def _to_arrow(frame: Any) -> pa.Table:
    if hasattr(frame, "toArrow"):
        return frame.toArrow()
    return pa.Table.from_batches(frame._collect_as_arrow())


def _arrow_function(name: str, allow_tolerance: bool, returned: str) -> Any:
    def score(rows: pa.Array) -> pa.Array:
        batch = pa.RecordBatch.from_struct_array(rows)
        return pa.StructArray.from_arrays(*_answers(load_kernel(name, allow_tolerance), batch, []))

    return _FUNCTIONS.arrow_udf(score, returned)


def _pandas_function(spark: Any, name: str, allow_tolerance: bool, returned: str) -> Any:
    spark.conf.set(_INT_DTYPES, "true")
    zone = spark.conf.get(_ZONE)

    def score(rows: pd.DataFrame) -> pd.DataFrame:
        _require_zone(zone)
        kernel = load_kernel(name, allow_tolerance)
        feature_set = kernel.scorer.feature_set
        own = own_as_of(feature_set)
        undeclared = (own,) if own is not None and own.name not in feature_set.sources else ()
        read = Schema((*feature_set.sources, *status_fields(feature_set), *undeclared))
        batch, errors = _from_pandas(read, rows, zone)
        arrays, names = _answers(kernel, batch, errors)
        return pd.DataFrame({column: array.to_pandas() for column, array in zip(names, arrays, strict=True)})

    return _FUNCTIONS.pandas_udf(score, returned)


def _require_zone(zone: str) -> None:
    """Refuse a query whose session has another time zone than when the function was made: it would misread local times."""
    context = TaskContext.get()
    now = context.getLocalProperty(_ZONE) if context is not None else None
    if now not in (None, zone):
        raise ConfigurationError(
            f"{_ZONE} is {now!r}, but was {zone!r} when score_udf was called; call it again, or use kind='arrow'"
        )


def _answers(
    kernel: Kernel, batch: pa.RecordBatch, errors: list[RowError]
) -> tuple[list[pa.Array], list[str]]:
    """Return the result's columns and names: every row of the batch, in order."""
    rows = kernel.score(batch, errors)
    n = batch.num_rows
    fields = kernel.scorer.output.fields
    arrays = [_scattered(rows, rows.outputs[name], n, arrow_type(dtype)) for name, dtype in fields.items()]
    texts: list[list[str | None]] = [[None] * n for _ in _ERRORS]
    for error in rows.errors:
        for column, value in zip(texts, (str(error.code), error.field, error.message), strict=True):
            column[error.row] = value
    return [*arrays, *(pa.array(column, pa.string()) for column in texts)], [*fields, *_ERRORS]


def _scattered(rows: ScoredRows, values: Any, n: int, type_: pa.DataType) -> pa.Array:
    """Return the scored rows' values at their places, null elsewhere."""
    if len(rows.index) == n:
        return pa.array(values, type_)
    place = np.full(n, -1, dtype=np.int64)
    place[rows.index] = np.arange(len(rows.index))
    return pa.array(values, type_).take(pa.array(place, mask=place < 0))


def _from_pandas(sources: Schema, frame: pd.DataFrame, zone: str) -> tuple[pa.RecordBatch, list[RowError]]:
    """Return Spark's pandas frame as Arrow, and the errors of the rows that pandas could not carry exactly."""
    arrays: dict[str, pa.Array] = {}
    errors: list[RowError] = []
    for declared in sources:
        name = declared.name
        if name not in frame.columns:
            continue
        series = frame[name]
        if isinstance(series.dtype, np.dtype) and series.dtype.kind == "M":
            arrays[name], bad = _instants(series, zone)
            message = "the local time is not one instant in the session's time zone; use kind='arrow' or a UTC session"
            errors += [RowError(int(i), Reason.BAD_TIMESTAMP, name, message) for i in bad]
        elif declared.dtype.kind in ("int64", "int32") and series.dtype == np.float64:
            arrays[name], bad = _integers(series)
            message = "pandas turned the integer into a float beyond 2^53; use kind='arrow'"
            errors += [RowError(int(i), Reason.PRECISION_LOST, name, message) for i in bad]
        else:
            arrays[name] = _plain(series, declared)
    return pa.RecordBatch.from_pydict(arrays), errors


def _instants(series: pd.Series, zone: str) -> tuple[pa.Array, Any]:
    """Return the instants of local times, and the rows that have two readings or none.

    Spark made them local by pandas' time zones or by Arrow's, depending on the other columns, and these differ before 1901 and after
    2037: only what both read alike is an instant.
    """
    naive = pa.array(series, pa.timestamp("us"), from_pandas=True)
    by_pandas = series.dt.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    instants = pa.array(by_pandas, pa.timestamp("us", tz="UTC"), from_pandas=True)
    sure = pa.array(np.ones(len(series), dtype=np.bool_))
    for reading in ("earliest", "latest"):
        by_arrow = pc.assume_timezone(naive, zone, ambiguous=reading, nonexistent=reading)
        sure = pc.and_(sure, pc.equal(by_arrow.cast(pa.int64()), instants.cast(pa.int64())))
    return instants, np.flatnonzero(~sure.fill_null(False).to_numpy(zero_copy_only=False) & series.notna())


def _integers(series: pd.Series) -> tuple[pa.Array, Any]:
    values = series.to_numpy()
    unsure = (np.abs(values) >= 2.0**53) | (values != np.floor(values)) & ~np.isnan(values)
    safe = np.where(unsure | np.isnan(values), 0.0, values).astype(np.int64)
    return pa.array(safe, mask=np.isnan(values)), np.flatnonzero(unsure)


def _plain(series: pd.Series, declared: Field) -> pa.Array:
    if isinstance(series.dtype, np.dtype) and series.dtype.kind == "f":
        return pa.array(series.to_numpy())
    if series.dtype == object and series.isna().all():
        return pa.nulls(len(series), arrow_type(declared.dtype))
    return pa.array(series, from_pandas=True)
