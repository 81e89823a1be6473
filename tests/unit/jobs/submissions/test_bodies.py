"""Bodies as they come: how many bytes of them are in hand, whatever becomes of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.requests import Request

from feature_pipelines.errors import ContractError
from jobs.submissions.bodies import BodyLimits, read_limited, release


def limits(**changed: Any) -> BodyLimits:
    given = {"max_body_bytes": 10, "body_timeout_seconds": 30, "max_rows": 5, "reference_root": None}
    return BodyLimits(**{**given, **changed})


def request(*parts: bytes, before: Callable[[int], None] = lambda _: None, hangs: bool = False) -> Request:
    async def messages() -> AsyncIterator[dict[str, Any]]:
        for n, part in enumerate(parts):
            before(n)
            is_last = n + 1 == len(parts) and not hangs
            yield {"type": "http.request", "body": part, "more_body": not is_last}
        await asyncio.sleep(600 if hangs else 0)
        yield {"type": "http.disconnect"}

    return Request({"type": "http", "method": "POST", "headers": []}, messages().__anext__)


def refused(asked: Request, most: BodyLimits) -> tuple[int, str]:
    with pytest.raises(ContractError) as caught:
        asyncio.run(read_limited(asked, most))
    return caught.value.evidence["status"], caught.value.evidence["code"]


def test_body_is_in_hand_from_its_first_byte_until_it_is_answered() -> None:
    most, seen = limits(), list[int]()
    asked = request(b"abc", b"defg", before=lambda _: seen.append(most.in_hand.held))
    assert asyncio.run(read_limited(asked, most)) == b"abcdefg"
    assert (seen, most.in_hand.held) == ([0, 3], 7)
    release(asked.scope)
    release(asked.scope)
    assert most.in_hand.held == 0
    release(request().scope)


def test_more_than_four_of_the_largest_are_refused_until_one_is_answered() -> None:
    most = limits()
    asked = [request(b"x" * 10) for _ in range(4)]
    for one in asked:
        asyncio.run(read_limited(one, most))
    late = request(b"x", b"y")
    assert refused(late, most) == (503, "BUSY")
    release(late.scope)
    assert most.in_hand.held == 40
    release(asked[0].scope)
    assert asyncio.run(read_limited(request(b"x" * 10), most)) == b"x" * 10


def test_one_that_no_more_fits_is_read_on_and_holds_nothing() -> None:
    most, held = limits(), list[int]()
    most.in_hand.take(38)
    asked = request(b"12", b"3", b"4", before=lambda _: held.append(most.in_hand.held))
    with pytest.raises(ContractError) as caught:
        asyncio.run(read_limited(asked, most))
    assert caught.value.evidence["retry_after"] > 0
    assert held == [38, 40, 38]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request(b"x" * 8, b"x" * 8), 413),
        (request(b"x" * 8, b"x" * 8, b"x" * 80, hangs=True), 413),
        (request(b"x" * 8, hangs=True), 408),
    ],
)
def test_whatever_becomes_of_it_nothing_stays_in_hand(asked: Request, status: int) -> None:
    most = limits(body_timeout_seconds=0.05 if status == 408 else 30)
    assert refused(asked, most)[0] == status
    release(asked.scope)
    assert most.in_hand.held == 0
