"""Answers to online rows: looked up, overridden or refused one by one, the same bits whoever stands beside them, and never an exception."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from feature_pipelines.errors import ContractError, DefinitionError, ModelIntegrityError
from feature_pipelines.stores.base import unreadable
from jobs.online.metrics import Observed, ServingMetrics
from tests.toy.bits import bits_of
from tests.toy.house_bundle import house_wire
from tests.toy.houses import RATES
from tests.toy.memory_store import MemoryStore
from tests.toy.stored_rates import stored_rows, write_rates
from tests.toy.workspace import rate_rows
from udfs.answered import Answered
from udfs.online import OUR_FAULTS, OnlineScorer
from udfs.scorer import Scorer

DAY = 86_400_000_000
EVENT = 1_577_836_800_000_000  # 2020-01-01T00:00Z
NOW = EVENT + DAY


def rates(value: float = 3.0, floor: float = 0.5) -> dict[str, np.ndarray]:
    return {"rate_pct": np.array([value]), "rate_pct_floor": np.array([floor])}


@pytest.fixture
def store() -> MemoryStore:
    """A store with a rate for town-0 to town-4."""
    store = MemoryStore()
    for i in range(5):
        store.write(RATES, [(f"town-{i}",)], stored_rows(RATES, rates(3.0 + i), [EVENT]))
    return store


@pytest.fixture
def online(houses: Scorer, store: MemoryStore) -> OnlineScorer:
    """The toy model with that store, at a fixed time."""
    return OnlineScorer(houses, store, clock=lambda: NOW, model_version="7")


def asking(i: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a row that sends no stored field."""
    row = {name: value for name, value in house_wire(i + 1)[i].items() if not name.startswith("rate_")}
    return row | {"town": "town-1"} | changes


def test_answer_says_what_was_looked_up_and_which_model_gave_it(online: OnlineScorer, houses: Scorer) -> None:
    (answer,) = online.answer([asking()])
    assert answer["views"] == {"rates": {"status": "PRESENT", "event_ts": "2020-01-01T00:00:00Z"}}
    assert answer["as_of_ts"] == "2020-01-02T00:00:00Z"
    assert answer["overrides"] == []
    assert (answer["model"], answer["model_version"], answer["verified"]) == ("houses", "7", "verified")
    assert answer["digest"] == houses.info["digest"]
    assert answer["fingerprint"] == houses.info["feature_fingerprint"]
    assert "features" not in answer


def test_looked_up_row_has_the_bits_of_one_that_sends_the_same_values(online: OnlineScorer) -> None:
    looked_up, sent = online.answer([asking(), asking(rate_pct=4.0, rate_pct_floor=0.5)])
    assert bits_of(looked_up["score"]) == bits_of(sent["score"])
    assert sent["views"]["rates"] == {"status": "OVERRIDDEN", "event_ts": None}
    assert sent["overrides"] == ["rate_pct", "rate_pct_floor"]


def test_one_sent_field_overrides_and_the_other_is_looked_up(online: OnlineScorer) -> None:
    overridden, expected = online.answer(
        [asking(rate_pct=9.0), asking(rate_pct=9.0, rate_pct_floor=0.5)], with_features=True
    )
    assert overridden["features"] == expected["features"]
    assert overridden["features"]["rate_pct_gap"] == 8.5
    assert overridden["overrides"] == ["rate_pct"]
    assert overridden["views"]["rates"]["status"] == "PRESENT"


def test_features_are_given_on_request_and_null_is_null(online: OnlineScorer) -> None:
    (answer,) = online.answer([asking(town=None)], with_features=True)
    assert answer["views"]["rates"]["status"] == "NULL"
    assert answer["features"]["rate_pct_gap"] is None
    assert answer["features"]["rooms_or_minus_one"] == float(asking()["rooms"] or -1)
    json.dumps(answer, allow_nan=False)


