"""The toy model as a bundle, without tables, Spark or MLflow: what tests of one module of udfs load, change and score with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from feature_pipelines.columns import Columns
from feature_pipelines.evaluate import constants_from_json, evaluate, fit_constants
from feature_pipelines.schema import to_wire
from feature_pipelines.schema_arrow import columns_from_arrow
from tests.toy.houses import FEATURES
from tests.toy.workspace import house_rows
from udfs.bundle import write_bundle
from udfs.scorer import OutputSpec, Strategy
from udfs.strategies import STRATEGIES

__all__ = ["house_batch", "house_columns", "house_wire", "write_house_bundle"]

_EMPTY_RATE_EVERY = 7


def house_batch(n: int, seed: int = 1) -> pa.RecordBatch:
    """Return n requests that bring the stored fields of the view themselves; every seventh has no rate."""
    rng = np.random.default_rng(seed + 1_000)
    table = house_rows(n, seed)
    no_rate = np.arange(n) % _EMPTY_RATE_EVERY == 0
    for name, top in (("rate_pct", 5), ("rate_pct_floor", 1)):
        table = table.append_column(name, pa.array(rng.uniform(0, top, n), mask=no_rate))
    return pa.RecordBatch.from_arrays(
        [column.combine_chunks() for column in table.columns], names=table.schema.names
    )


def house_columns(n: int, seed: int = 1) -> Columns:
    """Return the same requests as columns by the contract."""
    columns, errors = columns_from_arrow(FEATURES.sources, house_batch(n, seed))
    if errors:
        raise ValueError(errors[0])
    return columns


def house_wire(n: int, seed: int = 1) -> list[dict[str, Any]]:
    """Return the same requests as JSON rows."""
    columns = house_columns(n, seed)
    wire = {f.name: to_wire(f, columns[f.name]) for f in FEATURES.sources}
    return [{name: values[i] for name, values in wire.items()} for i in range(n)]


def write_house_bundle(
    directory: Path,
    *,
    estimator: Any = None,
    n_rows: int = 300,
    tolerance_ulps: int = 0,
    strategies: Sequence[Strategy] = STRATEGIES,
    output: OutputSpec | None = None,
) -> str:
    """Fit an estimator (small boosted trees where none is given) on n_rows requests, write the bundle, and return its digest.

    With an output of several classes, what is learned is the band of prices, cheapest first.
    """
    columns = house_columns(n_rows)
    constants = fit_constants(FEATURES, columns)
    matrix = evaluate(FEATURES, columns, constants_from_json(constants), n_rows)
    output = output or OutputSpec("regression")
    if estimator is None:
        kind = HistGradientBoostingClassifier if output.classes else HistGradientBoostingRegressor
        estimator = kind(max_iter=10, random_state=0)
    price = matrix[0] ** 0.5 * 3 + np.random.default_rng(7).normal(0, 5, n_rows)
    if output.classes:
        price = np.searchsorted(np.linspace(300, 700, output.n_classes - 1), price)
    return write_bundle(
        directory,
        name="houses",
        reference="tests.toy.houses:FEATURES",
        constants=constants,
        estimator=estimator.fit(matrix.T, price),
        output=output,
        columns=columns,
        n_rows=n_rows,
        tolerance_ulps=tolerance_ulps,
        strategies=strategies,
    )
