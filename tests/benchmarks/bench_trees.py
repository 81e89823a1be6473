"""Measure flat trees against the libraries that grew them: the same fitted models, the same rows, one thread for all.

For each kind of model, trees of 100 iterations score 1 row, 100 rows and a million. Ours is the compiled loop, and for 1 and 100 rows
plain Python and numpy too, which is what scores where numba has not been loaded. The library is its own predict or
predict_proba on the same rows, row after row in memory, as it likes them, with one thread. Every score is compared,
bit for bit; ends with exit code 0 if all are equal, else 1.

    python -m tests.benchmarks.bench_trees --rows 1000000
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tests.benchmarks.publish import add_publish_arguments, entry, publish
from udfs.trees import warm_up
from udfs.trees_export import export_trees

FEATURES, CATEGORIES, TRAINING_ROWS, TREES = 20, 50, 20_000, 100
SMALL = (1, 100)
_LONG_ENOUGH_SECONDS = 0.5


def make_rows(n_rows: int, seed: int) -> NDArray[np.float64]:
    """Return rows of normal numbers, some of them missing, but for the last feature: categories by number."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, FEATURES))
    rows[rng.random(rows.shape) < 0.05] = np.nan
    rows[:, -1] = rng.integers(0, CATEGORIES, n_rows)
    return rows


