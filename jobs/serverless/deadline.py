"""How much time an invocation has left, and the refusal to begin, or to wait for, what would not end in it.

A function that runs out of time is killed: the caller learns nothing, and a queue hands over its whole batch again. So work is cut up,
and what cannot be finished is refused while there is still time to say so. This module knows no platform.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NoReturn, TypeVar

from feature_pipelines.errors import ContractError
from jobs.online.protocol import refuse

__all__ = ["Deadline", "Pace"]

_T = TypeVar("_T")
_KEPT = 0.9
"""Of the slowest piece's time, when a faster one is seen."""


class Deadline:
    """The end of one invocation.

    Args:
        remaining_ms: says how many milliseconds are left.
        reserve_ms: how many of them are kept for saying what was not done.
    """

    def __init__(self, remaining_ms: Callable[[], float], reserve_ms: float) -> None:
        self._remaining_ms, self._reserve_ms = remaining_ms, reserve_ms

    @classmethod
    def after(cls, seconds: float, reserve_ms: float, clock: Callable[[], float]) -> Deadline:
        """Return the deadline of what begins now, where no platform says it.

        Args:
            seconds: how long it may take.
            reserve_ms: as above.
            clock: monotonic seconds.
        """
        end = clock() + seconds
        return cls(lambda: (end - clock()) * 1000, reserve_ms)

    def require(self, needed_ms: float = 0) -> None:
        """Refuse to begin what takes longer than there is time.

        Args:
            needed_ms: how long it takes, as far as that is known.

        Raises:
            ContractError: evidence `status` 503: there is not so much time.
        """
        if self._left_ms() <= needed_ms:
            _refuse()

    def within(self, call: Callable[[], _T]) -> _T:
        """Return what a call returns, whatever time-outs it has of its own, if it does so in time.

        A call that does not is left to itself: it may yet be done, in this invocation or when the process goes on, so it must be one
        that may be done twice.

        Args:
            call: asks another service; runs in a thread of its own.

        Raises:
            ContractError: as `require`. Whatever the call raises.
        """
        left_ms = self._left_ms()
        if left_ms <= 0:
            _refuse()
        returned: list[_T] = []
        raised: list[Exception] = []

        def run() -> None:
            try:
                returned.append(call())
            except Exception as exc:  # noqa: BLE001 - raised below, in the thread that asked
                raised.append(exc)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(min(left_ms / 1000, threading.TIMEOUT_MAX))
        if raised:
            raise raised[0]
        if not returned:
            _refuse()
        return returned[0]

    def _left_ms(self) -> float:
        return self._remaining_ms() - self._reserve_ms


class Pace:
    """How long pieces of work took in this process, by their number of rows: what the next one is expected to take.

    A piece takes no less than the slowest of as many rows or fewer (counted to a power of two). What was slow once is forgotten bit
    by bit, also by the invocations that were refused for it: else the process might refuse for ever.

    Args:
        most_rows: that a piece has.
    """

    def __init__(self, most_rows: int) -> None:
        self._slowest_ms = [0.0] * (most_rows.bit_length() + 1)
        self._refused: Deadline | None = None

    def require(self, n_rows: int, deadline: Deadline) -> None:
        """Refuse to begin a piece that is not expected to end in time.

        Raises:
            ContractError: see `Deadline.require`.
        """
        if self._refused is not None and self._refused is not deadline:
            self._slowest_ms = [ms / 2 for ms in self._slowest_ms]
            self._refused = None
        try:
            deadline.require(max(self._slowest_ms[: n_rows.bit_length() + 1]))
        except ContractError:
            self._refused = deadline
            raise

    def took(self, n_rows: int, ms: float) -> None:
        """Remember how long a piece took, milliseconds."""
        size = n_rows.bit_length()
        self._slowest_ms[size] = max(ms, self._slowest_ms[size] * _KEPT)


def _refuse() -> NoReturn:
    refuse(503, "OUT_OF_TIME", "the function's time is nearly over; send fewer rows, or give it more time")
