"""Connections of a real server: one that sends no whole head is closed, and idle ones make room for those that ask."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from jobs.online import connection, http_server
from jobs.online.http_server import make_server

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
UNWANTED = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answer at once, or when the body is here."""
    if scope["path"] == "/body":
        while (await receive()).get("more_body"):
            pass
    headers = [(b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server that itself closes no connection for being idle."""
    monkeypatch.setattr(http_server, "_KEEP_ALIVE_SECONDS", 600)
    listening = socket.create_server(("127.0.0.1", 0))
    server = make_server(app, 1)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()


@contextlib.contextmanager
def connected(port: int, *sent: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as opened:
        for part in sent:
            opened.sendall(part)
        yield opened


def is_answered(opened: socket.socket) -> bool:
    """Wait for the end of an answer."""
    said = b""
    while part := opened.recv(1_000):
        said += part
        if said.endswith(b"ok"):
            return True
    return False


def is_closed_by_now(opened: socket.socket) -> bool:
    """Look, and do not wait."""
    try:
        return not opened.recv(1_000)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def is_closed(opened: socket.socket) -> bool:
    """Wait for the server's end; what it says before is passed over."""
    with contextlib.suppress(ConnectionResetError):
        while opened.recv(65_536):
            pass
    return True


@pytest.mark.parametrize(
    ("sent", "after_the_answer"),
    [
        (b"", b""),
        (b"GET / HT", b""),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", b""),
        (REQUEST, b"G"),
        (UNWANTED, b"nobody reads it"),
        (UNWANTED, b""),
    ],
)
def test_connection_that_owes_a_head_is_closed(
    port: int, sent: bytes, after_the_answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_HEAD_SECONDS", 1.0)
    with connected(port, sent) as opened:
        if sent in (REQUEST, UNWANTED):
            assert is_answered(opened)
            opened.sendall(after_the_answer)
        assert is_closed(opened)


def test_body_that_nobody_wanted_may_come_on_for_longer_than_a_head(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_HEAD_SECONDS", 2.0)
    size = 1_000_000
    with connected(port, UNWANTED) as sends_on:
        assert is_answered(sends_on)
        with connected(port) as silent:
            silent.setblocking(False)
            while not is_closed_by_now(silent):
                sends_on.sendall(b"x")
                size -= 1
                time.sleep(0.05)
        sends_on.sendall(b"x" * size + REQUEST)
        assert is_answered(sends_on)


def test_body_that_nobody_wanted_may_not_come_for_ever(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_HEAD_SECONDS", 1.0)
    monkeypatch.setattr(connection, "_UNWANTED_SECONDS", 0.0)
    with connected(port, UNWANTED) as sends_on:
        assert is_answered(sends_on)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):  # noqa: PT012 - whichever call meets it
            while True:
                sends_on.sendall(b"x")
                time.sleep(0.05)


def test_connection_may_be_idle_after_an_answer_and_a_body_may_take_its_time(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_HEAD_SECONDS", 2.0)
    with (
        connected(port, REQUEST) as answered,
        connected(port, b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n12") as slow,
        connected(port) as silent,
    ):
        assert is_answered(answered)
        assert is_closed(silent)  # so the time has passed
        answered.sendall(REQUEST)
        slow.sendall(b"34")
        assert is_answered(answered)
        assert is_answered(slow)


def test_silent_connections_do_not_keep_others_out(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_MOST", 5)
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(
            connected(
                port, b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
            )
        )
        assert busy.recv(1_000).startswith(b"HTTP/1.1 100")  # so it is under way
        silent = [stack.enter_context(connected(port)) for _ in range(20)]
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        client.request("GET", "/")
        assert client.getresponse().read() == b"ok"
        client.close()
        assert all(is_closed(one) for one in silent[:15])
        busy.sendall(b"12")
        assert is_answered(busy)
