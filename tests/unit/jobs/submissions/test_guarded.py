from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Iterator

import httpcore
import pytest

from jobs.submissions.guarded import ForbiddenAddress, GuardedBackend, is_public, resolved


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "2606:4700::1111", "64:ff9b::1.1.1.1", "::ffff:1.1.1.1", "2002:101:101::1"],
)
def test_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fc00::1",
        "fe80::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "64:ff9b::10.0.0.1",
        "2002:a00:1::1",
        "2001:0:a00:1::f5ff:fffe",
        "64:ff9b:1::a00:1",
        "::7f00:1",
        "::ffff:0:7f00:1",
        "fec0::1",
        "192.0.0.8",
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_one_forbidden_address_among_others_is_enough(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    backend = GuardedBackend(
        time.monotonic() + 5, allow_private=False, resolve=lambda host, port: ["1.1.1.1", "127.0.0.1"]
    )
    with pytest.raises(ForbiddenAddress, match="not public"):
        backend.connect_tcp("hooks.example.org", port)
    listening.settimeout(0.05)
    with pytest.raises(TimeoutError):
        listening.accept()


def test_a_name_is_resolved_once_and_what_was_judged_is_connected_to(listening: socket.socket) -> None:
    asked = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    backend = GuardedBackend(time.monotonic() + 5, allow_private=True, resolve=resolve)
    stream = backend.connect_tcp("hooks.example.org", listening.getsockname()[1])
    stream.close()
    assert asked == ["hooks.example.org"]


def test_the_next_address_is_tried_where_one_does_not_answer(listening: socket.socket) -> None:
    backend = GuardedBackend(
        time.monotonic() + 5, allow_private=True, resolve=lambda host, port: ["127.0.0.2", "127.0.0.1"]
    )
    backend.connect_tcp("hooks.example.org", listening.getsockname()[1]).close()


@pytest.mark.parametrize("addresses", [[], ["127.0.0.2"]])
def test_nobody_answers(addresses: list[str], listening: socket.socket) -> None:
    backend = GuardedBackend(time.monotonic() + 5, allow_private=True, resolve=lambda host, port: addresses)
    with pytest.raises(httpcore.ConnectError):
        backend.connect_tcp("hooks.example.org", listening.getsockname()[1])


def test_name_that_cannot_be_resolved() -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    backend = GuardedBackend(time.monotonic() + 5, allow_private=True, resolve=resolve)
    with pytest.raises(httpcore.ConnectError, match="cannot be resolved"):
        backend.connect_tcp("nowhere.invalid", 443)


def test_resolver_that_hangs_ends_at_the_deadline() -> None:
    released = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        released.wait(60)
        return ["127.0.0.1"]

    backend = GuardedBackend(time.monotonic() + 0.2, allow_private=True, resolve=resolve)
    with pytest.raises(httpcore.ConnectTimeout, match="not resolved in time"):
        backend.connect_tcp("slow.example.org", 443)
    released.set()


def test_trickling_ends_at_the_deadline(listening: socket.socket) -> None:
    def trickle() -> None:
        connection, _ = listening.accept()
        with connection:
            try:
                while True:
                    connection.sendall(b"x")
                    time.sleep(0.02)
            except OSError:
                return

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    backend = GuardedBackend(time.monotonic() + 0.5, allow_private=True)
    stream = backend.connect_tcp("127.0.0.1", listening.getsockname()[1])
    with pytest.raises(httpcore.ReadTimeout):
        _read_all(stream)
    stream.close()
    thread.join(10)
    assert not thread.is_alive()


def test_resolver_gives_each_address_once() -> None:
    assert resolved("127.0.0.1", 80) == ["127.0.0.1"]


def _read_all(stream: httpcore.NetworkStream) -> None:
    while stream.read(1, timeout=10):
        pass
