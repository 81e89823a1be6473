"""What an online store held at any time, in memory: an exact replay of stored rows that needs no writing in order."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from feature_pipelines.stores.base import Answer, Key, StoredRow
from feature_pipelines.views import FeatureView
from jobs.online.replay_source import ViewSource

__all__ = ["Past", "PastStore"]

_EVER = -(2**62)


class Past:
    """Of each key the newest row by when it became visible.

    Args:
        sources: the views' tables.
        through_ts: up to when; microseconds.
    """

    def __init__(self, sources: Sequence[ViewSource], through_ts: int) -> None:
        self._of: dict[str, dict[Key, tuple[list[int], list[StoredRow]]]] = {}
        for source in sources:
            held = self._of[source.view.name] = {}
            arrived = source.rows(_EVER, through_ts)
            for visible, key, row in zip(
                arrived.visible_ts.tolist(), arrived.keys, arrived.rows, strict=True
            ):
                times, newest = held.setdefault(key, ([], []))
                if not newest or row.order > newest[-1].order:
                    times.append(visible)
                    newest.append(row)

    def at(self, view: str, key: Key, time: int) -> StoredRow | None:
        """Return what a store that is always up to date held for a key at a time."""
        times, newest = self._of[view].get(key, ([], []))
        position = bisect.bisect_right(times, time)
        return newest[position - 1] if position else None


class PastStore:
    """Reads of a store as it was at `now`, microseconds, which whoever asks sets before."""

    def __init__(self, past: Past) -> None:
        self._past = past
        self.now = 0

    def read(self, wanted: Sequence[tuple[FeatureView, Sequence[Key]]]) -> list[list[Answer]]:
        """See OnlineStore."""
        return [[self._past.at(view.name, key, self.now) for key in keys] for view, keys in wanted]

    def close(self) -> None:
        """See OnlineStore."""
