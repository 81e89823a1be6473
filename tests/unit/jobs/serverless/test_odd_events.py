"""Events of any shape: a handler answers, or raises a code; no part of an event is in a message, which the platform keeps and shows."""

from __future__ import annotations

import copy
import io
import json
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
from cloudevents.http import CloudEvent
from werkzeug.test import EnvironBuilder

from jobs import serve_function, serve_lambda
from jobs.proof.path_functions import gateway_event
from jobs.serverless.aws_events import Objects
from jobs.serverless.function import Function
from jobs.serverless.gateways import is_gateway
from jobs.serverless.objects import Gone, open_sink
from tests.toy.functions import s3_event
from tests.toy.house_bundle import house_wire

SECRET = "town-1"
ODD: list[Any] = [
    None,
    True,
    7,
    [],
    {},
    SECRET,
    "\ud800",
    [SECRET],
    [[SECRET]],
    {SECRET: SECRET},
    {"x": {SECRET: 1}},
]
BODY = json.dumps({"inputs": house_wire(1)}).encode()
EVENTS: dict[str, Any] = {
    "gateway v1": gateway_event(1, "POST", "/invocations?features=true", BODY),
    "gateway v2": gateway_event(2, "POST", "/invocations?features=true", BODY),
    "queue": {
        "Records": [
            {"messageId": number, "body": body, "eventSource": "aws:sqs", "receiptHandle": "r"}
            for number, body in (
                ("a", BODY.decode()),
                ("b", json.dumps(s3_event("in", "k.json", "e", 5))),
            )
        ]
    },
    "upload": s3_event("in", "k.json", "e", 5, "v"),
    "EventBridge": {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "detail": {"bucket": {"name": "in"}, "object": {"key": "k.json", "size": 5, "etag": "e"}},
    },
    "direct": {"inputs": house_wire(1), "params": {"features": True}},
}


class Context:
    """Lambda's."""

    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        """Return plenty."""
        return 60_000


class NoObjects:
    """A store of objects in which there are none."""

    def fetch(self, bucket: str, key: str, *, version: str, etag: str, max_bytes: int) -> bytes:
        """See ObjectStore."""
        raise Gone

    def has(self, bucket: str, key: str) -> bool:
        """See ObjectStore."""
        return False

    def put_once(self, bucket: str, key: str, content: bytes) -> bool:
        """See ObjectStore."""
        return False


