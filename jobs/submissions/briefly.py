"""A value that is costly to have and may be a moment old: had once for all who ask meanwhile.

This module does not know what the value is of.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Briefly"]

T = TypeVar("T")


class Briefly(Generic[T]):
    """Has a value by `get`, and keeps it, or what was raised, for `seconds`; any number of threads may call.

    Args:
        get: costs something.
        seconds: so old a value may be.
        clock: seconds, for tests.
    """

    def __init__(
        self, get: Callable[[], T], seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._get, self._seconds, self._clock = get, seconds, clock
        self._lock = threading.Lock()
        self._until = float("-inf")
        self._values: list[T] = []
        self._raised: Exception | None = None

    def __call__(self) -> T:
        """Return the value; those who ask while it is being had wait for it.

        Raises:
            Exception: what `get` raised, for as long.
        """
        with self._lock:
            if self._clock() >= self._until:
                self._values, self._raised = [], None
                try:
                    self._values = [self._get()]
                except Exception as exc:  # noqa: BLE001 - it is raised below, to all who ask
                    self._raised = exc
                self._until = self._clock() + self._seconds
            if self._raised is not None:
                raise self._raised.with_traceback(None)
            return self._values[0]
