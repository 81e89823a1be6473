"""The toy model as a function: its package without code and libraries, a time that a test sets, and stores of objects."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote_plus, unquote, urlsplit

import boto3
import pytest
from moto.server import ThreadedMotoServer

from jobs.serverless.deadline import Deadline
from jobs.serverless.function import Function, open_function
from jobs.serverless.package import write_model
from jobs.serverless.settings import FunctionSettings
from tests.toy.answers import NOW
from udfs.bundle import bundle_digest, read_golden

__all__ = ["PLENTY", "Cloud", "FakeGcs", "cloud", "fake_gcs", "opened", "opened_slow", "package_of"]

PLENTY = Deadline(lambda: 60_000, 0)
"""A deadline that no test reaches."""
_KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def package_of(
    directory: Path, bundle: Path, *, store: Path | None = None, version: str | None = "3", **settings: Any
) -> Path:
    """Write what a function of a bundle serves; return its directory.

    Args:
        directory: made.
        bundle: the model's.
        store: the SQLite store of which it brings a snapshot; None = none.
        version: that it is to be.
        settings: of FunctionSettings; the log is off unless they say otherwise.
    """
    write_model(
        directory,
        bundle,
        replace(FunctionSettings(log="none"), **settings),
        version=version,
        digest=bundle_digest(bundle),
        views=read_golden(bundle).feature_set.views,
        snapshot_of=store,
    )
    return directory


def opened(package: Path, *, timer: Callable[[], float] = lambda: 0.0, **environment: str) -> Function:
    """Return a package's function in this process, its clock at NOW and its timer, seconds, as given."""
    return open_function({"ONESCORE_PACKAGE": str(package), **environment}, lambda: NOW, timer)


def opened_slow(
    package: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> tuple[Function, list[float]]:
    """Open a function to which each piece takes so long; return it and its clock, of one item."""
    now = [0.0]
    function = opened(package, timer=lambda: now[0])
    answer = function.online.answer

    def slowly(*given: Any, **more: Any) -> Any:
        now[0] += seconds
        return answer(*given, **more)

    monkeypatch.setattr(function.online, "answer", slowly)
    return function, now


class Cloud:
    """S3 and SQS over HTTP.

    Args:
        url: of both.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.environment = {**_KEYS, "AWS_ENDPOINT_URL": url}
        named = {
            "endpoint_url": url,
            "region_name": "us-east-1",
            "aws_access_key_id": "testing",
            "aws_secret_access_key": "testing",
        }
        self.s3: Any = boto3.client("s3", **named)
        self.sqs: Any = boto3.client("sqs", **named)

    def close(self) -> None:
        """Close the connections."""
        self.s3.close()
        self.sqs.close()

    def bucket(self, name: str, *, keeps_versions: bool = False) -> str:
        """Make a bucket."""
        self.s3.create_bucket(Bucket=name)
        if keeps_versions:
            self.s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def upload(self, bucket: str, key: str, content: bytes, sequencer: str = "01") -> dict[str, Any]:
        """Upload an object; return the event by which S3 says so."""
        put = self.s3.put_object(Bucket=bucket, Key=key, Body=content)
        return s3_event(bucket, key, put["ETag"].strip('"'), len(content), put.get("VersionId"), sequencer)

    def results(self, bucket: str) -> dict[str, Any]:
        """Return every result by its key."""
        listed = self.s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {
            one["Key"]: json.loads(self.s3.get_object(Bucket=bucket, Key=one["Key"])["Body"].read())
            for one in listed
        }


def s3_event(
    bucket: str, key: str, etag: str, size: int, version: str | None = None, sequencer: str = "01"
) -> dict[str, Any]:
    """Return S3's notification of a new object, its key written as S3 writes it."""
    found = {"key": quote_plus(key, safe="/"), "size": size, "eTag": etag, "sequencer": sequencer}
    if version is not None:
        found["versionId"] = version
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "us-east-1",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"}, "object": found},
    }
    return {"Records": [record]}


@contextlib.contextmanager
def cloud() -> Iterator[Cloud]:
    """Run moto's server on a free port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
        urllib.request.urlopen(reset).close()  # what it holds is the process's
        with contextlib.closing(Cloud(f"http://{host}:{port}")) as running:
            yield running
    finally:
        server.stop()


class FakeGcs(ThreadingHTTPServer):
    """As much of Cloud Storage's JSON API as a function asks: media by generation, metadata, uploads with ifGenerationMatch=0.

    With `may_get` false its callers may create objects and not get them. With `cut` it promises a body and closes after its first half.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _GcsHandler)
        self.objects: dict[tuple[str, str], dict[str, bytes]] = {}
        self.is_down = False
        self.may_get = True
        self.cut = False
        self.asked: list[tuple[str, str | None]] = []
        self._generation = 100

    @property
    def url(self) -> str:
        """What STORAGE_EMULATOR_HOST is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, bucket: str, name: str, content: bytes) -> dict[str, str]:
        """Store an object; return what its CloudEvent says of it."""
        self._generation += 1
        generation = str(self._generation)
        self.objects.setdefault((bucket, name), {})[generation] = content
        return {"bucket": bucket, "name": name, "generation": generation, "size": str(len(content))}


class _GcsHandler(BaseHTTPRequestHandler):
    server: FakeGcs

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.asked.append((parts.path, self.headers["Authorization"]))
        if parts.path == "/token":
            is_asked = self.headers["Metadata-Flavor"] == "Google"
            self._say(200 if is_asked else 403, b'{"access_token": "secret", "expires_in": 3599}')
            return
        _, _, _, _, bucket, _, name = parts.path.split("/")
        query = parse_qs(parts.query)
        versions = self.server.objects.get((unquote(bucket), unquote(name)), {})
        generation = query.get("generation", list(versions)[-1:])
        content = versions.get(generation[0]) if generation else None
        if self.server.is_down:
            self._say(503, b"")
        elif not self.server.may_get:
            self._say(403, b"{}")
        elif content is None:
            self._say(404, b"{}")
        else:
            self._say(200, content if query.get("alt") == ["media"] else b"{}", self.server.cut)

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        parts = urlsplit(self.path)
        bucket, query = unquote(parts.path.split("/")[5]), parse_qs(parts.query)
        is_there = (bucket, query["name"][0]) in self.server.objects
        if self.server.is_down:
            self._say(503, b"")
        elif is_there and query.get("ifGenerationMatch") == ["0"]:
            self._say(412, b"{}")
        else:
            self.server.put(bucket, query["name"][0], content)
            self._say(200, b"{}")

    def _say(self, status: int, body: bytes, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def fake_gcs() -> Iterator[FakeGcs]:
    """Run it on a free port."""
    server = FakeGcs()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
