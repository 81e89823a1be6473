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
from feature_pipelines.errors import DefinitionError
from feature_pipelines.evaluate import FeatureRaised
from feature_pipelines.lookup import AsOfIndex, Status
from feature_pipelines.schema import Reason, RowError
from udfs.scorer import Scorer

__all__ = ["ScoredRows", "score_columns", "score_rows"]


@dataclass(frozen=True)
class ScoredRows:
    """What became of a batch: each row is either scored or has an error, never both.

    Args:
        index: the positions of the scored rows, ascending, int64.
        outputs: the output columns, len(index) rows each.
        errors: the first error of each other row, ascending.
        statuses: for each looked-up view the Status of the scored rows, int8.
    """

    index: NDArray[np.int64]
    outputs: Mapping[str, NDArray[Any]]
    errors: list[RowError]
    statuses: Mapping[str, NDArray[np.int8]]


def score_columns(
    scorer: Scorer,
    columns: Columns,
    errors: Sequence[RowError],
    n_rows: int,
    views: Sequence[FeatureView] = (),
    indexes: Mapping[str, AsOfIndex] | None = None,
) -> ScoredRows:
    """Score rows that are columns already.

    Args:
        scorer: the loaded model.
        columns: n_rows rows each; the fields of `views` are not among them.
        errors: what the contract found; these rows are not scored.
        n_rows: 0 or more.
        views: the views to look up, as of each row's as-of field.
        indexes: by view name, at least those of `views`.

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
    for view in views:
        as_of: Any = known[scorer.feature_set.as_of or ""]
        keys = [known[name] for name in view.keys.values()]
        found, statuses[view.name] = (indexes or {})[view.name].lookup(keys, as_of)
        known.update(found)
        if view.missing == "reject":
            for i in np.flatnonzero(statuses[view.name] != Status.PRESENT).tolist():
                message = f"view {view.name!r} has no row for the key: {Status(statuses[view.name][i]).name}"
                first.setdefault(
                    int(index[i]), RowError(int(index[i]), Reason.STORED_FEATURES_MISSING, view.name, message)
                )
            local = local[[int(row) not in first for row in index[local]]]
    good, outputs = _bisect(scorer, known, local, index, first)
    return ScoredRows(
        index=index[good],
        outputs=outputs,
        errors=[first[row] for row in sorted(first)],
        statuses={name: status[good] for name, status in statuses.items()},
    )


def _bisect(
    scorer: Scorer,
    columns: Columns,
    local: NDArray[np.int64],
    index: NDArray[np.int64],
    first: dict[int, RowError],
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
    """Score the rows `local` of the columns; where that raises, halve until the guilty rows stand alone."""
    whole = len(local) == len(index)
    part = columns if whole else {name: take(column, local) for name, column in columns.items()}
    try:
        outputs = dict(scorer.score(part, len(local)).outputs)
    except (DefinitionError, MemoryError):
        raise
    except Exception as exc:
        if len(local) == 0:
            raise
        if len(local) == 1:
            row = int(index[local[0]])
            first[row] = _raised(row, exc)
            return local[:0], {name: np.empty(0, dtype.numpy) for name, dtype in scorer.output.fields.items()}
        middle = len(local) // 2
        halves = [_bisect(scorer, columns, half, index, first) for half in (local[:middle], local[middle:])]
        good = np.concatenate([rows for rows, _ in halves])
        return good, {name: np.concatenate([out[name] for _, out in halves]) for name in scorer.output.fields}
    finite = np.isfinite(outputs["score"])
    if finite.all():
        return local, outputs
    for i in np.flatnonzero(~finite):
        row = int(index[local[i]])
        first[row] = RowError(row, Reason.NON_FINITE_SCORE, "score", "the model returned NaN or an infinity")
    return local[finite], {name: values[finite] for name, values in outputs.items()}


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


def score_rows(scorer: Scorer, rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Return one answer per JSON row, in order; a bad row gets an error object and the others their scores.

    Args:
        scorer: the loaded model.
        rows: objects in the wire form, each with the request fields and the stored fields of every view.
    """
    columns, errors = scorer.feature_set.sources.from_rows(rows)
    scored = score_columns(scorer, columns, [*errors, *_unasked_views(scorer, rows)], len(rows))
    facts = {"model": scorer.info["name"], "digest": scorer.info["digest"], "verified": scorer.verified}
    lists = {name: values.tolist() for name, values in scored.outputs.items()}
    answers: list[dict[str, Any]] = [{} for _ in rows]
    for position, row in enumerate(scored.index.tolist()):
        answers[row] = {**{name: values[position] for name, values in lists.items()}, **facts}
    for error in scored.errors:
        answers[error.row] = {
            "error": {"code": str(error.code), "field": error.field, "message": error.message}
        }
    return answers


def _unasked_views(scorer: Scorer, rows: Sequence[Any]) -> list[RowError]:
    """A row that brings not one field of a view asks for a look-up, which this path cannot do: say so, default nothing."""
    errors = []
    for i, row in enumerate(rows):
        for view in scorer.feature_set.views:
            if isinstance(row, Mapping) and not any(name in row for name in view.fields.names):
                message = f"send the stored fields of view {view.name!r} (null where there is no value); no store is configured"
                errors.append(RowError(i, Reason.STORED_FEATURES_MISSING, view.name, message))
    return errors
