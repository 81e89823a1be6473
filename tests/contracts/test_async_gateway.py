"""The API of asynchronous inference over HTTP: real gateways and workers, one database, the toy model with a filled store."""

from __future__ import annotations

import csv
import io
import json
import re
import socket
import threading
from pathlib import Path

import pytest

from feature_pipelines.wire import parse_timestamp
from tests.toy.serving import asking, write_store
from tests.toy.submitting import open_async, said_of
from udfs.serving import ServingSettings, open_scorer

pytestmark = pytest.mark.e2e
N = 57


@pytest.fixture(scope="module")
def place(bundle, process_env, tmp_path_factory):
    directory = tmp_path_factory.mktemp("async")
    settings = ("submissions.chunk_rows=20", "submissions.page_rows=25", "submissions.max_body_bytes=200000")
    with open_async(directory, process_env, bundle, *settings) as opened:
        opened.through = write_store(directory / "online.db")
        yield opened


@pytest.fixture(scope="module")
def gateway(place):
    running = place.gateway()
    place.worker()
    return running


@pytest.fixture(scope="module")
def realtime(place, bundle):
    """What the real-time server's scorer says of rows at a time."""
    now = [0]
    settings = ServingSettings(store_url=f"sqlite:///{place.directory}/online.db", store_timeout_ms=10_000)
    online = open_scorer(bundle, settings, lambda: now[0])

    def answer(rows, as_of=0):
        now[0] = as_of
        return online.answer(rows)

    yield answer
    online.close()


def wire(place, n=N):
    """Return n rows, the fourth and sixth of them bad."""
    rows = asking(max(n, 6), place.through)
    rows[3] = rows[3] | {"area_m2": None}
    rows[5] = rows[5] | {"huose_id": 1}
    return rows[:n]


def test_answers_are_those_of_the_real_time_server_bit_for_bit_and_in_pages(place, gateway, realtime):
    rows = wire(place)
    status, headers, text = gateway.call("POST", "/submissions", json.dumps({"rows": rows}).encode())
    ticket = json.loads(text)
    assert (status, headers["location"], ticket["rows"]) == (202, f"/submissions/{ticket['id']}", N)
    done = gateway.finished(ticket["id"])
    assert done["state"] == "succeeded"
    assert (done["rows_done"], done["rows_refused"]) == (N, 2)
    listed = gateway.get("/submissions?limit=1000")["submissions"]
    assert [one["rows_refused"] for one in listed if one["id"] == ticket["id"]] == [2]
    assert said_of(done["results"]) == said_of(realtime(rows))
    assert {answer["views"]["rates"]["status"] for answer in done["results"] if "error" not in answer} >= {
        "PRESENT"
    }
    page = gateway.get(f"/submissions/{ticket['id']}?offset=30&limit=7")
    assert said_of(page["results"]) == said_of(done["results"][30:37])
    assert page["next"].endswith("offset=37&limit=7")
    assert gateway.get(f"/submissions/{ticket['id']}?offset={N}")["results"] == []


def test_rows_without_a_time_are_scored_as_of_when_they_came(place, gateway, realtime):
    rows = [{k: v for k, v in row.items() if k != "as_of_ts"} for row in wire(place, 5)]
    done = gateway.finished(gateway.submit({"rows": rows}))
    assert said_of(done["results"]) == said_of(realtime(rows, parse_timestamp(done["created_ts"])))


def test_numbers_are_read_exactly_and_a_field_that_stands_twice_is_refused(place, gateway, realtime):
    rows = wire(place, 2)
    text = json.dumps({"rows": rows}).replace('"rooms"', '"rooms": 3, "rooms"', 1)
    done = gateway.finished(gateway.submit(text.encode()))
    assert done["results"][0]["error"] | {"message": ""} == {
        "code": "BAD_VALUE",
        "field": "rooms",
        "message": "",
        "retryable": False,
    }
    assert said_of(done["results"][1:]) == said_of(realtime(rows)[1:])


def test_downloads_hold_every_answer(place, gateway):
    id_ = gateway.submit({"rows": wire(place)})
    done = gateway.finished(id_)
    _, headers, lines = gateway.call("GET", f"/submissions/{id_}/results.ndjson")
    assert said_of([json.loads(line) for line in lines.splitlines()]) == said_of(done["results"])
    assert headers["content-disposition"] == f'attachment; filename="{id_}.ndjson"'
    _, headers, text = gateway.call("GET", f"/submissions/{id_}/results.csv")
    table = list(csv.DictReader(io.StringIO(text.decode())))
    assert headers["content-type"].startswith("text/csv")
    assert [row["house_id"] for row in table] == [str(row["house_id"]) for row in wire(place)]
    for row, answer in zip(table, done["results"], strict=True):
        assert (float(row["score"]) if row["score"] else None) == answer.get("score")
        assert row["error_code"] == answer.get("error", {}).get("code", "")


