"""What becomes of each JSON row: a score or an error, in order, and never an exception for the rows beside it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from feature_pipelines.columns import DType, Float64, Int32, Vector
from feature_pipelines.errors import DefinitionError, ModelIntegrityError
from feature_pipelines.reasons import Reason, RowError, RowsRefused
from feature_pipelines.wire import encode
from tests.toy.answers import NOW, score_rows
from tests.toy.bits import bits_of
from tests.toy.house_bundle import house_columns, house_wire
from tests.toy.parcel_scorer import parcel_scorer, wire_parcel
from udfs.rows import ScoredRows, score_columns
from udfs.scorer import OutputSpec, Scorer

PARCELS = parcel_scorer()


def verdicts(answers: list[dict[str, Any]]) -> list[str]:
    """Return the bits of each score, or the code and field of its error."""
    return [
        f"{a['error']['code']} {a['error']['field']}" if "error" in a else bits_of(a["score"])
        for a in answers
    ]


def scored_parcels(*rows: dict[str, Any]) -> ScoredRows:
    columns, errors = PARCELS.feature_set.sources.from_rows(rows)
    return score_columns(PARCELS, columns, errors, len(rows))


def test_no_rows_are_no_answers() -> None:
    assert score_rows(PARCELS, []) == []


def test_answer_of_a_row_says_which_model_gave_it() -> None:
    (answer,) = score_rows(PARCELS, [wire_parcel(0)])
    assert answer == {
        "score": 1000.0 + 0 + 0 + 25 + 1 + 1.0 + 1.0,  # parcel 0: 1 kg, 0.25 EUR, fragile, zone rate, fee
        "model": "parcels",
        "model_version": None,
        "digest": "0" * 64,
        "fingerprint": None,
        "verified": "verified",
        "as_of_ts": encode(DType("timestamp"), [NOW])[0],
        "views": {"zones": {"status": "OVERRIDDEN", "event_ts": None}},
        "overrides": ["zone_rate_eur"],
    }


def test_answer_of_a_classification_has_a_label() -> None:
    scorer = dataclasses.replace(PARCELS, output=OutputSpec("classification", 0.5))
    sums = PARCELS.evaluator

    class HalfOf:
        def score(self, matrix: np.ndarray) -> np.ndarray:
            return np.where(sums.score(matrix) > 3_000, 0.5, 0.25)

    answers = score_rows(dataclasses.replace(scorer, evaluator=HalfOf()), [wire_parcel(0), wire_parcel(5)])
    assert [(a["score"], a["label"]) for a in answers] == [(0.25, False), (0.5, True)]


BAD = {
    "NULL_NOT_ALLOWED weight_kg": {"weight_kg": None},
    "WRONG_TYPE n_items": {"n_items": 1.5},
    "OUT_OF_RANGE weight_kg": {"weight_kg": 1001},
    "INTEGER_OVERFLOW n_items": {"n_items": 2**31},
    "NOT_FINITE surcharge_eur": {"surcharge_eur": "Infinity"},
    "BAD_TIMESTAMP asked_ts": {"asked_ts": "2020-01-01T00:00:00"},
    "BAD_VALUE label_png": {"label_png": "not base64"},
    "PRECISION_LOST declared_eur": {"declared_eur": "1.234"},
    "UNKNOWN_FIELD wieght_kg": {"wieght_kg": 1.0},
    "FEATURE_ERROR handling_fee": {"n_items": 5},
    "MODEL_ERROR ": {"insured_eur": None},
    "NON_FINITE_SCORE score": {"surcharge_eur": 1e308},
}


@pytest.mark.parametrize("expected", BAD)
def test_bad_row_alone_and_beside_good_rows_gets_its_error(expected: str) -> None:
    bad = wire_parcel(1, **BAD[expected])
    good = verdicts(score_rows(PARCELS, [wire_parcel(0), wire_parcel(2)]))
    assert verdicts(score_rows(PARCELS, [bad])) == [expected]
    assert verdicts(score_rows(PARCELS, [wire_parcel(0), bad, wire_parcel(2)])) == [
        good[0],
        expected,
        good[1],
    ]


@pytest.mark.parametrize("row", [None, 1, "row", [], [["weight_kg", 1]]])
def test_row_that_is_no_object_is_unreadable(row: Any) -> None:
    answers = score_rows(PARCELS, [row, wire_parcel(0)])
    assert verdicts(answers)[0] == "UNREADABLE_ROW "
    assert "score" in answers[1]


def test_row_without_a_field_is_a_row_with_null_in_it() -> None:
    lacking = wire_parcel(0)
    del lacking["weight_kg"]
    assert verdicts(score_rows(PARCELS, [lacking])) == ["NULL_NOT_ALLOWED weight_kg"]
    lacking = wire_parcel(0)
    del lacking["label_png"]
    assert score_rows(PARCELS, [lacking]) == score_rows(PARCELS, [wire_parcel(0)])


def test_row_without_any_field_of_a_view_is_told_that_no_store_is_configured(houses: Scorer) -> None:
    row = house_wire(1)[0]
    asking = {name: value for name, value in row.items() if not name.startswith("rate_")}
    (answer,) = score_rows(houses, [asking])
    assert (answer["error"]["code"], answer["error"]["field"]) == ("STORED_FEATURES_MISSING", "rates")
    assert "send all stored fields of view 'rates'" in answer["error"]["message"]
    (answer,) = score_rows(houses, [asking | {"rate_pct": None}])
    assert "it lacks rate_pct_floor;" in answer["error"]["message"]
    (answer,) = score_rows(houses, [asking | {"rate_pct": None, "rate_pct_floor": None}])
    assert "score" in answer


def test_errors_hold_no_value_of_the_row() -> None:
    canary = 987_654
    rows = [wire_parcel(1, **{**changes, "insured_eur": canary}) for changes in BAD.values()]
    rows += [wire_parcel(1, weight_kg=canary), wire_parcel(1, n_items=canary)]
    answers = score_rows(PARCELS, rows)
    assert [a for a in answers if "error" in a]
    assert str(canary) not in str([a for a in answers if "error" in a])


def test_the_first_error_of_a_row_is_the_answer() -> None:
    row = wire_parcel(1, asked_ts="never", weight_kg=-1, n_items=5)
    assert verdicts(score_rows(PARCELS, [row])) == ["BAD_TIMESTAMP asked_ts"]


# --- bisecting


@pytest.mark.parametrize("n", [1, 2, 3, 8, 33])
@pytest.mark.parametrize("kind", ["FEATURE_ERROR handling_fee", "MODEL_ERROR ", "NON_FINITE_SCORE score"])
def test_every_guilty_row_and_no_other_is_found(n: int, kind: str) -> None:
    clean = verdicts(score_rows(PARCELS, [wire_parcel(i) for i in range(n)]))
    for guilty in ({0}, {n - 1}, {n // 2}, {i for i in range(n) if i % 3 == 0}, set(range(n))):
        rows = [wire_parcel(i, **BAD[kind] if i in guilty else {}) for i in range(n)]
        expected = [kind if i in guilty else clean[i] for i in range(n)]
        assert verdicts(score_rows(PARCELS, rows)) == expected, guilty


def test_rows_that_fail_in_several_ways_are_told_apart() -> None:
    rows = [wire_parcel(i) for i in range(20)]
    wrong = dict(zip((0, 3, 4, 5, 6, 7, 9, 10, 13, 15, 18, 19), BAD.items(), strict=True))
    for i, (_, changes) in wrong.items():
        rows[i] |= changes
    clean = verdicts(score_rows(PARCELS, [wire_parcel(i) for i in range(20)]))
    assert verdicts(score_rows(PARCELS, rows)) == [wrong[i][0] if i in wrong else clean[i] for i in range(20)]


def test_scored_rows_and_errors_are_ascending_and_together_all_rows() -> None:
    guilty = {1: {"n_items": 9}, 4: {"weight_kg": -1}, 5: {"insured_eur": None}}
    scored = scored_parcels(*(wire_parcel(i, **guilty.get(i, {})) for i in range(8)))
    assert scored.index.tolist() == [0, 2, 3, 6, 7]
    assert scored.index.dtype == np.int64
    assert [error.row for error in scored.errors] == [1, 4, 5]
    assert scored.outputs["score"].shape == (5,)


def test_no_row_left_to_score_keeps_the_type_of_the_outputs() -> None:
    for rows in ([], [wire_parcel(0, n_items=9)], [wire_parcel(0, weight_kg=-1)]):
        scored = scored_parcels(*rows)
        assert scored.index.tolist() == []
        assert scored.outputs["score"].dtype == np.float64
        assert scored.outputs["score"].shape == (0,)
        assert len(scored.errors) == len(rows)


def test_error_names_the_class_raised_and_not_its_message() -> None:
    (error,) = scored_parcels(wire_parcel(0, n_items=9)).errors
    assert error.message == "the feature raised IndexError"
    (error,) = scored_parcels(wire_parcel(0, insured_eur=None)).errors
    assert error.message == "the model raised ValueError"


@pytest.mark.parametrize("blameless", [DefinitionError, ModelIntegrityError, MemoryError, KeyboardInterrupt])
def test_what_is_no_rows_fault_is_raised(houses: Scorer, blameless: type[BaseException]) -> None:
    class Raises:
        def score(self, matrix: np.ndarray) -> np.ndarray:
            raise blameless("not the rows")

    with pytest.raises(blameless, match="not the rows"):
        score_columns(dataclasses.replace(houses, evaluator=Raises()), house_columns(3), [], 3)


def test_model_that_raises_without_rows_is_not_hidden(houses: Scorer) -> None:
    class Raises:
        def score(self, matrix: np.ndarray) -> np.ndarray:
            raise RuntimeError("always")

    with pytest.raises(RuntimeError, match="always"):
        score_columns(dataclasses.replace(houses, evaluator=Raises()), house_columns(0), [], 0)


def test_numpys_error_state_decides_nothing() -> None:
    rows = [wire_parcel(0), wire_parcel(1, surcharge_eur=1e308), wire_parcel(2, declared_eur="0.00")]
    expected = verdicts(score_rows(PARCELS, rows))
    with np.errstate(all="raise"):
        assert verdicts(score_rows(PARCELS, rows)) == expected


# --- bits


def test_order_size_and_neighbours_change_no_bit(houses: Scorer) -> None:
    rows = house_wire(50, seed=9)
    expected = verdicts(score_rows(houses, rows))
    assert len(set(expected)) > 10
    assert [verdict for row in rows for verdict in verdicts(score_rows(houses, [row]))] == expected
    assert verdicts(score_rows(houses, rows[::-1])) == expected[::-1]
    bad = {"house_id": 1}
    assert verdicts(score_rows(houses, [r for row in rows for r in (bad, row)]))[1::2] == expected


# --- refusing


def whole_kilograms(weight_kg: Float64) -> Vector[Float64, 2]:
    _refuse(weight_kg % 1 != 0, Reason.BAD_VALUE, "no whole number of kilograms")
    return np.stack([weight_kg, -weight_kg])


def few_items(n_items: Int32) -> Float64:
    _refuse(n_items >= 4, Reason.OUT_OF_RANGE, "too many items")
    return n_items.astype(np.float64)


def _refuse(refused: np.ndarray, code: Reason, message: str) -> None:
    if refused.any():
        raise RowsRefused(RowError(int(i), code, "", message) for i in np.flatnonzero(refused))


REFUSING = parcel_scorer(
    dataclasses.replace(
        PARCELS.feature_set, features=(*PARCELS.feature_set.features, whole_kilograms, few_items)
    )
)


def test_refused_rows_have_their_code_and_the_others_the_bits_that_they_have_without_them() -> None:
    changes = {
        1: {"weight_kg": 1.5},
        3: {"n_items": 4},
        4: {"weight_kg": 2.5, "n_items": 4},
        6: {"weight_kg": -1},
    }
    rows = [wire_parcel(i, **{"n_items": 1, **changes.get(i, {})}) for i in range(8)]
    good = verdicts(score_rows(REFUSING, [wire_parcel(i, n_items=1) for i in range(8)]))

    found = verdicts(score_rows(REFUSING, rows))

    assert found == [
        good[0],
        "BAD_VALUE weight_kg",
        good[2],
        "OUT_OF_RANGE n_items",
        "BAD_VALUE weight_kg",
        good[5],
        "OUT_OF_RANGE weight_kg",
        good[7],
    ]
    assert found == [verdicts(score_rows(REFUSING, [row]))[0] for row in rows]


def test_a_batch_of_refused_rows_alone_scores_none() -> None:
    rows = [wire_parcel(i, weight_kg=0.5) for i in range(3)]
    columns, errors = REFUSING.feature_set.sources.from_rows(rows)
    scored = score_columns(REFUSING, columns, errors, 3, with_features=True)
    assert [error[:3] for error in scored.errors] == [(i, Reason.BAD_VALUE, "weight_kg") for i in range(3)]
    assert scored.features is not None
    assert scored.features.shape == (len(REFUSING.feature_set.feature_names), 0)


def test_refusing_and_raising_rows_are_told_apart() -> None:
    rows = [wire_parcel(i, n_items=1) for i in range(40)]
    rows[7]["weight_kg"] = 0.5
    rows[20]["n_items"] = 9  # handling_fee raises
    rows[33]["n_items"] = 4
    found = verdicts(score_rows(REFUSING, rows))
    assert [found[i] for i in (7, 20, 33)] == [
        "BAD_VALUE weight_kg",
        "FEATURE_ERROR handling_fee",
        "OUT_OF_RANGE n_items",
    ]
    assert not any(" " in verdict for i, verdict in enumerate(found) if i not in (7, 20, 33))


def test_clean_rows_are_evaluated_once() -> None:
    asked = []

    def counted(weight_kg: Float64) -> Float64:
        asked.append(len(weight_kg))
        _refuse(weight_kg == 0.5, Reason.BAD_VALUE, "")
        return weight_kg

    scorer = parcel_scorer(dataclasses.replace(PARCELS.feature_set, features=(counted,)))
    score_rows(scorer, [wire_parcel(i) for i in range(5)])
    assert asked == [5]
    score_rows(
        scorer,
        [
            wire_parcel(0, weight_kg=0.5),
            *(wire_parcel(i) for i in range(1, 5)),
            wire_parcel(0, weight_kg=0.5),
        ],
    )
    assert asked == [5, 6, 4]
