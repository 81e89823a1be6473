"""The online store that a job's configuration names, and the views it is asked about.

The URL may hold a password once it is resolved: it is handed to tasks and never printed. This module opens nothing by itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from urllib.parse import quote, urlsplit, urlunsplit

from feature_pipelines.definitions import FeatureSet, FeatureView
from feature_pipelines.errors import ConfigurationError, did_you_mean
from jobs.runs.conf import Conf
from jobs.runs.secret_refs import SecretRef

__all__ = ["chosen_views", "require_one_machine", "store_url"]

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
