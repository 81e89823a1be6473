"""How often a caller may ask: a bucket of tokens for each, filled at a steady rate. It knows nothing of HTTP."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from feature_pipelines.errors import ContractError

__all__ = ["RateLimit"]

_BURST_SECONDS = 2.0


class RateLimit:
    """Lets each caller ask so often a second, and two seconds' worth at once.

    Args:
        per_second: requests of one caller to this process.
        clock: seconds from any start.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._most, self._clock = per_second, max(per_second * _BURST_SECONDS, 1.0), clock
        self._lock = threading.Lock()
        self._left: dict[str, tuple[float, float]] = {}

    def check(self, caller: str) -> None:
        """Count one request.

        Raises:
            ContractError: evidence `status` 429 and `retry_after`, whole seconds: it comes too early; it is not counted.
        """
        now = self._clock()
        with self._lock:
            left, at = self._left.get(caller, (self._most, now))
            left = min(self._most, left + (now - at) * self._rate)
            is_too_early = left < 1.0
            self._left[caller] = (left if is_too_early else left - 1.0, now)
        if is_too_early:
            wait = math.ceil((1.0 - left) / self._rate)
            raise ContractError(
                f"more than {self._rate:g} requests a second; ask again later",
                status=429,
                code="TOO_MANY_REQUESTS",
                retry_after=max(wait, 1),
            )
