"""Which way of calling an estimator keeps a row's bits, found by measurement: the cheapest that certifies, and what it costs.

BLAS picks its kernel by the shape of what it multiplies, and within one kernel by where in a tile a row falls; more threads cut the
matrix elsewhere. So one row alone, a batch and a longer batch may differ in the last bits. Calls of one small shape on one
thread do not. This module writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.errors import VerificationError
from udfs.certify import Certificate, Condition, best_seconds, certify
from udfs.scorer import Evaluator, LibraryEvaluator, Strategy

__all__ = ["STRATEGIES", "Chosen", "choose_strategy", "measure_cost"]

STRATEGIES: Final = (
    Strategy(),
    Strategy(one_thread=True),
    Strategy(256, 256, "row", one_thread=True),
    Strategy(64, 64, "row", one_thread=True),
    Strategy(24, 24, "row", one_thread=True),
    Strategy(8, 8, "row", one_thread=True),
    Strategy(1, 1, "row", one_thread=True),
)
"""In order of what a batch costs: the library in long padded blocks; the same on one thread; blocks of one shape, shorter and shorter;
row by row. 24 rows are a whole tile of OpenBLAS's AVX512 kernel, where blocks of 64 are not enough and 8 cost more."""

_ROW_COSTS_AT_MOST = 3.0
"""One row online pays for a whole block: a strategy under which it takes so many times as long as row by row is passed over."""
_RATE_ROWS = 10_000


@dataclass(frozen=True)
class Chosen:
    """The evaluator that keeps a row's bits.

    Args:
        evaluator: with its strategy.
        certificate: what was measured of it.
        rejected: the cheaper strategies and why they were not taken, as JSON values.
    """

    evaluator: LibraryEvaluator
    certificate: Certificate
    rejected: list[dict[str, Any]]


def choose_strategy(
    estimator: Any,
    task: str,
    matrix: NDArray[np.float64],
    *,
    first: Sequence[int] = (),
    strategies: Sequence[Strategy] = STRATEGIES,
    n_classes: int = 2,
) -> Chosen:
    """Return the first strategy under which no condition of `certify` changes a bit.

    Args:
        estimator: fitted; its `n_jobs` becomes 1.
        task: "classification" or "regression".
        matrix: certification rows, shape (n_features, n_rows).
        first: rows that are scored alone before others.
        strategies: to be tried, in this order.
        n_classes: see LibraryEvaluator.

    Raises:
        VerificationError: there is none; the message names the worst distance and row.
        ModelError: a classifier of another number of classes.
        Exception: what the estimator raises under every strategy.
    """
    rejected: list[dict[str, Any]] = []
    failed: list[Condition] = []
    raised: Exception | None = None
    for strategy in strategies:
        evaluator = LibraryEvaluator(estimator, task, strategy, n_classes)
        try:
            slower = _row_costs(evaluator, matrix)
            if slower > _ROW_COSTS_AT_MOST:
                rejected.append({"strategy": strategy.to_json(), "row_costs": round(slower, 1)})
                continue
            certificate = certify(evaluator, matrix, first=first, until_one_differs=True)
        except ValueError as exc:  # the estimator refuses the zeros of a padded block
            raised = exc
            rejected.append({"strategy": strategy.to_json(), "raised": type(exc).__name__})
            continue
        worst = certificate.worst
        if worst is None:
            return Chosen(evaluator, certificate, rejected)
        if worst.name == "again":
            raise _refusal(worst)
        failed.append(worst)
        rejected.append({"strategy": strategy.to_json(), "condition": worst.to_json()})
    if raised is not None and not failed:
        raise raised
    raise _refusal(max(failed, key=lambda one: one.worst_ulps))


def measure_cost(
    evaluator: Evaluator, library: LibraryEvaluator, matrix: NDArray[np.float64]
) -> dict[str, Any]:
    """Return what an evaluator costs against the library's plain predict of all rows in one call, and of one row.

    Args:
        evaluator: the model's.
        library: the estimator, under any strategy.
        matrix: at least one row; 10,000 are made of them, fewer where they would take seconds.

    Returns:
        Rows per second of either and their ratio (above 1: the evaluator is faster), microseconds for one row of either, and how
        many rows were timed. Of this machine at that moment.
    """
    n_rows = matrix.shape[1]
    one = np.ascontiguousarray(matrix[:, :1])
    few = np.ascontiguousarray(matrix[:, :256])
    slow = best_seconds(lambda: evaluator.score(few)) / few.shape[1]
    many = np.ascontiguousarray(
        matrix[:, np.resize(np.arange(n_rows), min(_RATE_ROWS, max(64, int(0.5 / slow))))]
    )
    rows = {"one": np.ascontiguousarray(one.T), "many": np.ascontiguousarray(many.T)}
    with np.errstate(all="ignore"):
        ours = best_seconds(lambda: evaluator.score(many))
        plain = best_seconds(lambda: library.predict(rows["many"]))
        row = best_seconds(lambda: evaluator.score(one), 20)
        plain_row = best_seconds(lambda: library.predict(rows["one"]), 20)
    return {
        "rows": many.shape[1],
        "rows_per_second": round(many.shape[1] / ours),
        "library_rows_per_second": round(many.shape[1] / plain),
        "ratio": round(plain / ours, 3),
        "row_microseconds": round(row * 1e6, 1),
        "library_row_microseconds": round(plain_row * 1e6, 1),
    }


def _row_costs(evaluator: LibraryEvaluator, matrix: NDArray[np.float64]) -> float:
    """Return how many times as long one row takes in a block of one shape as in a call of its own."""
    if evaluator.strategy.block_rows == 1 or evaluator.strategy.pad_rows != evaluator.strategy.block_rows:
        return 1.0
    one = np.ascontiguousarray(matrix[:, :1])
    return best_seconds(lambda: evaluator.score(one), 5) / best_seconds(lambda: evaluator.predict(one.T), 5)


def _refusal(worst: Condition) -> VerificationError:
    said = f"worst by {worst.worst_ulps} ULP (row {worst.worst_row} of the certification rows, {worst.note})"
    if worst.name == "again":
        message = (
            f"the estimator's scores differ from call to call: {worst.differing} of {worst.rows} scores had other bits the second "
            f"time, {said}. It draws random numbers or adds up in no fixed order; choose another estimator"
        )
    else:
        message = (
            f"the estimator's scores depend on how it is asked, under every strategy: {worst.differing} of {worst.rows} scores "
            f"have other bits than in one call of all rows, {said}. Such a model would score differently online; choose another "
            "estimator"
        )
    return VerificationError(
        message,
        condition=worst.name,
        rows=worst.differing,
        worst_ulps=worst.worst_ulps,
        row=worst.worst_row,
    )
