"""Who asks: the identity behind a request, by which submissions are kept apart.

Where no key was ever made, only a client of this very machine is let in, and all of them are one caller: the peer must be this machine, and
it must name the server as this machine too, or any web page could reach it under a name of its own that leads here (DNS rebinding). What
says that a proxy passed it on is refused; a proxy on this machine that does not say so cannot be told from a client, so behind one there
must be keys. This module knows nothing of submissions.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import sqlalchemy as sa

from feature_pipelines.errors import ConfigurationError, ContractError
from jobs.dashboard.browser import is_loopback_name
from jobs.online.json_logs import event
from jobs.submissions.database import Database
from jobs.submissions.tables import KEYS

__all__ = ["LOOPBACK", "Authenticate", "Caller", "KeyRow", "KeyStore", "KnownKeys"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PREFIX = "osk_"
_REFRESH_SECONDS = 2.0
_PASSED_ON = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
LOOPBACK = "loopback"
"""Who asks where no key is needed."""


class Caller(NamedTuple):
    """Who asks: the name of the key that was shown, never the key."""

    key_id: str


Authenticate = Callable[[Mapping[str, str], str | None], Caller]
"""From a request's headers (lower-case names) and the peer's address, None where it is not known, to who asks."""


class KeyRow(NamedTuple):
    """A key as it is kept; times are microseconds since 1970, UTC."""

    name: str
    hash: str
    created_ts: int
    revoked_ts: int | None


class KeyStore:
    """Makes, lists and revokes keys.

    Args:
        database: where they are kept, hashed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, now: int) -> str:
        """Make a key and return it; this is the only time it can be seen.

        Raises:
            ConfigurationError: the name is no name, or there is such a key, be it revoked.
        """
        if not _NAME.fullmatch(name) or name == LOOPBACK:
            raise ConfigurationError(
                f"key name {name[:80]!r}: expected up to 64 letters, digits, dots, dashes and underscores, not {LOOPBACK!r}"
            )
        key = _PREFIX + secrets.token_urlsafe(32)
        row = {"name": name, "hash": _hash(key), "created_ts": now, "revoked_ts": None}
        try:
            with self._database.writing() as connection:
                connection.execute(sa.insert(KEYS).values(row))
        except sa.exc.IntegrityError as exc:
            raise ConfigurationError(
                f"there is a key named {name!r}; submissions belong to names, so a name is used once"
            ) from exc
        return key

    def revoke(self, name: str, now: int) -> None:
        """Let a key in no more; gateways know within two seconds.

        Raises:
            ConfigurationError: there is no such key, or it is revoked already.
        """
        change = (
            sa.update(KEYS).where(KEYS.c.name == name, KEYS.c.revoked_ts.is_(None)).values(revoked_ts=now)
        )
        with self._database.writing() as connection:
            if connection.execute(change).rowcount != 1:
                raise ConfigurationError(f"there is no key named {name[:80]!r} that could be revoked")

    def listed(self) -> list[KeyRow]:
        """Return all keys, revoked ones too, by name."""
        with self._database.reading() as connection:
            return [KeyRow(*row) for row in connection.execute(sa.select(KEYS).order_by(KEYS.c.name))]


class KnownKeys:
    """The keys of one gateway, read again every two seconds; while the database is away, those last known count."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._rows = store.listed()
        self._by_hash = _valid(self._rows)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="keys", daemon=True)
        self._thread.start()

    @property
    def are_needed(self) -> bool:
        """Whether a key was ever made; that the last one was revoked opens nothing."""
        return bool(self._rows)

    def authenticate(self, headers: Mapping[str, str], peer: str | None) -> Caller:
        """Return who asks.

        Args:
            headers: of the request, by lower-case name.
            peer: the address that it comes from; None = not known.

        Raises:
            ContractError: evidence `status` 401.
        """
        key = _shown(headers)
        if not self.are_needed:
            if key is None and _is_of_this_machine(headers, peer):
                return Caller(LOOPBACK)
            raise _unauthenticated("no key was made here, and without one only this machine itself is served")
        name = None if key is None else self._by_hash.get(_hash(key))
        if name is None:
            raise _unauthenticated("send a valid key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        return Caller(name)

    def close(self) -> None:
        """Stop reading."""
        self._closing.set()
        self._thread.join()

    def _refresh(self) -> None:
        while not self._closing.wait(_REFRESH_SECONDS):
            try:
                rows = self._store.listed()
            except Exception as exc:  # noqa: BLE001 - whatever the driver raises: it comes back
                event("keys_not_read", raised=type(exc).__name__)
                continue
            self._by_hash, self._rows = _valid(rows), rows


def _valid(rows: list[KeyRow]) -> dict[str, str]:
    return {row.hash: row.name for row in rows if row.revoked_ts is None}


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _shown(headers: Mapping[str, str]) -> str | None:
    """Return the key that a request shows; two that differ are none that is valid."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    found = {headers["x-api-key"]} if "x-api-key" in headers else set()
    if scheme:
        found.add(bearer.strip() if scheme.lower() == "bearer" else "")
    return None if not found else found.pop() if len(found) == 1 else ""


def _is_of_this_machine(headers: Mapping[str, str], peer: str | None) -> bool:
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    is_named_so = is_loopback_name(headers.get("host", ""))
    return address.is_loopback and is_named_so and not any(name in headers for name in _PASSED_ON)


def _unauthenticated(message: str) -> ContractError:
    return ContractError(message, status=401, code="UNAUTHENTICATED")
