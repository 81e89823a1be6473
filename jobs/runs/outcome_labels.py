"""What a column of outcomes says as numbers to learn from: the value, whether it is above a bound, or which class it is.

Classes are those among the rows that are learned from; a held-out row of another cannot be judged, and is left out by name. This module
knows nothing of tables and features.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_pipelines.errors import ConfigurationError, ContractError, DefinitionError
from jobs.runs.settings import TrainSettings
from udfs.scorer import OutputSpec

__all__ = ["UNSEEN", "has_outcome", "labels", "output_of"]

UNSEEN: Final = "outcome of a class that no row learned from has"


def has_outcome(outcome: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return which outcomes there are: neither null nor NaN."""
    there: NDArray[np.bool_] = np.asarray(pc.is_valid(outcome))
    if pa.types.is_floating(outcome.type):
        there = there & ~np.asarray(pc.fill_null(pc.is_nan(outcome), True))
    return there


def labels(
    settings: TrainSettings, outcome: pa.ChunkedArray, is_learned: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the label of each outcome, and the classes.

    Args:
        settings: the task, and the bound of a classification.
        outcome: n outcomes, none of them missing: see has_outcome.
        is_learned: shape (n,): which of them are learned from.

    Returns:
        float64, shape (n,): the value; 1.0 or 0.0; or the position among the classes, sorted (integers by value), NaN where no row
        that is learned from has the class. The classes are empty unless the task is "multiclass".

    Raises:
        ContractError: the column is of a type that the task cannot take.
    """
    if pa.types.is_dictionary(outcome.type):
        outcome = outcome.cast(outcome.type.value_type)
    if settings.task == "multiclass":
        return _classes(settings.label_column, outcome, is_learned)
    try:
        value = outcome.cast(pa.float64()).to_numpy()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise ContractError(
            f"train.label_column: {settings.label_column!r} is {outcome.type}, and a {settings.task} needs numbers; for classes by "
            "name set train.task=multiclass"
        ) from exc
    if settings.label_above is not None:
        value = (value > settings.label_above).astype(np.float64)
    return value, ()


def _classes(
    name: str, outcome: pa.ChunkedArray, is_learned: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    if not _is_nameable(outcome.type):
        raise ContractError(
            f"train.label_column: {name!r} is {outcome.type}; the classes of a multiclass model are strings or integers"
        )
    known = pc.unique(outcome.filter(pa.array(is_learned)))
    known = known.take(pc.sort_indices(known))
    found = pc.index_in(outcome, value_set=known).combine_chunks()
    return found.cast(pa.float64()).fill_null(float("nan")).to_numpy(), tuple(map(str, known.to_pylist()))


def _is_nameable(kind: pa.DataType) -> bool:
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return bool(is_text or pa.types.is_integer(kind))


def output_of(settings: TrainSettings, classes: tuple[str, ...]) -> OutputSpec:
    """Return what the scores of a model mean that is trained so.

    Args:
        settings: the task and the threshold.
        classes: see `labels`.

    Raises:
        ContractError: a multiclass model of fewer than three classes.
        ConfigurationError: classes that cannot be part of a column's name.
    """
    if settings.task == "regression":
        return OutputSpec("regression")
    if settings.task == "classification":
        return OutputSpec("classification", settings.decision_threshold)
    if len(classes) < 3:
        raise ContractError(
            f"a multiclass model needs three classes or more among the training rows; there are {len(classes)} "
            f"({', '.join(classes) or 'none'}). For two, set train.task=classification and train.label_above"
        )
    try:
        return OutputSpec("classification", classes=classes)
    except DefinitionError as exc:
        raise ConfigurationError(f"train.label_column: {settings.label_column!r}: {exc}") from exc
