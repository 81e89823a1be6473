"""What is measured when a model is logged: does a row keep its bits whatever stands beside it, however it comes, on whatever threads?

`certify` asks an evaluator in every way in which a path may ask it and compares with one call of all rows; `certify_forms` builds the
features from JSON and from Arrow. What they find is recorded with the model. They know nothing of files, tables or MLflow, and
choose nothing: that is for `udfs.strategies`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Columns, take
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.evaluate import evaluate
from feature_pipelines.parity import differing_rows, row_ulps
from feature_pipelines.schema import build_column, to_wire
from udfs.scorer import Evaluator

__all__ = ["Certificate", "Condition", "best_seconds", "certify", "certify_forms"]

Matrix = NDArray[np.float64]
Asked = tuple[str, NDArray[np.int64], NDArray[np.float64]]  # how, which rows, their scores

_MOST_ROWS = 4_096  # of the reference
_MANY_ROWS = 10_000
_ALONE_ROWS = 2_048
_FORM_ROWS = 1_000
_SECONDS = 0.5  # what one condition may take, about; a slow evaluator is asked for fewer rows
_CALLS_PER_SIZE = 4
_NATIVE_THREADS = (2, 3, 4)


@dataclass(frozen=True)
class Condition:
    """One way of asking, compared by raw bits with all rows in one call.

    Args:
        name: the way.
        rows: how many scores were compared; 0 if the way was not taken.
        differing: how many had other bits.
        worst_ulps: the largest distance in units in the last place; 0 where nothing differs.
        worst_row: position among the rows that were given; None where nothing differs.
        note: more of the worst row's call, or why the way was not taken.
    """

    name: str
    rows: int
    differing: int = 0
    worst_ulps: int = 0
    worst_row: int | None = None
    note: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Certificate:
    """What `certify` found.

    Args:
        rows: of the reference, each of which was scored under most conditions.
        conditions: in the order in which they were measured.
        seconds: what measuring took.
    """

    rows: int
    conditions: tuple[Condition, ...]
    seconds: float

    @property
    def is_invariant(self) -> bool:
        """True if no condition that was measured changed a bit."""
        return self.rows > 0 and not any(one.differing for one in self.conditions)

    @property
    def worst(self) -> Condition | None:
        """The condition with the largest distance, None where no bit differs."""
        return max((one for one in self.conditions if one.differing), key=_distance, default=None)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "invariant": self.is_invariant,
            "conditions": [one.to_json() for one in self.conditions],
            "seconds": round(self.seconds, 3),
        }


def certify(
    evaluator: Evaluator,
    matrix: Matrix,
    *,
    first: Sequence[int] = (),
    seed: int = 0,
    until_one_differs: bool = False,
) -> Certificate:
    """Return how an evaluator's scores depend on the way of asking: by condition, the rows with other bits and the worst distance.

    The conditions: the same call again; rows alone; batches of 2 to 33 and of 127 to 129 rows; 10,000 rows (repeated where there
    are fewer; of a slow evaluator as many as the condition's name says); in permuted order; each beside rows of nothing but NaN; a
    strided, a reversed and a Fortran-ordered matrix; native pools (BLAS, OpenMP) of 2, 3 and 4 threads, where all else is asked on 1;
    two Python threads at once. Up to 4,096 rows are used, fewer of a slow evaluator, so that each condition takes about half a second;
    a few seconds in all. Thread limits are put back.

    Args:
        evaluator: anything with `score`; an estimator as it is: `udfs.scorer.LibraryEvaluator(estimator, "regression")`.
        matrix: float64 of shape (n_features, n_rows), at least one row.
        first: rows that are used, and scored alone, before others; the others that are used are a sample.
        seed: of the sample, of permutations and of where batches begin.
        until_one_differs: stop at the first condition that changes a bit.

    Raises:
        Exception: what the evaluator raises on these rows.

    >>> class Sum:
    ...     def score(self, matrix):
    ...         return matrix.sum(axis=0)
    >>> certify(Sum(), np.arange(30.0).reshape(3, 10)).is_invariant
    True
    """
    started = time.perf_counter()
    if not matrix.shape[1]:
        return Certificate(0, (), 0.0)
    conditions = []
    with np.errstate(all="ignore"), _native_threads(1):
        asking = _Asking(evaluator, matrix, list(first), np.random.default_rng(seed))
        for name, way in _WAYS.items():
            name = f"{asking.many:,} rows" if way is _many else name
            try:
                condition = _compare(name, asking.whole, way(asking))
            except _NotTaken as refused:
                condition = Condition(name, 0, note=str(refused))
            if condition.worst_row is not None:
                condition = replace(condition, worst_row=int(asking.given[condition.worst_row]))
            conditions.append(condition)
            if condition.differing and until_one_differs:
                break
    return Certificate(asking.n_rows, tuple(conditions), time.perf_counter() - started)


def certify_forms(
    feature_set: FeatureSet, constants: Mapping[str, Any], columns: Columns, n_rows: int
) -> Condition:
    """Return how the features of rows that came as JSON differ from those of the same rows that came as Arrow: not at all, it is hoped.

    Args:
        feature_set, constants: of the model.
        columns: every source field, n_rows rows each; up to 1,000 of them are used.
        n_rows: at least 1.
    """
    name = "JSON and Arrow"
    index = np.unique(np.linspace(0, n_rows - 1, min(_FORM_ROWS, n_rows)).astype(np.int64))
    chosen = {f.name: take(columns[f.name], index) for f in feature_set.sources}
    try:
        forms = {"JSON": _through_json(feature_set, chosen), "Arrow": _through_arrow(feature_set, chosen)}
    except ImportError as exc:
        return Condition(name, 0, note=f"not measured: {exc}")
    expected = evaluate(feature_set, chosen, constants, len(index))
    asked = []
    for form, built in forms.items():
        matrix = evaluate(feature_set, built, constants, len(index))
        asked += [
            (f"feature {feature} from {form}", index, matrix[i])
            for i, feature in enumerate(feature_set.feature_names)
        ]
    reference = np.empty((len(feature_set.feature_names), n_rows))
    reference[:, index] = expected
    parts = [
        _compare(name, reference[i % len(reference)], [one]) for i, one in enumerate(asked)
    ]  # a row of the matrix after the other, JSON before Arrow
    worst = max(parts, key=_distance)
    return Condition(
        name,
        len(index),
        sum(part.differing for part in parts),
        worst.worst_ulps,
        worst.worst_row,
        worst.note,
    )


def _through_json(feature_set: FeatureSet, columns: Columns) -> Columns:
    wire = json.loads(json.dumps({f.name: to_wire(f, columns[f.name]) for f in feature_set.sources}))
    return {f.name: build_column(f, wire[f.name])[0] for f in feature_set.sources}


def _through_arrow(feature_set: FeatureSet, columns: Columns) -> Columns:
    import pyarrow as pa

    from feature_pipelines.schema_arrow import column_to_arrow, columns_from_arrow

    arrays = [column_to_arrow(f, columns[f.name]) for f in feature_set.sources]
    batch = pa.RecordBatch.from_arrays(arrays, names=list(feature_set.sources.names))
    return columns_from_arrow(feature_set.sources, batch)[0]


def best_seconds(call: Callable[[], Any], times: int = 3) -> float:
    """Return what a call takes, the best of some; never 0."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return max(min(taken), 1e-9)


def _distance(condition: Condition) -> tuple[int, int]:
    return condition.worst_ulps, condition.differing


def _compare(name: str, expected: NDArray[np.float64], asked: Iterable[Asked]) -> Condition:
    rows = differing = worst_ulps = 0
    worst_row, note = None, None
    for how, index, scores in asked:
        rows += len(index)
        wanted = expected[index]
        wrong = np.flatnonzero(differing_rows(scores, wanted))
        if not len(wrong):
            continue
        differing += len(wrong)
        distance = row_ulps(scores[wrong], wanted[wrong])
        if worst_row is None or int(distance.max()) > worst_ulps:
            worst_ulps, worst_row, note = int(distance.max()), int(index[wrong[distance.argmax()]]), how
    return Condition(name, rows, differing, worst_ulps, worst_row, note)


class _NotTaken(Exception):
    """A way of asking cannot be taken here, which is no fault."""


class _Asking:
    """An evaluator, the rows it is asked for, and the scores of all of them in one call."""

    def __init__(
        self, evaluator: Evaluator, matrix: Matrix, first: list[int], rng: np.random.Generator
    ) -> None:
        self.score = evaluator.score
        self.rng = rng
        sample = np.ascontiguousarray(matrix[:, :256])
        per_row = best_seconds(lambda: self.score(sample)) / sample.shape[1]
        self.n_rows = min(matrix.shape[1], _MOST_ROWS, max(64, int(_SECONDS / per_row)))
        self.many = min(_MANY_ROWS, max(self.n_rows, int(4 * _SECONDS / per_row)))
        self.given = self._chosen(matrix.shape[1], first)
        self.matrix = np.ascontiguousarray(matrix[:, self.given])
        self.every = np.arange(self.n_rows)
        self.whole = self.score(self.matrix)
        self.first = np.flatnonzero(np.isin(self.given, first)).tolist()

    def _chosen(self, n: int, first: list[int]) -> NDArray[np.int64]:
        """Return the rows to use, ascending: of more than there is time for, those to begin with and a sample of the others.

        Certification rows may be sorted, so the first of them would be all of one kind.
        """
        if self.n_rows == n:
            return np.arange(n)
        others = np.setdiff1d(np.arange(n), first)
        sample = self.rng.permutation(others)[: max(0, self.n_rows - len(first))]
        return np.sort(np.concatenate([np.array(first[: self.n_rows], np.int64), sample]))

    def rows(self, index: NDArray[np.int64]) -> Matrix:
        """Return some rows as a C-contiguous matrix."""
        return np.ascontiguousarray(self.matrix[:, index])

    def alone(self) -> list[int]:
        """Return the rows to score alone: those to begin with, then others in no order, as many as there is time for."""
        one = self.rows(np.array([0]))
        seconds = best_seconds(lambda: self.score(one))
        n = min(_ALONE_ROWS, max(64, len(self.first), int(_SECONDS / seconds)))
        others = self.rng.permutation(self.n_rows).tolist()
        return list(dict.fromkeys([*self.first, *others]))[:n]


def _again(asking: _Asking) -> Iterator[Asked]:
    yield "the same rows again", asking.every, asking.score(asking.matrix)


def _alone(asking: _Asking) -> Iterator[Asked]:
    for row in asking.alone():
        index = np.array([row])
        yield "one row", index, asking.score(asking.rows(index))


def _sizes(low: int, high: int) -> Callable[[_Asking], Iterator[Asked]]:
    def ask(asking: _Asking) -> Iterator[Asked]:
        started = time.perf_counter()
        for call in range(_CALLS_PER_SIZE):
            if call and time.perf_counter() - started > _SECONDS:
                return
            for size in range(low, high + 1):
                start = int(asking.rng.integers(asking.n_rows)) if call else 0
                index = (start + np.arange(size)) % asking.n_rows
                yield f"a batch of {size} rows from row {start}", index, asking.score(asking.rows(index))

    return ask


def _many(asking: _Asking) -> Iterator[Asked]:
    index = np.resize(asking.every, asking.many)
    yield f"a batch of {asking.many} rows", index, asking.score(asking.rows(index))


def _permuted(asking: _Asking) -> Iterator[Asked]:
    for _ in range(3):
        index = asking.rng.permutation(asking.n_rows)
        yield "all rows in another order", index, asking.score(asking.rows(index))


def _beside_nulls(asking: _Asking) -> Iterator[Asked]:
    for at in (0, 1):
        beside = np.full((asking.matrix.shape[0], 2 * asking.n_rows), np.nan)
        beside[:, at::2] = asking.matrix
        try:
            scores = asking.score(beside)
        except Exception as exc:
            if at == 1:
                raise
            said = str(exc).strip().partition("\n")[0][:100]
            raise _NotTaken(f"the estimator takes no NaN: {said}") from exc
        yield "every second row is NaN", asking.every, np.ascontiguousarray(scores[at::2])


def _layouts(asking: _Asking) -> Iterator[Asked]:
    spread = np.zeros((asking.matrix.shape[0], 3 * asking.n_rows + 1))
    spread[:, 1::3] = asking.matrix
    yield "every third column of a matrix", asking.every, asking.score(spread[:, 1::3])
    yield "columns from last to first", asking.every[::-1], asking.score(asking.matrix[:, ::-1])
    yield "a matrix in Fortran's order", asking.every, asking.score(np.asfortranarray(asking.matrix))


def _more_native_threads(asking: _Asking) -> Iterator[Asked]:
    """Ask on 2, 3 and 4 threads, however many cores there are: a library cuts its work by how many threads it was told to use."""
    for n in _NATIVE_THREADS:
        sizes = (1, 2, 8, 33, 129, 1_025) if n == _NATIVE_THREADS[0] else (8, 129)
        with _native_threads(n) as limited:
            if not limited:
                raise _NotTaken("threadpoolctl is not installed")
            for index in (asking.every, *(np.arange(size) % asking.n_rows for size in sizes)):
                yield f"a batch of {len(index)} rows on {n} threads", index, asking.score(asking.rows(index))


@contextmanager
def _native_threads(n: int) -> Iterator[bool]:
    """Limit the native pools, and say whether that was possible."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield False
        return
    with threadpool_limits(n):
        yield True


def _two_at_once(asking: _Asking) -> Iterator[Asked]:
    halves = (asking.every[::2], asking.every[1::2])

    def score(index: NDArray[np.int64]) -> list[Asked]:
        parts = [part for part in np.array_split(index, 5) if len(part)]
        with np.errstate(all="ignore"), _native_threads(1):
            return [("while another thread scores", part, asking.score(asking.rows(part))) for part in parts]

    with ThreadPoolExecutor(len(halves)) as pool:
        for asked in pool.map(score, halves):
            yield from asked


_WAYS: dict[str, Callable[[_Asking], Iterator[Asked]]] = {
    "again": _again,
    "alone": _alone,
    "batches of 2 to 33": _sizes(2, 33),
    "batches of 127 to 129": _sizes(127, 129),
    "10,000 rows": _many,
    "permuted": _permuted,
    "beside nulls": _beside_nulls,
    "strided, reversed and Fortran order": _layouts,
    "2 to 4 native threads": _more_native_threads,
    "two Python threads at once": _two_at_once,
}
