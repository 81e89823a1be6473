"""The prediction log of a function: each logged row as a line of JSON on the standard output, which the platform keeps.

A function's disk is gone with it, and it is frozen as soon as it has answered: what waits in memory may never be written. So lines are
written before the answer leaves, and nothing waits. The columns are those of the log of the servers (`udfs.prediction_schema`);
`sequence` counts the logged rows of a process, so a missing line shows. Which rows are logged is decided by a hash of the row's id.
This module knows no platform.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable
from typing import Any, TextIO

from feature_pipelines.columns import DType
from feature_pipelines.wire import encode
from udfs.answered import Answered
from udfs.prediction_rows import PiiPolicy, is_sampled, to_columns

__all__ = ["LineLog"]

_LOGGER = logging.getLogger("onescore.prediction_log")
_TIMESTAMP, _FLOAT64 = DType("timestamp"), DType("float64")
_TIMES = ("served_ts", "as_of_ts")
_LONGEST_TEXT = 4_096
"""Of a field's JSON text, such as an image's base64: a longer one is logged by its SHA-256. A platform cuts lines of 256 KB."""


class LineLog:
    """Stands where `OnlineScorer` expects a prediction log; any number of threads may use it.

    Args:
        stream: where lines go.
        clock: microseconds since 1970, UTC; names this process's start.
        sample_share: which share of the rows is logged, 0 to 1.
        pii: what becomes of fields tagged "pii".
    """

    def __init__(self, stream: TextIO, clock: Callable[[], int], sample_share: float, pii: PiiPolicy) -> None:
        self._stream, self._share, self._pii, self._clock = stream, sample_share, pii, clock
        self._begin()
        os.register_at_fork(after_in_child=self._begin)  # as servers of several processes do

    def _begin(self) -> None:
        """Start counting, under a process id of its own."""
        self._started = self._clock()
        self._process = f"{os.getpid()}-{self._started}-{secrets.token_hex(3)}"
        self._lock = threading.Lock()
        self._next = 0

    def write(self, answered: Answered) -> None:
        """Write the lines of a request's sampled rows; never raises: no prediction fails by its log."""
        try:
            rows = enumerate(answered.rows)
            kept = [i for i, row in rows if is_sampled(answered.model, row, self._share)]
            if not kept:
                return
            columns = to_columns(answered, kept, self._pii)
            with self._lock:
                first, self._next = self._next, self._next + len(kept)
            lines = [self._line(columns, at, first + at) for at in range(len(kept))]
            with self._lock:
                self._stream.write("".join(lines))
                self._stream.flush()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the answers are there
            _LOGGER.error("answers cannot be logged: %s", type(exc).__name__)

    def close(self) -> None:
        """Nothing waits to be written."""

    def _line(self, columns: dict[str, list[Any]], at: int, sequence: int) -> str:
        row = {name: values[at] for name, values in columns.items()}
        for name in _TIMES:
            row[name] = encode(_TIMESTAMP, [row[name]])[0]
        for name in ("request", "stored"):
            row[name] = {field: _short(text) for field, text in row[name]}
        row["features"] = {name: encode(_FLOAT64, [value])[0] for name, value in row["features"]}
        row["statuses"] = dict(row["statuses"])
        row["class_scores"] = None if row["class_scores"] is None else dict(row["class_scores"])
        row["event_ts"] = {name: encode(_TIMESTAMP, [time])[0] for name, time in row["event_ts"]}
        started = encode(_TIMESTAMP, [self._started])[0]
        head = {
            "log": "prediction",
            "process": self._process,
            "process_started_ts": started,
            "sequence": sequence,
        }
        return json.dumps({**head, **row}, separators=(",", ":")) + "\n"


def _short(text: str) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()} of {len(text)} characters"