def test_each_row_has_its_own_as_of_time(online: OnlineScorer) -> None:
    rows = [asking(as_of_ts=EVENT + 40 * DAY), asking(as_of_ts="2019-12-31T23:59:59Z"), asking()]
    expired, future, present = online.answer(rows)
    assert expired["views"]["rates"] == {"status": "EXPIRED", "event_ts": "2020-01-01T00:00:00Z"}
    assert future["error"]["code"] == "AS_OF_BEFORE_STORE"
    assert future["error"]["retryable"] is False
    assert present["views"]["rates"]["status"] == "PRESENT"


def test_clock_is_read_once_a_request(houses: Scorer, store: MemoryStore) -> None:
    ticks = iter(range(NOW, NOW + 10))
    online = OnlineScorer(houses, store, clock=lambda: next(ticks))
    assert len({answer["as_of_ts"] for answer in online.answer([asking(), asking(), asking()])}) == 1
    assert next(ticks) == NOW + 1


def test_one_read_for_all_rows_and_none_where_nothing_is_wanted(
    online: OnlineScorer, store: MemoryStore
) -> None:
    online.answer([asking(), asking(town="town-2"), asking(), asking(town=None), {"bad": 1}])
    assert store.reads == [[("rates", [("town-1",), ("town-2",)])]]
    online.answer([asking(rate_pct=1.0, rate_pct_floor=0.0)])
    assert len(store.reads) == 1


def test_bad_rows_get_their_errors_and_good_ones_their_scores(online: OnlineScorer) -> None:
    good = [asking(i) for i in range(4)]
    expected = [bits_of(answer["score"]) for answer in online.answer(good)]
    bad = [asking(area_m2=None), asking(as_of_ts="soon"), asking(twon="x"), asking(rate_pct="x"), 5, None]
    codes = ["NULL_NOT_ALLOWED", "BAD_TIMESTAMP", "UNKNOWN_FIELD", "WRONG_TYPE", *["UNREADABLE_ROW"] * 2]
    answers = online.answer([row for pair in zip(bad, [*good, *good[:2]], strict=True) for row in pair])
    assert [answer["error"]["code"] for answer in answers[::2]] == codes
    assert [bits_of(answer["score"]) for answer in answers[1::2]] == [*expected, *expected[:2]]
    assert all(answer["error"].keys() == {"code", "field", "message", "retryable"} for answer in answers[::2])
    assert "Did you mean 'town'?" in answers[4]["error"]["message"]


def test_store_that_is_down_refuses_what_it_was_to_answer_retryable(
    online: OnlineScorer, store: MemoryStore
) -> None:
    store.is_down = True
    refused, scored, null_key = online.answer(
        [asking(), asking(rate_pct=4.0, rate_pct_floor=0.5), asking(town=None)]
    )
    assert (refused["error"]["code"], refused["error"]["retryable"]) == ("STORE_UNAVAILABLE", True)
    assert "score" in scored
    assert "score" in null_key
    store.is_down = False
    assert bits_of(online.answer([asking()])[0]["score"]) == bits_of(scored["score"])


def test_store_of_another_schema_is_named_and_not_retryable(online: OnlineScorer, store: MemoryStore) -> None:
    def read(wanted: Any) -> Any:
        raise ContractError("view 'rates': the store holds it under schema aa, declared is bb")

    store.read = read  # type: ignore[method-assign]
    (refused,) = online.answer([asking()])
    assert (refused["error"]["code"], refused["error"]["retryable"]) == ("STORE_UNAVAILABLE", False)
    assert "schema aa, declared is bb" in refused["error"]["message"]


