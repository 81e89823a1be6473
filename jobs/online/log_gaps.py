"""Which numbered answers of a prediction log are in no file: lost for good, or perhaps not yet written.

What a process numbered and no file holds is lost if later numbers are in one, or if nothing of it
came for a while (the disk is full, the process was killed); until then it is queued. This module counts, and tells nobody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from udfs.prediction_files import gaps

__all__ = ["GapWatch", "Missing"]

_LOGGER = logging.getLogger("onescore.watch")


class Missing(NamedTuple):
    """Rows of a model's log that are in no file: those that will not be, and those that may yet be written."""

    lost: int
    queued: int


class GapWatch:
    """Looks at the same logs again and again.

    Args:
        overdue_seconds: how long nothing of a process's last rows may come until they count as lost; above its flush_seconds.
        timer: seconds from any start.
    """

    def __init__(self, overdue_seconds: float, timer: Callable[[], float] = time.monotonic) -> None:
        self._overdue_seconds, self._timer = overdue_seconds, timer
        self._tails: dict[tuple[str, str, int], float] = {}

    def look(self, directories: Iterable[Path]) -> dict[str, Missing]:
        """Return what is missing now, by the name of the directory of a model's log; one that cannot be told is left out."""
        now, found = self._timer(), {}
        tails: dict[tuple[str, str, int], float] = {}
        for directory in directories:
            lost = queued = 0
            try:
                missing = gaps(directory)
            except (OSError, ValueError) as exc:
                _LOGGER.error("gaps of the prediction log cannot be told: %s", type(exc).__name__)
                continue
            for gap in missing:
                n, key = gap.last - gap.first + 1, (directory.name, gap.process, gap.first)
                if gap.is_tail:
                    tails[key] = self._tails.get(key, now)
                if gap.is_tail and now - tails[key] < self._overdue_seconds:
                    queued += n
                else:
                    lost += n
            found[directory.name] = Missing(lost, queued)
        self._tails = tails
        return found
