"""Requests that wait are scored together: no timer, no waiting for others, the bits of each request alone (law L8).

A request goes to one of two lanes by the size of its body; a lane has one thread. While it scores, requests come in; when it is
free, all that wait go together, up to a number of rows. So one request alone is scored at once, a crowd in batches, and a
large request holds up large ones only. Scoring never runs in the event loop, whichever the store: one that hangs must not take
/health with it, and the way through a thread costs about 0.02 ms a batch (a queue of our own in the executor's place: 0.017; over
HTTP, p50 and requests/s at 16 connections of scoring in the loop were not to be told apart). This module knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from jobs.online.protocol import Asked, read_body, refuse, write_body
from udfs.online import OUR_FAULTS, OnlineScorer

__all__ = ["Batcher", "Overloaded", "score_together"]

_LARGE_BYTES = 65_536
_ROWS_TOGETHER = 1_024


class Overloaded(Exception):
    """As many requests wait as may."""


class _Waiting(NamedTuple):
    asked: Asked
    future: asyncio.Future[Sequence[Any]]


class Batcher:
    """Scores requests for one event loop.

    Args:
        online: answers rows.
        max_waiting: how many requests may wait; further ones are refused.
        max_rows: how many rows a request may have.
    """

    def __init__(self, online: OnlineScorer, *, max_waiting: int, max_rows: int) -> None:
        self._online, self._max_rows, self._max_waiting = online, max_rows, max_waiting
        self._small = ThreadPoolExecutor(1, "score-small")
        self._large = ThreadPoolExecutor(1, "score-large")
        self._queue: deque[_Waiting] = deque()
        self._is_busy = False
        self.n_large = 0

    @property
    def waiting(self) -> int:
        """How many requests wait or are being scored in the lane for large ones, or wait in the other."""
        return len(self._queue) + self.n_large

    async def answer(self, body: bytes, with_features: bool) -> bytes:
        """Return the body of the answer.

        Args:
            body: of the request.
            with_features: whether features are asked for beside the body.

        Raises:
            Overloaded: too many wait. ContractError: see `read_body`; status 500: a defect of ours, its incident named.
        """
        if self.waiting >= self._max_waiting:
            raise Overloaded
        loop = asyncio.get_running_loop()
        if len(body) > _LARGE_BYTES:
            self.n_large += 1
            try:
                return await loop.run_in_executor(self._large, self._answer_large, body, with_features)
            finally:
                self.n_large -= 1
        asked = read_body(body, max_rows=self._max_rows)
        if with_features:
            asked = asked._replace(with_features=True)
        future: asyncio.Future[Sequence[Any]] = loop.create_future()
        self._queue.append(_Waiting(asked, future))
        if not self._is_busy:
            self._is_busy = True
            loop.call_soon(self._flush, loop)
        return _written(await future)

    def close(self) -> None:
        """Finish what is being scored."""
        self._small.shutdown()
        self._large.shutdown()

    def _answer_large(self, body: bytes, with_features: bool) -> bytes:
        asked = read_body(body, max_rows=self._max_rows)
        return _written(
            self._online.answer(
                asked.rows, with_features=with_features or asked.with_features, refused=asked.refused
            )
        )

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        batch: list[_Waiting] = []
        n = 0
        while self._queue and (not batch or n + len(self._queue[0].asked.rows) <= _ROWS_TOGETHER):
            waiting = self._queue.popleft()
            if not waiting.future.done():  # else the client is gone
                batch.append(waiting)
                n += len(waiting.asked.rows)
        if not batch:
            self._is_busy = False
            return
        scored = self._small.submit(score_together, self._online.answer, [w.asked for w in batch])
        scored.add_done_callback(lambda done: loop.call_soon_threadsafe(self._deliver, loop, batch, done))

    def _deliver(self, loop: asyncio.AbstractEventLoop, batch: list[_Waiting], done: Any) -> None:
        failed = done.exception()
        answers = [None] * len(batch) if failed else done.result()
        for waiting, answer in zip(batch, answers, strict=True):
            if waiting.future.done():
                continue
            if failed:
                waiting.future.set_exception(failed)
            else:
                waiting.future.set_result(answer)
        self._flush(loop)


def score_together(
    answer: Callable[..., list[dict[str, Any]]], batch: Sequence[Asked]
) -> list[list[dict[str, Any]]]:
    """Return the answers to each request, as if each had been asked alone.

    Requests that want features and those that do not are scored apart. If something of ours fails for several together, each is
    tried alone, so that the one at fault fails alone.

    Args:
        answer: `OnlineScorer.answer`.
        batch: one or more requests.
    """
    answers: list[list[dict[str, Any]]] = [[]] * len(batch)
    for with_features in (False, True):
        members = [i for i, asked in enumerate(batch) if asked.with_features == with_features]
        if not members:
            continue
        rows: list[Any] = []
        refused = []
        for i in members:
            refused += [error._replace(row=error.row + len(rows)) for error in batch[i].refused]
            rows += batch[i].rows
        found = answer(rows, with_features=with_features, refused=refused, is_attempt=len(members) > 1)
        at = 0
        for i in members:
            end = at + len(batch[i].rows)
            answers[i] = found[at:end]
            at = end
        if len(members) > 1 and _incident(found):
            for i in members:
                answers[i] = answer(batch[i].rows, with_features=with_features, refused=batch[i].refused)
    return answers


def _incident(answers: Sequence[Any]) -> tuple[str, str] | tuple[()]:
    """Return code and message of a request that failed here as a whole, () of any other."""
    error = answers[0].get("error", {}) if answers else {}
    return (str(error["code"]), str(error["message"])) if error.get("code") in OUR_FAULTS else ()


def _written(answers: Sequence[Any]) -> bytes:
    incident = _incident(answers)
    if incident:
        refuse(500, *incident)
    return write_body(answers)
