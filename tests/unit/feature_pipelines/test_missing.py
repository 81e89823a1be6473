"""What a request gets where there is no row: the view's policy, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from feature_pipelines.columns import Column, Float64, Int64, Nullable, String, Strings
from feature_pipelines.lookup import Status
from feature_pipelines.missing import apply_missing
from feature_pipelines.schema import Field, Schema
from feature_pipelines.views import FeatureView

WITHOUT_ROW = (Status.NOT_FOUND, Status.EXPIRED, Status.NULL)
FIELDS = Schema((Field("rate", Float64), Field("count", Nullable[Int64]), Field("name", Nullable[String])))


def view(**policy: object) -> FeatureView:
    return FeatureView("rates", {"town": "town"}, FIELDS, **policy)  # type: ignore[arg-type]


def columns() -> dict[str, Column]:
    """Return a found row and two null ones."""
    valid = np.array([True, False, False])
    return {
        "rate": np.array([1.5, np.nan, np.nan]),
        "count": Nullable(np.array([7, 0, 0]), valid),
        "name": Nullable(Strings.of(["a", "", ""]), valid),
    }


def statuses(*of_rows: Status) -> np.ndarray:
    return np.array(of_rows, dtype=np.int8)


@pytest.mark.parametrize("status", WITHOUT_ROW)
def test_null_policy_leaves_nulls_and_refuses_nothing(status: Status) -> None:
    found = columns()
    filled, errors = apply_missing(view(), found, statuses(Status.PRESENT, status, status))
    assert filled is found
    assert errors == []


@pytest.mark.parametrize("status", WITHOUT_ROW)
def test_defaults_take_the_place_of_nulls_where_there_is_no_row(status: Status) -> None:
    policy = view(missing="defaults", defaults={"rate": 2.5, "name": "none"})
    filled, errors = apply_missing(policy, columns(), statuses(Status.PRESENT, status, Status.OVERRIDDEN))
    assert np.array_equal(filled["rate"], [1.5, 2.5, np.nan], equal_nan=True)
    count, name = filled["count"], filled["name"]
    assert isinstance(count, Nullable)
    assert isinstance(name, Nullable)
    assert count.valid.tolist() == [True, False, False]  # no default is declared for it
    assert name.valid.tolist() == [True, True, False]
    assert name.values.tolist()[:2] == ["a", "none"]
    assert errors == []


@pytest.mark.parametrize("status", WITHOUT_ROW)
def test_reject_refuses_the_row_and_names_the_status(status: Status) -> None:
    _, (error,) = apply_missing(
        view(missing="reject"), columns(), statuses(Status.PRESENT, status, Status.OVERRIDDEN)
    )
    assert (error.row, error.code, error.field) == (1, "STORED_FEATURES_MISSING", "rates")
    assert error.message == f"view 'rates' has no row for the key: {status.name}"


@pytest.mark.parametrize("missing", [{}, {"missing": "defaults", "defaults": {}}, {"missing": "reject"}])
def test_row_that_is_not_visible_yet_is_refused_by_every_policy(missing: dict[str, object]) -> None:
    _, (error,) = apply_missing(
        view(unavailable="missing", **missing),
        columns(),
        statuses(Status.PRESENT, Status.PRESENT, Status.FUTURE),
    )
    assert (error.row, error.code, error.field) == (2, "AS_OF_BEFORE_STORE", "rates")


def test_unavailable_store_fails_the_row_unless_the_view_says_missing() -> None:
    found = statuses(Status.UNAVAILABLE, Status.PRESENT, Status.UNAVAILABLE)
    _, errors = apply_missing(view(), columns(), found)
    assert [(e.row, e.code) for e in errors] == [(0, "STORE_UNAVAILABLE"), (2, "STORE_UNAVAILABLE")]
    policy = view(unavailable="missing", missing="defaults", defaults={"rate": 9.0})
    filled, errors = apply_missing(policy, columns(), found)
    assert np.array_equal(filled["rate"], [9.0, np.nan, 9.0], equal_nan=True)
    assert errors == []
    _, errors = apply_missing(view(unavailable="missing", missing="reject"), columns(), found)
    assert [(e.row, e.code) for e in errors] == [
        (0, "STORED_FEATURES_MISSING"),
        (2, "STORED_FEATURES_MISSING"),
    ]
