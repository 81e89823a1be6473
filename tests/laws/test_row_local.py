"""L4: a feature's output row depends on that input row alone: any order, any batch size, one row included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from feature_pipelines.columns import Columns, Float64, Int64, String, concat, take
from feature_pipelines.errors import DefinitionError
from feature_pipelines.evaluate import check_row_local, evaluate
from feature_pipelines.features.flights import FEATURES
from tests.laws.flight_rows import flight_columns, flight_constants, flight_rows

N_ROWS = 1_500
COLUMNS = flight_columns(N_ROWS, seed=2)
CONSTANTS = flight_constants()


def bits(columns: Columns, n_rows: int) -> NDArray[np.uint64]:
    return evaluate(FEATURES, columns, CONSTANTS, n_rows).view(np.uint64)


WHOLE = bits(COLUMNS, N_ROWS)


@pytest.mark.parametrize("feature", FEATURES.features, ids=lambda f: f.__name__)
def test_every_flight_feature_is_row_local(feature: Callable[..., Any]) -> None:
    reached = {step.name: step for step in FEATURES.steps}
    needed, waiting = [], [feature.__name__]
    while waiting:
        step = reached[waiting.pop()]
        needed.append(step.function)
        waiting.extend(name for name in step.inputs if name in reached)
    intermediates = tuple(dict.fromkeys(f for f in needed if f is not feature))
    check_row_local(
        replace(FEATURES, features=(feature,), intermediates=intermediates), COLUMNS, CONSTANTS, N_ROWS
    )


def test_the_whole_set_is_row_local() -> None:
    check_row_local(FEATURES, COLUMNS, CONSTANTS, N_ROWS)


def test_the_rows_exercise_every_feature() -> None:
    matrix = WHOLE.view(np.float64)
    constant = [
        name for name, row in zip(FEATURES.feature_names, WHOLE, strict=True) if len(np.unique(row)) < 2
    ]
    assert constant == []
    may_be_null = {f.__name__ for f in FEATURES.features if "Never null" not in (f.__doc__ or "")}
    never = {
        name for name, row in zip(FEATURES.feature_names, matrix, strict=True) if not np.isnan(row).any()
    }
    assert never == {name for name in FEATURES.feature_names if name not in may_be_null} | {
        "is_precip_freezing"
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, N_ROWS - 1), min_size=0, max_size=40))
def test_any_choice_of_rows_has_the_bits_of_those_rows(index: list[int]) -> None:
    rows = np.array(index, dtype=np.int64)
    part = {name: take(column, rows) for name, column in COLUMNS.items()}
    assert (bits(part, len(rows)) == WHOLE[:, rows]).all()


@pytest.mark.parametrize("size", [1, 7, 1024, 1025])
def test_batches_of_rows_from_json_have_the_bits_of_the_whole(size: int) -> None:
    rows = flight_rows(N_ROWS, seed=2)[: 40 if size == 1 else N_ROWS]
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        columns, _ = FEATURES.sources.from_rows(part)
        assert (bits(columns, len(part)) == WHOLE[:, start : start + len(part)]).all()


def test_concatenated_parts_have_the_bits_of_the_parts() -> None:
    left, right = flight_columns(300, seed=3), flight_columns(200, seed=4)
    both = {name: concat([left[name], right[name]]) for name in left}
    assert (bits(both, 500) == np.hstack([bits(left, 300), bits(right, 200)])).all()


def above_the_mean(weather_temp_f: Float64) -> Float64:
    return weather_temp_f - np.nanmean(weather_temp_f)


def rank_in_batch(carrier: String) -> Int64:
    return carrier.codes.astype(np.int64)


def filled_from_before(weather_temp_f: Float64) -> Float64:
    return np.where(np.isnan(weather_temp_f), np.roll(weather_temp_f, 1), weather_temp_f)


def sum_of_pairs(weather_temp_f: Float64) -> Float64:
    return np.cumsum(weather_temp_f) - np.cumsum(np.append(weather_temp_f[1:], 0.0))


@pytest.mark.parametrize("feature", [above_the_mean, rank_in_batch, filled_from_before, sum_of_pairs])
@pytest.mark.filterwarnings("ignore:Mean of empty slice")
def test_a_feature_that_looks_beside_its_row_is_caught(feature: Callable[..., Any]) -> None:
    broken = replace(FEATURES, features=(*FEATURES.features, feature))
    with pytest.raises(
        DefinitionError, match=f"feature '{feature.__name__}' is not row-local: a row evaluated "
    ):
        check_row_local(broken, COLUMNS, CONSTANTS, N_ROWS)


def test_features_leave_their_inputs_and_constants_as_they_were() -> None:
    def digest(columns: Columns) -> Mapping[str, Any]:
        return {name: repr(take(column, np.arange(N_ROWS))) for name, column in columns.items()}

    before, constants = digest(COLUMNS), repr(CONSTANTS)
    bits(COLUMNS, N_ROWS)
    assert digest(COLUMNS) == before
    assert repr(CONSTANTS) == constants
