"""Bodies as they come: how many bytes of them are in hand, whatever becomes of each."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.requests import Request

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError, OnescoreError, UnavailableError
from jobs.submissions.bodies import BodyLimits, cost_of, read_limited, reckon, release, to_payload
from jobs.submissions.payload import Payload
from jobs.submissions.reference import hash_of_reference
from tests.toy.measured import NUMBERS, PICTURES


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


def read(asked: Request, most: BodyLimits, who: str = "a") -> bytes:
    return asyncio.run(read_limited(asked, most, who))


def refused(asked: Request, most: BodyLimits, who: str = "a") -> tuple[int, str]:
    with pytest.raises(ContractError) as caught:
        read(asked, most, who)
    return caught.value.evidence["status"], caught.value.evidence["code"]


def test_body_is_in_hand_from_its_first_byte_until_it_is_answered() -> None:
    most, seen = limits(), list[int]()
    asked = request(b"abc", b"defg", before=lambda _: seen.append(most.in_hand.held.total()))
    assert read(asked, most) == b"abcdefg"
    assert (seen, most.in_hand.held) == ([0, 24], {"a": 56})
    release(asked.scope)
    release(asked.scope)
    assert not most.in_hand.held
    release(request().scope)


def test_more_than_four_of_the_largest_are_refused_until_one_is_answered() -> None:
    most = limits()
    asked = [request(b"x" * 10) for _ in range(4)]
    for one in asked:
        read(one, most)
    late = request(b"x", b"y")
    assert refused(late, most, "b") == (503, "BUSY")
    release(late.scope)
    assert most.in_hand.held == {"a": 320}
    release(asked[0].scope)
    assert read(request(b"x" * 10), most, "b") == b"x" * 10


def test_one_that_no_more_fits_is_read_on_and_holds_nothing() -> None:
    most, held = limits(), list[int]()
    most.in_hand.take("b", 304)
    asked = request(b"12", b"3", b"4", before=lambda _: held.append(most.in_hand.held.total()))
    with pytest.raises(ContractError) as caught:
        read(asked, most)
    assert caught.value.evidence["retry_after"] > 0
    assert held == [304, 320, 304]


def test_uploads_of_one_key_that_stall_leave_the_others_room() -> None:
    """A key may have one of the largest, however small its share."""
    most = limits(share=0.5)
    stalled = [request(b"x" * 9, hangs=True) for _ in range(4)]

    async def all_at_once() -> bytes:
        tasks = [asyncio.create_task(read_limited(one, most, "greedy")) for one in stalled]
        await asyncio.sleep(0.01)
        found = await read_limited(request(b"y" * 10), most, "other")
        for task in tasks:
            task.cancel()
        return found

    assert asyncio.run(all_at_once()) == b"y" * 10
    assert most.in_hand.held["greedy"] == 144
    assert limits(share=0.01).in_hand.most_of_one == 80
    assert read(request(b"z" * 10), limits(share=0.01)) == b"z" * 10


def test_who_needs_no_key_is_alone_and_may_have_all() -> None:
    most = limits(share=0.5)
    for _ in range(4):
        read(request(b"x" * 10), most, "loopback")
    assert most.in_hand.held == {"loopback": 320}


def test_body_is_reckoned_when_it_is_whole_and_one_that_takes_too_much_is_refused() -> None:
    most = limits(share=0.5)
    asked, other = request(b"x"), request(b"x")
    read(asked, most)
    reckon(asked.scope, 150, most, "a")
    assert most.in_hand.held == {"a": 150}
    read(other, most)
    for cost, status in ((161, 413), (11, 503)):
        with pytest.raises(ContractError) as caught:
            reckon(other.scope, cost, most, "a")
        assert caught.value.evidence["status"] == status
    for one in (asked, other):
        release(one.scope)
    assert not most.in_hand.held


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"rows":[' + b",".join([b"[]"] * 100_000) + b"]}"),
        ("application/json", b'{"rows":[' + b",".join([b'{"a":1,"b":0.5}'] * 30_000) + b"]}"),
        ("text/csv", b"id,size,name" + b"\n,," * 50_000),
        ("text/csv", b"id,size\n" + b"1,0.25\n" * 50_000),
        (
            "multipart/form-data; boundary=b",
            b"".join(
                b'--b\r\nContent-Disposition: form-data; name="f"; filename="%d"\r\n\r\n\r\n' % i
                for i in range(2_000)
            )
            + b"--b--\r\n",
        ),
    ],
)  # fmt: skip
def test_what_a_body_is_reckoned_to_take_is_no_less_than_what_it_takes(kind: str, body: bytes) -> None:
    headers = Headers({"content-type": kind})
    most = limits(max_body_bytes=1 << 26, max_rows=1_000_000)
    feature_set = PICTURES if kind.startswith("multipart") else NUMBERS
    to_payload(body, headers, feature_set, most)  # what it needs once
    tracemalloc.start()
    to_payload(body, headers, feature_set, most)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    reserved = (
        12 * len(body) if kind.endswith("json") else 2_000_000
    )  # by orjson, which touches little of it; for a block
    assert peak - reserved <= cost_of(body, headers, feature_set)


def test_line_that_ends_in_two_characters_is_one_line() -> None:
    headers = Headers({"content-type": "text/csv"})
    lines = [b"id,size", *[b"1,0.25"] * 1_000, b""]
    unix, windows, old = (cost_of(end.join(lines), headers, NUMBERS) for end in (b"\n", b"\r\n", b"\r"))
    assert unix == old == windows - 8 * 1_001  # the bytes alone


def test_header_says_who_is_to_be_told_beside_any_body() -> None:
    form = (
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nx\r\n%s--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="notify"\r\n\r\n%s\r\n',
    )
    said = b'{"webhook": "u"}'
    for kind, body, with_notify in (
        ("application/json", b'{"rows": [1]}', b'{"rows": [1], "notify": %s}' % said),
        ("text/csv", b"id\n1\n", None),
        ("multipart/form-data; boundary=b", form[0] % b"", form[0] % (form[1] % said)),
    ):
        feature_set = PICTURES if kind.startswith("multipart") else NUMBERS

        def notify(
            text: str, sent: bytes = body, kind: str = kind, feature_set: FeatureSet = feature_set
        ) -> object:
            headers = Headers({"content-type": kind, "onescore-notify": text})
            return to_payload(sent, headers, feature_set, limits(max_body_bytes=1_000)).notify

        assert notify('{"webhook":"u"}') == {"webhook": "u"}
        if with_notify is not None:
            assert notify('{"webhook":"u"}', with_notify) == {"webhook": "u"}
            with pytest.raises(ContractError, match="says something else than the body"):
                notify('{"webhook":"v"}', with_notify)
        for malformed in ("not json", "[]", "[" * 100_000):
            with pytest.raises(ContractError, match="is not a JSON object"):
                notify(malformed)


@pytest.mark.parametrize("error", [UnavailableError("does not answer"), ContractError("gone", status=422)])
def test_reference_that_is_in_already_is_known_whatever_keeps_its_table_from_being_looked_at(
    error: OnescoreError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> Payload:
        raise error

    monkeypatch.setattr("jobs.submissions.bodies.pin_reference", refuses)
    sent = b'{"reference": "t"}', Headers({"content-type": "application/json"}), NUMBERS, limits()
    assert to_payload(*sent, lambda payload_hash: payload_hash == hash_of_reference("t")).n_rows == 0
    with pytest.raises(type(error), match=str(error)):
        to_payload(*sent)


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
    assert not most.in_hand.held
