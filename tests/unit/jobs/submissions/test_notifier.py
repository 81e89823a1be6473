"""From the end of a submission to who is told: a real HTTP sink, a real SMTP server, a database on disk."""

from __future__ import annotations

import email
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from jobs.runs.conf import load
from jobs.runs.settings_notify import NotifySettings
from jobs.submissions.database import Database
from jobs.submissions.ledger import Ledger
from jobs.submissions.ledger_chunk import Chunk
from jobs.submissions.notifier import Notifier, _pause
from jobs.submissions.outbox import Delivery, Outbox
from jobs.submissions.webhook import secret_of_caller
from tests.toy.hook_sink import HookSink, hook_sink
from tests.toy.processes import free_port, wait_until

SECRET = "a secret of more than 24 letters"
NOW = 1_700_000_000_000_000
SECOND = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sink() -> Iterator[HookSink]:
    with hook_sink() as running:
        yield running


@pytest.fixture
def mails() -> Iterator[tuple[int, list[email.message.Message]]]:
    got: list[email.message.Message] = []

    class Keeping(Message):
        def handle_message(self, message: email.message.Message) -> None:
            got.append(message)

    controller = Controller(Keeping(), hostname="127.0.0.1", port=free_port())
    controller.start()
    yield controller.port, got
    controller.stop()


def settings(**overrides: Any) -> NotifySettings:
    given = {
        "webhook_secret": "env:HOOK_SECRET",
        "webhook_http": True,
        "webhook_private": True,
        "max_attempts": 3,
        "public_url": "https://scores.example.org/",
        **overrides,
    }
    return load(model="flights", overrides=[f"notify.{k}={json.dumps(v)}" for k, v in given.items()]).notify


@pytest.fixture
def make(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Notifier]]:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    made: list[Notifier] = []

    def build(**overrides: Any) -> Notifier:
        made.append(Notifier(database, settings(**overrides), clock))
        return made[-1]

    yield build
    for notifier in made:
        notifier._pool.shutdown()


def deliver_due(notifier: Notifier) -> int:
    """Try what is due now, each once; return how much that was, when it has been tried."""
    n = notifier._begin()
    wait(list(notifier._sending))
    return n


def finish(ledger: Ledger, id_: str) -> None:
    assert ledger.store(id_, [Chunk.packed(0, 2, b'{"score":1.0}\n{"error":{}}', b"[1]\n[2]", 1)])


def test_a_worker_that_was_not_told_how_leaves_it_to_one_that_was(
    database: Database,
    clock: Clock,
    submitted: Callable[..., str],
    make: Callable[..., Notifier],
    sink: HookSink,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger = Ledger(database, clock)
    id_ = submitted(notify=json.dumps({"webhook": sink.url}))
    finish(ledger, id_)
    ignorant = make(webhook_secret=None)
    for _ in range(5):
        assert deliver_due(ignorant) == 1
        clock.now += 60 * SECOND
    assert Outbox(database).of(id_) == [
        {"kind": "webhook", "state": "pending", "attempts": 0, "reason": "NOT_CONFIGURED"}
    ]
    assert "notification_not_configured" in caplog.text
    assert deliver_due(make()) == 1
    assert [one["state"] for one in Outbox(database).of(id_)] == ["sent"]


def test_webhook_tells_how_it_ended_without_data(
    database: Database,
    clock: Clock,
    submitted: Callable[..., str],
    make: Callable[..., Notifier],
    sink: HookSink,
) -> None:
    id_ = submitted(notify=json.dumps({"webhook": sink.url}))
    ledger, notifier = Ledger(database, clock), make()
    assert deliver_due(notifier) == 0
    finish(ledger, id_)
    assert deliver_due(notifier) == 1
    [(headers, body)] = sink.got
    assert int(headers["webhook-timestamp"]) == NOW // SECOND
    assert json.loads(body) == {
        "type": "submission.succeeded",
        "timestamp": "2023-11-14T22:13:20Z",
        "data": {
            "id": id_,
            "state": "succeeded",
            "rows": 2,
            "rows_done": 2,
            "rows_refused": 1,
            "created_ts": "2023-11-14T22:13:20Z",
            "started_ts": "2023-11-14T22:13:20Z",
            "finished_ts": "2023-11-14T22:13:20Z",
            "model": "houses",
            "model_version": "3",
            "status_url": f"https://scores.example.org/submissions/{id_}",
        },
    }
    assert Outbox(database).of(id_) == [{"kind": "webhook", "state": "sent", "attempts": 1, "reason": None}]
    assert deliver_due(notifier) == 0


def test_signature_is_right_at_the_time_of_the_attempt(
    database: Database,
    clock: Clock,
    submitted: Callable[..., str],
    make: Callable[..., Notifier],
    sink: HookSink,
) -> None:
    clock.now = time.time_ns() // 1000
    id_ = submitted(notify=json.dumps({"webhook": sink.url}))
    finish(Ledger(database, clock), id_)
    deliver_due(make())
    [(headers, body)] = sink.got
    lower = {name.lower(): value for name, value in headers.items()}
    assert Webhook(secret_of_caller(SECRET, "somebody")).verify(body, lower) == json.loads(body)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret_of_caller(SECRET, "somebody else")).verify(body, lower)


