"""Requests that are scored together: each gets the answers it would get alone, bit for bit, and pays for no other."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_pipelines.errors import ContractError
from jobs.online.batching import Batcher, Overloaded, score_together
from jobs.online.protocol import Asked
from tests.toy.house_bundle import house_wire
from tests.toy.memory_store import MemoryStore
from tests.toy.stored_rates import write_rates
from tests.toy.workspace import rate_rows
from udfs.bundle import load_bundle
from udfs.online import OUR_FAULTS, OnlineScorer

N = 60
ROWS = house_wire(N)


@pytest.fixture(scope="module")
def online(bundle: Path) -> OnlineScorer:
    """The toy model with a store, as of a time when all of its rows are visible."""
    store: Any = MemoryStore()
    now = write_rates(store, rate_rows())
    return OnlineScorer(load_bundle(bundle), store, clock=lambda: now, model_version="1")


def asking(i: int, kind: str) -> Any:
    row: dict[str, Any] = {name: v for name, v in ROWS[i].items() if not name.startswith("rate_")}
    row |= {"overridden": {"rate_pct": 2.0}, "bad": {"area_m2": "x"}}.get(kind, {})
    return None if kind == "none" else row


REQUEST = st.tuples(
    st.lists(
        st.tuples(st.integers(0, N - 1), st.sampled_from(["", "overridden", "bad", "none"])), max_size=5
    ),
    st.booleans(),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(REQUEST, min_size=1, max_size=8))
def test_answers_together_are_the_answers_alone_bit_for_bit(
    online: OnlineScorer, drawn: list[tuple[list[tuple[int, str]], bool]]
) -> None:
    batch = [Asked([asking(i, kind) for i, kind in rows], [], features) for rows, features in drawn]
    together = score_together(online.answer, batch)
    alone = [online.answer(asked.rows, with_features=asked.with_features) for asked in batch]
    assert json.dumps(together) == json.dumps(alone)


def test_failure_of_ours_hits_the_request_at_fault_alone(online: OnlineScorer) -> None:
    logged: list[int] = []

    def answer(rows: Any, *, is_attempt: bool = False, **options: Any) -> list[dict[str, Any]]:
        if any(row.get("house_id") == 3 for row in rows):
            logged.extend([] if is_attempt else [len(rows)])
            return [{"error": {"code": "INTERNAL", "message": "incident 1"}}] * len(rows)
        return online.answer(rows, **options)

    batch = [Asked([asking(i, "")], [], False) for i in range(5)]
    answers = score_together(answer, batch)
    assert ["error" in of[0] for of in answers] == [False, False, False, True, False]
    assert logged == [1]  # the attempt at all of them was nobody's answer


class Held:
    """An OnlineScorer's double that answers when it is let, and remembers what came together."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.together: list[int] = []

    def answer(self, rows: Any, **_: Any) -> list[dict[str, Any]]:
        """Wait, then return each row."""
        self.go.wait(10)
        self.together.append(len(rows))
        return list(rows)


def body(i: int) -> bytes:
    return json.dumps({"inputs": [{"i": i}]}).encode()


def test_those_that_wait_go_together_and_large_ones_hold_up_nobody() -> None:
    async def scenario() -> None:
        held: Any = Held()
        batcher = Batcher(held, max_waiting=100, max_rows=100_000)
        first = asyncio.ensure_future(batcher.answer(body(0), False))
        await asyncio.sleep(0.05)
        others = [asyncio.ensure_future(batcher.answer(body(i), False)) for i in range(1, 20)]
        await asyncio.sleep(0.05)
        assert not first.done()
        held.go.set()
        found = await asyncio.gather(first, *others)
        assert [json.loads(text)["predictions"] for text in found] == [[{"i": i}] for i in range(20)]
        assert held.together == [1, 19]

        held.go.clear()
        large = asyncio.ensure_future(
            batcher.answer(json.dumps({"inputs": [{"i": i} for i in range(9_000)]}).encode(), False)
        )
        await asyncio.sleep(0.1)
        held.answer, waited = (lambda rows, **_: list(rows)), held.answer  # the next is not held
        assert json.loads(await batcher.answer(body(7), False))["predictions"] == [{"i": 7}]
        assert not large.done()
        held.answer = waited
        held.go.set()
        assert len(json.loads(await large)["predictions"]) == 9_000
        batcher.close()

    asyncio.run(scenario())


def test_more_than_may_wait_are_refused_and_others_answered() -> None:
    async def scenario() -> None:
        held: Any = Held()
        batcher = Batcher(held, max_waiting=3, max_rows=10)
        running = [asyncio.ensure_future(batcher.answer(body(i), False)) for i in range(1)]
        await asyncio.sleep(0.05)
        running += [asyncio.ensure_future(batcher.answer(body(i), False)) for i in range(1, 4)]
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded):
            await batcher.answer(body(9), False)
        held.go.set()
        assert len(await asyncio.gather(*running)) == 4
        assert b'"i":5' in await batcher.answer(body(5), False)
        batcher.close()

    asyncio.run(scenario())


def test_broken_body_among_good_ones_is_refused_alone(online: OnlineScorer) -> None:
    async def scenario() -> list[Any]:
        batcher = Batcher(online, max_waiting=100, max_rows=10)
        bodies = [json.dumps({"inputs": [asking(1, "")]}).encode(), b"{", b'{"inputs": []}']
        found = await asyncio.gather(*(batcher.answer(b, False) for b in bodies), return_exceptions=True)
        batcher.close()
        return list(found)

    good, broken, empty = asyncio.run(scenario())
    assert b'"score"' in good
    assert isinstance(broken, ContractError)
    assert empty == b'{"predictions":[]}'


@pytest.mark.parametrize("code", OUR_FAULTS)
def test_incident_is_an_error_of_the_whole_request(code: str) -> None:
    class Failing:
        def answer(self, rows: Any, **_: Any) -> list[dict[str, Any]]:
            return [{"error": {"code": code, "message": "incident 77"}}] * len(rows)

    async def scenario() -> None:
        failing: Any = Failing()
        batcher = Batcher(failing, max_waiting=100, max_rows=10)
        with pytest.raises(ContractError, match="incident 77") as refused:
            await batcher.answer(body(1), False)
        assert refused.value.evidence["status"] == 500
        assert refused.value.evidence["code"] == code
        batcher.close()

    asyncio.run(scenario())
