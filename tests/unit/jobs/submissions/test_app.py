"""What the application around the routes sees to, for any request: what is in hand is given back, and asking costs little."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from feature_pipelines.errors import ContractError
from jobs.submissions.app import make_app
from jobs.submissions.app_routes import Gateway
from jobs.submissions.bodies import BodyLimits
from jobs.submissions.gateway_metrics import GatewayMetrics
from jobs.submissions.keys import Caller
from jobs.submissions.ledger import Overview
from tests.toy.asgi import Answer, call
from tests.toy.kept import MODEL


class Parts:
    """A gateway of fakes that remembers how often states were counted, and what was in hand when a submission was taken."""

    def __init__(self, raised: Exception) -> None:
        self.counted, self.in_hand, self.raised = 0, list[int](), raised
        self.limits = BodyLimits(1_000, 30.0, 100, None)
        self.gateway = Gateway(
            ledger=self,  # type: ignore[arg-type]
            intake=self,  # type: ignore[arg-type]
            served=SimpleNamespace(now=_Now()),  # type: ignore[arg-type]
            limits=self.limits,
            page_rows=10,
            metrics=GatewayMetrics(),
            authenticate=lambda _headers, _peer: Caller("somebody"),
            check_rate=lambda _: None,
            outbox=None,  # type: ignore[arg-type]
            check_notify=lambda _: None,
        )
        self.app = make_app(self.gateway)

    def post(self, body: bytes) -> Answer:
        return call(
            self.app,
            "/submissions",
            method="POST",
            headers={"content-type": "application/json"},
            content=body,
        )

    def overview(self) -> Overview:
        self.counted += 1
        return Overview({"queued": 7, "running": 1}, {"SCORER_CRASHED": 2}, 1, {"failed": 3})

    def take(self, *_: Any) -> Any:
        self.in_hand.append(self.limits.in_hand.held.total())
        raise self.raised


class _Now(tuple[Any, Any]):
    pinned = MODEL

    def __new__(cls) -> _Now:
        return super().__new__(cls, (MODEL, None))


def test_who_asks_often_has_the_database_asked_once() -> None:
    parts = Parts(ZeroDivisionError())
    for _ in range(5):
        assert call(parts.app, "/ready").json["checks"]["database"]["queued"] == 7
        said = call(parts.app, "/metrics").body
        assert b'onescore_async_in_state{state="queued"} 7.0' in said
        assert b'onescore_async_failed{reason="SCORER_CRASHED"} 2.0' in said
        assert b'onescore_async_notifications{state="failed"} 3.0' in said
    assert parts.counted <= 3  # once, but on a machine that takes seconds for ten requests


def test_body_is_in_hand_until_it_is_answered_whatever_the_answer() -> None:
    body = b'{"rows": [1, 2, 3]}'
    for raised, status in ((ContractError("full", status=429), 429), (ZeroDivisionError(), 500)):
        parts = Parts(raised)
        assert parts.post(body).status == status
        [held] = parts.in_hand
        assert held > 3 * len(body)
        assert not parts.limits.in_hand.held


def test_who_comes_while_too_much_is_in_hand_is_told_when_to_come_back() -> None:
    parts = Parts(ZeroDivisionError())
    assert parts.limits.in_hand.take("somebody", 32_000)
    answer = parts.post(b"{}")
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    assert answer.json["error"]["code"] == "BUSY"
    assert parts.limits.in_hand.held == {"somebody": 32_000}


def test_page_of_another_site_may_look_and_change_nothing() -> None:
    parts = Parts(ContractError("full", status=429))
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "http://["},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://localhost"},
    ):
        refused = call(parts.app, "/submissions", method="POST", headers=headers, content=b"{}")
        assert (refused.status, refused.json["error"]["code"]) == (403, "CROSS_SITE")
        assert call(parts.app, "/ping", headers=headers).status == 200


def test_who_asks_by_http_1_0_has_no_address_that_is_known() -> None:
    peers: list[str | None] = []
    parts = Parts(ZeroDivisionError())

    def authenticate(_headers: Any, peer: str | None) -> Caller:
        peers.append(peer)
        raise ContractError("nobody", status=401)

    app = make_app(dataclasses.replace(parts.gateway, authenticate=authenticate))
    for version in ("1.0", "1.1"):
        assert call(app, "/submissions", version=version).status == 401
    assert peers == [None, "127.0.0.1"]


def test_request_counts_once_however_often_it_is_asked_who_sent_it() -> None:
    counted, letting_in = list[str](), [True]

    def authenticate(_headers: Any, _peer: str | None) -> Caller:
        if not letting_in:
            raise ContractError("nobody", status=401)
        return Caller("somebody")

    parts = Parts(ZeroDivisionError())
    gateway = dataclasses.replace(parts.gateway, authenticate=authenticate, check_rate=counted.append)
    one, other = (Request({"type": "http", "http_version": "1.1", "headers": []}) for _ in range(2))
    for _ in range(3):
        assert gateway.caller(one).key_id == "somebody"
    gateway.caller(other)
    assert counted == ["somebody"] * 2
    letting_in.clear()
    with pytest.raises(ContractError, match="nobody"):
        gateway.caller(one)