def make_targets(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    sure = np.nan_to_num(rows)
    noise = np.random.default_rng(1).normal(size=len(rows))
    steps = np.sign(sure[:, 3]) * sure[:, 4] + (sure[:, -1] % 7 > 3)
    return np.asarray(sure[:, 0] * sure[:, 1] + sure[:, 2] + steps + noise)


def models() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return estimators, not fitted, with what their fit is told; "filled" rows have no missing values."""
    from lightgbm import LGBMClassifier
    from sklearn import ensemble
    from xgboost import XGBClassifier

    small = {"max_depth": 6, "n_estimators": TREES, "random_state": 0}
    last = [FEATURES - 1]
    typed = {"enable_categorical": True, "feature_types": ["q"] * (FEATURES - 1) + ["c"]}
    light = {"n_estimators": TREES, "n_jobs": 1, "verbose": -1}
    histogram = {"max_iter": TREES, "random_state": 0, "early_stopping": False}
    return {
        "HistGradientBoosting": (ensemble.HistGradientBoostingClassifier(**histogram), {}),
        "HistGradientBoosting, categories": (
            ensemble.HistGradientBoostingClassifier(**histogram, categorical_features=last),
            {},
        ),
        "HistGradientBoosting, 5 classes": (
            ensemble.HistGradientBoostingClassifier(**histogram),
            {"classes": 5},
        ),
        "GradientBoosting": (ensemble.GradientBoostingRegressor(**small, subsample=0.3), {"filled": True}),
        "RandomForest": (ensemble.RandomForestClassifier(TREES, max_depth=12, random_state=0, n_jobs=1), {}),
        "ExtraTrees": (ensemble.ExtraTreesRegressor(TREES, max_depth=12, random_state=0, n_jobs=1), {}),
        "LightGBM": (LGBMClassifier(**light), {}),
        "LightGBM, categories": (LGBMClassifier(**light), {"categorical_feature": last}),
        "XGBoost": (XGBClassifier(**small, n_jobs=1), {}),
        "XGBoost, categories": (XGBClassifier(**small, n_jobs=1, **typed), {}),
    }


class Case(NamedTuple):
    """What was measured of a kind of model at a number of rows, in seconds: the best pass of each."""

    name: str
    rows: int
    library: float
    compiled: float
    interpreted: float | None
    is_equal: bool


def fit(estimator: Any, *, classes: int = 2, filled: bool = False, **options: Any) -> Any:
    rows = make_rows(TRAINING_ROWS, 0)
    targets = make_targets(rows)
    if hasattr(estimator, "predict_proba"):
        targets = np.digitize(targets, np.quantile(targets, np.arange(1, classes) / classes))
    return estimator.fit(np.nan_to_num(rows) if filled else rows, targets, **options)


def predict(estimator: Any, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    if not hasattr(estimator, "predict_proba"):
        return np.asarray(estimator.predict(rows), np.float64)
    shares = np.asarray(estimator.predict_proba(rows), np.float64)
    return shares[:, 1] if shares.shape[1] == 2 else shares.T


def best_of(score: Callable[[NDArray[np.float64]], Any], rows: NDArray[np.float64], passes: int) -> Any:
    """Return the seconds of the best pass, and its answer; short ones are repeated until there is something to choose from."""
    seconds, started = [], time.perf_counter()
    while len(seconds) < passes or (
        max(seconds) < 0.01 and time.perf_counter() < started + _LONG_ENOUGH_SECONDS
    ):
        begin = time.perf_counter()
        scores = score(rows)
        seconds.append(time.perf_counter() - begin)
    return min(seconds), np.ascontiguousarray(scores)


def measure(
    name: str, estimator: Any, rows: NDArray[np.float64], sizes: list[int], passes: int
) -> list[Case]:
    """Measure a fitted model at each size."""
    trees, cases = export_trees(estimator), []
    for score in (
        trees.score,
        trees._score_interpreted,
    ):  # what is derived from the arrays once is not counted
        score(np.ascontiguousarray(rows[:1].T))
    for size in sizes:
        print(f"measuring {name}, {size:,} rows", file=sys.stderr, flush=True)
        some = np.ascontiguousarray(rows[:size])
        matrix = np.ascontiguousarray(some.T)
        library, expected = best_of(functools.partial(predict, estimator), some, passes)
        compiled, scores = best_of(trees.score, matrix, passes)
        is_equal, interpreted = scores.tobytes() == expected.tobytes(), None
        if size in SMALL:
            interpreted, scores = best_of(trees._score_interpreted, matrix, passes)
            is_equal = is_equal and scores.tobytes() == expected.tobytes()
        cases.append(Case(name, size, library, compiled, interpreted, is_equal))
    return cases


def records(cases: list[Case]) -> list[dict[str, Any]]:
    """Return {name, ours, peer, ratio, unit, rows} of ours against the library."""
    found = []
    for case in cases:
        if case.interpreted is None:
            rates = case.rows / case.compiled, case.rows / case.library
            found.append(entry(f"trees/{case.name}, {case.rows:,} rows", *rates, "rows/s", case.rows))
            continue
        for way, seconds in (("compiled", case.compiled), ("without numba", case.interpreted)):
            name = f"trees/{case.name}, {case.rows:,} row{'s' * (case.rows > 1)}, {way}"
            found.append(entry(name, seconds * 1e3, case.library * 1e3, "ms", case.rows))
    return found


def text_of(cases: list[Case]) -> str:
    """Return the table for README."""
    small = [size for size in SMALL if any(case.rows == size for case in cases)]
    large = sorted({case.rows for case in cases if case.interpreted is None})
    head = [f"{size:,} row{'s' * (size > 1)}" for size in small] + [f"{size:,} rows" for size in large]
    lines = ["| | " + " | ".join(head) + " |", "|---|" + "---:|" * len(head)]
    for name in dict.fromkeys(case.name for case in cases):
        of_size = {case.rows: case for case in cases if case.name == name}
        cells = [_cell(of_size[size]) for size in (*small, *large)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    differing = [f"{case.name} ({case.rows:,} rows)" for case in cases if not case.is_equal]
    verdict = f"differing bits: {', '.join(differing)}" if differing else "all scores equal, bit for bit"
    return (
        "\n".join(lines)
        + "\n\nEach cell: the library's own time or rate, and how many times as fast flat trees are. "
        + f"{TREES} iterations, {FEATURES} features, one thread; {verdict}.\n"
    )


def _cell(case: Case) -> str:
    """Return the library's time, and how many times as fast ours is: compiled, and without numba."""
    ratios = f"{case.library / case.compiled:,.1f}x"
    if case.interpreted is not None:
        ratios += f" ({case.library / case.interpreted:,.1f}x without numba)"
        return f"{case.library * 1e3:,.3g} ms, {ratios}"
    return f"{case.rows / case.library:,.0f} rows/s, {ratios}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, default=1_000_000, help="of the largest batch (default: %(default)s)"
    )
    parser.add_argument(
        "--passes", type=int, default=3, help="timed passes, the best counts (default: %(default)s)"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="KIND", help="kinds of models, by the start of their name"
    )
    add_publish_arguments(parser)
    arguments = parser.parse_args()
    if not warm_up():
        raise SystemExit("numba is not installed")
    rows, cases = make_rows(arguments.rows, 2), []
    kinds = models()  # before the limit, which holds for the libraries that are loaded by then
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (estimator, options) in kinds.items():
            if arguments.only and not name.startswith(tuple(arguments.only)):
                continue
            its_rows = np.nan_to_num(rows) if options.get("filled") else rows
            sizes = [*(size for size in SMALL if size < arguments.rows), arguments.rows]
            cases += measure(name, fit(estimator, **options), its_rows, sizes, arguments.passes)
    publish("trees", records(cases), text_of(cases), arguments)
    return 0 if all(case.is_equal for case in cases) else 1


if __name__ == "__main__":
    sys.exit(main())
