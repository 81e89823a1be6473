"""The Lambda handler under AWS's own client, its uploads and queues in S3 and SQS that are asked over HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from feature_pipelines.errors import UnavailableError
from feature_pipelines.stores.opening import open_store
from jobs.proof.path_functions import LambdaFunction, gateway_event, lambda_function
from tests.toy.functions import Cloud, cloud, package_of
from tests.toy.house_bundle import house_wire
from tests.toy.redis_servers import RedisServer
from tests.toy.serving import asking, write_store
from tests.toy.stored_rates import write_rates
from tests.toy.workspace import rate_rows
from udfs.bundle import load_bundle
from udfs.online import OnlineScorer


@pytest.fixture(scope="module")
def aws() -> Iterator[Cloud]:
    with cloud() as running:
        running.bucket("results")
        running.bucket("uploads", keeps_versions=True)
        yield running


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    path = tmp_path_factory.mktemp("store") / "online.db"
    return path, write_store(path)


@pytest.fixture(scope="module")
def package(bundle: Path, through: tuple[Path, int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"log": "stdout", "log_sample_share": 1.0}
    return package_of(tmp_path_factory.mktemp("package") / "app", bundle, store=through[0], **settings)


Start = Callable[..., LambdaFunction]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with ExitStack() as stack:

        def started(package: Path, **variables: str) -> LambdaFunction:
            directory = tmp_path_factory.mktemp("lambda")
            found = stack.enter_context(
                lambda_function(package, directory / "results", directory, variables=variables)
            )
            return LambdaFunction(found.runtime, directory)

        yield started


@pytest.fixture(scope="module")
def function(start: Start, package: Path, aws: Cloud) -> LambdaFunction:
    """The function with a snapshot and a sink in S3; `sink` is where its output is."""
    return start(package, **aws.environment, ONESCORE_SINK="s3://results/scored")


def test_every_kind_of_event_gives_the_bits_of_the_scorer(
    function: LambdaFunction, bundle: Path, through: tuple[Path, int]
) -> None:
    path, w = through
    rows = asking(20, w)
    online = OnlineScorer(load_bundle(bundle), open_store(f"sqlite:///{path}"), clock=lambda: w)
    expected = [answer["score"] for answer in online.answer(rows)]
    body = json.dumps({"inputs": rows}).encode()
    direct = function.answers_to({"inputs": rows})["predictions"]
    for version in (1, 2):
        reply = function.answers_to(gateway_event(version, "POST", "/invocations", body))
        assert json.loads(reply["body"])["predictions"] == direct
    assert [answer["score"] for answer in direct] == expected
    assert {answer["verified"] for answer in direct} == {"verified"}
    assert {answer["materialised_through"]["rates"] for answer in direct} == {"2020-04-01T00:00:00Z"}


def test_model_is_loaded_and_replayed_before_the_first_event(start: Start, package: Path) -> None:
    started = start(package)
    said = (started.sink / "function.log").read_text()
    assert '"event": "function_ready"' in said
    assert '"verified": "verified"' in said


def test_function_whose_model_was_changed_never_takes_an_event(
    bundle: Path, tmp_path: Path, start: Start
) -> None:
    package = package_of(tmp_path / "app", bundle)
    (package / "model" / "golden.json").write_text("{}")
    with pytest.raises(UnavailableError, match=r"ended with exit code 1.*raise ModelIntegrityError"):
        start(package)


def test_answers_larger_than_lambda_returns_are_refused_by_us(function: LambdaFunction, bundle: Path) -> None:
    rows = house_wire(14_000)
    said = function.runtime.invoke(gateway_event(2, "POST", "/", json.dumps({"inputs": rows}).encode()))
    assert json.loads(said.content["body"])["error"]["code"] == "ANSWER_TOO_LARGE"
    assert said.size < 6_291_556


def test_time_that_would_not_do_is_said_while_there_is_some(function: LambdaFunction) -> None:
    said = function.runtime.invoke({"inputs": house_wire(3)}, timeout_ms=400)
    assert said.content["error"]["code"] == "OUT_OF_TIME"
    assert function.answers_to({"inputs": house_wire(1)})["predictions"]


def test_upload_is_scored_once_however_often_its_event_comes(function: LambdaFunction, aws: Cloud) -> None:
    rows = house_wire(5)
    names = list(rows[0])
    lines = [",".join(names), *(",".join(_cell(row[name]) for name in names) for row in rows)]
    csv = aws.upload("uploads", "day 1/rows.csv", "\n".join(lines).encode(), "0A")
    said = function.answers_to(csv)
    assert said["uploads"][0]["outcome"] == "scored"
    key = said["uploads"][0]["result"].removeprefix("s3://results/")
    version = csv["Records"][0]["s3"]["object"]["versionId"]
    assert key == f"scored/s3/uploads/day%201/rows.csv/{version}.json"
    before = aws.s3.get_object(Bucket="results", Key=key)
    content = json.loads(before["Body"].read())
    scores = [answer["score"] for answer in function.answers_to({"inputs": rows})["predictions"]]
    assert [answer["score"] for answer in content["predictions"]] == scores
    assert function.answers_to(csv)["uploads"] == [{"outcome": "skipped", "code": "ALREADY_SCORED"}]
    other = aws.upload("uploads", "day 1/rows.csv", b"house_id\n1\n", "0B")
    assert function.answers_to(other)["uploads"][0]["rows"] == 1
    assert aws.s3.get_object(Bucket="results", Key=key)["LastModified"] == before["LastModified"]
    assert len([k for k in aws.results("results") if "day%201" in k]) == 2


def _cell(value: Any) -> str:
    return "" if value is None else f'"{value}"' if isinstance(value, str) else json.dumps(value)


def test_two_functions_race_for_one_upload_and_one_result_stands(
    start: Start, package: Path, function: LambdaFunction, aws: Cloud
) -> None:
    second = start(package, **aws.environment, ONESCORE_SINK="s3://results/scored")
    event = aws.upload("uploads", "race.json", json.dumps(house_wire(300)).encode())
    said: list[Any] = []
    threads = [
        threading.Thread(target=lambda one=one: said.append(one.answers_to(event)["uploads"][0]["outcome"]))
        for one in (function, second)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said) == ["scored", "skipped"]
    assert len([key for key in aws.results("results") if "race.json" in key]) == 1


def test_upload_that_cannot_be_written_now_is_handed_over_again_with_a_code_alone(
    start: Start, package: Path, aws: Cloud
) -> None:
    nowhere = start(package, **aws.environment, ONESCORE_SINK="s3://no-such-bucket/x")
    event = aws.upload("uploads", "N14228.json", json.dumps(house_wire(1)).encode())
    said = nowhere.runtime.invoke(event)
    assert (said.is_error, said.content["errorType"]) == (True, "EventFailed")
    assert said.content["errorMessage"] == "OBJECTS_UNAVAILABLE"
    assert "N14228" not in json.dumps(said.content)


def test_queue_keeps_what_failed_and_nothing_else(function: LambdaFunction, aws: Cloud) -> None:
    url = aws.sqs.create_queue(QueueName="asked", Attributes={"VisibilityTimeout": "0"})["QueueUrl"]
    sent = {}
    for name, body in {
        "good": json.dumps({"inputs": house_wire(2)}),
        "bad": '{"inputs": [',
        "upload": json.dumps(aws.upload("uploads", "queued.json", json.dumps(house_wire(3)).encode())),
    }.items():
        sent[aws.sqs.send_message(QueueUrl=url, MessageBody=body)["MessageId"]] = name
    received = aws.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    records = [
        {
            "messageId": one["MessageId"],
            "receiptHandle": one["ReceiptHandle"],
            "body": one["Body"],
            "eventSource": "aws:sqs",
            "attributes": {"ApproximateReceiveCount": "1"},
        }
        for one in received
    ]
    said = function.answers_to({"Records": records})
    failed = {one["itemIdentifier"] for one in said["batchItemFailures"]}
    assert {sent[number] for number in failed} == {"bad"}
    for record in records:  # as Lambda does with what did not fail
        if record["messageId"] not in failed:
            aws.sqs.delete_message(QueueUrl=url, ReceiptHandle=record["receiptHandle"])
    left = aws.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    assert [sent[one["MessageId"]] for one in left] == ["bad"]
    results = aws.results("results")
    (good,) = [number for number, name in sent.items() if name == "good"]
    assert len(results[f"scored/sqs/{good}.json"]["predictions"]) == 2
    (upload,) = [content for key, content in results.items() if "/queued.json/" in key]
    assert len(upload["predictions"]) == 3


def test_stored_features_come_from_redis_where_the_environment_names_one(
    start: Start, package: Path, redis_server: RedisServer, bundle: Path, through: tuple[Path, int]
) -> None:
    redis_server.flush()
    store = open_store(redis_server.url, timeout_ms=10_000)
    w = write_rates(store, rate_rows())
    store.close()
    online = start(package, ONESCORE_STORE_URL=redis_server.url, ONESCORE_STORE_TIMEOUT_MS="5000")
    rows = asking(20, w)
    found = online.answers_to({"inputs": rows})["predictions"]
    snapshot = OnlineScorer(load_bundle(bundle), open_store(f"sqlite:///{through[0]}"), clock=lambda: w)
    assert [answer["score"] for answer in found] == [a["score"] for a in snapshot.answer(rows)]
    assert "materialised_through" not in found[0]


def test_answers_are_logged_as_lines_before_they_leave(function: LambdaFunction) -> None:
    row = {**house_wire(1)[0], "house_id": 424_242}
    (answer,) = function.answers_to({"inputs": [row]})["predictions"]
    lines = [
        json.loads(line)
        for line in (function.sink / "function.log").read_text().splitlines()
        if line.startswith('{"log":"prediction"')
    ]
    (line,) = [line for line in lines if line["request"]["house_id"] == "424242"]
    assert (line["score"], line["model_version"]) == (answer["score"], "3")
    assert [line["sequence"] for line in lines] == list(range(len(lines)))
