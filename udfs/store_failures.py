"""What an online store said when it could not answer, for whoever operates it: in the log, seldom, and never in an answer.

A store that is down fails every request; the log says each kind of failure at most every few seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from feature_pipelines.errors import OnescoreError

__all__ = ["StoreFailures"]

_LOGGER = logging.getLogger("onescore.store")
_EVERY_NS = 10_000_000_000


class StoreFailures:
    """Logs failures of one store; any number of threads may call it at once, and then one is now and then said twice.

    Args:
        timer: nanoseconds from any start.
    """

    def __init__(self, timer: Callable[[], int]) -> None:
        self._timer = timer
        self._said: dict[tuple[str, str], tuple[int, int]] = {}

    def say(self, failures: Sequence[OnescoreError]) -> None:
        """Log what was not said within the last seconds; the messages name views and the store, never a key or a value."""
        now = self._timer()
        for failure in failures:
            kind = (type(failure).__name__, str(failure.evidence.get("view", "")))
            said_at, unsaid = self._said.get(kind, (now - _EVERY_NS, 0))
            if now - said_at < _EVERY_NS:
                self._said[kind] = (said_at, unsaid + 1)
                continue
            self._said[kind] = (now, 0)
            where = failure.evidence.get("url", "")
            more = f" ({unsaid} more requests since it was last said)" if unsaid else ""
            _LOGGER.warning(
                "%s%s%s", failure, f" [{where}]" if where and where not in str(failure) else "", more
            )
