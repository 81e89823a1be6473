"""How much time an invocation has left, and the refusal to begin what would not end in it.

A function that runs out of time is killed: the caller learns nothing, and a queue hands over its whole batch again. So work is cut up,
and what cannot be finished is refused while there is still time to say so. This module knows no platform.
"""

from __future__ import annotations

from collections.abc import Callable

from jobs.online.protocol import refuse

__all__ = ["Deadline"]


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
        if self._remaining_ms() - self._reserve_ms <= needed_ms:
            refuse(
                503,
                "OUT_OF_TIME",
                "the function's time is nearly over; send fewer rows, or give it more time",
            )
