"""One scorer: the bits of the model, one as-of a request, W in every answer, and refusals that say whether to ask again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from feature_pipelines.errors import ConfigurationError, ContractError, ModelIntegrityError
from feature_pipelines.stores.opening import open_store
from jobs.online.protocol import Asked
from jobs.serverless.deadline import Deadline
from jobs.serverless.function import Function
from tests.toy.answers import NOW
from tests.toy.functions import PLENTY, opened, opened_slow, package_of
from tests.toy.house_bundle import house_wire
from tests.toy.serving import asking
from udfs.bundle import load_bundle
from udfs.online import OnlineScorer


def asked(rows: Sequence[Any], **more: Any) -> Asked:
    return Asked(rows, more.get("refused", ()), more.get("with_features", False))


def test_answers_are_those_of_the_scorer_with_w_of_the_shipped_store(
    function: Function, bundle: Path, store: tuple[Path, int]
) -> None:
    path, through = store
    rows = [*asking(40, through), *asking(3, through - 90 * 86_400_000_000), {"house_id": "x"}]
    online = OnlineScorer(
        load_bundle(bundle), open_store(f"sqlite:///{path}"), clock=lambda: NOW, model_version="3"
    )
    expected = online.answer(rows)
    found = function.answer(asked(rows), PLENTY)
    assert {answer["materialised_through"]["rates"] for answer in found} == {"2020-04-01T00:00:00Z"}
    assert [{k: v for k, v in a.items() if k != "materialised_through"} for a in found] == expected
    assert {a["views"]["rates"]["status"] for a in found if "views" in a} >= {"PRESENT", "NOT_FOUND"}
    assert sum("error" in answer for answer in found) >= 2  # one row is broken, and older rows are FUTURE


def test_request_is_cut_up_without_changing_an_answer_and_has_one_as_of(package: Path, bundle: Path) -> None:
    times = iter(range(NOW, NOW + 10))
    function = opened(package)
    function._clock._clock = lambda: next(times)
    rows = house_wire(2_500)
    rows[2_400] = None
    found = function.answer(asked(rows, with_features=True), PLENTY)
    alone = OnlineScorer(load_bundle(bundle), None, clock=lambda: NOW, model_version="3")
    expected = alone.answer(rows, with_features=True)
    assert [{**a, "materialised_through": 0} for a in found] == [
        {**a, "materialised_through": 0} for a in expected
    ]
    assert len({answer["as_of_ts"] for answer in found if "as_of_ts" in answer}) == 1
    assert found[2_400]["error"]["code"] == "UNREADABLE_ROW"


def test_errors_that_the_parser_found_stay_with_their_rows(function: Function) -> None:
    from feature_pipelines.reasons import Reason, RowError

    rows = house_wire(1_500)
    broken = [RowError(i, Reason.BAD_VALUE, "town", "twice") for i in (0, 999, 1_000, 1_499)]
    found = function.answer(asked(rows, refused=broken), PLENTY)
    assert [i for i, answer in enumerate(found) if "error" in answer] == [0, 999, 1_000, 1_499]


def test_rows_that_would_outlast_the_time_are_refused_before_they_are_begun(function: Function) -> None:
    left = iter([60_000.0, 400.0])
    with pytest.raises(ContractError, match="nearly over") as refused:
        function.answer(asked(house_wire(1_001)), Deadline(lambda: next(left), 500))
    assert refused.value.evidence["status"] == 503


def test_request_that_would_outlast_the_time_by_what_earlier_ones_took_is_not_begun(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, now = opened_slow(package, monkeypatch, 0.8)
    function.answer(asked(house_wire(2)), PLENTY)
    with pytest.raises(ContractError, match="nearly over"):
        function.answer(asked(house_wire(2)), Deadline(lambda: 1_200, 500))
    assert now == [0.8]
    function.close()


@pytest.mark.parametrize("code", ["INTERNAL", "MODEL_NOT_REPRODUCED"])
@pytest.mark.parametrize("at", [1, 1_004])
def test_fault_of_ours_in_any_row_refuses_the_request(
    function: Function, monkeypatch: pytest.MonkeyPatch, code: str, at: int
) -> None:
    answer = function.online.answer
    n_answered = [0]

    def partly(rows: Sequence[Any], **more: Any) -> Any:
        found = answer(rows, **more)
        n_answered[0] += len(rows)
        if n_answered[0] > at:
            found[at % 1_000] = {"error": {"code": code, "field": "", "message": "ours", "retryable": False}}
        return found

    monkeypatch.setattr(function.online, "answer", partly)
    with pytest.raises(ContractError, match="^ours$") as refused:
        function.answer(asked(house_wire(1_010)), PLENTY)
    assert (refused.value.evidence["status"], refused.value.evidence["code"]) == (500, code)


def test_more_requests_at_once_than_may_are_refused(package: Path, bundle: Path, tmp_path: Path) -> None:
    function = opened(package_of(tmp_path / "app", bundle, max_concurrent=1))
    nested: list[Any] = []

    def again() -> float:
        if not nested:
            nested.append("asking")
            with pytest.raises(ContractError, match="too many requests") as refused:
                function.answer(asked(house_wire(1)), PLENTY)
            nested.append(refused.value.evidence["code"])
        return 60_000.0

    assert len(function.answer(asked(house_wire(1)), Deadline(again, 0))) == 1
    assert nested == ["asking", "OVERLOADED"]
    assert len(function.answer(asked(house_wire(1)), PLENTY)) == 1


def test_defect_of_ours_is_an_incident_and_no_stack_trace(
    function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("tailnum N14228")

    monkeypatch.setattr(function.online, "answer", broken)
    with pytest.raises(ContractError, match="incident [0-9a-f]{12}$") as refused:
        function.answer(asked(house_wire(1)), PLENTY)
    assert (refused.value.evidence["status"], "N14228" in str(refused.value)) == (500, False)


def test_no_rows_no_answers(function: Function) -> None:
    assert function.answer(asked([]), PLENTY) == []


def test_store_of_the_environment_wins_over_the_snapshot(package: Path, tmp_path: Path) -> None:
    found = opened(package, ONESCORE_STORE_URL=f"sqlite:///{tmp_path}/nothing.db")
    (answer,) = found.answer(asked(asking(1, NOW)), PLENTY)
    assert (answer["error"]["code"], answer["error"]["retryable"]) == ("STORE_UNAVAILABLE", True)
    assert "materialised_through" not in answer


def test_sink_that_is_none_is_refused_at_the_start(package: Path) -> None:
    with pytest.raises(ConfigurationError, match="sink 's3:/typo': expected s3://bucket/prefix"):
        opened(package, ONESCORE_SINK="s3:/typo")


def test_package_that_was_tampered_with_or_is_of_another_machine_does_not_open(
    bundle: Path, tmp_path: Path
) -> None:
    package = package_of(tmp_path / "app", bundle)
    assert not (package / "model" / "estimator.skops").exists()
    facts = json.loads((package / "onescore.json").read_text())
    (package / "onescore.json").write_text(json.dumps({**facts, "runtime": "cpython-27 vax"}))
    with pytest.raises(ConfigurationError, match="built for cpython-27 vax, and this is cpython-3"):
        opened(package)
    (package / "onescore.json").write_text(json.dumps({**facts, "digest": "0" * 64}))
    with pytest.raises(ModelIntegrityError, match="the registry holds 000000000000"):
        opened(package)
    (package / "onescore.json").write_text(json.dumps(facts))
    golden = package / "model" / "golden.json"
    golden.write_text(golden.read_text().replace('"rows": 64', '"rows": 63'))
    with pytest.raises(ModelIntegrityError, match="changed: golden.json"):
        opened(package)