def test_failure_is_told_and_cancellation_is_not(
    database: Database,
    clock: Clock,
    submitted: Callable[..., str],
    make: Callable[..., Notifier],
    sink: HookSink,
) -> None:
    told = json.dumps({"webhook": sink.url})
    failed, cancelled = submitted(1, notify=told), submitted(2, notify=told)
    ledger = Ledger(database, clock)
    assert ledger.end(failed, "failed", "SCORER_CRASHED", "it ended")
    assert ledger.end(cancelled, "cancelled")
    assert not ledger.end(failed, "failed")
    assert deliver_due(make()) == 1
    [(_, body)] = sink.got
    assert json.loads(body)["type"] == "submission.failed"
    assert json.loads(body)["data"]["reason"] == {"code": "SCORER_CRASHED", "message": "it ended"}


def test_it_is_tried_again_later_under_the_same_id_and_given_up(
    database: Database,
    clock: Clock,
    submitted: Callable[..., str],
    make: Callable[..., Notifier],
    sink: HookSink,
) -> None:
    id_ = submitted(notify=json.dumps({"webhook": sink.url}))
    finish(Ledger(database, clock), id_)
    sink.statuses[:] = [500, 503, 500]
    notifier = make()
    assert [deliver_due(notifier), deliver_due(notifier)] == [1, 0]
    clock.now += 4 * SECOND
    assert deliver_due(notifier) == 0
    clock.now += 1 * SECOND
    assert deliver_due(notifier) == 1
    clock.now += 10 * SECOND
    assert deliver_due(notifier) == 1
    assert Outbox(database).of(id_) == [
        {"kind": "webhook", "state": "failed", "attempts": 3, "reason": "HTTP_500"}
    ]
    clock.now += 10_000 * SECOND
    assert deliver_due(notifier) == 0
    ids = {{name.lower(): value for name, value in headers.items()}["webhook-id"] for headers, _ in sink.got}
    assert len(sink.got) == 3
    assert len(ids) == 1


def test_receiver_that_is_gone_is_asked_no_more(
    database: Database,
    clock: Clock,
    submitted: Callable[..., str],
    make: Callable[..., Notifier],
    sink: HookSink,
) -> None:
    id_ = submitted(notify=json.dumps({"webhook": sink.url}))
    finish(Ledger(database, clock), id_)
    sink.statuses[:] = [410]
    deliver_due(make())
    assert Outbox(database).of(id_)[0]["state"] == "failed"


def test_worker_that_died_while_sending_is_followed_by_another(
    database: Database,
    clock: Clock,
    submitted: Callable[..., str],
    make: Callable[..., Notifier],
    sink: HookSink,
) -> None:
    id_ = submitted(notify=json.dumps({"webhook": sink.url}))
    finish(Ledger(database, clock), id_)
    assert Outbox(database).claim(clock.now, 70 * SECOND, [], 4, 1)  # and then it dies
    other = make()
    assert deliver_due(other) == 0
    clock.now += 70 * SECOND
    assert deliver_due(other) == 1
    assert Outbox(database).of(id_)[0] == {"kind": "webhook", "state": "sent", "attempts": 2, "reason": None}


