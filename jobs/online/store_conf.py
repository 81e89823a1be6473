"""The online store that a job's configuration names, and the views it is asked about.

The URL may hold a password once it is resolved: it is handed to tasks and never printed. This module opens nothing by itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from feature_pipelines.definitions import FeatureSet, FeatureView
from feature_pipelines.errors import ConfigurationError, did_you_mean
from feature_pipelines.stores.opening import safe_url
from jobs.runs.conf import Conf
from jobs.runs.secret_refs import SecretRef

__all__ = ["chosen_views", "require_one_machine", "store_identity", "store_url"]

_REDIS_PORT = 6379
_THIS_MACHINE = ("", "127.0.0.1", "::1")
_PASSWORD = "ONESCORE_STORE_PASSWORD"  # noqa: S105 - where to find it


def store_url(conf: Conf) -> str:
    """Return the store's URL, references resolved and the password in it, fit for other processes than this one.

    Raises:
        ConfigurationError: it is a reference to nothing.
    """
    url = conf.store.url
    if url.startswith(("env:", "file:")):
        url = SecretRef(url).reveal()
    parts = urlsplit(url)
    password = os.environ.get(_PASSWORD)
    if password and parts.scheme in ("redis", "rediss") and parts.password is None:
        where = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{quote(password, safe='')}@{where}"))
    return url


def store_identity(url: str) -> str:
    """Return what all URLs of one store have in common, itself a URL without a secret; of one that cannot be read, all but that.

    Files are told by their resolved path, Redis databases by host, port and number: user, password, TLS and other options make no
    other store of it. Two names or addresses of one machine cannot be told here, except the loopback interface's.
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower() == "sqlite":
        return f"sqlite:///{Path(rest[1:]).resolve()}"
    try:
        parts = urlsplit(url)
        port = parts.port or _REDIS_PORT
    except ValueError:
        return safe_url(url)
    host = (parts.hostname or "").rstrip(".")
    query = parse_qs(parts.query)
    number = query.get("db", [parts.path.strip("/")])[-1]
    if query.get("cluster") == ["true"]:  # a cluster has one database
        number = "0"
    number = str(int(number)) if number.isdecimal() else number or "0"
    return f"redis://{'localhost' if host in _THIS_MACHINE else host}:{port}/{number}"


def require_one_machine(url: str, master: str) -> None:
    """Refuse a SQLite store where tasks run on other machines: each would fill a file of its own.

    Raises:
        ConfigurationError: as said; names the master.
    """
    if url.startswith("sqlite:") and not master.startswith("local"):
        raise ConfigurationError(
            f"store.url is a SQLite file, which is on one machine, and Spark's master is {master}: run this job with "
            "spark.master=local[*], or use a Redis store",
            master=master,
        )


def chosen_views(feature_set: FeatureSet, names: Sequence[str]) -> list[FeatureView]:
    """Return the views of a feature set by name, all of them if none is named.

    Raises:
        ConfigurationError: the feature set has no view of that name, or none at all.
    """
    views = {view.name: view for view in feature_set.views}
    if not views:
        raise ConfigurationError(f"feature set {feature_set.name!r} has no stored views")
    for name in names:
        if name not in views:
            raise ConfigurationError(
                f"--view {name}: feature set {feature_set.name!r} has no such view.{did_you_mean(name, views)}"
            )
    return [view for view in feature_set.views if not names or view.name in names]
