"""The dashboard as it runs: a thread that follows the log, and snapshots for any number of readers, each computed once.

It knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import orjson

from jobs.dashboard.board import Board
from jobs.dashboard.follower import Follower, Progress
from jobs.dashboard.windows import FINE_SECONDS

__all__ = ["Live"]

_LOGGER = logging.getLogger("onescore.dashboard")
_MOST_CACHED = 64


class Live:
    """Follows and answers; close it when done.

    Args:
        board: what is known.
        follower: fills it.
        clock: microseconds since 1970, UTC.
        every_seconds: how often the log is looked at.
        ended: is called when it is closed and nothing more is judged; perhaps more than once.
    """

    def __init__(
        self,
        board: Board,
        follower: Follower,
        clock: Callable[[], int],
        *,
        every_seconds: float,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._board, self._follower, self._clock, self._every = board, follower, clock, every_seconds
        self._ended = ended
        self._version = 0
        self._progress = Progress(0, False, False)
        self._is_rebuilt = False
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._cached: dict[tuple[str | None, int, bool], tuple[tuple[int, int], bytes]] = {}
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def start(self) -> None:
        """Begin to follow the log."""
        self._thread = threading.Thread(target=self._run, name="dashboard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; readers that wait are woken."""
        self._ending.set()
        self._wake()
        if self._thread is not None:
            self._thread.join()
        self._ended()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._ending.is_set()

    def poll(self) -> None:
        """Look at the log once, judge the rules, and wake who waits if anything changed."""
        now = self._clock()
        progress = self._follower.poll(now)
        changed = progress.is_news or progress[:2] != self._progress[:2]
        self._progress = progress
        if not progress.n_waiting:
            self._is_rebuilt = True
            with self._follower.lock:  # not before all is read: half a window would be judged
                changed |= self._board.judge(now)
        if changed:
            self._version += 1
            self._wake()

    def snapshot(
        self, model: str | None, seconds: int, *, with_answers: bool
    ) -> tuple[tuple[int, int], bytes]:
        """Return the JSON of a snapshot, and its state: as long as that is the same, so is the snapshot but for the time.

        Args:
            model, seconds, with_answers: see `Board.snapshot`.
        """
        now = self._clock()
        state = (self._version, now // (FINE_SECONDS * 1_000_000))
        key = (model, seconds, with_answers)
        with self._follower.lock:
            cached = self._cached.get(key)
            if cached is None or cached[0] != state:
                found = self._board.snapshot(model, seconds, now, with_answers=with_answers)
                found["follows"] = {
                    "is_there": self._progress.is_there,
                    "is_rebuilt": self._is_rebuilt,
                    "files_waiting": self._progress.n_waiting,
                    "every_seconds": self._every,
                }
                if len(self._cached) >= _MOST_CACHED:
                    self._cached.clear()
                cached = self._cached[key] = (state, orjson.dumps(found))
        return cached

    @contextmanager
    def watched(self) -> Iterator[asyncio.Event]:
        """Yield an event of the running loop that is set whenever something changed."""
        waiting = (asyncio.get_running_loop(), asyncio.Event())
        self._waiting.add(waiting)
        try:
            yield waiting[1]
        finally:
            self._waiting.discard(waiting)

    def _wake(self) -> None:
        for loop, event in tuple(self._waiting):
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    def _run(self) -> None:
        while True:
            try:
                self.poll()
            except Exception as exc:  # noqa: BLE001 - a dashboard that ended would show the past as the present
                _LOGGER.error("the log could not be followed: %s", type(exc).__name__)
            if self._ending.wait(0 if self._progress.n_waiting else self._every):
                return
