"""Files by path or URI: one spelling for each place, and the pyarrow file system that serves it.

    /data/t, data/t, ~/t, file:/data/t, file:///data/t     local; spelled as the absolute path
    s3://b/t (also s3a, s3n), gs://, abfss://, hdfs://     remote; spelled as the URI, its path percent-encoded

Credentials and endpoints come from the environment, by the variables of the store's own tools. This module does not know what
is in a file or what a table is.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.fs as pafs

from feature_pipelines.errors import TableError

__all__ = ["child_uri", "filesystem_of", "is_local", "list_files", "normal_uri"]

_URI = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*):(//[^/]*)?(.*)$", re.DOTALL)
_SAME_SCHEME = {"s3a": "s3", "s3n": "s3"}


def normal_uri(uri: str) -> str:
    """Return the one spelling of a place: an absolute path if it is local, else a URI without a slash at its end.

    Args:
        uri: a path (relative ones are below the working directory) or a URI.

    >>> normal_uri("file:/data/my%20table/")
    '/data/my table'
    >>> normal_uri("s3a://bucket/t/")
    's3://bucket/t'
    """
    match = _URI.match(uri)
    if match is None or (match[2] is None and not match[3].startswith("/")):
        return os.path.abspath(os.path.expanduser(uri))
    scheme = match[1].lower()
    if scheme == "file":
        return os.path.abspath(unquote(match[3]))
    return f"{_SAME_SCHEME.get(scheme, scheme)}:{match[2] or ''}{match[3].rstrip('/')}"


def is_local(uri: str) -> bool:
    """Return whether a place is in this machine's file system (a network mount counts as such)."""
    return normal_uri(uri).startswith("/")


def child_uri(uri: str, relative: str) -> str:
    """Return where a file below a place is.

    Args:
        uri: a directory.
        relative: path below it, as the file system spells it (not percent-encoded), "/" between parts.

    >>> child_uri("/data/t", "day=1 May/a.parquet"), child_uri("s3://b/t", "day=1 May/a.parquet")
    ('/data/t/day=1 May/a.parquet', 's3://b/t/day=1%20May/a.parquet')
    """
    base = normal_uri(uri)
    return f"{base.rstrip('/')}/{relative if base.startswith('/') else quote(relative, safe='/=')}"


def filesystem_of(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system that holds a place, and the place's path in it.

    File systems are kept and shared: asking for each of many files costs one connection.

    Raises:
        TableError: nothing here serves that scheme, or its store does not answer.
    """
    base = normal_uri(uri)
    if base.startswith("/"):
        return _local(), base
    match = _URI.match(base)
    scheme, authority, path = match.groups(default="") if match else ("", "", "")
    try:
        filesystem, root = _remote(f"{scheme}:{authority}/")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise TableError(
            f"{uri}: no file system for scheme {scheme!r}: use a path, or file, s3, gs, abfss or hdfs.",
            uri=uri,
        ) from exc
    except OSError as exc:
        reason = str(exc).splitlines()[0]
        raise TableError(f"{uri}: the store does not answer ({reason}).", uri=uri) from exc
    return filesystem, "/".join(part for part in (root.rstrip("/"), unquote(path).lstrip("/")) if part)


def list_files(uri: str) -> list[pafs.FileInfo]:
    """Return all files below a directory, at any depth, sorted by path; none if there is no such directory."""
    filesystem, path = filesystem_of(uri)
    selector = pafs.FileSelector(path, recursive=True, allow_not_found=True)
    found: list[pafs.FileInfo] = filesystem.get_file_info(selector)
    return sorted(
        (info for info in found if info.type == pafs.FileType.File), key=lambda info: str(info.path)
    )


@lru_cache(maxsize=1)
def _local() -> pafs.FileSystem:
    return pafs.LocalFileSystem()


@lru_cache(maxsize=64)
def _remote(root: str) -> tuple[pafs.FileSystem, str]:
    filesystem, base = pafs.FileSystem.from_uri(root)
    return filesystem, base
