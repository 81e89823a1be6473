"""Columns in, scores and row errors out: what becomes of each row, on every path. No Arrow, no Spark, no MLflow.

A row that breaks the contract, or on which a feature or the model raises, becomes a RowError; the rows beside it are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Columns, take
from feature_pipelines.definitions import FeatureView
from feature_pipelines.errors import DefinitionError, ModelIntegrityError
from feature_pipelines.evaluate import FeatureRaised
from feature_pipelines.lookup import AsOfIndex
from feature_pipelines.missing import apply_missing
from feature_pipelines.reasons import RowsRefused
from feature_pipelines.schema import Reason, RowError
from udfs.scorer import Scorer, Scores

__all__ = ["Found", "ScoredRows", "score_columns"]

Found = tuple[Columns, NDArray[np.int8]]
"""What `AsOfIndex.lookup` returns: a view's fields and the Status of each row."""


@dataclass(frozen=True)
class ScoredRows:
    """What became of a batch: each row is either scored or has an error, never both.

    Args:
        index: the positions of the scored rows, ascending, int64.
        outputs: the output columns, len(index) rows each.
        errors: the first error of each other row, ascending.
        statuses: for each looked-up view the Status of the scored rows, int8.
        features: the model's matrix of the scored rows, (n_features, len(index)); None unless it was asked for.
        as_of: as of when the scored rows were scored, microseconds; None where nothing says so.
    """

    index: NDArray[np.int64]
    outputs: Mapping[str, NDArray[Any]]
    errors: list[RowError]
    statuses: Mapping[str, NDArray[np.int8]]
    features: NDArray[np.float64] | None = None
    as_of: NDArray[np.int64] | None = None


def score_columns(
    scorer: Scorer,
    columns: Columns,
    errors: Sequence[RowError],
    n_rows: int,
    views: Sequence[FeatureView] = (),
    indexes: Mapping[str, AsOfIndex] | None = None,
    found: Mapping[str, Found] | None = None,
    *,
    as_of: NDArray[np.int64] | None = None,
    with_features: bool = False,
) -> ScoredRows:
    """Score rows that are columns already.

    Args:
        scorer: the loaded model.
        columns: n_rows rows each; the fields of `views` are not among them.
        errors: what the contract found; these rows are not scored.
        n_rows: 0 or more.
        views: the views to look up.
        indexes: by view name, those of `views` that are looked up here.
        found: by view name, those of `views` that were looked up before: n_rows rows each.
        as_of: of each row, microseconds: as of when it is looked up here, and returned for the scored rows.
        with_features: whether to return the model's matrix besides.

    Raises:
        DefinitionError, MemoryError: no row's fault, so no row is blamed.
    """
    first: dict[int, RowError] = {}
    for error in errors:
        first.setdefault(error.row, error)
    index = _without(n_rows, first)
    known = {name: take(column, index) for name, column in columns.items()} if first else dict(columns)
    statuses: dict[str, NDArray[np.int8]] = {}
    local = np.arange(len(index), dtype=np.int64)
    times: Any = as_of[index] if as_of is not None and first else as_of
    for view in views:
        if found is not None and view.name in found:
            fields, status = found[view.name]
            if first:
                fields, status = {name: take(column, index) for name, column in fields.items()}, status[index]
        else:
            keys = [known[name] for name in view.keys.values()]
            fields, status = (indexes or {})[view.name].lookup(keys, times)
        statuses[view.name] = status
        filled, refused = apply_missing(view, dict(fields), status)
        known.update(filled)
        for error in refused:
            row = int(index[error.row])
            first.setdefault(row, error._replace(row=row))
        if refused:
            local = local[[int(row) not in first for row in index[local]]]
    good, scores = _bisect(scorer, known, local, index, first)
    return ScoredRows(
        index=index[good],
        outputs=scores.outputs,
        errors=[first[row] for row in sorted(first)],
        statuses={name: status[good] for name, status in statuses.items()},
        features=scores.matrix if with_features else None,
        as_of=None if times is None else times[good],
    )


def _bisect(
    scorer: Scorer,
    columns: Columns,
    local: NDArray[np.int64],
    index: NDArray[np.int64],
    first: dict[int, RowError],
) -> tuple[NDArray[np.int64], Scores]:
    """Score the rows `local` of the columns without those that a feature refuses; where it raises, halve until the guilty rows
    stand alone."""
    whole = len(local) == len(index)
    part = columns if whole else {name: take(column, local) for name, column in columns.items()}
    try:
        scores = scorer.score(part, len(local))
    except (DefinitionError, ModelIntegrityError, MemoryError):  # no row's fault
        raise
    except RowsRefused as exc:
        for error in exc.errors:
            row = int(index[local[error.row]])
            first[row] = error._replace(row=row)
        accepted = np.delete(local, [error.row for error in exc.errors])
        return _bisect(scorer, columns, accepted, index, first)
    except Exception as exc:
        if len(local) == 0:
            raise
        if len(local) == 1:
            row = int(index[local[0]])
            first[row] = _raised(row, exc)
            return local[:0], _none_scored(scorer)
        middle = len(local) // 2
        halves = [_bisect(scorer, columns, half, index, first) for half in (local[:middle], local[middle:])]
        return np.concatenate([rows for rows, _ in halves]), _joined([part for _, part in halves])
    finite = _finite(scores.outputs)
    if np.count_nonzero(finite) == len(finite):
        return local, scores
    for i in np.flatnonzero(~finite):
        row = int(index[local[i]])
        first[row] = RowError(row, Reason.NON_FINITE_SCORE, "score", "the model returned NaN or an infinity")
    outputs = {name: values[finite] for name, values in scores.outputs.items()}
    return local[finite], Scores(scores.matrix[:, finite], outputs)


def _none_scored(scorer: Scorer) -> Scores:
    matrix = np.empty((len(scorer.feature_set.feature_names), 0), dtype=np.float64)
    n_scores = len(scorer.output.score_names)
    return Scores(matrix, scorer.output.columns(np.empty(0 if n_scores == 1 else (0, n_scores))))


def _finite(outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Return which rows have no NaN and no infinity in any of their scores."""
    finite: NDArray[np.bool_] = np.isfinite(outputs["score"])
    for name, values in outputs.items():
        if name != "score" and values.dtype == np.float64:
            finite &= np.isfinite(values)
    return finite


def _joined(parts: Sequence[Scores]) -> Scores:
    outputs = {name: np.concatenate([part.outputs[name] for part in parts]) for name in parts[0].outputs}
    return Scores(np.concatenate([part.matrix for part in parts], axis=1), outputs)


def _without(n_rows: int, refused: Mapping[int, RowError]) -> NDArray[np.int64]:
    rows = np.arange(n_rows, dtype=np.int64)
    return np.delete(rows, np.fromiter(refused, dtype=np.int64, count=len(refused))) if refused else rows


def _raised(row: int, exc: Exception) -> RowError:
    """Name the function and the class of what it raised, not its message, which may hold data."""
    if isinstance(exc, FeatureRaised):
        return RowError(
            row, Reason.FEATURE_ERROR, exc.feature, f"the feature raised {type(exc.__cause__).__name__}"
        )
    return RowError(row, Reason.MODEL_ERROR, "", f"the model raised {type(exc).__name__}")
