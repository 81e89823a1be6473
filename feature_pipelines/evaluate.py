"""The one evaluator: every path, batch and online, trains and scores through `evaluate`.

Features are written into one preallocated matrix, a row per feature, so that the model reads each feature contiguously. NaN is
made canonical there, because 0/0 has another sign than NaN on some machines. This module knows nothing of models or storage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import (
    Column,
    Columns,
    Nullable,
    Strings,
    freeze,
    take,
    values_and_valid,
)
from feature_pipelines.definitions import FeatureSet, Step
from feature_pipelines.errors import DefinitionError
from feature_pipelines.reasons import RowsRefused

__all__ = ["FeatureRaised", "check_row_local", "constants_from_json", "evaluate", "fit_constants"]

_EXACT = 2**53
_FEW = 8  # so many values are compared faster in Python
_PLAN = "_evaluate_plan"


class FeatureRaised(Exception):
    """A feature function raised on some row; `feature` names it and `__cause__` is what it raised. Batch code bisects."""

    def __init__(self, feature: str) -> None:
        super().__init__(f"feature {feature!r} raised")
        self.feature = feature


def evaluate(
    feature_set: FeatureSet, columns: Columns, constants: Mapping[str, Any], n_rows: int
) -> NDArray[np.float64]:
    """Return the model's matrix: float64, C-contiguous, shape (n_features, n_rows), features in the set's order; a vector of k
    values has k rows.

    Args:
        feature_set: what to compute.
        columns: every source field that the set reads, each with n_rows rows in the form its declaration says.
        constants: the fitted constants by name.
        n_rows: the number of rows, 0 or more.

    Raises:
        DefinitionError: a function returned another type or length than it declares.
        FeatureRaised: a function raised; the caller decides which rows are guilty.
        RowsRefused: a function refused some rows; the caller evaluates the others without them.
    """
    matrix = np.empty((len(feature_set.feature_names), n_rows), dtype=np.float64)
    by_feature = (
        n_rows > 1024
    )  # many rows: make NaNs canonical while a feature is in the cache; few: in one pass
    one_value = (n_rows,)
    known: dict[str, Column] = dict(columns)
    get = known.__getitem__
    with np.errstate(all="ignore"):
        for step, name, function, inputs, fitted, row, dtype, size, is_read, is_int64 in _planned(
            feature_set
        ):
            shape = (size, n_rows) if size else one_value
            try:
                value = (
                    function(*map(get, inputs), **{of: constants[of] for of in fitted})
                    if fitted
                    else function(*map(get, inputs))
                )
            except MemoryError:
                raise
            except Exception as exc:
                raise _raised(step, exc, n_rows) from exc
            if type(value) is np.ndarray and value.dtype is dtype and value.shape == shape:
                if is_read:
                    value.setflags(write=False)
            else:
                _check_value(step, value, n_rows)
                freeze(value)
            known[name] = value
            if row is not None:
                if is_int64:
                    _check_exact(step, value)
                matrix[row] = value
                if by_feature and step.dtype.is_float:
                    _make_nans_canonical(matrix[row])
            if by_feature:
                for of in step.releases:  # the next steps reuse memory that is still in the cache
                    del known[of]
                del value
    if not by_feature:
        _make_nans_canonical(matrix)
    return matrix


class _Planned(NamedTuple):
    """A step and what stands in it, its row in the matrix (of a vector its rows; None: it has none), the dtype of its value if
    that is a plain array, how many values a row of a vector has, whether another step reads it, and whether its value is int64."""

    step: Step
    name: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    fitted: tuple[str, ...]
    row: int | slice | None
    dtype: np.dtype[Any] | None
    size: int
    is_read: bool
    is_int64: bool


def _planned(feature_set: FeatureSet) -> list[_Planned]:
    """Return the steps with what is known of them before any row, found once per feature set."""
    held: list[_Planned] | None = feature_set.__dict__.get(_PLAN)
    if held is None:
        read = {name for step in feature_set.steps for name in step.inputs}
        row_of = {name: i for i, name in enumerate(feature_set.feature_names)}

        def rows(step: Step) -> int | slice | None:
            first = row_of.get(step.row_names[0])
            return first if first is None or not step.dtype.size else slice(first, first + step.dtype.size)

        held = []
        for step in feature_set.steps:
            is_plain = not step.nullable and step.dtype.kind != "string"
            held.append(
                _Planned(
                    step,
                    step.name,
                    step.function,
                    step.inputs,
                    step.constants,
                    rows(step),
                    step.dtype.numpy if is_plain else None,
                    step.dtype.size,
                    step.name in read,
                    step.dtype.kind == "int64",
                )
            )
        feature_set.__dict__[_PLAN] = held
    return held


def _make_nans_canonical(values: NDArray[np.float64]) -> None:
    missing = np.isnan(values)
    if np.count_nonzero(missing):  # for few values in a tenth of the time of any()
        np.putmask(values, missing, np.nan)


def _check_value(step: Step, value: Any, n_rows: int) -> None:
    values, valid = values_and_valid(value)
    if (valid is not None) != step.nullable:
        raise DefinitionError(
            f"feature {step.name!r} must return {'Nullable' if step.nullable else 'plain'} values"
        )
    if step.dtype.kind == "string":
        fits = isinstance(values, Strings) and values.codes.shape == (n_rows,)
    else:
        fits = (
            isinstance(values, np.ndarray)
            and values.dtype == step.dtype.numpy
            and values.shape == step.dtype.shape(n_rows)
        )
    if not fits or not (valid is None or valid.shape == (n_rows,)):
        raise DefinitionError(
            f"feature {step.name!r} declares {step.dtype} for {n_rows} row(s), it returned {_description(values)}"
        )


def _description(values: Any) -> str:
    if isinstance(values, np.ndarray):
        return f"{values.dtype} of shape {values.shape}"
    return f"{len(values)} string(s)" if isinstance(values, Strings) else type(values).__name__


def _raised(step: Step, exc: Exception, n_rows: int) -> FeatureRaised | RowsRefused | DefinitionError:
    """Return what to raise for what a function raised; the rows that it refused with their field."""
    if not isinstance(exc, RowsRefused):
        return FeatureRaised(step.name)
    rows = [error.row for error in exc.errors]
    if not rows or len(set(rows)) < len(rows) or min(rows) < 0 or max(rows) >= n_rows:
        return DefinitionError(
            f"feature {step.name!r} must refuse distinct rows of the {n_rows} that it was given; it named {sorted(rows)[:5]}"
        )
    field = step.inputs[0] if len(step.inputs) == 1 else step.name
    return RowsRefused(error if error.field else error._replace(field=field) for error in exc.errors)


def _check_exact(step: Step, value: Any) -> None:
    """Refuse integers that float64 cannot hold."""
    if not len(value):
        return
    few = value.tolist() if len(value) <= _FEW else (value.min(), value.max())
    if max(few) > _EXACT or min(few) < -_EXACT:
        raise FeatureRaised(step.name) from OverflowError(
            "an integer beyond 2^53, which the model's float64 cannot hold"
        )


def fit_constants(feature_set: FeatureSet, columns: Columns) -> dict[str, Any]:
    """Return the fitted constants of the training rows, as JSON values in the form `constants_from_json` takes."""
    return {f.name: f.fit(*(columns[name] for name in f.columns)) for f in feature_set.fitted}


def constants_from_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored constants as functions receive them: lists become tuples, so that no function can change them."""
    return {name: _frozen(value) for name, value in values.items()}


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_frozen, value))
    return {key: _frozen(item) for key, item in value.items()} if isinstance(value, dict) else value


