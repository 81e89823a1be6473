from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from feature_pipelines.errors import ConfigurationError
from jobs.submissions.webhook import post_webhook, secret_bytes, signed_headers
from tests.toy.hook_sink import HookSink, hook_sink

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
BODY = b'{"type":"submission.succeeded"}'


@pytest.fixture
def sink() -> Iterator[HookSink]:
    with hook_sink() as running:
        running.status = 204
        yield running


def send(url: str, *, allow_private: bool = True, seconds: float = 10, **options: Any) -> str | None:
    now = int(datetime.now(UTC).timestamp())
    headers = signed_headers(secret_bytes(SECRET), "a" * 32, now, BODY)
    return post_webhook(url, BODY, headers, timeout_seconds=seconds, allow_private=allow_private, **options)


def test_receivers_library_takes_it_and_nothing_else(sink: HookSink) -> None:
    assert send(sink.url) is None
    [(headers, body)] = sink.got
    assert headers["webhook-id"] == "a" * 32
    assert headers["content-type"] == "application/json"
    assert Webhook(SECRET).verify(body, headers) == json.loads(BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body + b" ", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(base64.b64encode(b"other" * 8).decode()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body, {**headers, "webhook-id": "b" * 32})


def test_request_sent_again_later_is_told_by_its_time(sink: HookSink) -> None:
    old = int(datetime.now(UTC).timestamp()) - 3600
    headers = signed_headers(secret_bytes(SECRET), "a" * 32, old, BODY)
    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(SECRET).verify(BODY, headers)
    fresh = {**headers, "webhook-timestamp": str(old + 3600)}
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(SECRET).verify(BODY, fresh)


def test_redirects_are_not_followed(sink: HookSink) -> None:
    sink.status, sink.headers = 307, {"location": sink.url}
    assert send(sink.url) == "HTTP_307"
    assert len(sink.got) == 1


@pytest.mark.parametrize("status", [400, 410, 500])
def test_any_other_status_is_named(sink: HookSink, status: int) -> None:
    sink.status = status
    assert send(sink.url) == f"HTTP_{status}"


def test_forbidden_addresses_get_nothing_whatever_they_are_called(sink: HookSink) -> None:
    assert send(sink.url, allow_private=False) == "FORBIDDEN_ADDRESS"
    named = sink.url.replace("127.0.0.1", "hooks.example.org")
    rebound: Callable[[str, int], list[str]] = lambda host, port: ["127.0.0.1"]  # noqa: E731
    assert send(named, allow_private=False, resolve=rebound) == "FORBIDDEN_ADDRESS"
    assert sink.got == []


def test_who_does_not_answer_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert send(f"http://127.0.0.1:{silent.getsockname()[1]}/", seconds=0.3) == "TIMEOUT"
        port = silent.getsockname()[1]
    assert send(f"http://127.0.0.1:{port}/") == "NO_ANSWER"


def test_server_without_a_certificate_that_can_be_checked_gets_nothing(sink: HookSink) -> None:
    assert send(sink.url.replace("http://", "https://")) == "NO_ANSWER"
    assert sink.got == []


def test_secrets() -> None:
    assert secret_bytes(SECRET) == b"k" * 32
    assert secret_bytes("plain text of 24 letters") == b"plain text of 24 letters"
    with pytest.raises(ConfigurationError, match="24 bytes or more, got 5"):
        secret_bytes("short")
    with pytest.raises(ConfigurationError, match="must be base64"):
        secret_bytes("whsec_!")
