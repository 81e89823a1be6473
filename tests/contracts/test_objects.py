"""One contract for every store of objects: S3 (moto's server over HTTP), Cloud Storage's API, a directory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feature_pipelines.errors import ContractError
from jobs.serverless import objects_gcs
from jobs.serverless.objects import Gone, Sink
from jobs.serverless.objects import open_sink as opened_sink
from tests.toy.functions import Cloud, FakeGcs, cloud, fake_gcs

OPEN: list[Sink] = []


@pytest.fixture(scope="module")
def aws() -> Iterator[Cloud]:
    with cloud() as running:
        running.bucket("results")
        running.bucket("plain-uploads")
        running.bucket("kept-uploads", keeps_versions=True)
        yield running


@pytest.fixture
def gcs() -> Iterator[FakeGcs]:
    with fake_gcs() as running:
        yield running


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """A function's clients end with its process; these with the test."""
    yield
    while OPEN:
        client = getattr(OPEN.pop().objects, "_client", None)
        if client is not None:
            client.close()


def open_sink(url: str) -> Sink:
    OPEN.append(opened_sink(url))
    return OPEN[-1]


@pytest.fixture(params=["s3", "gs", "file"])
def sink(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sink:
    """An empty sink."""
    if request.param == "s3":
        for name, value in request.getfixturevalue("aws").environment.items():
            monkeypatch.setenv(name, value)
        return open_sink(f"s3://results/{tmp_path.name}")
    if request.param == "gs":
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", request.getfixturevalue("gcs").url)
        return open_sink("gs://results/a/b")
    return open_sink(f"file://{tmp_path}/results")


def content_of(sink: Sink, name: str, most: int = 100) -> bytes:
    key = f"{sink.prefix}/{name}" if sink.prefix else name
    return sink.objects.fetch(sink.bucket, key, version="", etag="", max_bytes=most)


def test_result_is_written_once_and_never_overwritten(sink: Sink) -> None:
    name = "s3/in/day%201/ü.json/v 1.json"
    assert not sink.has(name)
    assert sink.put_once(name, b"first") is True
    assert sink.has(name)
    assert sink.put_once(name, b"second") is False
    assert content_of(sink, name) == b"first"
    assert not sink.has("s3/in/day%201")


def test_object_that_is_not_there_is_gone_and_one_too_large_is_refused(sink: Sink) -> None:
    with pytest.raises(Gone):
        content_of(sink, "nothing.json")
    sink.put_once("large.json", b"x" * 101)
    with pytest.raises(ContractError, match="more than 100 bytes") as refused:
        content_of(sink, "large.json")
    assert refused.value.evidence["status"] == 413
    assert content_of(sink, "large.json", 101) == b"x" * 101


def test_s3_fetches_the_version_that_the_event_named_and_no_other(
    aws: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws.environment.items():
        monkeypatch.setenv(name, value)
    objects = open_sink("s3://results").objects

    def found(event: dict[str, Any]) -> bytes:
        said = event["Records"][0]["s3"]
        return objects.fetch(
            said["bucket"]["name"],
            "k.json",
            version=said["object"].get("versionId", ""),
            etag=said["object"]["eTag"],
            max_bytes=10,
        )

    first, second = (aws.upload("kept-uploads", "k.json", content) for content in (b"1", b"2"))
    assert (found(first), found(second)) == (b"1", b"2")
    first, second = (aws.upload("plain-uploads", "k.json", content) for content in (b"1", b"2"))
    with pytest.raises(Gone):  # its successor has an event of its own
        found(first)
    assert found(second) == b"2"


def test_cloud_storage_fetches_the_generation_that_the_event_named(
    gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
    objects = open_sink("gs://results").objects
    first, second = (gcs.put("in", "a/k.json", content) for content in (b"1", b"2"))
    found = [
        objects.fetch("in", "a/k.json", version=one["generation"], etag="", max_bytes=10)
        for one in (first, second)
    ]
    assert found == [b"1", b"2"]


def test_download_from_cloud_storage_that_breaks_off_is_no_object(
    gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
    objects = open_sink("gs://results").objects
    gcs.put("in", "k.csv", b"0123456789")
    gcs.cut = True
    with pytest.raises(ContractError, match="IncompleteRead") as refused:
        objects.fetch("in", "k.csv", version="", etag="", max_bytes=100)
    assert refused.value.evidence["status"] == 503
    gcs.cut = False
    assert objects.fetch("in", "k.csv", version="", etag="", max_bytes=10) == b"0123456789"


def test_cloud_storage_is_asked_with_the_token_of_the_platform_which_is_asked_for_once(
    gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(objects_gcs, "_API", gcs.url)
    monkeypatch.setattr(objects_gcs, "_TOKEN_URL", f"{gcs.url}/token")
    sink = open_sink("gs://results")
    assert [sink.has("a"), sink.has("b")] == [False, False]
    assert [(route.rpartition("/")[2], token) for route, token in gcs.asked] == [
        ("token", None),
        ("a", "Bearer secret"),
        ("b", "Bearer secret"),
    ]


def test_cloud_storage_takes_results_of_an_account_that_may_only_create_them(
    gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
    gcs.may_get = False
    sink = open_sink("gs://results/a")
    assert not sink.has("x.json")
    assert sink.put_once("x.json", b"first") is True
    assert not sink.has("x.json")
    assert sink.put_once("x.json", b"second") is False
    assert list(gcs.objects["results", "a/x.json"].values()) == [b"first"]
    with pytest.raises(ContractError, match="status 403"):
        content_of(sink, "x.json")


def test_directory_is_never_left(tmp_path: Path) -> None:
    sink = open_sink(f"file://{tmp_path}/results")
    for call in (lambda: sink.put_once("s3/../../x.json", b"x"), lambda: sink.has("../x.json")):
        with pytest.raises(ContractError, match="a directory above its own") as refused:
            call()
        assert refused.value.evidence["code"] == "OUTSIDE_SINK"
    assert list(tmp_path.iterdir()) == []


def test_directory_that_cannot_be_looked_into_does_not_answer(tmp_path: Path) -> None:
    sink = open_sink(f"file://{tmp_path}")
    with pytest.raises(ContractError, match="did not answer"):
        sink.has("x" * 300)


@pytest.mark.parametrize("kind", ["s3", "gs", "file"])
def test_store_that_does_not_do_what_it_is_asked_is_asked_again_and_names_no_key(
    kind: str, aws: Cloud, gcs: FakeGcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {**aws.environment, "STORAGE_EMULATOR_HOST": gcs.url}.items():
        monkeypatch.setenv(name, value)
    gcs.is_down = True
    (tmp_path / "taken").write_text("")
    url = {"s3": "s3://no-such-bucket/p", "gs": "gs://in/p", "file": f"file://{tmp_path}/taken/p"}[kind]
    with pytest.raises(ContractError) as refused:
        open_sink(url).put_once("tailnum-N14228", b"x")
    assert (refused.value.evidence["status"], refused.value.evidence["code"]) == (503, "OBJECTS_UNAVAILABLE")
    assert "N14228" not in str(refused.value)
