"""Who may do what with submissions, and who is told of them, over HTTP: real gateways and workers."""

from __future__ import annotations

import base64
import http.client
import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from standardwebhooks.webhooks import Webhook

from tests.toy.hook_sink import hook_sink
from tests.toy.processes import wait_until
from tests.toy.serving import asking, write_store
from tests.toy.submitting import JSON, open_async

pytestmark = pytest.mark.e2e
SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
NOTIFY = (
    "notify.webhook_secret=env:HOOK_SECRET",
    "notify.webhook_http=true",
    "notify.webhook_private=true",
    "notify.retry_seconds=0.1",
)


@pytest.fixture(scope="module")
def place(bundle, process_env, tmp_path_factory):
    directory = tmp_path_factory.mktemp("access")
    env = {**process_env, "HOOK_SECRET": SECRET}
    with open_async(directory, env, bundle, *NOTIFY) as opened:
        opened.through = write_store(directory / "online.db")
        yield opened


def keys_job(place, *arguments):
    return place.job("manage_keys", *arguments)


@pytest.fixture(scope="module")
def keys(place):
    made = [keys_job(place, "add", name) for name in ("anna", "bert")]
    assert [one.returncode for one in made] == [0, 0], made
    assert ["the first key" in one.stderr for one in made] == [True, False]
    return [one.stdout.strip() for one in made]


@pytest.fixture(scope="module")
def gateway(place, keys):
    return place.gateway()


@pytest.fixture(scope="module")
def worker(place, keys):
    return place.worker()


def bearer(key):
    return JSON | {"authorization": f"Bearer {key}"}


def body(place, n=3, **more):
    return json.dumps({"rows": asking(n, place.through), **more}).encode()


def done(gateway, id_, key):
    while True:
        found = json.loads(gateway.call("GET", f"/submissions/{id_}", headers=bearer(key))[2])
        if found["state"] in ("succeeded", "failed"):
            return found
        time.sleep(0.02)


@pytest.fixture
def sink():
    with hook_sink() as running:
        yield running


def test_once_there_is_a_key_nobody_is_let_in_without_one(place, gateway, keys):
    for method, path in [
        ("POST", "/submissions"),
        ("GET", "/submissions"),
        ("GET", f"/submissions/{'0' * 32}"),
    ]:
        sent = body(place) if method == "POST" else None
        assert gateway.error(method, path, sent) == (401, "UNAUTHENTICATED")
        assert gateway.error(method, path, sent, bearer("osk_guessed")) == (401, "UNAUTHENTICATED")
    status, headers, _ = gateway.call("GET", "/submissions")
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert gateway.call("GET", "/ping")[0] == 200


def test_what_is_anothers_does_not_exist(place, gateway, worker, keys):
    anna, bert = keys
    sent = bearer(anna) | {"idempotency-key": "mine"}
    status, _, text = gateway.call("POST", "/submissions", body(place), sent)
    assert status == 202
    id_ = json.loads(text)["id"]
    done(gateway, id_, anna)
    for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/results.csv"), ("GET", "/results.ndjson")]:
        assert gateway.error(method, f"/submissions/{id_}{path}", headers=bearer(bert)) == (404, "NOT_FOUND")
    assert json.loads(gateway.call("GET", "/submissions", headers=bearer(bert))[2])["submissions"] == []
    assert [
        one["id"]
        for one in json.loads(gateway.call("GET", "/submissions", headers=bearer(anna))[2])["submissions"]
    ] == [id_]
    again = gateway.call("POST", "/submissions", body(place), bearer(bert) | {"idempotency-key": "mine"})
    assert again[0] == 202
    assert json.loads(again[2])["id"] != id_


def test_revoked_key_is_refused_soon_and_a_new_one_is_let_in(place, gateway, keys):
    made = keys_job(place, "add", "guest")
    guest = made.stdout.strip()
    assert guest not in made.stderr
    wait_until(lambda: gateway.call("GET", "/submissions", headers=bearer(guest))[0] == 200, "known", 30)
    assert keys_job(place, "revoke", "guest").returncode == 0
    wait_until(lambda: gateway.call("GET", "/submissions", headers=bearer(guest))[0] == 401, "refused", 30)
    listed = keys_job(place, "list").stdout
    assert [line.split()[0] for line in listed.splitlines()] == ["anna", "bert", "guest"]
    assert "revoked" in listed.splitlines()[2]
    assert guest not in listed
    twice = keys_job(place, "add", "guest")
    assert twice.returncode == 2
    assert "a name is used once" in twice.stderr
    assert guest not in "".join(path.read_text() for path in place.directory.glob("*.log"))


def test_revoked_keys_dashboard_ends(place, gateway, keys):
    guest = keys_job(place, "add", "watcher").stdout.strip()
    wait_until(lambda: gateway.call("GET", "/submissions", headers=bearer(guest))[0] == 200, "known", 30)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    connection.request("GET", "/dashboard/events", headers=bearer(guest))
    stream = connection.getresponse()
    assert stream.status == 200
    assert stream.readline().startswith(b"retry")
    assert keys_job(place, "revoke", "watcher").returncode == 0
    while stream.readline():
        pass
    connection.close()


def test_who_asks_too_often_is_told_when_to_come_again(place, keys):
    anna, bert = keys
    slow = place.gateway("submissions.max_requests_per_second=2")
    statuses = [slow.call("GET", "/submissions", headers=bearer(anna)) for _ in range(12)]
    refused = [headers for status, headers, _ in statuses if status == 429]
    assert refused
    assert all(int(headers["retry-after"]) >= 1 for headers in refused)
    assert statuses[0][0] == 200
    assert slow.call("GET", "/submissions", headers=bearer(bert))[0] == 200
    slow.kill()


