"""Google Cloud Storage as a store of objects, by its JSON API: a few requests need no library, and a package stays small.

The token is that of the function's service account, from the platform's metadata server, kept until shortly before it ends.
An account that may create objects and not get them is told 403 of each, so `has` takes that for no, and the conditional write decides.
STORAGE_EMULATOR_HOST names another server of the same API, which is asked without a token, as Google's own clients do.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any, NoReturn
from urllib.parse import quote

from jobs.online.protocol import refuse
from jobs.serverless.objects import Gone

__all__ = ["GcsObjects"]

_API = "https://storage.googleapis.com"
_TOKEN_URL = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105
_SECONDS = 20
_EARLY_SECONDS = 60
_FORBIDDEN, _NOT_FOUND, _PRECONDITION = 403, 404, 412


class GcsObjects:
    """See `objects.ObjectStore`; a version is a generation, an etag plays no part."""

    def __init__(self) -> None:
        emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
        self._is_emulator = bool(emulator)
        self._api = (emulator if "://" in emulator else f"http://{emulator}") if emulator else _API
        self._token, self._until = "", 0.0

    def fetch(self, bucket: str, key: str, *, version: str, etag: str, max_bytes: int) -> bytes:
        """See ObjectStore."""
        route = f"/storage/v1/b/{_quoted(bucket)}/o/{_quoted(key)}?alt=media"
        status, content = self._call(
            "GET", route + (f"&generation={_quoted(version)}" if version else ""), most=max_bytes
        )
        if status == _NOT_FOUND:
            raise Gone
        _require_ok(status)
        if len(content) > max_bytes:
            refuse(413, "OBJECT_TOO_LARGE", f"the object has more than {max_bytes} bytes")
        return content

    def has(self, bucket: str, key: str) -> bool:
        """See ObjectStore."""
        status, _ = self._call("GET", f"/storage/v1/b/{_quoted(bucket)}/o/{_quoted(key)}?fields=name")
        if status in (_NOT_FOUND, _FORBIDDEN):
            return False
        _require_ok(status)
        return True

    def put_once(self, bucket: str, key: str, content: bytes) -> bool:
        """See ObjectStore."""
        route = f"/upload/storage/v1/b/{_quoted(bucket)}/o?uploadType=media&ifGenerationMatch=0&name={_quoted(key)}"
        status, _ = self._call("POST", route, content)
        if status != _PRECONDITION:
            _require_ok(status)
        return status != _PRECONDITION

    def _call(
        self, method: str, route: str, body: bytes | None = None, most: int = 1 << 20
    ) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if not self._is_emulator:
            headers["Authorization"] = f"Bearer {self._bearer()}"
        return _asked(urllib.request.Request(self._api + route, body, headers, method=method), most)  # noqa: S310

    def _bearer(self) -> str:
        if time.monotonic() > self._until:
            request = urllib.request.Request(_TOKEN_URL, headers={"Metadata-Flavor": "Google"})
            status, content = _asked(request, 1 << 20)
            _require_ok(status)
            found: dict[str, Any] = json.loads(content)
            self._token = str(found["access_token"])
            self._until = time.monotonic() + float(found["expires_in"]) - _EARLY_SECONDS
        return self._token


def _asked(request: urllib.request.Request, most: int) -> tuple[int, bytes]:
    """Return the status and the content, of which one byte more than `most` is read; an answer that breaks off is none."""
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            promised: int | None = answer.length  # None: in chunks, of which a missing one raises
            content: bytes = answer.read(most + 1)
            if promised is not None and len(content) < min(promised, most + 1):
                raise http.client.IncompleteRead(
                    b"", promised
                )  # as read() does, but not if it is told how much to read
            return answer.status, content
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, b""
    except (OSError, http.client.HTTPException) as exc:
        _refuse(type(exc).__name__)


def _require_ok(status: int) -> None:
    if status >= 300:
        _refuse(f"status {status}")


def _refuse(what: str) -> NoReturn:
    refuse(503, "OBJECTS_UNAVAILABLE", f"Cloud Storage did not do what it was asked: {what}")


def _quoted(text: str) -> str:
    return quote(text, safe="")
