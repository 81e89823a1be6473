"""One deadline for all that a read of Redis does on a socket: finding the host, connecting, the handshake, sending, and every piece
of the answer.

The redis package bounds each of these by itself, so a server that sends a byte now and then is waited for without end. Here each
is given what is left of the deadline of the thread it runs in; no other thread watches. Only a name service cannot be told how
long it may take: a host that is a name is connected to in a thread of its own, which is left behind where it is late. This
module needs the redis package.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from redis.connection import Connection, SSLConnection

__all__ = ["DEADLINE", "BoundedConnection", "BoundedTlsConnection"]

_SHORTEST = 0.001


class _Deadline(threading.local):
    """When the work of this thread must be done, by `time.monotonic()`; None = each step has the connection's own timeout."""

    at: float | None = None

    def left(self, otherwise: float | None) -> float | None:
        """Return the seconds left; of a deadline that has passed as few as a socket can wait for."""
        return otherwise if self.at is None else max(self.at - time.monotonic(), _SHORTEST)


DEADLINE = _Deadline()


class _BoundedSocket:
    """A connected socket whose every step is given what is left; one that is asked not to wait does not."""

    def __init__(self, connected: Any, timeout: float | None) -> None:
        self._socket, self._timeout = connected, timeout

    def recv(self, n_bytes: int) -> bytes:
        """Return some bytes, in time."""
        self._arm()
        received: bytes = self._socket.recv(n_bytes)
        return received

    def recv_into(self, *arguments: Any) -> int:
        """Read some bytes into a buffer, in time."""
        self._arm()
        received: int = self._socket.recv_into(*arguments)
        return received

    def sendall(self, data: Any) -> None:
        """Send all bytes, in time."""
        self._arm()
        self._socket.sendall(data)

    def settimeout(self, seconds: float | None) -> None:
        """Say how long a step may take where there is no deadline; 0 = it never waits."""
        self._timeout = seconds

    def _arm(self) -> None:
        if self._timeout == 0 or DEADLINE.at is None:
            self._socket.settimeout(self._timeout)
            return
        left = DEADLINE.at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        self._socket.settimeout(left)

    def __getattr__(self, name: str) -> Any:
        """Return whatever else a socket has."""
        return getattr(self._socket, name)


class _Bounded:
    """What the two kinds of connection have in common; stands before them in the order of their classes."""

    host: str
    socket_timeout: float | None
    _socket_connect_timeout: float | None

    @property
    def socket_connect_timeout(self) -> float | None:
        """How long connecting to one address may take; asked for each."""
        return DEADLINE.left(self._socket_connect_timeout)

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, seconds: float | None) -> None:
        self._socket_connect_timeout = seconds

    def _connect(self) -> Any:
        connect: Callable[[], Any] = super()._connect  # type: ignore[misc]
        is_name = DEADLINE.at is not None and not _is_address(self.host)
        connected = _left_behind_if_late(connect, DEADLINE.at) if is_name else connect()
        return _BoundedSocket(connected, self.socket_timeout)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _left_behind_if_late(connect: Callable[[], Any], at: float | None) -> Any:
    """Return what connecting gives, done by another thread under the same deadline; a socket that comes too late is closed."""
    ended = threading.Event()
    taking = threading.Lock()
    found: list[Any] = []
    is_late = False

    def run() -> None:
        DEADLINE.at = at
        try:
            outcome: Any = connect()
        except BaseException as exc:  # noqa: BLE001 - raised again by who waits
            outcome = exc
        with taking:
            if not is_late:
                found.append(outcome)
            elif not isinstance(outcome, BaseException):
                outcome.close()
        ended.set()

    threading.Thread(target=run, name="redis-connect", daemon=True).start()
    ended.wait(DEADLINE.left(None))
    with taking:
        is_late = not found
    if is_late:
        raise TimeoutError("the host was not found, or not connected to, within the deadline")
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


class BoundedConnection(_Bounded, Connection):
    """A connection whose steps keep to the thread's deadline."""


class BoundedTlsConnection(_Bounded, SSLConnection):
    """The same over TLS."""

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> Any:
        sock.settimeout(DEADLINE.left(self.socket_timeout))  # of the handshake, all of it
        return super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