def test_csv_gives_the_answers_of_json(place, gateway, realtime):
    rows = wire(place)[6:20]
    rows = [row for row in rows if row["town"] is not None]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows([{k: "" if v is None else v for k, v in row.items()} for row in rows])
    id_ = gateway.submit(text.getvalue().encode(), content_type="text/csv; charset=utf-8")
    assert said_of(gateway.finished(id_)["results"]) == said_of(realtime(rows))


def test_one_key_is_one_submission_whichever_gateway_is_asked_and_however_often_at_once(place, gateway):
    other = place.gateway()
    body = json.dumps({"rows": wire(place, 2)}).encode()
    said: list[tuple[int, str]] = []

    def send(running):
        status, _, text = running.call(
            "POST", "/submissions", body, {"content-type": "application/json", "idempotency-key": "k1"}
        )
        said.append((status, json.loads(text)["id"]))

    threads = [threading.Thread(target=send, args=(running,)) for running in [gateway, other] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 16
    assert len({id_ for _, id_ in said}) == 1
    assert {status for status, _ in said} <= {200, 202}
    id_ = said[0][1]
    assert gateway.finished(id_)["state"] == "succeeded"
    again = {"content-type": "application/json", "idempotency-key": "k1"}
    assert gateway.call("POST", "/submissions", body, again)[0] == 200
    indented = json.dumps(json.loads(body), indent=1, sort_keys=True).encode()
    status, _, text = other.call("POST", "/submissions", indented, again)
    assert (status, json.loads(text)["id"]) == (200, id_)
    another = json.dumps({"rows": wire(place, 1)}).encode()
    assert other.error("POST", "/submissions", another, again) == (409, "IDEMPOTENCY_CONFLICT")
    assert sum(one["id"] == id_ for one in gateway.get("/submissions?limit=1000")["submissions"]) == 1


def test_the_list_is_newest_first_in_pages_and_by_state(place, gateway):
    ids = [gateway.submit({"rows": wire(place, 1)}) for _ in range(5)]
    for id_ in ids:
        gateway.finished(id_)
    first = gateway.get("/submissions?limit=3")
    assert [one["id"] for one in first["submissions"]] == ids[:1:-1]
    second = gateway.get(first["next"])
    assert [one["id"] for one in second["submissions"]][:2] == ids[1::-1]
    assert all("results" not in one for one in first["submissions"])
    assert {one["state"] for one in gateway.get("/submissions?state=succeeded")["submissions"]} == {
        "succeeded"
    }


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b"{", {"content-type": "application/json"}, (400, "MALFORMED_JSON")),
        (b"[]", {"content-type": "application/json"}, (400, "UNKNOWN_FORM")),
        (b'{"rows": [], "rows": []}', {"content-type": "application/json"}, (400, "DUPLICATE_FIELD")),
        (b"{}", {"content-type": "application/json"}, (422, "UNKNOWN_FORM")),
        (b'{"rows": 1}', {"content-type": "application/json"}, (422, "UNKNOWN_FORM")),
        (b'{"rows": []}', {"content-type": "application/json"}, (422, "NO_ROWS")),
        (b'{"rows": [{}], "reference": "x"}', {"content-type": "application/json"}, (422, "UNKNOWN_FORM")),
        (b'{"rows": [{}], "rws": 1}', {"content-type": "application/json"}, (422, "UNKNOWN_FORM")),
        (b'{"rows": [{}], "notify": {"webhook": "http://x"}}', {"content-type": "application/json"}, (422, "NOTIFY_NOT_TAKEN")),
        (b'{"reference": "x"}', {"content-type": "application/json"}, (422, "REFERENCES_NOT_TAKEN")),
        (b'{"rows": [{}]}', {"content-type": "text/plain"}, (415, "UNSUPPORTED_MEDIA_TYPE")),
        (b'{"rows": [{}]}', {}, (415, "UNSUPPORTED_MEDIA_TYPE")),
        (b'{"rows": [{}]}', {"content-type": "application/json", "content-encoding": "gzip"}, (415, "UNSUPPORTED_MEDIA_TYPE")),
        (b'{"rows": [{}]}', {"content-type": "application/json", "idempotency-key": "a b"}, (422, "IDEMPOTENCY_KEY")),
        (b'{"rows": [{}]}', {"content-type": "application/json", "origin": "http://evil.example"}, (403, "CROSS_SITE")),
        (b'{"rows": [{}]}', {"content-type": "application/json", "onescore-notify": "not json"}, (422, "NOTIFY_NOT_TAKEN")),
        (b'{"rows": [' + b",".join([b"[]"] * 66_000) + b"]}", {"content-type": "application/json"}, (413, "TOO_LARGE")),
        (b",".join([b"a"] * 9_000) + b"\n" + b"," * 8_999, {"content-type": "text/csv"}, (422, "MALFORMED_CSV")),
        (b"house_id,rooms\n1\n", {"content-type": "text/csv"}, (422, "MALFORMED_CSV")),
        (b"\xff\xfe", {"content-type": "text/csv"}, (422, "MALFORMED_CSV")),
        (b"house_id,rooms\n", {"content-type": "text/csv"}, (422, "NO_ROWS")),
        (b"house_id,romos\n1,2\n", {"content-type": "text/csv"}, (422, "UNKNOWN_FIELD")),
        (b" " * 200_001, {"content-type": "application/json"}, (413, "TOO_LARGE")),
        (b"--x--\r\n", {"content-type": "multipart/form-data; boundary=x"}, (415, "UNSUPPORTED_MEDIA_TYPE")),
    ],
)  # fmt: skip
def test_what_is_not_as_declared_is_refused_as_a_whole(gateway, body, headers, expected):
    assert gateway.error("POST", "/submissions", body, headers) == expected


