"""How answers are compared: by bits, refusals apart, nothing taken for equal that was not."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from feature_pipelines.errors import UnavailableError
from jobs.proof.path_answers import Answer, answer_of, as_answered
from jobs.proof.path_outcome import Outcome, compared, golden_of, outcome_table
from jobs.verify_paths import _exit_code, _verdict
from tests.toy.house_bundle import write_house_bundle
from udfs.bundle import load_bundle, read_golden
from udfs.online import OnlineScorer
from udfs.scorer import OutputSpec

WANTED = Answer(0.5, True, [1.0, math.nan])


def outcome(got: Answer, wanted: Answer = WANTED, cannot_carry: frozenset[str] = frozenset()) -> Outcome:
    return compared("p", [wanted], [got], cannot_carry=cannot_carry)


def test_equal_bits_are_equal() -> None:
    found = outcome(Answer(0.5, True, [1.0, math.nan]))
    assert (found.equal, found.n_differing, found.differing) == (1, 0, [])
    assert (found.score_bits, found.label_bits, found.feature_bits) == (0, 0, 0)


def test_what_a_path_does_not_return_is_not_compared_and_not_claimed() -> None:
    found = outcome(Answer(0.5))
    assert (found.equal, found.label_bits, found.feature_bits) == (1, None, None)


@pytest.mark.parametrize(
    ("got", "bits"),
    [
        (Answer(float(np.nextafter(0.5, 1)), True, [1.0, math.nan]), (1, 0, 0)),
        (Answer(0.5, False, [1.0, math.nan]), (0, 1, 0)),
        (Answer(0.5, True, [-1.0, math.nan]), (0, 0, 1)),
        (Answer(0.5, True, [1.0, 0.0]), (0, 0, 12)),
        (Answer(0.5, True, [1.0]), (0, 0, 128)),
    ],
)
def test_every_bit_that_differs_is_counted(got: Answer, bits: tuple[int, int, int]) -> None:
    found = outcome(got)
    assert (found.score_bits, found.label_bits, found.feature_bits) == bits
    assert (found.equal, found.n_differing, found.differing) == (0, 1, [0])
    assert found.worst_ulps == (1 if bits[0] else 0)


def test_zero_and_minus_zero_differ_in_one_bit() -> None:
    assert outcome(Answer(-0.0), Answer(0.0)).score_bits == 1


def test_refusal_that_the_path_announced_is_neither_equal_nor_a_difference() -> None:
    found = outcome(Answer(code="BAD_VALUE", field="town"), cannot_carry=frozenset({"BAD_VALUE"}))
    assert (found.equal, found.n_differing, found.cannot_carry, found.refused) == (0, 0, {"BAD_VALUE": 1}, {})


def test_path_that_refuses_every_row_proves_nothing() -> None:
    refusal, carried = Answer(code="BAD_VALUE"), frozenset({"BAD_VALUE"})
    nothing = compared("stock-csv", [WANTED] * 2, [refusal] * 2, cannot_carry=carried)
    assert (nothing.n_differing, nothing.is_all_refused, _exit_code([nothing])) == (0, True, 1)
    assert "    it refused every row: BAD_VALUE 2" in outcome_table([nothing]).splitlines()
    assert _verdict([nothing]) == "NOT EQUAL on stock-csv"
    some = compared("stock-csv", [WANTED] * 2, [refusal, WANTED], cannot_carry=carried)
    assert (some.is_all_refused, _exit_code([some])) == (False, 0)
    assert not Outcome("stock-csv", 2, status="skipped").is_all_refused


def test_any_other_refusal_is_a_difference() -> None:
    found = outcome(Answer(code="WRONG_TYPE"), cannot_carry=frozenset({"BAD_VALUE"}))
    assert (found.equal, found.n_differing, found.cannot_carry, found.refused) == (
        0,
        1,
        {},
        {"WRONG_TYPE": 1},
    )


def test_row_that_every_path_refuses_must_be_refused_for_the_same_reason() -> None:
    never = Answer(code="NULL_NOT_ALLOWED", field="a")
    assert outcome(never, never).equal == 1
    assert outcome(Answer(0.5), never).n_differing == 1
    assert outcome(Answer(code="NO_ANSWER"), never).n_differing == 1


def test_table_has_a_line_a_path_and_says_what_is_wrong() -> None:
    wrong = compared("lean-inputs", [WANTED] * 2, [WANTED, Answer(code="WRONG_TYPE")])
    apart = compared("stock-csv", [WANTED], [Answer(code="BAD_VALUE")], cannot_carry=frozenset({"BAD_VALUE"}))
    failed = Outcome("pyfunc", 2, status="failed", problem="could not be asked: no server")
    loose = compared("online", [WANTED], [Answer(0.5, verified="tolerance")])
    lines = outcome_table([wrong, apart, failed, loose]).splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "path",
        "lean-inputs",
        "stock-csv",
        "pyfunc",
        "online",
    ]
    assert lines[1].split() == ["lean-inputs", "2", "1", "1", "0", "0", "0", "-", "0.0"]
    assert "    rows that differ: 1; worst score by 0 ULP" in lines
    assert "    refused, and should not be: WRONG_TYPE 1" in lines
    assert "BAD_VALUE 1" in next(line for line in lines if line.startswith("stock-csv"))
    assert "    could not be asked: no server" in lines
    assert "    the model that answered says: tolerance" in lines


def test_online_answer_is_read_with_its_features_in_order() -> None:
    said = {
        "score": 0.5,
        "label": True,
        "features": {"b": None, "a": "Infinity"},
        "digest": "d",
        "verified": "verified",
    }
    found = answer_of(said, ["a", "b"])
    assert found.features is not None
    assert found.features[0] == math.inf
    assert math.isnan(found.features[1])
    assert (found.score, found.label, found.digest) == (0.5, True, "d")
    refused = answer_of({"error": {"code": "WRONG_TYPE", "field": "a", "message": ""}}, [])
    assert (refused.code, refused.field) == ("WRONG_TYPE", "a")


CLASSES = Answer(0.5, "b", [1.0], classes={"score_a": 0.25, "score_b": 0.5, "score_c": 0.25})


@pytest.mark.parametrize(
    ("got", "bits"),
    [
        (CLASSES, (0, 0)),
        (dataclasses.replace(CLASSES, label="c"), (0, 1)),
        (
            dataclasses.replace(
                CLASSES, classes={**CLASSES.classes, "score_c": float(np.nextafter(0.25, 1))}
            ),
            (1, 0),
        ),
        (dataclasses.replace(CLASSES, classes={"score_a": 0.25, "score_b": 0.5}), (256, 0)),
        (dataclasses.replace(CLASSES, classes=dict(reversed(CLASSES.classes.items()))), (256, 0)),
        (dataclasses.replace(CLASSES, classes=None), (256, 0)),
    ],
)
def test_every_class_is_compared_by_name_and_bits(got: Answer, bits: tuple[int, int]) -> None:
    found = outcome(got, CLASSES)
    assert (found.score_bits, found.label_bits) == bits
    assert found.equal == (bits == (0, 0))


def test_answer_of_several_classes_is_read_by_their_names() -> None:
    said = {"score": 0.5, "label": "b", "score_a": "NaN", "score_b": 0.5, "model": "m"}
    found = answer_of(said, [])
    assert (found.label, list(found.classes or {})) == ("b", ["score_a", "score_b"])
    assert math.isnan((found.classes or {})["score_a"])
    assert answer_of({"score": 0.5, "label": True}, []).classes is None


def test_golden_rows_of_several_classes_are_expected_with_each(tmp_path: Path) -> None:
    output = OutputSpec("classification", classes=("cheap", "fair", "dear"))
    write_house_bundle(tmp_path / "m", output=output)
    golden = golden_of(read_golden(tmp_path / "m"))
    scorer = load_bundle(tmp_path / "m")
    answers = OnlineScorer(scorer, None, clock=lambda: 1).answer(list(golden.rows), with_features=True)
    names = scorer.feature_set.feature_names
    found = compared("p", golden.expected, [answer_of(said, names) for said in answers])
    assert (found.equal, found.label_bits, found.score_bits) == (64, 0, 0)
    assert {answer.label for answer in golden.expected} == {"cheap", "fair", "dear"}


def test_answers_that_are_not_one_a_row_are_no_answers() -> None:
    with pytest.raises(UnavailableError, match="p: 1 answers to 2 rows"):
        as_answered("p", [1], [1, 2])


def test_golden_rows_are_what_the_bundle_replays(tmp_path: Path) -> None:
    write_house_bundle(tmp_path / "bundle")
    scorer = load_bundle(tmp_path / "bundle")
    golden = golden_of(read_golden(tmp_path / "bundle"))
    columns, errors = scorer.feature_set.sources.from_rows(golden.rows)
    assert errors == []
    scores = scorer.score(columns, len(golden.rows))
    assert [answer.score for answer in golden.expected] == scores.outputs["score"].tolist()
    features = np.array([answer.features for answer in golden.expected]).T
    assert features.tobytes() == scores.matrix.tobytes()
    assert (len(golden.rows), golden.digest) == (64, scorer.info["digest"])