def test_gateway_without_a_key_is_not_opened_to_other_machines(bundle, process_env, tmp_path):
    with open_async(tmp_path, process_env, bundle) as opened:
        running = opened.start("serve_async", "--host", "0.0.0.0", "--port", "0")
        assert running.process.wait(120) == 2
        assert "no API key was made; make one with" in running.output.read_text()


def test_webhook_comes_signed_and_again_until_it_is_taken(place, gateway, worker, keys, sink):
    anna = keys[0]
    sink.statuses[:] = [500, 500]
    sent = body(place, notify={"webhook": sink.url})
    id_ = json.loads(gateway.call("POST", "/submissions", sent, bearer(anna))[2])["id"]
    assert done(gateway, id_, anna)["state"] == "succeeded"

    def told():
        return json.loads(gateway.call("GET", f"/submissions/{id_}", headers=bearer(anna))[2])[
            "notifications"
        ]

    wait_until(lambda: told()[0]["state"] == "sent", "told", 30)
    assert told() == [{"kind": "webhook", "state": "sent", "attempts": 3, "reason": None}]
    assert len({headers["webhook-id"] for headers, _ in sink.got}) == 1
    secret = keys_job(place, "webhook", "anna").stdout.strip()
    assert secret not in (SECRET, keys_job(place, "webhook", "bert").stdout.strip())
    mistyped = keys_job(place, "webhook", "ana")
    assert (mistyped.returncode, mistyped.stdout) == (2, "")
    assert "there is no key named 'ana'. Did you mean 'anna'? Available: anna, bert, " in mistyped.stderr
    for headers, text in sink.got:
        said = Webhook(secret).verify(text, headers)
        assert said["type"] == "submission.succeeded"
        assert (said["data"]["id"], said["data"]["rows_done"]) == (id_, 3)
        assert "results" not in said["data"]


def test_who_cannot_be_told_is_said_at_once_and_nothing_is_taken(place, gateway, keys):
    anna = keys[0]
    before = len(json.loads(gateway.call("GET", "/submissions", headers=bearer(anna))[2])["submissions"])
    for notify in (
        {"targets": ["ops"]},
        {"email": "me@example.org"},
        {"webhook": "ftp://x.org"},
        {"urls": []},
    ):
        assert gateway.error("POST", "/submissions", body(place, notify=notify), bearer(anna)) == (
            422,
            "NOTIFY_NOT_TAKEN",
        )
    after = len(json.loads(gateway.call("GET", "/submissions", headers=bearer(anna))[2])["submissions"])
    assert after == before


def test_end_is_told_though_every_worker_was_killed_before_it_could(place, gateway, keys, sink, worker):
    anna = keys[0]
    sink.statuses[:] = [503] * 4
    sent = body(place, notify={"webhook": sink.url})
    id_ = json.loads(gateway.call("POST", "/submissions", sent, bearer(anna))[2])["id"]
    wait_until(lambda: len(sink.got) >= 1, "first attempt", 30)
    worker.kill()
    place.worker()
    wait_until(
        lambda: (
            json.loads(gateway.call("GET", f"/submissions/{id_}", headers=bearer(anna))[2])["notifications"][
                0
            ]["state"]
            == "sent"
        ),
        "told by another",
        120,
    )
    assert len({headers["webhook-id"] for headers, _ in sink.got}) == 1


def test_csv_says_by_a_header_who_is_to_be_told(place, gateway, worker, keys, sink):
    anna = keys[0]
    rows = asking(2, place.through)
    names = [name for name in rows[0] if rows[0][name] is not None]
    text = "\n".join([",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)])
    sent = bearer(anna) | {"content-type": "text/csv", "onescore-notify": json.dumps({"webhook": sink.url})}
    status, _, said = gateway.call("POST", "/submissions", text.encode(), sent)
    assert status == 202, said
    wait_until(lambda: sink.got, "told", 30)
    assert json.loads(sink.got[0][1])["data"]["id"] == json.loads(said)["id"]
    broken = sent | {"onescore-notify": "[]"}
    assert gateway.error("POST", "/submissions", text.encode(), broken) == (422, "NOTIFY_NOT_TAKEN")


def test_reference_that_is_sent_again_is_the_first_whatever_became_of_the_table(place):
    """In a database of its own, where no worker takes the first."""
    root = place.directory / "refs"
    root.mkdir()
    pq.write_table(pa.table({"house_id": [1]}), root / "t.parquet")
    opened = place.gateway(
        f"submissions.reference_root={root}", f"submissions.database_url=sqlite:///{root}/own.db"
    )

    def send(key, reference="t.parquet"):
        body = json.dumps({"reference": reference}).encode()
        status, _, text = opened.call("POST", "/submissions", body, JSON | {"idempotency-key": key})
        return status, json.loads(text)

    first = send("once")
    pq.write_table(pa.table({"house_id": [1, 2]}), root / "t.parquet")
    assert send("once") == first
    (root / "t.parquet").unlink()
    assert send("once") == first
    assert send("once", "other.parquet")[1]["error"]["code"] == "UNKNOWN_REFERENCE"
    assert send("again")[0] == 422
    for name in ("x" * 300, "\ud800", "a\0b"):
        assert send("bad", name)[1]["error"]["code"] == "UNKNOWN_REFERENCE"
    opened.call("DELETE", f"/submissions/{first[1]['id']}")
    opened.kill()
