"""Whether a server should be sent requests: its model verified, its store reachable and filled, its features fresh.

It asks the store in a thread of its own, at most every few seconds however often it is asked itself, and takes no answer in time
for a store that is down. It knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from feature_pipelines.errors import OnescoreError
from udfs.online import OnlineScorer

__all__ = ["Readiness"]

_LOGGER = logging.getLogger("onescore.serve")
_CACHED_SECONDS = 2.0


class Readiness:
    """Checks one server.

    Args:
        online: what answers.
        clock: microseconds since 1970, UTC.
        max_staleness_seconds: how far a view's W may lie behind the clock; None = not checked.
        timeout_seconds: how long the store may take to say W.
    """

    def __init__(
        self,
        online: OnlineScorer,
        clock: Callable[[], int],
        *,
        max_staleness_seconds: float | None,
        timeout_seconds: float,
    ) -> None:
        self._online, self._clock = online, clock
        self._max_staleness, self._timeout = max_staleness_seconds, timeout_seconds
        self._thread = ThreadPoolExecutor(1, "readiness")
        self._asking: asyncio.Future[Any] | None = None
        self._asked_at = float("-inf")
        self.through: dict[str, int | None] | None = None

    async def refresh(self) -> None:
        """Ask the store for W, unless that was done within the last seconds."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._asked_at < _CACHED_SECONDS:
            return
        if self._asking is None:
            self._asking = loop.run_in_executor(self._thread, self._ask)
        asking = self._asking
        try:
            self.through = await asyncio.wait_for(asyncio.shield(asking), self._timeout)
        except TimeoutError:
            self.through = None  # and the next call waits for the same question
            return
        except Exception as exc:  # noqa: BLE001 - a defect of ours must not make the server unready for ever
            _LOGGER.error("the store was not asked how far it is: %s", type(exc).__name__)
            self.through = None
        self._asking, self._asked_at = None, loop.time()

    async def check(self) -> dict[str, Any]:
        """Return {"ready": bool, "checks": {name: {"ok": bool, ...}}} with what fails named."""
        await self.refresh()
        verified = self._online.scorer.verified
        checks: dict[str, Any] = {"model": {"ok": verified in ("verified", "tolerance"), "is": verified}}
        checks["store"] = {"ok": self.through is not None}
        empty = sorted(name for name, w in (self.through or {}).items() if w is None)
        checks["views"] = {"ok": self.through is not None and not empty, "never_materialised": empty}
        if self._max_staleness is not None:
            ages = {
                name: None if w is None else (self._clock() - w) / 1e6
                for name, w in (self.through or {}).items()
            }
            late = sorted(n for n, age in ages.items() if age is None or age > self._max_staleness)
            checks["features"] = {"ok": self.through is not None and not late, "stale": late}
        return {"ready": all(check["ok"] for check in checks.values()), "checks": checks}

    def close(self) -> None:
        """Let go of the thread, busy or not."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _ask(self) -> dict[str, int | None] | None:
        views = self._online.scorer.feature_set.views
        if self._online.store is None or not views:
            return {}
        try:
            return self._online.store.through(views)
        except OnescoreError:
            return None
