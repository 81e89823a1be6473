"""The one evaluator: the matrix, canonical NaNs, and refusal of functions that do not keep their word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from feature_pipelines.columns import (
    Bool,
    Columns,
    Float32,
    Float64,
    Int32,
    Int64,
    Nullable,
    String,
    Strings,
    Vector,
    freeze,
)
from feature_pipelines.definitions import FeatureSet, Fitted
from feature_pipelines.errors import DefinitionError
from feature_pipelines.evaluate import (
    FeatureRaised,
    check_row_local,
    constants_from_json,
    evaluate,
    fit_constants,
)
from feature_pipelines.reasons import Reason, RowError, RowsRefused
from feature_pipelines.schema import Field, Schema

REQUEST = Schema((Field("x", Float64), Field("n", Int64), Field("s", String), Field("m", Nullable[Int32])))


def columns(n_rows: int = 3) -> dict[str, Any]:
    rows = np.arange(n_rows)
    made: dict[str, Any] = {
        "x": rows / 2.0,
        "n": rows.astype(np.int64),
        "s": Strings.of(["a", "b"][i % 2] for i in range(n_rows)),
        "m": Nullable(rows.astype(np.int32), rows > 0),
    }
    return {name: freeze(column) for name, column in made.items()}


def of(*features: Callable[..., Any], **others: Any) -> FeatureSet:
    return FeatureSet("toy", REQUEST, features, **others)


def run(feature_set: FeatureSet, given: Columns, constants: Mapping[str, Any] | None = None) -> Any:
    return evaluate(feature_set, given, constants or {}, len(given["n"]))


def doubled(x: Float64) -> Float64:
    return x * 2


def above(doubled: Float64) -> Bool:
    return doubled > 1


def narrow(n: Int64) -> Int32:
    return n.astype(np.int32)


def half_width(x: Float64) -> Float32:
    return x.astype(np.float32)


def code(s: String, *, names: Sequence[str]) -> Int64:
    return s.encode(names)


def test_matrix_has_a_row_per_feature_in_the_order_of_the_set() -> None:
    matrix = run(of(above, doubled, narrow, half_width), columns())
    assert matrix.tolist() == [[0.0, 0.0, 1.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [0.0, 0.5, 1.0]]
    assert matrix.dtype == np.float64
    assert matrix.flags.c_contiguous


def test_intermediates_are_not_in_the_matrix() -> None:
    assert run(of(above, intermediates=(doubled,)), columns()).tolist() == [[0.0, 0.0, 1.0]]


def test_constants_reach_functions_by_name() -> None:
    feature_set = of(code, fitted=(Fitted("names", lambda s: sorted(set(s.tolist())), ("s",)),))
    constants = constants_from_json(fit_constants(feature_set, columns()))
    assert constants == {"names": ("a", "b")}
    assert run(feature_set, columns(), constants).tolist() == [[0.0, 1.0, 0.0]]


def test_constants_cannot_be_changed_by_a_function() -> None:
    constants = constants_from_json({"deep": [[1, 2], [3]], "rates": {"JFK": [0.5]}, "mean": 1.5})
    assert constants == {"deep": ((1, 2), (3,)), "rates": {"JFK": (0.5,)}, "mean": 1.5}


@pytest.mark.parametrize("n_rows", [0, 1, 1024, 1025, 5000])
def test_every_nan_in_the_matrix_is_the_canonical_one(n_rows: int) -> None:
    def payload(x: Float64) -> Float64:
        return np.full(len(x), 0xFFF8000000000123, dtype=np.uint64).view(np.float64)

    def undefined(x: Float64) -> Float64:
        return (x - x) / (x - x)

    def root(x: Float64) -> Float32:
        return np.sqrt(-1 - x).astype(np.float32)

    matrix = run(of(doubled, payload, undefined, root), columns(n_rows))
    assert (matrix[1:].view(np.uint64) == 0x7FF8000000000000).all()
    assert matrix[0].tolist() == [float(i) for i in range(n_rows)]


def test_no_rows_give_an_empty_matrix() -> None:
    assert run(of(doubled, narrow), columns(0)).shape == (2, 0)


def test_infinities_and_negative_zero_pass() -> None:
    def extreme(x: Float64) -> Float64:
        return np.array([np.inf, -np.inf, -0.0])

    assert run(of(extreme), columns()).view(np.uint64).tolist() == [
        [0x7FF0000000000000, 0xFFF0000000000000, 0x8000000000000000]
    ]


def test_whole_numbers_beyond_float64_are_refused() -> None:
    def exact(n: Int64) -> Int64:
        return n + (2**53 - 2)

    assert run(of(exact), columns()).tolist() == [[2.0**53 - 2, 2.0**53 - 1, 2.0**53]]
    with pytest.raises(FeatureRaised, match="feature 'exact' raised") as caught:
        run(of(exact), columns(4))
    assert isinstance(caught.value.__cause__, OverflowError)

    def low(n: Int64) -> Int64:
        return -n - 2**53

    with pytest.raises(FeatureRaised, match="feature 'low' raised"):
        run(of(low), columns())


def test_what_a_function_raises_names_the_function() -> None:
    def broken(x: Float64) -> Float64:
        raise KeyError("a value nobody should see")

    with pytest.raises(FeatureRaised, match=r"^feature 'broken' raised$") as caught:
        run(of(doubled, broken), columns())
    assert caught.value.feature == "broken"
    assert isinstance(caught.value.__cause__, KeyError)


def test_running_out_of_memory_is_no_fault_of_the_rows() -> None:
    def huge(x: Float64) -> Float64:
        raise MemoryError

    with pytest.raises(MemoryError):
        run(of(huge), columns())


def test_inputs_cannot_be_changed() -> None:
    def greedy(x: Float64) -> Float64:
        x += 1
        return x

    with pytest.raises(FeatureRaised) as caught:
        run(of(greedy), columns())
    assert "read-only" in str(caught.value.__cause__)

    def greedy_later(doubled: Float64) -> Float64:
        doubled[0] = 5.0
        return doubled

    with pytest.raises(FeatureRaised, match="greedy_later"):
        run(of(doubled, greedy_later), columns())


def wrong_dtype(x: Float64) -> Float64:
    return x.astype(np.float32)


def wrong_length(x: Float64) -> Float64:
    return x[:-1]


def wrong_shape(x: Float64) -> Float64:
    return x.reshape(-1, 1)


def scalar(x: Float64) -> Float64:
    return 1.0  # type: ignore[return-value]


def nothing(x: Float64) -> Float64:
    return None  # type: ignore[return-value]


def nullable(m: Nullable[Int32]) -> Int32:
    return m  # type: ignore[return-value]


def plain(x: Float64) -> Nullable[Int64]:
    return x.astype(np.int64)  # type: ignore[return-value]


def few_strings(s: String) -> String:
    return Strings.of(["a"])


def short_mask(m: Nullable[Int32]) -> Nullable[Int32]:
    return Nullable(m.values, m.valid[:-1])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            wrong_dtype,
            r"feature 'wrong_dtype' declares float64 for 3 row\(s\), it returned float32 of shape \(3,\)",
        ),
        (wrong_length, r"it returned float64 of shape \(2,\)"),
        (wrong_shape, r"it returned float64 of shape \(3, 1\)"),
        (scalar, "it returned float"),
        (nothing, "it returned NoneType"),
        (nullable, "feature 'nullable' must return plain values"),
        (plain, "feature 'plain' must return Nullable values"),
        (few_strings, r"declares string for 3 row\(s\), it returned 1 string\(s\)"),
        (short_mask, "feature 'short_mask' declares int32 for 3 row"),
    ],
)
def test_a_function_must_return_what_it_declares(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        run(of(doubled, intermediates=(function,)), columns())


def test_check_row_local_accepts_features_of_one_row() -> None:
    feature_set = of(above, doubled, narrow, code, fitted=(Fitted("names", sorted, ("s",)),))
    for n_rows in (0, 1, 2, 200):
        check_row_local(feature_set, columns(n_rows), {"names": ("b",)}, n_rows)


def centred(x: Float64) -> Float64:
    return x - (x.mean() if len(x) else 0.0)


def previous(x: Float64) -> Float64:
    return np.concatenate([x[:1], x[:-1]])


def code_of_batch(s: String) -> Int64:
    return s.codes.astype(np.int64)


def odd_batches(x: Float64) -> Float64:
    return x + (len(x) == 1) * 0.5


@pytest.mark.parametrize("function", [centred, previous, code_of_batch, odd_batches])
def test_check_row_local_names_the_feature_that_looks_beside_its_row(function: Callable[..., Any]) -> None:
    with pytest.raises(
        DefinitionError, match=rf"feature '{function.__name__}' is not row-local: a row evaluated "
    ):
        check_row_local(of(doubled, function), columns(20), {}, 20)


def test_check_row_local_sees_a_change_of_one_bit() -> None:
    def signed_zero(x: Float64) -> Float64:
        return np.where(len(x) > 1, 0.0, -0.0) * np.ones(len(x))

    with pytest.raises(
        DefinitionError, match="feature 'signed_zero' is not row-local: a row evaluated alone"
    ):
        check_row_local(of(signed_zero), columns(5), {}, 5)


def powers(x: Float64) -> Vector[Float64, 3]:
    return np.stack([x, x * x, x * x * x])


def powers_sum(powers: Vector[Float64, 3]) -> Float64:
    return powers[0] + powers[1] + powers[2]


def test_a_vector_has_a_row_for_each_value_where_it_stands_in_the_set() -> None:
    feature_set = of(doubled, powers, powers_sum)
    assert feature_set.feature_names == ("doubled", "powers_0", "powers_1", "powers_2", "powers_sum")
    assert run(feature_set, columns()).tolist() == [
        [0.0, 1.0, 2.0],
        [0.0, 0.5, 1.0],
        [0.0, 0.25, 1.0],
        [0.0, 0.125, 1.0],
        [0.0, 0.875, 3.0],
    ]
    assert run(of(powers_sum, intermediates=(powers,)), columns()).tolist() == [[0.0, 0.875, 3.0]]
    assert run(feature_set, columns(0)).shape == (5, 0)


@pytest.mark.parametrize("n_rows", [1, 1024, 5000])
def test_a_vector_has_the_same_bits_in_batches_of_every_size(n_rows: int) -> None:
    def roots(x: Float64) -> Vector[Float64, 2]:
        return np.sqrt(np.stack([x - 1, 3 - x])).T.copy().T  # not C-contiguous, and NaN outside of [1, 3]

    feature_set = of(roots, powers, powers_sum)
    whole = run(feature_set, columns(5000)).view(np.uint64)
    assert np.isnan(whole.view(np.float64)).any()
    assert set(whole[np.isnan(whole.view(np.float64))].tolist()) == {0x7FF8000000000000}
    assert (run(feature_set, columns(n_rows)).view(np.uint64) == whole[:, :n_rows]).all()


def test_another_function_cannot_change_a_vector_that_it_reads() -> None:
    def greedy_last(powers: Vector[Float64, 3]) -> Float64:
        powers[2] = 0.0
        return powers[2]

    with pytest.raises(FeatureRaised, match="greedy_last") as caught:
        run(of(powers, greedy_last), columns())
    assert "read-only" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    "made", [np.zeros((3, 4)), np.zeros((4, 3)), np.zeros(3), np.zeros((3, 3), np.float32)]
)
def test_a_vector_of_another_shape_or_type_is_refused(made: Any) -> None:
    def other(x: Float64) -> Vector[Float64, 3]:
        return made

    if made.shape == (3, 4):  # what it declares
        assert run(of(other), columns(4)).shape == (3, 4)
        return
    with pytest.raises(
        DefinitionError, match=r"'other' declares vector\(float64, 3\) for 4 row\(s\), it returned float"
    ):
        run(of(other), columns(4))


def test_check_row_local_names_the_value_of_a_vector_that_looks_beside_its_row() -> None:
    def ranks(x: Float64) -> Vector[Float64, 2]:
        return np.stack([x, np.argsort(np.argsort(x)).astype(np.float64)])

    check_row_local(of(powers, powers_sum), columns(20), {}, 20)
    with pytest.raises(DefinitionError, match="feature 'ranks_1' is not row-local: a row evaluated alone"):
        check_row_local(of(powers, ranks), columns(20), {}, 20)


def not_odd(n: Int64) -> Int64:
    odd = np.flatnonzero(n % 2)
    if len(odd):
        raise RowsRefused(RowError(int(i), Reason.BAD_VALUE, "", "an odd number") for i in odd)
    return n // 2


def not_low(x: Float64, n: Int64) -> Float64:
    low = np.flatnonzero(x < 1)
    if len(low):
        raise RowsRefused(RowError(int(i), Reason.OUT_OF_RANGE, "", "too low") for i in low)
    return x + n


def test_refused_rows_are_told_with_what_the_function_reads() -> None:
    assert run(of(not_odd), columns(1)).tolist() == [[0.0]]
    with pytest.raises(RowsRefused, match=r"^2 row\(s\) refused$") as caught:
        run(of(not_odd), columns(4))
    assert caught.value.errors == [
        RowError(1, Reason.BAD_VALUE, "n", "an odd number"),
        RowError(3, Reason.BAD_VALUE, "n", "an odd number"),
    ]
    with pytest.raises(RowsRefused) as caught:
        run(of(not_low), columns(1))
    assert caught.value.errors == [RowError(0, Reason.OUT_OF_RANGE, "not_low", "too low")]


@pytest.mark.parametrize("named", [(), (3,), (-1,), (1, 1)])
def test_a_function_refuses_only_rows_that_it_was_given(named: tuple[int, ...]) -> None:
    def wild(x: Float64) -> Float64:
        raise RowsRefused(RowError(i, Reason.BAD_VALUE, "", "") for i in named)

    with pytest.raises(
        DefinitionError,
        match=r"feature 'wild' must refuse distinct rows of the 3 that it was given; it named",
    ):
        run(of(wild), columns())


def test_check_row_local_wants_refusals_of_the_row_alone() -> None:
    def not_first_of_many(x: Float64) -> Float64:
        if len(x) == 1:
            raise RowsRefused([RowError(0, Reason.BAD_VALUE, "", "alone")])
        return x

    with pytest.raises(
        DefinitionError,
        match=r"a row evaluated alone is refused for 'x' \(BAD_VALUE\), and was not among 5 rows",
    ):
        check_row_local(of(not_first_of_many), columns(5), {}, 5)
    with pytest.raises(RowsRefused):
        check_row_local(of(not_odd), columns(5), {}, 5)