def check_row_local(
    feature_set: FeatureSet, columns: Columns, constants: Mapping[str, Any], n_rows: int
) -> None:
    """Check that each feature's row depends on that input row alone, by bits.

    Compares all rows at once with: each row alone (at most 64 of them), the rows reversed, repeated, and each half apart; the
    strings of each part are coded anew, so that a code, which means nothing, cannot pass for a value.

    Raises:
        DefinitionError: naming the first feature that differs, and how.
        RowsRefused: a function refuses some of the rows: check the others.
    """
    whole = evaluate(feature_set, columns, constants, n_rows).view(np.uint64)
    rows = np.arange(n_rows)
    step = max(1, n_rows // 64)
    trials = [("alone", rows[i : i + 1]) for i in range(0, n_rows, step)]
    trials += [("in reverse order", rows[::-1]), ("repeated", np.repeat(rows[: n_rows // 3], 3))]
    trials += [("in the first half", rows[: n_rows // 2]), ("in the second half", rows[n_rows // 2 :])]
    for how, index in trials:
        part = {name: _recoded(take(column, index)) for name, column in columns.items()}
        try:
            found = evaluate(feature_set, part, constants, len(index)).view(np.uint64)
        except RowsRefused as exc:
            raise DefinitionError(
                f"what a feature refuses is not row-local: a row evaluated {how} is refused for "
                f"{exc.errors[0].field!r} ({exc.errors[0].code}), and was not among {n_rows} rows"
            ) from exc
        differing = np.flatnonzero((found != whole[:, index]).any(axis=1))
        if differing.size:
            name = feature_set.feature_names[int(differing[0])]
            raise DefinitionError(
                f"feature {name!r} is not row-local: a row evaluated {how} has other bits than among {n_rows} rows"
            )


def _recoded(column: Column) -> Column:
    """Return the column with another code for every string."""
    if isinstance(column, Nullable):
        return Nullable(_recoded(column.values), column.valid)
    if isinstance(column, Strings):
        return freeze(Strings(column.codes + np.int32(1), ("", *column.categories)))
    return column
