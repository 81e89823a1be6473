"""A page's own files, read from the package once and served by their names: no path of a request ever reaches a file system."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["Assets"]

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class Assets:
    """Files by name.

    Args:
        packages: which package's `static` folder has each file, by the file's name.
    """

    def __init__(self, packages: Mapping[str, str]) -> None:
        self._files = {
            name: files(package).joinpath("static", name).read_bytes() for name, package in packages.items()
        }
        self._tags = {
            name: f'"{hashlib.sha256(content).hexdigest()[:20]}"' for name, content in self._files.items()
        }

    def answer(self, request: Request, name: str) -> Response:
        """Return a file, 304 if the client has it, 404 if there is none; clients ask each time whether theirs is still right."""
        content = self._files.get(name)
        if content is None:
            return Response(status_code=404)
        headers = {"etag": self._tags[name], "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == self._tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=_TYPES[name.rpartition(".")[2]], headers=headers)
