"""From a URL to a store. Each backend is imported only when one of its URLs is opened.

    sqlite:///relative.db, sqlite:////absolute.db     one file
    redis://host:port/db, rediss://... (TLS)          a Redis server; with ?cluster=true a Redis Cluster

This module knows nothing of views or rows.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from feature_pipelines.errors import ConfigurationError
from feature_pipelines.stores.base import OnlineStore

__all__ = ["open_store", "safe_url"]


def open_store(url: str, *, timeout_ms: int = 250) -> OnlineStore:
    """Return the store at a URL; nothing is connected to, and no file made, before it is used.

    Args:
        url: see above. A Redis user and password may stand in it, or the password in ONESCORE_STORE_PASSWORD.
        timeout_ms: deadline of one read, and of one step of a write, milliseconds.

    Raises:
        ConfigurationError: no such kind of store, a malformed URL, or the redis package is missing.
    """
    if timeout_ms <= 0:
        raise ConfigurationError(
            f"store timeout {timeout_ms} ms: expected more than 0", timeout_ms=timeout_ms
        )
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        from feature_pipelines.stores.sqlite import SqliteStore

        return SqliteStore(Path(rest[1:]), timeout_ms=timeout_ms)
    if separator and scheme in ("redis", "rediss"):
        try:
            backend = import_module("feature_pipelines.stores.redis")
        except ModuleNotFoundError as exc:
            if exc.name != "redis":
                raise
            raise ConfigurationError(
                f"store {safe_url(url)}: the redis package is not installed; pip install 'onescore[redis]'"
            ) from exc
        store: OnlineStore = backend.RedisStore(url, timeout_ms=timeout_ms)
        return store
    raise ConfigurationError(
        f"store {safe_url(url)!r}: expected sqlite:///path, redis://host:port/db or rediss://host:port/db",
        url=safe_url(url),
    )


def safe_url(url: str) -> str:
    """Return a URL without the user and password it may contain, for messages.

    >>> safe_url("redis://user:secret@host:6379/0")
    'redis://***@host:6379/0'
    """
    return re.sub(r"://[^/\s]*@", "://***@", re.sub(r"(?i)([?&](?:password|username)=)[^&]*", r"\1***", url))