@pytest.fixture
def running(function: Function, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Function:
    """The function, behind both handlers."""
    made = function, Objects(open_sink, lambda kind: NoObjects(), f"file://{tmp_path}/results")
    for module in (serve_lambda, serve_function):
        monkeypatch.setattr(module, "opened", lambda: made)
    return function


def altered(event: Any) -> Iterator[Any]:
    """Yield the event with each of its parts left out, and replaced by each odd value."""
    for path in _paths(event):
        for odd in [*ODD, ...]:
            made = copy.deepcopy(event)
            within = made
            for step in path[:-1]:
                within = within[step]
            if odd is ...:
                del within[path[-1]]
            else:
                within[path[-1]] = odd
            yield made


def _paths(event: Any) -> Iterator[tuple[Any, ...]]:
    steps = event.items() if isinstance(event, dict) else enumerate(event) if isinstance(event, list) else ()
    for step, part in steps:
        yield (step,)
        yield from ((step, *rest) for rest in _paths(part))


def code_of(failed: BaseException) -> str:
    """Return the code by which an event failed, after looking whether anything else is shown."""
    said = "".join(traceback.format_exception(failed))
    assert SECRET not in said
    assert (failed.__context__, failed.__cause__) == (None, None)
    assert re.fullmatch(r"[A-Z_]+", str(failed)), str(failed)
    return str(failed)


@pytest.mark.parametrize("kind", EVENTS)
def test_lambda_answers_an_odd_event_or_fails_with_a_code_alone(running: Function, kind: str) -> None:
    n_failed = n_answered = 0
    for event in altered(EVENTS[kind]):
        try:
            said = serve_lambda.handler(event, Context())
        except serve_lambda.EventFailed as failed:
            assert not is_gateway(event), event
            code_of(failed)
            n_failed += 1
            continue
        n_answered += 1
        if is_gateway(event):
            assert set(said) == {"statusCode", "headers", "body", "isBase64Encoded"}
            assert said["statusCode"] != 500, event
            if said["statusCode"] != 200:
                assert set(json.loads(said["body"])["error"]) == {"code", "message"}
                assert SECRET not in said["body"]
        elif "error" in said:
            assert SECRET not in json.dumps(said)
    assert n_answered
    assert (n_failed > 0) == (kind not in ("gateway v1", "gateway v2", "direct"))


@pytest.mark.parametrize(
    "event", [*ODD, {"Records": [{"eventSource": "aws:sqs"}]}, {"requestContext": {"http": 1}}]
)
def test_lambda_takes_what_is_no_event_at_all(running: Function, event: Any) -> None:
    codes = []
    try:
        said = serve_lambda.handler(event, Context())
    except serve_lambda.EventFailed as failed:
        codes.append(code_of(failed))
    else:
        assert SECRET not in json.dumps(said)
    assert codes == (["MALFORMED_EVENT"] if isinstance(event, dict) and "Records" in event else [])


def test_defect_of_ours_is_500_through_a_gateway_and_a_code_elsewhere(
    running: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(running, "answer", broken)
    said = serve_lambda.handler(EVENTS["gateway v2"], Context())
    assert (said["statusCode"], json.loads(said["body"])["error"]["code"]) == (500, "INTERNAL")
    assert SECRET not in said["body"]
    with pytest.raises(serve_lambda.EventFailed) as failed:
        serve_lambda.handler(EVENTS["direct"], Context())
    assert code_of(failed.value) == "INTERNAL"


def test_event_that_failed_is_found_in_the_log_by_the_platforms_number(
    running: Function, caplog: pytest.LogCaptureFixture
) -> None:
    finalized = {"id": "event-1", "type": "google.cloud.storage.object.v1.finalized", "source": "//gcs"}
    with caplog.at_level("INFO", "onescore.serve"):
        with pytest.raises(serve_lambda.EventFailed, match="UNKNOWN_EVENT"):
            serve_lambda.handler({"Records": [SECRET]}, Context())
        with pytest.raises(serve_function.EventFailed, match="INTERNAL"):
            serve_function.uploaded(CloudEvent(finalized, {"name": SECRET}))
    facts = [record.facts for record in caplog.records if hasattr(record, "facts")]
    assert [(one["request_id"], one["code"]) for one in facts] == [
        ("request-1", "UNKNOWN_EVENT"),
        ("event-1", "INTERNAL"),
    ]
    assert SECRET not in caplog.text + json.dumps(facts)


UPLOADED = {"bucket": "in", "name": "k.json", "generation": "7", "etag": "e", "size": "5"}


def test_odd_cloud_event_does_nothing_or_fails_with_a_code_alone(running: Function) -> None:
    codes = set()
    for data in [*ODD, *altered(UPLOADED)]:
        event = CloudEvent({"type": "google.cloud.storage.object.v1.finalized", "source": "//gcs"}, data)
        try:
            serve_function.uploaded(event)
        except serve_function.EventFailed as failed:
            codes.add(code_of(failed))
    assert codes == {"INTERNAL"}


def test_size_of_an_object_that_is_given_unpacked_is_not_known() -> None:
    assert serve_function._upload(UPLOADED).size == 5
    assert serve_function._upload({**UPLOADED, "contentEncoding": "gzip"}).size == 0


class Broken(io.RawIOBase):
    """A body that ends in a failure whose message holds data."""

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fail."""
        raise OSError(SECRET)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"wsgi": {"wsgi.input": Broken()}}, 500, "INTERNAL"),
        ({"content_type": "t\u00f6wn-1"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"headers": {"Content-Encoding": SECRET}}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"query_string": f"{SECRET}=%ff"}, 400, "BAD_PARAMS"),
        ({"data": b"\xff"}, 400, "MALFORMED_JSON"),
        ({"method": SECRET}, 405, "METHOD_NOT_ALLOWED"),
        ({"path": f"/{SECRET}"}, 404, "NOT_FOUND"),
    ],
)
def test_odd_request_to_the_framework_gets_a_code_and_no_data(
    running: Function, changes: dict[str, Any], status: int, code: str
) -> None:
    asked = {"path": "/", "method": "POST", "content_type": "application/json", "data": BODY, **changes}
    wsgi = asked.pop("wsgi", {})
    environ = EnvironBuilder(**{"headers": None, **asked}).get_environ()
    body, found, headers = serve_function.score(flask.Request({**environ, **wsgi}))
    assert (found, json.loads(body)["error"]["code"]) == (status, code)
    assert SECRET.encode() not in body
    assert headers["Content-Type"] == "application/json"
