"""Queues and uploads: what is retried, what is not, and that nothing is scored into two results."""

from __future__ import annotations

import hashlib
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from feature_pipelines.errors import ConfigurationError, ContractError
from jobs.online.protocol import refuse
from jobs.serverless.aws_events import (
    Objects,
    answer_direct,
    answer_messages,
    answer_uploads,
    is_queue,
    uploads_of,
)
from jobs.serverless.deadline import Deadline
from jobs.serverless.function import Function
from jobs.serverless.objects import Gone, Sink, open_objects, open_sink
from jobs.serverless.uploads import Uploaded
from tests.toy.functions import PLENTY, fake_gcs, opened, opened_slow, s3_event
from tests.toy.house_bundle import house_wire

Fetch = Callable[[Uploaded], bytes]
ROWS = json.dumps({"inputs": house_wire(2)})


class Bucket:
    """Uploaded objects: what a test says."""

    def __init__(self, said: Callable[[str, str, str], bytes]) -> None:
        self._said = said
        self.fetched: list[tuple[str, str, str]] = []

    def fetch(self, bucket: str, key: str, *, version: str, etag: str, max_bytes: int) -> bytes:
        """See ObjectStore."""
        self.fetched.append((key, version, etag))
        return self._said(key, version, etag)

    def has(self, bucket: str, key: str) -> bool:
        """See ObjectStore."""
        return False

    def put_once(self, bucket: str, key: str, content: bytes) -> bool:
        """See ObjectStore."""
        return False


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def objects_of(results: Path, said: Callable[[str, str, str], bytes] = lambda *_: ROWS.encode()) -> Objects:
    bucket = Bucket(said)
    found = Objects(open_sink, lambda kind: bucket, f"file://{results}")
    found.bucket = bucket  # type: ignore[attr-defined]
    return found


def message(number: str, body: str) -> dict[str, Any]:
    return {"messageId": number, "body": body, "eventSource": "aws:sqs", "receiptHandle": "r"}


def failed(said: dict[str, Any]) -> list[str]:
    return [one["itemIdentifier"] for one in said["batchItemFailures"]]


def facts_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.facts for record in caplog.records if hasattr(record, "facts")]


def files(results: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(results)): json.loads(path.read_bytes())
        for path in sorted(results.rglob("*.json"))
        if path.is_file()
    }


def test_messages_that_cannot_be_scored_fail_alone(function: Function, results: Path) -> None:
    records = [message("a", ROWS), message("b", "{"), message("c", ROWS), message("d", '{"inputs": 3}')]
    assert is_queue({"Records": records})
    assert failed(answer_messages(function, {"Records": records}, objects_of(results), PLENTY)) == ["b"]
    found = files(results)
    assert list(found) == ["sqs/a.json", "sqs/c.json", "sqs/d.json"]
    assert found["sqs/a.json"] == found["sqs/c.json"]
    assert found["sqs/d.json"]["predictions"][0]["error"]["code"] == "UNREADABLE_ROW"


def test_message_that_comes_twice_has_the_result_of_the_first_time(function: Function, results: Path) -> None:
    event = {"Records": [message("a", ROWS)]}
    assert failed(answer_messages(function, event, objects_of(results), PLENTY)) == []
    before = (results / "sqs" / "a.json").stat().st_mtime_ns
    assert failed(answer_messages(function, event, objects_of(results), PLENTY)) == []
    assert (results / "sqs" / "a.json").stat().st_mtime_ns == before
    assert [path.name for path in (results / "sqs").iterdir()] == ["a.json"]


def test_row_that_may_be_answered_later_fails_its_message_and_has_no_result(
    package: Path, results: Path, tmp_path: Path
) -> None:
    down = opened(package, ONESCORE_STORE_URL=f"sqlite:///{tmp_path}/nothing.db")
    bare = json.dumps({"inputs": [{k: v for k, v in house_wire(3)[1].items() if "rate" not in k}]})
    event = {"Records": [message("whole", ROWS), message("bare", bare)]}
    assert failed(answer_messages(down, event, objects_of(results), PLENTY)) == ["bare"]
    assert list(files(results)) == ["sqs/whole.json"]


def test_messages_for_which_there_is_no_time_go_back_to_the_queue(function: Function, results: Path) -> None:
    left = iter([60_000, 60_000, 60_000, 100, 100])
    event = {"Records": [message(number, ROWS) for number in "abc"]}
    said = answer_messages(function, event, objects_of(results), Deadline(lambda: next(left), 500))
    assert failed(said) == ["b", "c"]
    assert list(files(results)) == ["sqs/a.json"]