def test_what_may_have_come_through_a_proxy_is_refused_without_a_key(gateway):
    """As a proxy passes a request on that names neither itself nor whose it is."""
    asked = "GET /submissions HTTP/{}\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\r\n"
    said = []
    for version in ("1.0", "1.1"):
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as opened:
            opened.sendall(asked.format(version, gateway.port).encode())
            said.append(opened.makefile("rb").read().split(b" ", 2)[1])
    assert said == [b"401", b"200"]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/submissions/" + "0" * 32, (404, "NOT_FOUND")),
        ("DELETE", "/submissions/" + "0" * 32, (404, "NOT_FOUND")),
        ("GET", "/submissions/" + "0" * 32 + "/results.csv", (404, "NOT_FOUND")),
        ("GET", "/submissions/../../etc/passwd", (404, "NOT_FOUND")),
        ("GET", "/submissions/nix", (422, "BAD_PARAMETER")),
        ("GET", "/submissions?limit=0", (422, "BAD_PARAMETER")),
        ("GET", "/submissions?state=nix", (422, "BAD_PARAMETER")),
        ("GET", "/submissions/" + "0" * 32 + "?offset=-1", (422, "BAD_PARAMETER")),
        ("PUT", "/submissions", (405, "METHOD_NOT_ALLOWED")),
        ("GET", "/nix", (404, "NOT_FOUND")),
        ("GET", "/docs", (404, "NOT_FOUND")),
    ],
)
def test_what_is_not_there_is_said_so_in_json(gateway, method, path, expected):
    assert gateway.error(method, path) == expected


def test_operators_are_told(place, gateway):
    before = gateway.call("GET", "/metrics")[2].decode()
    gateway.finished(gateway.submit({"rows": wire(place, 4)}))
    after = gateway.call("GET", "/metrics")[2].decode()
    rows = [float(text.partition("\nonescore_async_rows_total ")[2].split()[0]) for text in (before, after)]
    assert rows[1] - rows[0] == 4
    ready = gateway.get("/ready")
    assert ready["ready"]
    assert ready["checks"]["model"]["digest"]
    described = gateway.get("/openapi.json")
    assert set(described["paths"]) >= {
        "/submissions",
        "/submissions/{id}",
        "/submissions/{id}/results.csv",
        "/ready",
    }
    assert "http" not in json.dumps(described["paths"])
    references = set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(described)))
    assert references
    for reference in references:
        found = described
        for part in reference.split("/"):
            found = found[part]


def test_the_prediction_log_holds_each_answer_once(place, gateway):
    import pyarrow.dataset as ds

    from tests.toy.processes import wait_until

    rows = [row | {"house_id": 900_000 + i} for i, row in enumerate(wire(place, 30))]
    gateway.finished(gateway.submit({"rows": rows}))

    def logged():
        files = list(Path(place.directory / "prediction_log").rglob("part-*.parquet"))
        requests = ds.dataset(files).to_table(columns=["request"]).column(0).to_pylist() if files else []
        ids = [int(json.loads(dict(request)["house_id"])) for request in requests]
        return sorted(id_ for id_ in ids if id_ >= 900_000)

    expected = [row["house_id"] for row in rows]
    wait_until(lambda: len(logged()) >= 30, "the log is written", 20)
    assert logged() == expected
