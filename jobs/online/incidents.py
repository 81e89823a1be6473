"""A failure of our own: logged by where it happened, told to a client by a number alone. It knows nothing of HTTP."""

from __future__ import annotations

import logging
import traceback
import uuid

__all__ = ["incident"]

_LOGGER = logging.getLogger("onescore.serve")


def incident(exc: Exception) -> str:
    """Log where a failure of our own happened, without its message, which may hold data; return a message that names it."""
    number = uuid.uuid4().hex[:12]
    frames = reversed(traceback.extract_tb(exc.__traceback__))
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in frames)
    _LOGGER.error("incident %s: %s at %s", number, type(exc).__name__, where)
    return f"the request failed here, not by its data; incident {number}"
