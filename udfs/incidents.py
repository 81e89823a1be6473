"""A failure of our own: logged by where it happened, told to a client by a number alone. It knows nothing of HTTP."""

from __future__ import annotations

import logging
import traceback
import uuid

__all__ = ["incident", "raised_at"]

_LOGGER = logging.getLogger("onescore.serve")


def raised_at(exc: BaseException) -> str:
    """Return the functions and lines that an exception passed, the innermost first; never its message, which may hold data."""
    frames = reversed(traceback.extract_tb(exc.__traceback__))
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in frames)


def incident(exc: Exception, logger: logging.Logger = _LOGGER) -> str:
    """Log where a failure of our own happened, without its message, which may hold data; return a message that names it."""
    number = uuid.uuid4().hex[:12]
    logger.error("incident %s: %s at %s", number, type(exc).__name__, raised_at(exc))
    return f"the request failed here, not by its data; incident {number}"
