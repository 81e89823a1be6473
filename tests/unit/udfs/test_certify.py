"""Certification finds each way in which bits can depend on how an evaluator is asked, and names the row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from feature_pipelines.columns import Columns
from feature_pipelines.evaluate import constants_from_json, fit_constants
from feature_pipelines.schema_arrow import columns_from_arrow
from tests.toy import every_type, houses
from tests.toy.every_type_rows import hard_rows
from tests.toy.house_bundle import house_columns
from udfs import certify as certify_module
from udfs.certify import Certificate, Condition, certify, certify_forms

Matrix = NDArray[np.float64]
CONDITIONS = [
    "again",
    "alone",
    "batches of 2 to 33",
    "batches of 127 to 129",
    "10,000 rows",
    "permuted",
    "beside nulls",
    "strided, reversed and Fortran order",
    "2 to 4 native threads",
    "two Python threads at once",
]


class Asked:
    """Scores each row by itself, then lets a fault change some scores by one unit in the last place."""

    def __init__(self, fault: Callable[[Matrix], Any] | None = None) -> None:
        self.fault = fault
        self.calls: list[Matrix] = []

    def score(self, matrix: Matrix) -> Matrix:
        self.calls.append(matrix)
        scores = 2.0 + np.nan_to_num(np.sqrt(matrix[0])) + matrix[1]
        if self.fault is not None:
            where = np.broadcast_to(self.fault(matrix), scores.shape)
            scores = np.where(where, np.nextafter(scores, np.inf), scores)
        return np.asarray(scores)


def rows(n: int = 300) -> Matrix:
    matrix = np.random.default_rng(0).uniform(1, 2, (3, n))
    matrix[2] = np.arange(n)
    return matrix


def differing(certificate: Certificate) -> set[str]:
    return {one.name for one in certificate.conditions if one.differing}


def named(certificate: Certificate, name: str) -> Condition:
    (found,) = [one for one in certificate.conditions if one.name == name]
    return found


def test_scores_that_depend_on_the_row_alone_are_invariant_under_each_condition() -> None:
    certificate = certify(Asked(), rows())
    assert [one.name for one in certificate.conditions] == CONDITIONS
    assert certificate.is_invariant
    assert certificate.worst is None
    assert all(one.rows > 0 for one in certificate.conditions)
    assert certificate.rows == 300
    assert certificate.seconds > 0


def test_each_documented_way_of_asking_is_asked() -> None:
    asked = Asked()
    certify(asked, rows())
    sizes = {matrix.shape[1] for matrix in asked.calls}
    assert {*range(1, 34), 127, 128, 129, 300, 600, 10_000} <= sizes
    assert any(not m.flags.forc for m in asked.calls)
    assert any(m.flags.f_contiguous and not m.flags.c_contiguous for m in asked.calls)
    assert any(m.strides[1] < 0 for m in asked.calls)
    assert any(np.isnan(m[:, 1::2]).all() and not np.isnan(m[:, ::2]).any() for m in asked.calls)
    assert {m[2, 0] for m in asked.calls if m.shape[1] == 1} == set(range(300))  # each row alone


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (lambda m: m.shape[1] == 1, "alone"),
        (lambda m: m.shape[1] == 33, "batches of 2 to 33"),
        (lambda m: m.shape[1] == 2, "batches of 2 to 33"),
        (lambda m: m.shape[1] == 129, "batches of 127 to 129"),
        (lambda m: m.shape[1] >= 4_096, "10,000 rows"),
        (lambda m: np.isnan(m).any(), "beside nulls"),
        (lambda m: not m.flags.forc, "strided, reversed and Fortran order"),
        (lambda m: m.strides[0] < m.strides[1] and m.shape[1] > 1, "strided, reversed and Fortran order"),
        (lambda m: threading.current_thread() is not threading.main_thread(), "two Python threads at once"),
    ],
)
def test_a_dependence_is_found_under_its_condition(fault: Callable[[Matrix], Any], found: str) -> None:
    certificate = certify(Asked(fault), rows())
    assert not certificate.is_invariant
    assert differing(certificate) - {"2 to 4 native threads"} == {found}  # which asks for a few sizes too
    assert named(certificate, found).worst_ulps == 1


def test_a_dependence_on_the_place_in_the_batch_is_found_by_permutation() -> None:
    certificate = certify(Asked(lambda m: np.arange(m.shape[1]) == 200), rows())
    assert "permuted" in differing(certificate)
    assert "alone" not in {one.name for one in certificate.conditions if one.differing and one.rows == 1}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("n", [40, 1])
def test_a_dependence_on_native_threads_is_found(n: int, threads: int) -> None:
    def depends(matrix: Matrix) -> bool:
        with_many = any(pool["num_threads"] > 1 for pool in threadpool_info())
        return matrix.shape[1] == n and with_many

    with threadpool_limits(threads):
        found = differing(certify(Asked(depends), rows(40)[:, :40]))
        assert {pool["num_threads"] for pool in threadpool_info()} == {threads}  # the limits were put back
    assert found == {"2 to 4 native threads"}


@pytest.mark.parametrize("wanted", [2, 3, 4])
def test_a_dependence_on_how_many_native_threads_there_are_is_found_whatever_the_cores(wanted: int) -> None:
    def depends(matrix: Matrix) -> bool:
        return any(pool["num_threads"] == wanted for pool in threadpool_info())

    with threadpool_limits(1):
        certificate = certify(Asked(depends), rows(40)[:, :40])
    assert differing(certificate) == {"2 to 4 native threads"}
    assert f"on {wanted} threads" in named(certificate, "2 to 4 native threads").note


def test_scores_that_change_from_call_to_call_are_found_first() -> None:
    rng = np.random.default_rng(0)
    certificate = certify(Asked(lambda m: rng.random(m.shape[1]) < 0.5), rows(), until_one_differs=True)
    assert [one.name for one in certificate.conditions] == ["again"]


def test_the_worst_row_and_distance_are_named() -> None:
    class Off:
        def score(self, matrix: Matrix) -> Matrix:
            scores = np.ones(matrix.shape[1])
            if matrix.shape[1] == 1:
                ulps = {17.0: 5, 40.0: 3}.get(float(matrix[2, 0]), 0)
                scores.view(np.int64)[:] += ulps
            return scores

    certificate = certify(Off(), rows(60))
    worst = certificate.worst
    assert worst == named(certificate, "alone")
    assert (worst.differing, worst.worst_ulps, worst.worst_row) == (2, 5, 17)
    assert worst.rows == 60
    content = certificate.to_json()
    assert content["invariant"] is False
    assert content["conditions"][1] == {
        "name": "alone",
        "rows": 60,
        "differing": 2,
        "worst_ulps": 5,
        "worst_row": 17,
        "note": "one row",
    }


def test_until_one_differs_stops_there() -> None:
    certificate = certify(Asked(lambda m: m.shape[1] == 33), rows(), until_one_differs=True)
    assert [one.name for one in certificate.conditions] == CONDITIONS[:3]


def test_the_first_rows_are_scored_alone_whatever_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify_module, "_SECONDS", 0.0)
    asked = Asked()
    certify(asked, rows(), first=[60, 61, 63])
    alone = [m[2, 0] for m in asked.calls if m.shape[1] == 1]
    assert {60.0, 61.0, 63.0} <= set(alone)


def test_an_evaluator_that_takes_no_nan_is_not_measured_beside_nulls() -> None:
    class Strict(Asked):
        def score(self, matrix: Matrix) -> Matrix:
            if np.isnan(matrix).any():
                raise ValueError("Input contains NaN\nand more")
            return super().score(matrix)

    certificate = certify(Strict(), rows())
    assert named(certificate, "beside nulls") == Condition(
        "beside nulls", 0, note="the estimator takes no NaN: Input contains NaN"
    )
    assert certificate.is_invariant


def test_a_slow_evaluator_is_asked_for_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify_module, "_SECONDS", 0.05)

    class Slow(Asked):
        def score(self, matrix: Matrix) -> Matrix:
            time.sleep(matrix.shape[1] * 5e-5)
            return super().score(matrix)

    certificate = certify(Slow(), rows(20_000))
    assert 64 <= certificate.rows < 4_096
    many = certificate.conditions[CONDITIONS.index("10,000 rows")]
    assert many.rows < 10_000
    assert many.name == f"{many.rows:,} rows"
    assert named(certificate, "alone").rows < 1_000


def test_rows_of_every_part_are_certified_and_golden_ones_before_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows may come sorted: the first 4,096 of them would be of one kind."""
    monkeypatch.setattr(certify_module, "_MOST_ROWS", 400)
    golden = list(range(0, 20_000, 1_000))
    asked = Asked()
    certificate = certify(asked, rows(20_000), first=golden)
    used = max((m for m in asked.calls if m.shape[1] == 400), key=lambda m: m[2].max())[2]
    assert certificate.rows == 400
    assert set(golden) <= set(used)
    assert np.histogram(used, 10, (0, 20_000))[0].min() > 20
    alone = {m[2, 0] for m in asked.calls if m.shape[1] == 1}
    assert set(golden) <= alone
    again = Asked()
    certify(again, rows(20_000), first=golden)
    assert {m[2, 0] for m in again.calls if m.shape[1] == 1} == alone


