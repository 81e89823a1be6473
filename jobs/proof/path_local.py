"""The paths inside this process: columns, JSON rows, Arrow batches, and the registered model as MLflow loads it.

No Spark and no server is started by any of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.schema import RowError
from jobs.proof.path_answers import Answer, Row, answer_of, as_answered, class_scores_of
from jobs.proof.path_bench import Bench
from jobs.proof.path_rows import ROW, expressed, placed
from udfs.kernel import Kernel
from udfs.online import OnlineScorer
from udfs.rows import ScoredRows, score_columns

__all__ = ["EvaluatorPath", "KernelPath", "OnlinePath", "PyfuncPath", "answers_of_rows"]

_NOW = 1_600_000_000_000_000
"""What the clock says where one is asked for: rows that bring their stored fields are scored alike at any time."""


class EvaluatorPath:
    """Columns into the scorer: the features' evaluator and the model, with nothing around them."""

    cannot_carry: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, bench: Bench) -> None:
        self._scorer = bench.scorer

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return one answer per row; see ScoringPath."""
        columns, errors = self._scorer.feature_set.sources.from_rows(rows)
        scored = score_columns(self._scorer, columns, errors, len(rows), with_features=True)
        return placed(len(rows), answers_of_rows(scored, range(len(rows))))


class OnlinePath:
    """JSON rows into the code that answers online, without a server in front."""

    cannot_carry: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, bench: Bench) -> None:
        self._online = OnlineScorer(bench.scorer, None, clock=lambda: _NOW)
        self._names = bench.scorer.feature_set.feature_names

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return one answer per row; see ScoringPath."""
        return [answer_of(said, self._names) for said in self._online.answer(rows, with_features=True)]


class KernelPath:
    """Arrow batches into the kernel that UDF, mapper and batch tasks wrap."""

    cannot_carry: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, bench: Bench) -> None:
        self._kernel = Kernel(bench.scorer)

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return one answer per row; see ScoringPath."""
        table, refused = expressed(self._kernel.scorer.feature_set, rows)
        found: dict[int, Answer] = {}
        for batch in table.combine_chunks().to_batches():
            scored = self._kernel.score(batch)
            found |= answers_of_rows(scored, batch.column(ROW).to_pylist())
        return placed(len(rows), refused, found)


class PyfuncPath:
    """`mlflow.pyfunc.load_model` on the registered version, which brings its own code."""

    cannot_carry: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return one answer per row; see ScoringPath."""
        import mlflow

        uri = self._bench.model_uri()
        with _without_serving_settings():
            model = mlflow.pyfunc.load_model(uri)
        said = model.predict([dict(row) for row in rows], params={"features": True})
        names = self._bench.scorer.feature_set.feature_names
        return [answer_of(one, names) for one in as_answered("pyfunc", said, rows)]


def answers_of_rows(scored: ScoredRows, positions: Sequence[int]) -> dict[int, Answer]:
    """Return the answers of scored rows by the positions of the rows that went in."""
    outputs = {name: values.tolist() for name, values in scored.outputs.items()}
    matrix: NDArray[np.float64] | None = scored.features
    found = {
        positions[error.row]: Answer(code=str(error.code), field=error.field)
        for error in _first(scored.errors)
    }
    for i, row in enumerate(scored.index.tolist()):
        said = {name: values[i] for name, values in outputs.items()}
        found[positions[row]] = Answer(
            score=said["score"],
            label=said.get("label"),
            features=None if matrix is None else matrix[:, i].tolist(),
            classes=class_scores_of(said),
        )
    return found


def _first(errors: Sequence[RowError]) -> list[RowError]:
    return list({error.row: error for error in reversed(errors)}.values())


@contextmanager
def _without_serving_settings() -> Iterator[None]:
    """Hide the store and the prediction log that the environment names: a model that is checked must not write into them."""
    hidden: Mapping[str, str] = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("ONESCORE_STORE_", "ONESCORE_PREDICTION_LOG"))
    }
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)