def test_messages_end_before_the_reserve_by_what_those_before_them_took(
    package: Path, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, now = opened_slow(package, monkeypatch, 0.8)
    event = {"Records": [message(number, ROWS) for number in "abcdef"]}
    for batch in range(2):
        deadline = Deadline.after(3, 500, lambda: now[0])
        said = answer_messages(function, event, objects_of(results / str(batch)), deadline)
        assert failed(said) == ["d", "e", "f"]
        assert now[0] <= (batch + 1) * 2.5
    function.close()


def test_store_of_objects_that_hangs_is_not_waited_for_beyond_the_time(
    function: Function, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = Uploaded("gs", "in", "x.json", "1", "", "", 5)
    objects = Objects(open_sink, open_objects, f"file://{results}")
    left = iter([60_000.0, 510.0])
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the request and never answers
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ContractError, match="nearly over") as refused:
            answer_uploads(function, [upload], objects, Deadline(lambda: next(left), 500))
    assert refused.value.evidence["code"] == "OUT_OF_TIME"
    assert files(results) == {}


def test_text_of_no_utf_8_fails_its_message(
    function: Function, results: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = ROWS.replace("town-", "town-\ud800")
    assert "\ud800" in body
    with caplog.at_level("INFO", "onescore.serve"):
        said = answer_messages(function, {"Records": [message("a", body)]}, objects_of(results), PLENTY)
    assert failed(said) == ["a"]
    assert [facts["code"] for facts in facts_of(caplog)] == ["MALFORMED_JSON"]
    assert files(results) == {}


def test_failures_are_found_in_the_log_by_what_failed_and_no_key_is_there(
    function: Function, results: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def down(*_: str) -> bytes:
        refuse(503, "OBJECTS_UNAVAILABLE", "no answer")

    upload = Uploaded("s3", "in", "N14228.json", "v7", "e", "1", 5)
    with caplog.at_level("INFO", "onescore.serve"):
        answer_messages(function, {"Records": [message("m-1", "{")]}, objects_of(results), PLENTY, "r-1")
        with pytest.raises(ContractError, match="no answer"):
            answer_uploads(function, [upload], objects_of(results, down), PLENTY, "r-2")
        answer_uploads(function, [upload], objects_of(results), PLENTY, "r-3")
        answer_uploads(function, [upload], objects_of(results), PLENTY, "r-4")
    of_message, *of_upload = facts_of(caplog)
    assert (of_message["message_id"], of_message["request_id"]) == ("m-1", "r-1")
    assert (of_message["code"], of_message["retryable"]) == ("MALFORMED_JSON", False)
    assert [facts["outcome"] for facts in of_upload] == ["failed", "scored", "skipped"]
    assert of_upload[0]["request_id"] == "r-2"
    key = hashlib.sha256(b"N14228.json").hexdigest()[:16]
    assert {(f["bucket"], f["key_sha256"], f["version"]) for f in of_upload} == {("in", key, "v7")}
    assert "N14228" not in json.dumps(of_upload)


def test_setting_that_is_wrong_is_said_in_full(function: Function, caplog: pytest.LogCaptureFixture) -> None:
    def missing(kind: str) -> Any:
        raise ConfigurationError("boto3 is not installed")

    objects = Objects(open_sink, missing, "s3:/typo")
    uploads = uploads_of(s3_event("in", "x.json", "e", 5)) or []
    with caplog.at_level("INFO", "onescore.serve"):
        assert failed(answer_messages(function, {"Records": [message("a", ROWS)]}, objects, PLENTY)) == ["a"]
        with pytest.raises(ConfigurationError, match="boto3 is not installed"):
            answer_uploads(function, uploads, objects, PLENTY)
    assert [(facts["code"], facts["message"][:16]) for facts in facts_of(caplog)] == [
        ("ConfigurationError", "sink 's3:/typo':"),
        ("ConfigurationError", "boto3 is not ins"),
    ]


def test_missing_library_of_a_store_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "jobs.serverless.objects_s3", raising=False)
    with pytest.raises(ConfigurationError, match="boto3 is not installed; AWS's runtimes have boto3"):
        open_objects("s3")


def test_defect_of_ours_in_an_upload_has_no_result(
    function: Function, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = function.online.answer
    ours = {"error": {"code": "MODEL_NOT_REPRODUCED", "field": "", "message": "ours", "retryable": False}}
    monkeypatch.setattr(function.online, "answer", lambda rows, **more: [*answer(rows, **more)[:-1], ours])
    uploads = uploads_of(s3_event("in", "x.json", "e", 5)) or []
    with pytest.raises(ContractError, match="^ours$"):
        answer_uploads(function, uploads, objects_of(results), PLENTY)
    assert files(results) == {}


def test_without_a_sink_messages_fail_and_say_why(
    function: Function, caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = Objects(open_sink, lambda kind: Bucket(lambda *_: b""), None)
    with caplog.at_level("INFO", "onescore.serve"):
        assert failed(answer_messages(function, {"Records": [message("a", ROWS)]}, nowhere, PLENTY)) == ["a"]
    assert any(getattr(record, "facts", {}).get("code") == "NO_SINK" for record in caplog.records)


def test_uploads_are_read_from_every_form_of_event() -> None:
    direct = s3_event("in", "a b/ü+1.json", "e1", 5, "v1", "0A")
    assert uploads_of(direct) == [Uploaded("s3", "in", "a b/ü+1.json", "v1", "e1", "0A", 5)]
    bridge = {
        "source": "aws.s3",
        "detail-type": "Object Created",
        "detail": {
            "bucket": {"name": "in"},
            "object": {"key": "a b/ü+1.json", "size": 5, "etag": "e1", "sequencer": "0A", "version-id": "v1"},
        },
    }
    assert uploads_of(bridge) == uploads_of(direct)
    assert uploads_of({**bridge, "detail-type": "Object Deleted"}) == []
    removed = s3_event("in", "k", "e", 1)
    removed["Records"][0]["eventName"] = "ObjectRemoved:Delete"
    assert uploads_of(removed) == []
    assert uploads_of({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "in"}) == []
    assert uploads_of({"inputs": []}) is None
    for other in ({"Records": [{"EventSource": "aws:sns"}]}, {"source": "aws.events", "detail-type": "Tick"}):
        with pytest.raises(ContractError, match="no kind that this function takes"):
            uploads_of(other)
    assert not is_queue(direct)


def test_upload_is_scored_into_a_result_named_by_its_version(function: Function, results: Path) -> None:
    objects = objects_of(results)
    uploads = uploads_of(s3_event("in", "day 1/rows.json", "e1", 5, None, "0A")) or []
    (said,) = answer_uploads(function, uploads, objects, PLENTY)
    assert (said["outcome"], said["rows"]) == ("scored", 2)
    (name,) = files(results)
    assert name == "s3/in/day%201/rows.json/e1-0A.json"
    assert said["result"] == f"file://{results}/{name}"
    content = files(results)[name]
    assert content["source"] == {"bucket": "in", "key": "day 1/rows.json", "version": "e1-0A"}
    assert content["predictions"] == answer_direct(function, {"inputs": house_wire(2)}, PLENTY)["predictions"]
    assert objects.bucket.fetched == [("day 1/rows.json", "", "e1")]  # type: ignore[attr-defined]
    again = answer_uploads(function, uploads, objects, PLENTY)
    assert again == [{"outcome": "skipped", "code": "ALREADY_SCORED"}]
    assert len(objects.bucket.fetched) == 1  # type: ignore[attr-defined]
    other = uploads_of(s3_event("in", "day 1/rows.json", "e1", 5, None, "0B")) or []
    assert answer_uploads(function, other, objects, PLENTY)[0]["outcome"] == "scored"
    assert len(files(results)) == 2


def test_file_that_holds_no_rows_has_a_result_that_says_so(function: Function, results: Path) -> None:
    objects = objects_of(results, lambda *_: b"PNG town-1")
    uploads = uploads_of(s3_event("in", "x.png", "e", 5)) or []
    (said,) = answer_uploads(function, uploads, objects, PLENTY)
    assert (said["outcome"], said["code"]) == ("refused", "UNSUPPORTED_FILE")
    (content,) = files(results).values()
    assert set(content) == {"source", "error"}
    assert "town-1" not in json.dumps(content)
    large = uploads_of(s3_event("in", "x.json", "e", 10**9)) or []
    assert answer_uploads(function, large, objects, PLENTY)[0]["code"] == "OBJECT_TOO_LARGE"


def test_upload_that_is_gone_has_no_result_and_is_not_tried_again(function: Function, results: Path) -> None:
    def gone(*_: str) -> bytes:
        raise Gone

    uploads = uploads_of(s3_event("in", "x.json", "e", 5)) or []
    said = answer_uploads(function, uploads, objects_of(results, gone), PLENTY)
    assert said == [{"outcome": "skipped", "code": "GONE"}]
    assert files(results) == {}


def test_upload_is_tried_again_when_the_store_of_objects_is_down(function: Function, results: Path) -> None:
    def down(*_: str) -> bytes:
        refuse(503, "OBJECTS_UNAVAILABLE", "no answer")

    uploads = uploads_of(s3_event("in", "x.json", "e", 5)) or []
    with pytest.raises(ContractError, match="no answer"):
        answer_uploads(function, uploads, objects_of(results, down), PLENTY)
    assert files(results) == {}


def test_upload_of_which_a_part_came_is_tried_again_and_then_scored_whole(
    function: Function, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_gcs() as gcs:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
        rows = b"".join(json.dumps(row).encode().ljust(400) + b"\n" for row in house_wire(10))
        said = gcs.put("in", "rows.ndjson", rows)
        upload = Uploaded("gs", "in", "rows.ndjson", said["generation"], "", "", 0)
        objects = Objects(open_sink, open_objects, f"file://{results}")
        gcs.cut = True
        with pytest.raises(ContractError, match="IncompleteRead"):
            answer_uploads(function, [upload], objects, PLENTY)
        assert files(results) == {}
        gcs.cut = False
        assert answer_uploads(function, [upload], objects, PLENTY)[0]["rows"] == 10
    (content,) = files(results).values()
    assert len(content["predictions"]) == 10


def test_upload_shorter_than_its_event_says_is_tried_again(function: Function, results: Path) -> None:
    uploads = uploads_of(s3_event("in", "x.json", "e", len(ROWS) + 1)) or []
    with pytest.raises(ContractError, match="less than the whole object"):
        answer_uploads(function, uploads, objects_of(results), PLENTY)
    assert files(results) == {}


def test_upload_that_fails_keeps_none_after_it_from_being_scored(
    function: Function, results: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def partly(key: str, *_: str) -> bytes:
        if key == "b.json":
            refuse(503, "OBJECTS_UNAVAILABLE", "no answer")
        if key == "c.json":
            raise OSError("N14228")
        return ROWS.encode()

    event = {
        "Records": [s3_event("in", f"{name}.json", "e", 5)["Records"][0] for name in ("a", "b", "c", "d")]
    }
    uploads = uploads_of(event) or []
    with (
        caplog.at_level("INFO", "onescore.serve"),
        pytest.raises(ContractError, match="no answer") as failed_first,
    ):
        answer_uploads(function, uploads, objects_of(results, partly), PLENTY)
    assert failed_first.value.evidence["code"] == "OBJECTS_UNAVAILABLE"
    assert list(files(results)) == ["s3/in/a.json/e-01.json", "s3/in/d.json/e-01.json"]
    facts = [getattr(record, "facts", {}) for record in caplog.records]
    assert [one["code"] for one in facts if one.get("outcome") == "failed"] == [
        "OBJECTS_UNAVAILABLE",
        "INTERNAL",
    ]
    assert "N14228" not in caplog.text
    again = answer_uploads(function, uploads, objects_of(results), PLENTY)
    assert [one["outcome"] for one in again] == ["skipped", "scored", "scored", "skipped"]
    assert len(files(results)) == 4


def test_batch_of_which_a_message_has_no_number_fails_as_a_whole_before_any_is_scored(
    function: Function, results: Path
) -> None:
    for odd in ({"body": ROWS}, "town-1", {**message("b", ROWS), "messageId": ["town-1"]}):
        with pytest.raises(ContractError, match=r"^a record of the batch has no messageId") as refused:
            answer_messages(function, {"Records": [message("a", ROWS), odd]}, objects_of(results), PLENTY)
        assert refused.value.evidence["code"] == "MALFORMED_EVENT"
    assert files(results) == {}


def test_upload_of_a_row_that_may_be_answered_later_is_tried_again(
    package: Path, results: Path, tmp_path: Path
) -> None:
    down = opened(package, ONESCORE_STORE_URL=f"sqlite:///{tmp_path}/nothing.db")
    bare = json.dumps([{k: v for k, v in row.items() if "rate" not in k} for row in house_wire(2)])
    uploads = uploads_of(s3_event("in", "x.json", "e", 5)) or []
    with pytest.raises(ContractError, match="asked again") as failed:
        answer_uploads(down, uploads, objects_of(results, lambda *_: bare.encode()), PLENTY)
    assert failed.value.evidence["code"] == "STORE_UNAVAILABLE"
    assert files(results) == {}


def test_own_results_are_no_uploads(function: Function, results: Path) -> None:
    sink = open_sink(f"file://{results}")
    assert sink.is_own("file", "", str(results / "sqs" / "a.json").lstrip("/"))
    own = Uploaded("file", "", f"{str(results).lstrip('/')}/s3/in/x.json/e-1.json", "", "e", "1", 5)
    assert answer_uploads(function, [own], objects_of(results), PLENTY) == [
        {"outcome": "skipped", "code": "OWN_RESULT"}
    ]
    for place in ("-other/x.json", "/in/x.json", "/s3-other/x.json"):
        beside = Uploaded("file", "", f"{str(results).lstrip('/')}{place}", "", "e", "1", 5)
        assert answer_uploads(function, [beside], objects_of(results), PLENTY)[0]["outcome"] == "scored"


def test_sink_without_a_prefix_takes_uploads_of_its_bucket_for_uploads() -> None:
    for sink in (Sink("s3", Bucket(lambda *_: b""), "in", ""), Sink("s3", Bucket(lambda *_: b""), "in", "a")):
        upload = Uploaded("s3", "in", "in/x.json", "v", "e", "1", 5)
        assert not sink.is_own("s3", "in", upload.key)
        assert sink.is_own("s3", "in", sink._key(upload.result_name()))
        assert not sink.is_own("s3", "other", sink._key(upload.result_name()))


@pytest.mark.parametrize(
    "key", ["../../../../escaped/x.json", "..", "a/./../b", "x" * 300 + ".json", "a/" + "ü" * 250]
)
@pytest.mark.parametrize("version", ["v", "..", "v" * 1_024])
def test_no_key_leads_out_of_the_sink_or_is_too_long_for_its_directory(
    function: Function, tmp_path: Path, key: str, version: str
) -> None:
    results = tmp_path / "a" / "b" / "results"
    upload = Uploaded("s3", "..", key, version, "e", "1", 5)
    (said,) = answer_uploads(function, [upload], objects_of(results), PLENTY)
    assert said["outcome"] == ("scored" if key.endswith(".json") else "refused")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [
        path for path in results.rglob("*") if path.is_file()
    ]
    (content,) = files(results).values()
    assert content["source"]["key"] == key
    assert answer_uploads(function, [upload], objects_of(results), PLENTY)[0]["code"] == "ALREADY_SCORED"


def test_messages_of_any_number_have_a_result_below_the_sink(function: Function, results: Path) -> None:
    records = [message(number, ROWS) for number in ("../../x", "n" * 300)]
    assert failed(answer_messages(function, {"Records": records}, objects_of(results), PLENTY)) == []
    assert len(list((results / "sqs").iterdir())) == 2


def test_upload_in_a_message_is_scored_and_a_test_event_is_nothing(function: Function, results: Path) -> None:
    wrapped = message("a", json.dumps(s3_event("in", "x.json", "e", 5)))
    tested = message("b", json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent"}))
    said = answer_messages(function, {"Records": [wrapped, tested]}, objects_of(results), PLENTY)
    assert failed(said) == []
    assert list(files(results)) == ["s3/in/x.json/e-01.json"]


def test_name_of_a_result_is_short_enough_for_any_key(function: Function, results: Path) -> None:
    long = Uploaded("s3", "in", "ü" * 500 + ".json", "v", "e", "1", 5)
    other = Uploaded("s3", "in", "ü" * 500 + "2.json", "v", "e", "1", 5)
    assert len(long.result_name()) < 800
    assert long.result_name() != other.result_name()


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"rows": [{"town": "town-1"}]}, "UNKNOWN_FORM"),
        ([{"town": "town-1"}], "UNKNOWN_FORM"),
        (None, "UNKNOWN_FORM"),
        ({"inputs": [], "instances": []}, "UNKNOWN_FORM"),
        ({"inputs": [1] * 50_001}, "TOO_MANY_ROWS"),
    ],
)
def test_direct_invocation_that_is_no_body_gets_a_code(function: Function, event: Any, code: str) -> None:
    said = answer_direct(function, event, PLENTY)
    assert said["error"]["code"] == code
    assert "town-1" not in json.dumps(said)


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "gs:///prefix",
        "file://host/x",
        "https://x/y",
        "results",
        "file:///",
        "s3:/typo",
        "s3://in/../x",
    ],
)
def test_sink_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected s3://bucket/prefix"):
        open_sink(url)
