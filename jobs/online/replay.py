"""Serve history as it happened: feature rows are written, and requests asked, in the order in which they became visible.

At equal time the feature row comes first. Rows between two consecutive request times are written together, and requests between
which no row became visible are asked together: neither can change an answer. W is at the first as-of time of those asked together,
when every row visible at any of theirs is in the store. This module knows nothing of where the answers come from.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.stores.base import OnlineStore
from jobs.online.replay_source import Arrived, Asked, RequestSource, ViewSource, intervals

__all__ = ["Ask", "Replayed", "Window", "groups", "replay"]

Ask = Callable[[Sequence[Mapping[str, Any]]], Sequence[Mapping[str, Any]]]
Progress = Callable[[int, int, float], None]

_INTERVAL_ROWS = 200_000
_ASK_ROWS = 1_000
_PROGRESS_SECONDS = 2.0


@dataclass(frozen=True)
class Window:
    """What is replayed: [from_ts, to_ts), microseconds; at most `rows` requests (at least 1; None: all)."""

    from_ts: int
    to_ts: int
    rows: int | None = None
    interval_rows: int = _INTERVAL_ROWS


@dataclass
class Replayed:
    """What became of a replay.

    Args:
        asked, answered: requests, and those of them that were scored.
        refused: the others by code.
        written: feature rows by view; `changed`: those that were the newest when they came.
        statuses: by view, of the answered requests.
        seconds: from the first row to the last.
    """

    asked: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)
    changed: int = 0
    statuses: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def present_share(self) -> float:
        """Which share of the look-ups of answered requests found a row."""
        found = sum(of_view["PRESENT"] for of_view in self.statuses.values())
        return found / max(sum(of_view.total() for of_view in self.statuses.values()), 1)

    def count(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Count answers."""
        self.asked += len(answers)
        for answer in answers:
            if "error" in answer:
                self.refused[answer["error"]["code"]] += 1
                continue
            self.answered += 1
            for view, found in answer["views"].items():
                self.statuses.setdefault(view, Counter())[found["status"]] += 1


def replay(
    store: OnlineStore,
    views: Sequence[ViewSource],
    requests: RequestSource,
    window: Window,
    ask: Ask,
    advance: Callable[[int], None],
    progress: Progress | None = None,
) -> Replayed:
    """Replay a window.

    Args:
        store: at `window.from_ts` already: every row visible then is in it, and no other.
        views, requests: the two sides.
        window: see Window.
        ask: returns one answer a row, in order.
        advance: sets W of all views.
        progress: told now and then the requests asked, those there are, and the seconds so far.
    """
    begun = shown = time.perf_counter()
    done = Replayed()
    last_ts, times = _times(requests, window)
    total = len(times) if window.rows is None else min(window.rows, len(times))
    of_views = [source.times(window.from_ts, last_ts) for source in views]
    parts = intervals(np.concatenate([times, *of_views]), window.from_ts - 1, last_ts, window.interval_rows)
    del times, of_views
    for after_ts, through_ts in parts:
        arrived = [source.rows(max(after_ts, window.from_ts), through_ts) for source in views]
        asked = requests.rows(after_ts, through_ts)
        at = [0] * len(views)
        for start, end in groups([one.visible_ts for one in arrived], asked.as_of):
            as_of = int(asked.as_of[start])
            at = _write(store, views, arrived, at, as_of, done)
            advance(as_of)
            for rows in _parts(asked, start, min(end, start + total - done.asked)):
                done.count(ask(rows))
            if progress is not None and time.perf_counter() - shown > _PROGRESS_SECONDS:
                shown = time.perf_counter()
                progress(done.asked, total, shown - begun)
        _write(store, views, arrived, at, through_ts, done)
    advance(last_ts)
    done.seconds = time.perf_counter() - begun
    if progress is not None:
        progress(done.asked, total, done.seconds)
    return done


def groups(visible_ts: Sequence[NDArray[np.int64]], as_of: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return the runs of requests, as positions in `as_of`, within which no feature row becomes visible.

    A row of a request's own time comes before it.

    >>> groups([np.array([2, 5]), np.array([5])], np.array([1, 2, 4, 5, 5, 7]))
    [(0, 1), (1, 3), (3, 6)]
    """
    if not len(as_of):
        return []
    times = np.unique(np.concatenate([np.empty(0, np.int64), *visible_ts]))
    seen = np.searchsorted(times, as_of, side="right")
    cuts = [0, *(np.flatnonzero(np.diff(seen)) + 1).tolist(), len(as_of)]
    return list(pairwise(cuts))


def _times(requests: RequestSource, window: Window) -> tuple[int, NDArray[np.int64]]:
    """Return the last moment to replay, and the as-of times until then: with `rows`, the moment of the last of these."""
    last_ts = window.to_ts - 1
    times = requests.times(window.from_ts - 1, last_ts)
    if window.rows is not None and 0 < window.rows < len(times):
        last_ts = int(np.partition(times, window.rows - 1)[window.rows - 1])
        times = times[times <= last_ts]
    return last_ts, times


def _write(
    store: OnlineStore,
    views: Sequence[ViewSource],
    arrived: Sequence[Arrived],
    at: Sequence[int],
    through_ts: int,
    done: Replayed,
) -> list[int]:
    """Write what became visible through a moment and is not written yet; return how far each view is then."""
    ends = [int(np.searchsorted(one.visible_ts, through_ts, side="right")) for one in arrived]
    for source, one, start, end in zip(views, arrived, at, ends, strict=True):
        if end > start:
            done.changed += store.write(source.view, one.keys[start:end], one.rows[start:end])
            done.written[source.view.name] += end - start
    return ends


def _parts(asked: Asked, start: int, end: int) -> Iterator[list[dict[str, Any]]]:
    for at in range(start, end, _ASK_ROWS):
        yield asked.rows[at : min(at + _ASK_ROWS, end)]