def test_of_many_who_look_at_once_one_has_each(
    database: Database, clock: Clock, submitted: Callable[..., str]
) -> None:
    told = json.dumps({"targets": ["ops"]})
    ledger = Ledger(database, clock)
    for n in range(20):
        finish(ledger, submitted(n, notify=told))
    claimed: list[str] = []

    def look() -> None:
        while found := Outbox(database).claim(NOW, SECOND, [], 4, 3):
            claimed.extend(one.id for one in found)

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 20
    assert len(set(claimed)) == 20


@pytest.fixture
def silent() -> Iterator[str]:
    """URL of a receiver that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_one_keys_receivers_that_do_not_answer_hold_up_no_other_key(
    database: Database,
    clock: Clock,
    submitted: Callable[..., str],
    make: Callable[..., Notifier],
    sink: HookSink,
    silent: str,
) -> None:
    ledger = Ledger(database, clock)
    for n in range(40):
        finish(ledger, submitted(n, key_id="mallory", notify=json.dumps({"webhook": f"{silent}/{n}"})))
    clock.now += 1
    finish(ledger, submitted(40, key_id="alice", notify=json.dumps({"webhook": sink.url})))
    notifier = make(timeout_seconds=60)
    assert notifier._begin() == 5
    wait_until(lambda: any(future.done() for future in notifier._sending), "alice's", 30)
    assert len(sink.got) == 1
    assert {one.key_id for future, one in notifier._sending.items() if not future.done()} == {"mallory"}


@pytest.mark.parametrize("limit", [1, 4, 16])
def test_who_has_nothing_under_way_comes_before_who_has(
    database: Database, clock: Clock, submitted: Callable[..., str], limit: int
) -> None:
    ledger, outbox = Ledger(database, clock), Outbox(database)
    for n in range(12):
        told = json.dumps({"webhook": f"http://{n}.example.org/"})
        finish(ledger, submitted(n, key_id=f"key-{n % 3}", notify=told))
        clock.now += 1
    sending: list[Delivery] = []
    while claimed := outbox.claim(clock.now, SECOND, sending, 2, limit):
        sending.extend(claimed)
    assert [one.key_id for one in sending] == ["key-0", "key-1", "key-2"] * 2


@pytest.mark.parametrize("limit", [1, 16])
@pytest.mark.parametrize(
    "told",
    [
        {"webhook": "https://hooks.example.org/{n}?a_b=%"},
        {"webhook": "https://hooks.example.org"},
        {"targets": ["ops"]},
        {"email": "a{n}@example.org"},
    ],
)
def test_to_one_place_few_are_sent_at_once_whosever_they_are(
    told: dict[str, Any], limit: int, database: Database, clock: Clock, submitted: Callable[..., str]
) -> None:
    ledger, outbox = Ledger(database, clock), Outbox(database)
    for n in range(12):
        finish(ledger, submitted(n, key_id=f"key-{n}", notify=json.dumps(told).replace("{n}", str(n))))
    clock.now += 1
    others = [{"webhook": "https://hooks.example.org.other/"}, {"targets": ["ops2"]}]
    for n, other in enumerate(others, 12):
        finish(ledger, submitted(n, notify=json.dumps(other)))
    sending: list[Delivery] = []
    while claimed := outbox.claim(clock.now, SECOND, sending, 3, limit):
        sending.extend(claimed)
    assert [one.key_id for one in sending[3:]] == ["somebody", "somebody"]


def test_what_is_being_sent_when_it_is_closed_is_waited_for(
    database: Database,
    clock: Clock,
    submitted: Callable[..., str],
    make: Callable[..., Notifier],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        id_ = submitted(notify=json.dumps({"webhook": f"http://127.0.0.1:{server.getsockname()[1]}/"}))
        finish(Ledger(database, clock), id_)
        notifier = make()
        notifier.start()
        server.settimeout(30)
        connection, _ = server.accept()
        with connection:
            connection.recv(65_536)
            closing = threading.Thread(target=notifier.close, args=(30,))
            closing.start()
            wait_until(notifier._closing.is_set, "closing", 30)
            assert Outbox(database).of(id_)[0]["state"] == "pending"
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            closing.join(30)
    assert Outbox(database).of(id_) == [{"kind": "webhook", "state": "sent", "attempts": 1, "reason": None}]


def test_what_does_not_make_it_before_it_is_closed_is_due_at_once_for_another(
    database: Database,
    clock: Clock,
    submitted: Callable[..., str],
    make: Callable[..., Notifier],
    silent: str,
) -> None:
    id_ = submitted(notify=json.dumps({"webhook": silent}))
    finish(Ledger(database, clock), id_)
    notifier = make(timeout_seconds=60)
    notifier.start()
    wait_until(lambda: bool(notifier._sending), "begun", 30)
    notifier.close(0.1)
    assert Outbox(database).of(id_) == [
        {"kind": "webhook", "state": "pending", "attempts": 0, "reason": "WORKER_ENDED"}
    ]
    assert Outbox(database).claim(clock.now, SECOND, [], 1, 1)


def test_all_that_may_be_sent_is_found_in_one_look_and_looks_in_vain_are_rare(
    database: Database, clock: Clock, submitted: Callable[..., str]
) -> None:
    ledger, outbox = Ledger(database, clock), Outbox(database)
    for n in range(30):
        finish(ledger, submitted(n, key_id=f"key-{n % 3}", notify=json.dumps({"targets": [f"t{n}"]})))
        clock.now += 1
    claimed = outbox.claim(clock.now, SECOND, [], 4, 16)
    assert [one.key_id for one in claimed] == ["key-0", "key-1", "key-2"] * 4
    assert outbox.claim(clock.now, SECOND, claimed, 4, 4) == []
    assert [_pause(*one) for one in ((0, 0.001), (0, 0.1), (0, 30.0), (3, 0.1))] == [0.25, 2.0, 5.0, 0.25]


def test_mail_reaches_a_target_and_an_address(
    database: Database,
    clock: Clock,
    submitted: Callable[..., str],
    make: Callable[..., Notifier],
    mails: tuple[int, list[email.message.Message]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port, got = mails
    base = f"mailto://127.0.0.1:{port}?from=scores@example.org&mode=insecure"
    monkeypatch.setenv("OPS_URL", base + "&to=ops@example.org")
    monkeypatch.setenv("MAIL_URL", base)
    notifier = make(targets={"ops": "env:OPS_URL"}, email="env:MAIL_URL", email_domains=["example.org"])
    id_ = submitted(notify=json.dumps({"targets": ["ops"], "email": "me+a@example.org"}))
    finish(Ledger(database, clock), id_)
    assert deliver_due(notifier) == 2
    assert [one["state"] for one in Outbox(database).of(id_)] == ["sent", "sent"]
    assert sorted(str(mail["X-RcptTo"]) for mail in got) == ["me+a@example.org", "ops@example.org"]
    for mail in got:
        assert "succeeded" in str(email.header.make_header(email.header.decode_header(mail["Subject"])))
        text = b"".join(
            part.get_payload(decode=True) or b"" for part in mail.walk() if not part.is_multipart()
        )  # type: ignore[misc]
        assert b"2 of 2 rows, 1 of them refused, houses version 3" in text
        assert f"https://scores.example.org/submissions/{id_}".encode() in text


def test_mail_server_that_is_away_is_tried_again(
    database: Database,
    clock: Clock,
    submitted: Callable[..., str],
    make: Callable[..., Notifier],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(
        "OPS_URL", "mailto://me:hunter2@127.0.0.1:9?from=a@example.org&to=b@example.org&mode=insecure"
    )
    notifier = make(targets={"ops": "env:OPS_URL"})
    id_ = submitted(notify=json.dumps({"targets": ["ops"]}))
    finish(Ledger(database, clock), id_)
    assert deliver_due(notifier) == 1
    assert Outbox(database).of(id_) == [
        {"kind": "target", "state": "pending", "attempts": 1, "reason": "NOT_TAKEN"}
    ]
    assert "hunter2" not in caplog.text


def test_deletion_takes_notifications_along(
    database: Database, clock: Clock, submitted: Callable[..., str]
) -> None:
    id_ = submitted(notify=json.dumps({"targets": ["ops"]}))
    ledger = Ledger(database, clock)
    finish(ledger, id_)
    assert len(Outbox(database).of(id_)) == 1
    ledger.delete([id_])
    assert Outbox(database).of(id_) == []
