"""HTTP through a gateway: routes, refusals with codes, and answers that fit what Lambda returns."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from jobs.proof.path_functions import gateway_event
from jobs.serverless.function import Function
from jobs.serverless.gateways import answer_gateway, answer_of_size, is_gateway
from tests.toy.functions import PLENTY, opened, package_of
from tests.toy.house_bundle import house_wire

BODY = json.dumps({"inputs": house_wire(2)}).encode()


def ask(function: Function, event: Any) -> tuple[int, Any, dict[str, str]]:
    reply = answer_gateway(function, event, PLENTY)
    assert set(reply) == {"statusCode", "headers", "body", "isBase64Encoded"}
    is_json = reply["headers"]["Content-Type"] == "application/json"
    return reply["statusCode"], json.loads(reply["body"]) if is_json else reply["body"], reply["headers"]


def post(version: int, route: str, body: bytes = BODY, content_type: str = "application/json") -> Any:
    return gateway_event(version, "POST", route, body, content_type)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("route", ["/", "/invocations", "/some/mapping/invocations/"])
def test_rows_are_scored_below_any_stage_or_mapping(function: Function, version: int, route: str) -> None:
    status, content, headers = ask(function, post(version, route))
    assert (status, headers) == (200, {"Content-Type": "application/json"})
    assert [set(answer) >= {"score", "verified", "views"} for answer in content["predictions"]] == [True] * 2


def test_v1_and_v2_give_one_answer_and_features_are_asked_for_in_either_way(function: Function) -> None:
    with_params = json.dumps({"inputs": house_wire(2), "params": {"features": True}}).encode()
    said = [
        ask(function, event)[1]
        for event in (
            post(1, "/invocations?features=true"),
            post(2, "/invocations?features=true"),
            post(1, "/invocations", with_params),
            {
                **post(2, "/invocations"),
                "body": base64.b64encode(with_params).decode(),
                "isBase64Encoded": True,
            },
        )
    ]
    assert said[0] == said[1] == said[2] == said[3]
    assert "area_squared" in said[0]["predictions"][0]["features"]


@pytest.mark.parametrize("route", ["/ping", "/health", "/version"])
def test_what_the_function_is_can_be_asked(function: Function, route: str) -> None:
    status, content, _ = ask(function, gateway_event(1, "GET", route))
    assert status == 200
    if route == "/version":
        assert content["model"] == "houses"
        assert (content["model_version"], content["verified"]) == ("3", "verified")
        assert content["materialised_through"] == {"rates": "2020-04-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("event", "status", "code"),
    [
        (post(1, "/else"), 404, "NOT_FOUND"),
        (gateway_event(2, "GET", "/invocations"), 405, "METHOD_NOT_ALLOWED"),
        (post(2, "/ping"), 405, "METHOD_NOT_ALLOWED"),
        (post(2, "/invocations", b"town\n", "text/csv"), 415, "UNSUPPORTED_MEDIA_TYPE"),
        (post(1, "/invocations", b'{"inputs": ["town-1"'), 400, "MALFORMED_JSON"),
        (post(1, "/invocations", b'{"rows": []}'), 400, "UNKNOWN_FORM"),
        (post(1, "/invocations", b'{"inputs": [], "inputs": []}'), 400, "DUPLICATE_FIELD"),
        (post(2, "/invocations?what=1"), 400, "BAD_PARAMS"),
        (post(2, "/invocations", b'{"inputs": [' + b"1," * 50_000 + b"1]}"), 413, "TOO_MANY_ROWS"),
        ({**post(2, "/invocations"), "body": "???", "isBase64Encoded": True}, 400, "MALFORMED_BODY"),
        ({**post(2, "/invocations"), "body": None}, 400, "MALFORMED_JSON"),
        ({**post(1, "/invocations"), "body": '{"inputs": [{"town": "a\ud800b"}]}'}, 400, "MALFORMED_JSON"),
        (post(1, "/invocations", b'{"inputs": [], "town-1": 1}'), 400, "UNKNOWN_FORM"),
        (post(2, "/invocations", b'{"inputs": [], "params": {"town-1": 1}}'), 400, "BAD_PARAMS"),
        ({**post(1, "/invocations"), "headers": None}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({**post(1, "/invocations"), "headers": {"content-type": "\ud800"}}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({**post(2, "/invocations"), "headers": ["town-1"]}, 400, "MALFORMED_EVENT"),
        ({**post(1, "/invocations"), "headers": "town-1"}, 400, "MALFORMED_EVENT"),
        ({**post(1, "/invocations"), "queryStringParameters": ["town-1"]}, 400, "MALFORMED_EVENT"),
        (
            {**post(1, "/invocations"), "multiValueQueryStringParameters": {"town-1": 1}},
            400,
            "MALFORMED_EVENT",
        ),
        ({**post(1, "/invocations"), "queryStringParameters": {"\ud800": "town-1"}}, 400, "MALFORMED_EVENT"),
        ({**post(2, "/invocations"), "body": {"town-1": 1}, "isBase64Encoded": True}, 400, "MALFORMED_BODY"),
    ],
)
def test_request_that_cannot_be_answered_gets_a_code_and_no_data(
    function: Function, event: Any, status: int, code: str
) -> None:
    found, content, headers = ask(function, event)
    assert (found, content["error"]["code"]) == (status, code)
    assert set(content["error"]) == {"code", "message"}
    assert "town-1" not in json.dumps(content)
    assert (headers.get("Allow") is not None) == (status == 405)


def test_limits_of_body_and_answer_hold_as_lambda_counts_them(bundle: Path, tmp_path: Path) -> None:
    small = opened(package_of(tmp_path / "app", bundle, max_body_bytes=1_000))
    assert ask(small, post(1, "/", BODY + b" " * 1_000))[:2] == (
        413,
        {"error": {"code": "BODY_TOO_LARGE", "message": "the body has more than 1000 bytes"}},
    )
    whole = opened(package_of(tmp_path / "whole", bundle))
    event = post(2, "/invocations")
    _, content, _ = ask(whole, event)
    plain = len(json.dumps(content, separators=(",", ":")))
    less = opened(package_of(tmp_path / "less", bundle, max_answer_bytes=plain + 100))
    status, content, _ = ask(less, event)  # its quotes take two bytes each within the event's answer
    assert (status, content["error"]["code"]) == (413, "ANSWER_TOO_LARGE")
    more = opened(package_of(tmp_path / "more", bundle, max_answer_bytes=2 * plain))
    assert ask(more, event)[0] == 200
    assert answer_of_size({"predictions": ["x" * 100]}, 50)["error"]["code"] == "ANSWER_TOO_LARGE"  # type: ignore[index]


def test_time_that_is_over_is_said_with_when_to_ask_again(function: Function) -> None:
    from jobs.serverless.deadline import Deadline

    reply = answer_gateway(function, post(1, "/invocations"), Deadline(lambda: 10, 500))
    assert (reply["statusCode"], reply["headers"]["Retry-After"]) == (503, "1")
    assert json.loads(reply["body"])["error"]["code"] == "OUT_OF_TIME"


def test_gateway_events_are_told_from_others() -> None:
    assert is_gateway(post(1, "/"))
    assert is_gateway(post(2, "/"))
    assert not is_gateway({"inputs": []})
    assert not is_gateway({"Records": [], "requestContext": {"functionArn": "x"}})
