"""Messages between a worker and a process that scores for it: a JSON header and a body of bytes, over a pipe.

Lengths stand before both, so neither needs escaping. A pipe that ends is how one side learns that the other is gone.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from collections.abc import Mapping
from typing import Any

__all__ = ["Ended", "Late", "is_readable", "read_frame", "write_frame"]

_LENGTHS = struct.Struct("!IQ")
_PIECE = 1 << 20


class Ended(Exception):
    """The other side is gone."""


class Late(Exception):
    """The other side did not answer in time."""


def write_frame(
    descriptor: int, header: Mapping[str, Any], body: bytes = b"", deadline: float | None = None
) -> None:
    """Write one message.

    Args:
        descriptor: of the pipe.
        header: plain JSON.
        body: any bytes.
        deadline: of `time.monotonic`; None = wait.

    Raises:
        Ended, Late: see there.
    """
    said = json.dumps(header).encode()
    rest = memoryview(_LENGTHS.pack(len(said), len(body)) + said + body)
    while rest:
        _wait(descriptor, select.POLLOUT, deadline)
        try:
            rest = rest[os.write(descriptor, rest[:_PIECE]) :]
        except BlockingIOError:
            continue
        except OSError as exc:
            raise Ended from exc


def read_frame(descriptor: int, deadline: float | None = None) -> tuple[dict[str, Any], bytes]:
    """Read one message; arguments and errors as in `write_frame`."""
    head, size = _LENGTHS.unpack(_read(descriptor, _LENGTHS.size, deadline))
    header: dict[str, Any] = json.loads(_read(descriptor, head, deadline))
    return header, _read(descriptor, size, deadline)


def _read(descriptor: int, size: int, deadline: float | None) -> bytes:
    parts = []
    while size:
        _wait(descriptor, select.POLLIN, deadline)
        try:
            part = os.read(descriptor, min(size, _PIECE))
        except OSError as exc:
            raise Ended from exc
        if not part:
            raise Ended
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def is_readable(descriptor: int, seconds: float) -> bool:
    """Return whether a message begins, or the other side is gone, within some seconds."""
    return _is_ready(descriptor, select.POLLIN, seconds)


def _wait(descriptor: int, what: int, deadline: float | None) -> None:
    if not _is_ready(descriptor, what, None if deadline is None else deadline - time.monotonic()):
        raise Late


def _is_ready(descriptor: int, what: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, what)
    return bool(poll.poll(None if seconds is None else max(0.0, seconds) * 1000))
