"""Who asks: the identity behind a request, by which submissions are kept apart.

No key is configured here: only a client of this very machine is let in then, and all of them are one caller. This module knows
nothing of submissions.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from feature_pipelines.errors import ContractError

__all__ = ["Authenticate", "Caller", "authenticate"]


class Caller(NamedTuple):
    """Who asks: the id of the key that was shown, never the key."""

    key_id: str


Authenticate = Callable[[Mapping[str, str], str | None], Caller]
"""From a request's headers (lower-case names) and the peer's address to who asks."""


def authenticate(headers: Mapping[str, str], peer: str | None) -> Caller:
    """Return who asks, where no key is configured: any client of this machine, that asked for it by its own name.

    Else a page of another site, whose name was made to lead here, could ask in its visitor's browser.

    Args:
        headers: of the request, by lower-case name.
        peer: its address.

    Raises:
        ContractError: evidence `status` 401: it comes from elsewhere, or by another name.
    """
    address = _address(peer)
    if address is not None and address.is_loopback:
        host = headers.get("host", "").lower()
        name = urlsplit(f"//{host}").hostname or ""
        named = _address(name)
        if name == "localhost" or (named is not None and named.is_loopback):
            return Caller("loopback")
        raise ContractError(
            "without a key this machine is served by its own name alone", status=401, code="UNAUTHENTICATED"
        )
    raise ContractError(
        "no key is configured, and without one only this machine is served",
        status=401,
        code="UNAUTHENTICATED",
    )


def _address(peer: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(peer or "")
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found