def test_one_unreadable_value_refuses_its_rows_alone_and_where_the_store_is_stays_in_the_log(
    online: OnlineScorer, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """A micro-batch has the rows of several clients."""
    where = "redis://host:1/0"
    store.failures[("rates", ("town-2",))] = unreadable(RATES, "is not of layout version 1", where)
    with caplog.at_level(logging.WARNING, "onescore.store"):
        good, bad, other = online.answer([asking(), asking(town="town-2"), asking(town="town-3")])
        again = online.answer([asking(town="town-2"), asking()])
    assert "score" in good
    assert "score" in other
    assert (bad["error"]["code"], bad["error"]["field"], bad["error"]["retryable"]) == (
        "STORED_VALUE_UNREADABLE", "rates", False,
    )  # fmt: skip
    assert again == [bad, good]
    assert "host" not in str(bad)
    assert [record.getMessage() for record in caplog.records] == [
        f"view 'rates': a stored value is not of layout version 1 [{where}]"
    ]


def test_view_that_was_never_materialised_is_what_it_says_and_retryable(
    online: OnlineScorer, houses: Scorer, store: MemoryStore
) -> None:
    store.is_empty = True
    (refused,) = online.answer([asking()])
    assert (refused["error"]["code"], refused["error"]["retryable"]) == ("STORE_UNAVAILABLE", True)
    assert "'rates': it was never materialised" in refused["error"]["message"]
    view = dataclasses.replace(RATES, unavailable="missing", missing="defaults", defaults={"rate_pct": 2.5})
    features = dataclasses.replace(houses.feature_set, views=(view,))
    lenient = OnlineScorer(dataclasses.replace(houses, feature_set=features), store, clock=lambda: NOW)
    (answer,) = lenient.answer([asking()])
    assert answer["views"]["rates"] == {"status": "UNAVAILABLE", "event_ts": None}
    assert "score" in answer


def test_no_rows_are_no_answers(online: OnlineScorer) -> None:
    assert online.answer([]) == []


@pytest.mark.parametrize("failure", [DefinitionError("secret"), MemoryError(), RuntimeError("secret 987654")])
def test_our_own_failure_is_an_answer_with_an_incident_id_and_no_data(
    online: OnlineScorer, store: MemoryStore, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def read(wanted: Any) -> Any:
        raise failure

    store.read = read  # type: ignore[method-assign]
    with caplog.at_level(logging.ERROR):
        answers = online.answer([asking(), asking()])
    assert [answer["error"]["code"] for answer in answers] == ["INTERNAL"] * 2
    incident = answers[0]["error"]["message"].rpartition(" ")[2]
    assert incident in caplog.text
    assert type(failure).__name__ in caplog.text
    assert "secret" not in caplog.text + str(answers)


def test_model_that_is_not_reproduced_in_this_process_is_said_by_a_code_of_its_own(
    houses: Scorer, caplog: pytest.LogCaptureFixture
) -> None:
    class NotReproduced:
        def score(self, matrix: np.ndarray) -> np.ndarray:
            raise ModelIntegrityError("the compiled loop does not reproduce the model's golden rows here")

    online = OnlineScorer(dataclasses.replace(houses, evaluator=NotReproduced()), None, clock=lambda: NOW)
    with caplog.at_level(logging.ERROR):
        (answer,) = online.answer([{**asking(), "rate_pct": 1.0, "rate_pct_floor": 0.5}])
    error = answer["error"]
    assert (error["code"], error["retryable"]) == ("MODEL_NOT_REPRODUCED", False)
    assert "the compiled loop does not reproduce" in caplog.text
    assert error["message"].rpartition(" ")[2] in caplog.text
    assert OUR_FAULTS == ("INTERNAL", "MODEL_NOT_REPRODUCED")


class Taken:
    """A log's double that keeps what it is given."""

    def __init__(self) -> None:
        self.taken: list[Answered] = []

    def write(self, answered: Answered) -> None:
        """Keep it."""
        self.taken.append(answered)


class Failing:
    """An evaluator that fails by no row's fault."""

    def score(self, matrix: np.ndarray) -> np.ndarray:
        """Raise."""
        raise MemoryError


def test_our_own_failure_is_logged_and_counted_like_any_answer(houses: Scorer, store: MemoryStore) -> None:
    log: Any = Taken()
    metrics = ServingMetrics(registry := CollectorRegistry())
    failing = dataclasses.replace(houses, evaluator=Failing())
    observed: Any = Observed(metrics, log)
    online = OnlineScorer(failing, store, clock=lambda: NOW, log=observed, model_version="7")
    answers = online.answer([asking(), 5])
    (answered,) = log.taken
    assert answered.answers == answers
    assert [answer["error"]["code"] for answer in answers] == ["INTERNAL"] * 2
    assert (answered.rows, answered.as_of, answered.served_ts) == ([asking(), 5], [NOW, NOW], NOW)
    assert answered.model.version == "7"
    assert registry.get_sample_value("onescore_rows_total") == 0
    metrics.request(200, 0.001)  # when the answer is sent
    assert registry.get_sample_value("onescore_row_errors_total", {"code": "INTERNAL"}) == 2
    assert registry.get_sample_value("onescore_rows_total") == 2
    assert registry.get_sample_value("onescore_latency_seconds_count", {"part": "model"}) == 0


def test_attempt_that_fails_is_no_answer_and_one_that_does_not_is(houses: Scorer, store: MemoryStore) -> None:
    log: Any = Taken()
    failing = OnlineScorer(
        dataclasses.replace(houses, evaluator=Failing()), store, clock=lambda: NOW, log=log
    )
    assert failing.answer([asking()], is_attempt=True)[0]["error"]["code"] == "INTERNAL"
    assert log.taken == []
    OnlineScorer(houses, store, clock=lambda: NOW, log=log).answer([asking()], is_attempt=True)
    assert len(log.taken) == 1


@pytest.mark.parametrize("broken", ["clock", "log"])
def test_our_own_failure_is_answered_although_it_cannot_be_logged(
    houses: Scorer, store: MemoryStore, broken: str
) -> None:
    class Full:
        def write(self, answered: Any) -> None:
            raise OSError("disk")

    def no_time() -> int:
        raise OSError("no clock")

    log: Any = Full() if broken == "log" else Taken()
    failing = dataclasses.replace(houses, evaluator=Failing())
    online = OnlineScorer(failing, store, clock=no_time if broken == "clock" else lambda: NOW, log=log)
    assert online.answer([asking()])[0]["error"]["code"] == "INTERNAL"


def test_log_that_fails_fails_no_answer(houses: Scorer, store: MemoryStore) -> None:
    class Broken:
        def write(self, answered: Any) -> None:
            raise OSError("disk")

    online = OnlineScorer(houses, store, clock=lambda: NOW, log=Broken())  # type: ignore[arg-type]
    assert "score" in online.answer([asking()])[0]


def test_threads_get_the_answers_they_would_get_alone(houses: Scorer, store: MemoryStore) -> None:
    online = OnlineScorer(houses, store, clock=lambda: NOW)
    rows = [asking(i % 7, town=f"town-{i % 6}") for i in range(60)]
    requests = [rows[i : i + size] for size in (1, 3, 17) for i in range(0, 60 - size, size)]
    expected = [online.answer(request) for request in requests]
    start = threading.Barrier(8)

    def client(seed: int) -> list[tuple[int, list[dict[str, Any]]]]:
        start.wait()
        order = np.random.default_rng(seed).permutation(len(requests)).tolist()
        return [(i, online.answer(requests[i])) for i in order]

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(client, range(8)):
            for i, answers in found:
                assert answers == expected[i]


def test_neighbours_order_and_number_change_no_bit(houses: Scorer, store: MemoryStore) -> None:
    through = write_rates(store, rate_rows())
    online = OnlineScorer(houses, store, clock=lambda: through)
    rows = [asking(i, town=f"town-{i % 6}" if i % 5 else None) for i in range(30)]
    expected = [bits_of(answer["score"]) for answer in online.answer(rows)]
    assert [bits_of(online.answer([row])[0]["score"]) for row in rows] == expected
    assert [bits_of(answer["score"]) for answer in online.answer(rows[::-1])] == expected[::-1]
    assert len(set(expected)) > 10


def test_answer_of_a_model_that_raises_on_a_row_is_that_rows_error(
    houses: Scorer, store: MemoryStore
) -> None:
    class Raises:
        def score(self, matrix: np.ndarray) -> np.ndarray:
            if (matrix[3] == 8.5).any():
                raise ValueError("no")
            return matrix[0]

    online = OnlineScorer(dataclasses.replace(houses, evaluator=Raises()), store, clock=lambda: NOW)
    bad, good = online.answer([asking(rate_pct=9.0), asking()])
    assert bad["error"]["code"] == "MODEL_ERROR"
    assert "score" in good
