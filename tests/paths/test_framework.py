"""Google's functions-framework, the real server: the HTTP target, and an object's CloudEvent into a result in Cloud Storage."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.proof.path_functions import function_environment
from jobs.proof.path_servers import Server, framework_server
from tests.toy.bits import bits_of
from tests.toy.digits_bundle import digit_files, write_digits_bundle
from tests.toy.functions import FakeGcs, fake_gcs, package_of
from tests.toy.house_bundle import house_wire
from udfs.bundle import load_bundle
from udfs.online import OnlineScorer

FINALIZED = "google.cloud.storage.object.v1.finalized"


@pytest.fixture(scope="module")
def package(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package_of(tmp_path_factory.mktemp("package") / "app", bundle, max_body_bytes=100_000)


@pytest.fixture(scope="module")
def http_target(package: Path, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("http")
    source = root / "jobs" / "serve_function.py"
    with framework_server(source, "score", function_environment(package), directory) as server:
        yield server


@pytest.fixture(scope="module")
def gcs() -> Iterator[FakeGcs]:
    with fake_gcs() as running:
        yield running


@pytest.fixture(scope="module")
def event_target(
    package: Path, root: Path, gcs: FakeGcs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("events")
    environment = {
        **function_environment(package),
        "STORAGE_EMULATOR_HOST": gcs.url,
        "ONESCORE_SINK": "gs://results/scored",
    }
    source = root / "jobs" / "serve_function.py"
    with framework_server(source, "uploaded", environment, directory, signature="cloudevent") as server:
        yield server


def test_http_target_gives_the_bits_of_the_scorer(http_target: Server, bundle: Path) -> None:
    rows = house_wire(20)
    status, body = http_target.call("POST", "/", json.dumps({"inputs": rows}).encode())
    expected = OnlineScorer(load_bundle(bundle), None, clock=lambda: 0).answer(rows)
    found = json.loads(body)["predictions"]
    assert status == 200
    assert [answer["score"] for answer in found] == [answer["score"] for answer in expected]
    assert {answer["verified"] for answer in found} == {"verified"}
    assert json.loads(http_target.call("GET", "/version")[1])["model_version"] == "3"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b'{"inputs": ["town-1"', "application/json", 400, "MALFORMED_JSON"),
        (b"town\n", "text/csv", 415, "UNSUPPORTED_MEDIA_TYPE"),
        (b'{"inputs": []}' + b" " * 100_000, "application/json", 413, "BODY_TOO_LARGE"),
    ],
)
def test_http_target_refuses_with_a_code_and_no_data(
    http_target: Server, body: bytes, content_type: str, status: int, code: str
) -> None:
    found, text = http_target.call("POST", "/invocations", body, content_type)
    assert (found, json.loads(text)["error"]["code"]) == (status, code)
    assert b"town-1" not in text


def deliver(server: Server, data: Any, kind: str = FINALIZED) -> tuple[int, bytes]:
    """Send a CloudEvent as Eventarc does: its attributes in headers."""
    port = int(server.url.rpartition(":")[2])
    headers = {
        "ce-id": str(uuid.uuid4()),
        "ce-source": "//storage.googleapis.com/projects/_/buckets/in",
        "ce-specversion": "1.0",
        "ce-type": kind,
        "ce-time": "2020-01-01T00:00:00Z",
        "content-type": "application/json",
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/", json.dumps(data).encode(), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def results(gcs: FakeGcs) -> dict[str, Any]:
    return {
        name: json.loads(list(versions.values())[-1])
        for (bucket, name), versions in gcs.objects.items()
        if bucket == "results"
    }


def test_uploaded_object_is_scored_once_in_the_generation_of_its_event(
    event_target: Server, gcs: FakeGcs, http_target: Server
) -> None:
    rows = house_wire(4)
    event = gcs.put("in", "a b/rows.json", json.dumps(rows).encode())
    gcs.put("in", "a b/rows.json", b"[]")  # the next generation has an event of its own
    assert deliver(event_target, event) == (200, b"OK")
    assert deliver(event_target, event) == (200, b"OK")
    name = f"scored/gs/in/a%20b/rows.json/{event['generation']}.json"
    assert list(results(gcs)) == [name]
    assert len(gcs.objects["results", name]) == 1
    body = json.dumps({"inputs": rows}).encode()
    expected = json.loads(http_target.call("POST", "/", body)[1])["predictions"]
    found = results(gcs)[name]["predictions"]
    assert [answer["score"] for answer in found] == [answer["score"] for answer in expected]


def test_uploaded_image_is_scored_into_ten_probabilities_with_the_bits_of_the_scorer(
    gcs: FakeGcs, root: Path, tmp_path: Path
) -> None:
    write_digits_bundle(tmp_path / "bundle")
    package = package_of(tmp_path / "app", tmp_path / "bundle")
    ((name, image),) = digit_files(1, start=1_700)
    environment = {
        **function_environment(package),
        "STORAGE_EMULATOR_HOST": gcs.url,
        "ONESCORE_SINK": "gs://results/digits",
    }
    event = gcs.put("images", f"new/{name}", image)
    broken = gcs.put("images", "cut-off.png", image[:60])
    source = root / "jobs" / "serve_function.py"
    with framework_server(source, "uploaded", environment, tmp_path, signature="cloudevent") as server:
        assert [deliver(server, one) for one in (event, broken)] == [(200, b"OK")] * 2
    written = {key: content for key, content in results(gcs).items() if key.startswith("digits/")}
    key = f"digits/gs/images/new/{name}/{event['generation']}.json"
    refused = f"digits/gs/images/cut-off.png/{broken['generation']}.json"
    assert set(written) == {key, refused}
    (found,) = written[key]["predictions"]
    row = {"image_id": name, "image": base64.b64encode(image).decode()}
    (expected,) = OnlineScorer(load_bundle(tmp_path / "bundle"), None, clock=lambda: 0).answer([row])
    scores = ["score", *(f"score_{digit}" for digit in range(10))]
    assert [bits_of(found[one]) for one in scores] == [bits_of(expected[one]) for one in scores]
    assert (found["label"], found["verified"]) == (expected["label"], "verified")
    (answer,) = written[refused]["predictions"]
    assert (answer["error"]["code"], answer["error"]["field"]) == ("IMAGE_BROKEN", "image")


def test_event_of_another_type_and_of_an_own_result_do_nothing(event_target: Server, gcs: FakeGcs) -> None:
    before = list(results(gcs))
    event = gcs.put("in", "x.json", b"[]")
    assert deliver(event_target, event, "google.cloud.storage.object.v1.deleted") == (200, b"OK")
    own = gcs.put("results", "scored/gs/in/x.json/1.json", b"[]")
    assert deliver(event_target, own) == (200, b"OK")
    assert [name for name in results(gcs) if name != "scored/gs/in/x.json/1.json"] == before


def test_event_is_delivered_again_when_the_store_is_down(event_target: Server, gcs: FakeGcs) -> None:
    event = gcs.put("in", "N14228.json", json.dumps(house_wire(1)).encode())
    gcs.is_down = True
    try:
        status, text = deliver(event_target, event)
        assert (status, b"N14228" in text) == (500, False)
    finally:
        gcs.is_down = False
    assert deliver(event_target, event) == (200, b"OK")
    assert any("N14228.json" in name for name in results(gcs))
