"""Structured logs: one JSON object a line on stderr, whichever library speaks. Events hold no data of requests."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

__all__ = ["event", "failure", "log_json"]

_LOGGER = logging.getLogger("onescore.serve")


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": os.getpid(),
        }
        facts = getattr(record, "facts", None)
        line |= {"event": record.msg, **facts} if facts is not None else {"message": record.getMessage()}
        if record.exc_info and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2])
            line["raised"] = record.exc_info[0].__name__  # not its message, which may hold data
            line["at"] = [f"{frame.name}:{frame.lineno}" for frame in frames[-5:]]
        return json.dumps(line, default=str)


def log_json(level: int = logging.INFO) -> None:
    """Send every log record of this process to stderr as JSON; third parties' from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("onescore").setLevel(level)


def event(name: str, **facts: Any) -> None:
    """Log one event of a server with its facts."""
    _LOGGER.info(name, extra={"facts": facts})


def failure(name: str, **facts: Any) -> None:
    """Log one event that somebody must look at."""
    _LOGGER.error(name, extra={"facts": facts})
