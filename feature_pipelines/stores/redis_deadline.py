"""One deadline for all that a read of Redis does on a socket: connecting, the handshake, sending, and every piece of the answer.

The redis package bounds each of these by itself, so a server that sends a byte now and then is waited for without end. Here each
is given what is left of the deadline of the thread it runs in; no other thread watches. This module needs the redis package.
"""

from __future__ import annotations

import socket
import threading
import time
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
        connected = super()._connect()  # type: ignore[misc]
        return _BoundedSocket(connected, self.socket_timeout)


class BoundedConnection(_Bounded, Connection):
    """A connection whose steps keep to the thread's deadline."""


class BoundedTlsConnection(_Bounded, SSLConnection):
    """The same over TLS."""

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> Any:
        sock.settimeout(DEADLINE.left(self.socket_timeout))  # of the handshake, all of it
        return super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
