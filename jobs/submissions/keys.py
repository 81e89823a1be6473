"""Who asks: the identity behind a request, by which submissions are kept apart.

No key is configured here: only a client of this very machine is let in then, and all of them are one caller. This module knows
nothing of submissions.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import NamedTuple

from feature_pipelines.errors import ContractError
from jobs.dashboard.browser import is_loopback_name

__all__ = ["LOOPBACK", "Authenticate", "Caller", "authenticate"]


class Caller(NamedTuple):
    """Who asks: the id of the key that was shown, never the key."""

    key_id: str


LOOPBACK = Caller("loopback")
"""Who asks from this machine, where no key is configured."""

Authenticate = Callable[[Mapping[str, str], str | None], Caller]
"""From a request's headers (lower-case names) and the peer's address to who asks."""


def authenticate(headers: Mapping[str, str], peer: str | None) -> Caller:
    """Return who asks, where no key is configured: any client of this machine.

    Args:
        headers: of the request, by lower-case name.
        peer: its address.

    Raises:
        ContractError: evidence `status` 401: it comes from elsewhere; 403: it is addressed to another name than this machine's.
    """
    with_address = _address(peer)
    if with_address is not None and with_address.is_loopback:
        if not is_loopback_name(headers.get("host", "")):  # a page's own name, made to lead here
            raise ContractError(
                "without a key this server answers under localhost alone", status=403, code="HOST"
            )
        return LOOPBACK
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
