"""Connections to hosts that somebody else named: each address is judged at the moment it is connected to, and all ends by a deadline.

A host name is resolved once, its addresses are judged, and one that was judged is what is connected to; so a name that leads elsewhere the
next time it is asked (DNS rebinding) gains nothing. This module knows nothing of what is sent.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

import httpcore

__all__ = ["ForbiddenAddress", "GuardedBackend", "is_public", "resolved"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network(
    "2000::/3"
)  # all else, translations of private networks among it, is not public
_PROTOCOLS = ipaddress.ip_network("192.0.0.0/24")


class ForbiddenAddress(httpcore.ConnectError):
    """A host name led to no address that may be connected to."""


def is_public(address: Address) -> bool:
    """Return whether an address is one of the public internet, whatever it is wrapped in.

    >>> [is_public(ipaddress.ip_address(one)) for one in ("1.1.1.1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1")]
    [True, False, False, False]
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address.teredo is not None:
            inner = address.teredo[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        return address in _GLOBAL_UNICAST and address.is_global
    return address.is_global and not address.is_multicast and address not in _PROTOCOLS


def resolved(host: str, port: int) -> list[str]:
    """Return the addresses of a host, in the resolver's order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class GuardedBackend(httpcore.NetworkBackend):
    """Connects for httpcore.

    Args:
        deadline: on the clock of `time.monotonic`; nothing takes longer.
        allow_private: whether any address may be connected to.
        resolve: from host and port to addresses.
    """

    def __init__(
        self,
        deadline: float,
        *,
        allow_private: bool,
        resolve: Callable[[str, int], list[str]] = resolved,
    ) -> None:
        self._deadline, self._allow_private, self._resolve = deadline, allow_private, resolve
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that answers; none is tried if one of them is forbidden.

        Raises:
            ForbiddenAddress: as it says. httpcore.ConnectError, httpcore.ConnectTimeout: nobody answers.
        """
        addresses = self._addresses(host, port, _left(self._deadline, timeout))
        for address in addresses:
            if not self._allow_private and not is_public(ipaddress.ip_address(address.partition("%")[0])):
                raise ForbiddenAddress("the host name leads to an address that is not public")
        failed: Exception = httpcore.ConnectError("the host name has no address")
        for address in addresses:
            try:
                left = _left(self._deadline, timeout)
                return _Bounded(self._inner.connect_tcp(address, port, left, local_address), self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failed = exc
        raise failed

    def _addresses(self, host: str, port: int, seconds: float) -> list[str]:
        """Resolve a host name in a thread of its own, which is left behind where the system's resolver takes longer than that."""
        found: Future[list[str]] = Future()

        def ask() -> None:
            try:
                found.set_result(self._resolve(host, port))
            except Exception as exc:  # noqa: BLE001 - it is raised where it is waited for
                found.set_exception(exc)

        threading.Thread(target=ask, name="resolve", daemon=True).start()
        try:
            return found.result(seconds)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout("the host name was not resolved in time") from exc
        except (OSError, UnicodeError) as exc:  # the latter: no name that could be asked for
            raise httpcore.ConnectError("the host name cannot be resolved") from exc


class _Bounded(httpcore.NetworkStream):
    """A stream whose every step ends by one deadline, however slowly the other side trickles."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline, timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(self._deadline, timeout)
        return _Bounded(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float, timeout: float | None) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("the deadline has passed")
    return left if timeout is None else min(left, timeout)
