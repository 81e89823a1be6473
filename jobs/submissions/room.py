"""How much may wait or run: of all keys together, and of each, so that one that sends without end leaves the others some.

This module knows nothing of where it is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import NamedTuple

from jobs.submissions.keys import LOOPBACK

__all__ = ["NoRoom", "Room", "Wanted"]


class Wanted(NamedTuple):
    """Submissions that wait or run, and the bytes of their rows."""

    n: int
    n_bytes: int


class NoRoom(NamedTuple):
    """Why a submission is not taken."""

    code: str
    message: str


_FULL = NoRoom("QUEUE_FULL", "too many submissions wait; try again later")
_SHARE = NoRoom("QUEUE_SHARE", "too many submissions of this key wait; try again when some of them are done")


class Room:
    """The bounds.

    Args:
        max_queued, max_bytes: of all together.
        share: of both, what one key may have (at least one submission). Who needs no key is alone, and may have all.
    """

    def __init__(self, max_queued: int, max_bytes: int, share: float) -> None:
        self._most = Wanted(max_queued, max_bytes)
        self._most_of_key = Wanted(max(1, int(max_queued * share)), int(max_bytes * share))

    def take(self, taken: MutableMapping[str, Wanted], key_id: str, n_bytes: int) -> NoRoom | None:
        """Add a submission to what is taken by key, if there is room; return why there is none."""
        mine = _sum({"": taken.get(key_id, Wanted(0, 0)), key_id: Wanted(1, n_bytes)})
        if _exceeds(_sum({**taken, key_id: mine}), self._most):
            return _FULL
        if key_id != LOOPBACK and _exceeds(mine, self._most_of_key):
            return _SHARE
        taken[key_id] = mine
        return None


def _sum(parts: Mapping[str, Wanted]) -> Wanted:
    return Wanted(sum(one.n for one in parts.values()), sum(one.n_bytes for one in parts.values()))


def _exceeds(what: Wanted, most: Wanted) -> bool:
    return what.n > most.n or what.n_bytes > most.n_bytes
