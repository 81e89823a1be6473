"""`predict` called in process with whatever there is: it never raises, and never guesses."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from tests.toy.answers import NOW
from tests.toy.house_bundle import house_wire
from udfs.online import OnlineScorer
from udfs.pyfunc import _Answers
from udfs.scorer import Scorer


@pytest.fixture
def direct(houses: Scorer) -> Any:
    """The model without MLflow's own checks of its input before it."""
    answers = _Answers()
    answers.online = OnlineScorer(houses, None, clock=lambda: NOW)
    return answers


class _NoFrame:
    """Looks like a DataFrame, and raises when it is read."""

    columns = ("secret",)
    iloc = None

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    "not_rows", [pd.Series([1.0, 2.0]), pd.Series([{"house_id": 1}]), {"house_id": [1]}, 1]
)
def test_series_or_what_else_is_no_list_of_rows_is_one_error(direct: Any, not_rows: Any) -> None:
    (answer,) = direct.predict(None, not_rows)
    assert answer["error"]["code"] == "UNREADABLE_ROW"


def test_frame_with_a_column_twice_is_refused_row_by_row(direct: Any) -> None:
    frame = pd.DataFrame(house_wire(2))
    scored, twice = (direct.predict(None, f) for f in (frame, pd.concat([frame, frame[["rooms"]]], axis=1)))
    assert ["score" in answer for answer in scored] == [True, True]
    assert [(a["error"]["code"], a["error"]["field"]) for a in twice] == [("BAD_VALUE", "rooms")] * 2


def test_frame_that_raises_is_answered_row_by_row_without_data(direct: Any) -> None:
    answers = direct.predict(None, _NoFrame())
    assert [answer["error"]["code"] for answer in answers] == ["INTERNAL"] * 3
    assert "secret" not in str(answers)


@pytest.mark.parametrize(
    "params", [[1], "features", 5, {"features": "yes"}, {"features": 1}, {"feature": True}, {"a": {}, 7: 1}]
)
def test_parameters_that_cannot_be_read_are_every_rows_error(direct: Any, params: Any) -> None:
    answers = direct.predict(None, house_wire(2), params)
    assert [(a["error"]["code"], a["error"]["field"]) for a in answers] == [("BAD_VALUE", "params")] * 2


def test_parameters_say_whether_features_are_given(direct: Any) -> None:
    given = {True: {"features": True}, False: {"features": False}}
    for wanted, params in given.items():
        assert [("features" in a) for a in direct.predict(None, house_wire(1), params)] == [wanted]
    assert "features" not in direct.predict(None, house_wire(1), {})[0]
    assert "features" not in direct.predict(None, house_wire(1))[0]
