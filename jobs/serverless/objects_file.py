"""A directory as a store of objects: mounted storage, and what tests and a first try use. A bucket is "", a key a path below the root."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from feature_pipelines.errors import ContractError
from jobs.online.protocol import refuse
from jobs.serverless.objects import Gone

__all__ = ["FileObjects"]


class FileObjects:
    """See `objects.ObjectStore`. An object appears whole or not at all."""

    def fetch(self, bucket: str, key: str, *, version: str, etag: str, max_bytes: int) -> bytes:
        """See ObjectStore; a file has neither version nor etag."""
        path = _path(key)
        try:
            if path.stat().st_size > max_bytes:
                refuse(413, "OBJECT_TOO_LARGE", f"the object has more than {max_bytes} bytes")
            return path.read_bytes()
        except FileNotFoundError:
            raise Gone from None
        except OSError as exc:
            raise _unavailable() from exc

    def has(self, bucket: str, key: str) -> bool:
        """See ObjectStore."""
        try:
            return _path(key).is_file()
        except OSError as exc:
            raise _unavailable() from exc

    def put_once(self, bucket: str, key: str, content: bytes) -> bool:
        """See ObjectStore."""
        path = _path(key)
        hidden = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            hidden.write_bytes(content)
            try:
                os.link(hidden, path)
            except FileExistsError:
                return False
            finally:
                with contextlib.suppress(FileNotFoundError):
                    hidden.unlink()
        except OSError as exc:
            raise _unavailable() from exc
        return True


def _path(key: str) -> Path:
    """Return where a key is; refuse one that leads out of the directory that it begins with."""
    path = Path("/", key)
    if ".." in path.parts:
        refuse(400, "OUTSIDE_SINK", "the object's name leads to a directory above its own")
    return path


def _unavailable() -> ContractError:
    return ContractError("the object store did not answer", status=503, code="OBJECTS_UNAVAILABLE")
