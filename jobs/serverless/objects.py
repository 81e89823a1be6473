"""Where uploaded files are read and results are written: one interface, and results that are written once.

    s3://bucket/prefix     Amazon S3 and what speaks its protocol     (boto3, which AWS's runtimes bring)
    gs://bucket/prefix     Google Cloud Storage                       (its JSON API; no library)
    file:///directory      a mounted directory

Results are below `<prefix>/s3/`, `<prefix>/gs/` and `<prefix>/sqs/`, by where they come from; what is there is no upload. Each
backend is imported only when it is used. What a store does not answer is a ContractError of status 503, so the event is handed over
again. This module knows nothing of events, rows and models.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol
from urllib.parse import quote

from feature_pipelines.errors import ConfigurationError

__all__ = ["Gone", "ObjectStore", "Sink", "name_part", "open_objects", "open_sink", "require_sink"]

_BACKENDS = {
    "s3": "jobs.serverless.objects_s3:S3Objects",
    "gs": "jobs.serverless.objects_gcs:GcsObjects",
    "file": "jobs.serverless.objects_file:FileObjects",
}
_ORIGINS = ("s3", "gs", "sqs")
"""The first part of a result's name."""
_LONGEST_PART = 250
"""A file's name has 255 bytes at most, of which ".json" needs 5."""


class Gone(Exception):
    """The object of that version is not there any more: deleted, or replaced by one that has an event of its own."""


class ObjectStore(Protocol):
    """Objects in buckets. Every method raises ContractError with status 503 where the store does not do what it is asked."""

    def fetch(self, bucket: str, key: str, *, version: str, etag: str, max_bytes: int) -> bytes:
        """Return an object's content.

        Args:
            bucket, key: of the object.
            version: which of its versions; "" = the current one, if it still is the one with the etag.
            etag: of it; "" = whichever.
            max_bytes: a larger one is refused.

        Raises:
            Gone: see there. ContractError: evidence `status` 413: it is larger.
        """
        ...

    def has(self, bucket: str, key: str) -> bool:
        """Return whether there is such an object; false also where this process may not know."""
        ...

    def put_once(self, bucket: str, key: str, content: bytes) -> bool:
        """Write an object unless there is one; return whether it was written."""
        ...


@dataclass(frozen=True)
class Sink:
    """Where results go.

    Args:
        kind: of the store: s3, gs or file.
        objects: the store.
        bucket, prefix: below which results are written.
    """

    kind: str
    objects: ObjectStore
    bucket: str
    prefix: str

    def has(self, name: str) -> bool:
        """Return whether there is a result of that name."""
        return self.objects.has(self.bucket, self._key(name))

    def put_once(self, name: str, content: bytes) -> bool:
        """Write a result unless there is one; return whether it was written."""
        return self.objects.put_once(self.bucket, self._key(name), content)

    def url(self, name: str) -> str:
        """Return where a result is."""
        return f"{self.kind}://{self.bucket}/{self._key(name)}"

    def is_own(self, kind: str, bucket: str, key: str) -> bool:
        """Return whether an object is a result: to score it would make another one, and so on for ever."""
        own = tuple(self._key(f"{origin}/") for origin in _ORIGINS)
        return (kind, bucket) == (self.kind, self.bucket) and key.startswith(own)

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


def name_part(text: str) -> str:
    """Return a text as one part of a result's name: it leads to no other directory, and no file system finds it too long.

    >>> name_part("day 1"), name_part("..")
    ('day%201', '%2E%2E')
    """
    part = text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")
    return part if len(part) <= _LONGEST_PART else f"sha256-{hashlib.sha256(text.encode()).hexdigest()}"


def open_objects(kind: str) -> ObjectStore:
    """Return a store by its kind, with the credentials and the address that the environment names.

    Raises:
        ConfigurationError: its library is missing.
    """
    module, _, name = _BACKENDS[kind].partition(":")
    try:
        made: Any = getattr(import_module(module), name)()
    except ModuleNotFoundError as exc:
        raise ConfigurationError(
            f"objects of {kind}://: {exc.name} is not installed; AWS's runtimes have boto3, else pip install 'onescore[lambda]'"
        ) from exc
    objects: ObjectStore = made
    return objects


def require_sink(url: str) -> tuple[str, str, str]:
    """Return kind, bucket and prefix of a sink's URL.

    Raises:
        ConfigurationError: it is none of the forms above.
    """
    kind, separator, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    is_file = kind == "file" and not bucket and bool(prefix)
    is_one = separator and kind in _BACKENDS and (is_file or (kind != "file" and bucket))
    if not is_one or {".", ".."} & {*prefix.split("/")}:
        raise ConfigurationError(
            f"sink {url!r}: expected s3://bucket/prefix, gs://bucket/prefix or file:///directory, without . and .. in it"
        )
    return kind, bucket, prefix


def open_sink(url: str) -> Sink:
    """Return the sink at a URL.

    Raises:
        ConfigurationError: see `require_sink` and `open_objects`.
    """
    kind, bucket, prefix = require_sink(url)
    return Sink(kind, open_objects(kind), bucket, prefix)
