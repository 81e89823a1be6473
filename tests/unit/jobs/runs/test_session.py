"""A Spark that does not stop, or died, does not keep a finished job from ending; one that cannot be reached is named without token."""

from __future__ import annotations

import logging
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from feature_pipelines.errors import ConfigurationError
from jobs.runs import session
from jobs.runs.conf import load
from jobs.runs.secret_refs import mask
from tests.toy.processes import free_port

CANARY = "canary-5e55104"


class Deaf:
    """A session whose stop never returns by itself."""

    def __init__(self):
        self.heard = threading.Event()

    def stop(self):
        self.heard.wait(60)


class Dead:
    def stop(self):
        raise ConnectionError("gone")


def test_a_session_that_does_not_answer_is_left_behind(monkeypatch, caplog):
    monkeypatch.setattr(session, "_STOP_SECONDS", 0.2)
    deaf = Deaf()
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        session._stop(deaf)
    deaf.heard.set()
    assert time.monotonic() - started < 30
    assert "Spark did not stop within" in caplog.text


def test_a_session_that_died_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        session._stop(Dead())
    assert "Spark did not stop in order (ConnectionError: gone)" in caplog.text


class Builder:
    """Stands for Spark's builder, and fails as gRPC would, with the URL in the message."""

    def __init__(self):
        self.url = None

    def __getattr__(self, name):
        return lambda *_: self

    def remote(self, url):
        self.url = url
        return self

    def getOrCreate(self):
        token = self.url.rpartition("token=")[2].partition(";")[0]
        raise RuntimeError(f"{'x' * 280} cannot reach {self.url}: metadata {token} refused")


@pytest.fixture
def builder(monkeypatch):
    builder = Builder()

    sessions = SimpleNamespace(
        builder=SimpleNamespace(appName=lambda _: builder), getActiveSession=lambda: None
    )
    monkeypatch.setattr(session, "SparkSession", sessions)
    monkeypatch.delenv("SPARK_REMOTE", raising=False)
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    return builder


@pytest.mark.parametrize("way", ["spark.remote", "SPARK_REMOTE"])
@pytest.mark.parametrize("listens", [True, False])
def test_connect_server_that_fails_is_named_without_its_token(builder, monkeypatch, way, listens):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1] if listens else free_port()
        url = f"sc://127.0.0.1:{port}/;use_ssl=true;token={CANARY};user_id=ann"
        monkeypatch.setenv("CONNECT_URL_OF_TEST" if way == "spark.remote" else way, url)
        overrides = ["spark.remote=env:CONNECT_URL_OF_TEST"] if way == "spark.remote" else []
        with pytest.raises(ConfigurationError) as caught:
            session.open_session(load(overrides=overrides).spark)
    message = str(caught.value)
    assert message.startswith(f"Spark cannot start on sc://127.0.0.1:{port}: ")
    assert CANARY[:8] not in message
    assert builder.url == (url if listens else None)
    assert mask(f"later {CANARY}") == "later ***"


def test_warning_about_a_session_that_died_has_no_token(caplog):
    class Talkative:
        def stop(self):
            raise ConnectionError(f"gone: sc://h/;token={CANARY}")

    with caplog.at_level(logging.WARNING):
        session._stop(Talkative())
    assert "sc://h/;token=***" in caplog.text
    assert CANARY not in caplog.text