def test_worst_row_of_a_sample_is_named_by_its_place_among_the_rows_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(certify_module, "_MOST_ROWS", 400)
    fault = Asked(lambda m: (m[2] == 19_000) & (m.shape[1] == 1))
    found = named(certify(fault, rows(20_000), first=[19_000]), "alone")
    assert (found.differing, found.worst_row) == (1, 19_000)


@pytest.mark.parametrize("n", [1, 2, 20])
def test_few_rows_do(n: int) -> None:
    certificate = certify(Asked(), rows(n))
    assert certificate.is_invariant
    assert named(certificate, "alone").rows == n
    assert named(certificate, "10,000 rows").rows == 10_000


def test_no_row_proves_nothing() -> None:
    assert not certify(Asked(), rows(0)).is_invariant


# --- JSON and Arrow


@pytest.mark.parametrize("name", ["houses", "every_type"])
def test_features_of_json_and_of_arrow_have_the_same_bits(name: str) -> None:
    columns: Columns
    if name == "houses":
        feature_set, columns = houses.FEATURES, house_columns(300)
    else:
        (batch,) = hard_rows(300).combine_chunks().to_batches()
        feature_set = every_type.FEATURES
        columns, errors = columns_from_arrow(feature_set.sources, batch)
        assert errors == []
    constants = constants_from_json(fit_constants(feature_set, columns))
    assert certify_forms(feature_set, constants, columns, 300) == Condition("JSON and Arrow", 300)


@pytest.mark.parametrize("form", ["json", "arrow"])
def test_a_form_that_changes_a_value_is_found_and_the_feature_named(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(certify_module, f"_through_{form}")

    def broken(feature_set: Any, columns: Columns) -> Columns:
        built = dict(real(feature_set, columns))
        built["area_m2"] = np.array(built["area_m2"])
        built["area_m2"][7] = np.nextafter(built["area_m2"][7], np.inf)
        return built

    monkeypatch.setattr(certify_module, f"_through_{form}", broken)
    columns = house_columns(300)
    constants = constants_from_json(fit_constants(houses.FEATURES, columns))
    found = certify_forms(houses.FEATURES, constants, columns, 300)
    assert (found.differing, found.worst_row) == (1, 7)
    assert found.note == f"feature area_squared from {'JSON' if form == 'json' else 'Arrow'}"
    assert 1 <= found.worst_ulps <= 4
