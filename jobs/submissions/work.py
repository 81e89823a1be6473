"""What is done with one submission: begun, scored chunk by chunk, stored; or begun again, later; or given up with a reason.

It is called at least once for each, by whoever is alive, and reads from the ledger how far it is. It waits for no second attempt: what
goes wrong by our fault is to be tried again, a little later each time, until it has been tried often enough, and meanwhile others are
scored. What ended a process once is tried on one process at a time, so that it never has them all; while another one is, it waits in the
same way.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from feature_pipelines.errors import ModelError, OnescoreError
from jobs.runs.kill_points import reached
from jobs.submissions.ledger import Ledger, Submission
from jobs.submissions.models import Models
from jobs.submissions.scorer_pool import Crashed, ScorerPool, ScorerProcess, Unscored, Unwanted
from udfs.incidents import raised_at

__all__ = ["LargeScoring", "Limits", "Refused", "Stopping", "Work", "missing_chunks"]

_LOGGER = logging.getLogger("onescore.async")
_LONGEST_PAUSE_SECONDS = 60.0
_NO_MODEL = "its model version cannot be had or loaded here"
_NO_JOB = "the Spark job that was to score it refused to; the worker's log says why"


class Refused(Exception):
    """The Spark job of a large submission ended with a reason of its own, which no row and no model is.

    It may be one of this worker's environment, such as a secret that is not there yet, so it is asked again, here or elsewhere.
    """


class Stopping(BaseException):
    """This worker is about to end; whatever it is at is somebody else's."""


@dataclass(frozen=True)
class Limits:
    """When a submission is given up; see `SubmissionsSettings`."""

    max_crashes: int
    max_attempts: int
    retry_seconds: float


class LargeScoring(Protocol):
    """Scores a large submission and stores its answers, in a process of its own."""

    def __call__(self, submission: Submission, *, is_last: bool, is_wanted: Callable[[], bool]) -> None:
        """Return when all is stored, or when it is not wanted any more.

        Raises:
            Crashed: as `ScorerProcess.score`. Refused: see there.
        """
        ...


class _Again(Exception):
    """It did not work out by our fault; the reason is the submission's if it never does."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Work:
    """One worker's doing; any number of threads may call `run`.

    Args:
        ledger: of the submissions.
        models: where versions are.
        pool: scores small ones.
        large: scores large ones.
        limits: see there.
    """

    def __init__(
        self,
        ledger: Ledger,
        models: Models,
        pool: ScorerPool,
        large: LargeScoring,
        limits: Limits,
    ) -> None:
        self._ledger, self._models, self._pool, self._large = ledger, models, pool, large
        self._limits = limits
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._suspect = threading.Lock()
        self._refused: Counter[str] = Counter()
        self._at: set[str] = set()

    def running(self) -> set[str]:
        """Return the ids of what is being done now."""
        with self._lock:
            return set(self._at)

    def stop(self) -> None:
        """Begin nothing more: what is under way stops after its chunk, with `Stopping`."""
        self._stopping.set()

    def run(self, id_: str) -> float | None:
        """Try to bring a submission to its end; return None when it is there, else after how many seconds to try again.

        Raises:
            Stopping: this worker is about to end.
        """
        with self._lock:
            self._at.add(id_)
        try:
            return self._run(id_)
        finally:
            with self._lock:
                self._at.discard(id_)

    def _run(self, id_: str) -> float | None:
        self._check()
        begun: list[Submission] = []
        try:
            if self._attempt(id_, begun):
                self._refused.pop(id_, None)
                return None
        except Stopping:
            if begun:
                with contextlib.suppress(Exception):  # a database that is away counts the attempt, then
                    self._ledger.uncount(id_)
            raise
        except Exception as exc:  # noqa: BLE001 - such as a database that is away: it comes back
            _LOGGER.error("submission %s: %s at %s", id_, type(exc).__name__, raised_at(exc))
        n = begun[0].attempts if begun else self._refused[id_] or 1
        return min(self._limits.retry_seconds * 2.0 ** min(n - 1, 16), _LONGEST_PAUSE_SECONDS)

    def _attempt(self, id_: str, begun: list[Submission]) -> bool:
        """Return whether the submission has come to its end; `begun` receives it once an attempt is counted."""
        try:
            return self._scored(id_, begun)
        except Crashed as crash:
            _LOGGER.warning("submission %s: the process that scored it ended: %s", id_, crash)
            if crash.is_loading:
                return self._given_up(begun[0], "MODEL_UNAVAILABLE", _NO_MODEL)
            if self._ledger.crashed(id_) < self._limits.max_crashes:
                return False
            message = "the process that scored it ended, again and again; one of its rows may be why"
            self._ledger.end(id_, "failed", "SCORER_CRASHED", message)
            return True
        except Unwanted:
            return True
        except Refused as exc:
            _LOGGER.error("submission %s: %s", id_, exc)
            return self._given_up(begun[0], "SPARK_JOB_REFUSED", _NO_JOB)
        except (Unscored, ModelError) as exc:
            _LOGGER.error("submission %s: %s: %s", id_, type(exc).__name__, exc)
            return self._given_up(begun[0], "MODEL_UNAVAILABLE", _NO_MODEL)
        except OnescoreError as exc:
            _LOGGER.error("submission %s: %s: %s", id_, type(exc).__name__, exc)
            return self._given_up(begun[0], "UNAVAILABLE", "what it needs did not answer")
        except _Again as exc:
            return self._given_up(begun[0], exc.reason, str(exc))

    def _given_up(self, submission: Submission, reason: str, message: str) -> bool:
        """Give a submission up if that was its last attempt; return whether it was."""
        is_last = self._is_last(submission)
        if is_last:
            self._ledger.end(submission.id, "failed", reason, message)
        return is_last

    def _is_last(self, submission: Submission) -> bool:
        return submission.attempts >= self._limits.max_attempts

    def _scored(self, id_: str, begun: list[Submission]) -> bool:
        """Score what is not stored yet; return whether that was the end."""
        seen = self._ledger.get(id_)
        if seen is None or not seen.is_open:
            return True
        if seen.is_large:
            return self._scored_large(id_, begun)
        if not seen.crashes:
            return self._scored_small(id_, begun)
        if not self._suspect.acquire(blocking=False):
            self._refused[id_] += 1
            return False
        try:
            self._refused.pop(id_, None)
            return self._scored_small(id_, begun)
        finally:
            self._suspect.release()

    def _scored_small(self, id_: str, begun: list[Submission]) -> bool:
        with (
            self._pool.lent() as scorer
        ):  # an attempt begins when there is who makes it: what waits here was not tried
            self._check()
            submission = self._begun(id_, begun)
            if submission is None:
                return True
            payload = self._ledger.payload(id_)
            if payload is None:
                return True  # it ended meanwhile
            self._score(scorer, submission, payload)
        return True

    def _scored_large(self, id_: str, begun: list[Submission]) -> bool:
        submission = self._begun(id_, begun)
        if submission is None:
            return True
        self._large(submission, is_last=self._is_last(submission), is_wanted=lambda: self._is_wanted(id_))
        self._check()
        now = self._ledger.get(id_)
        if now is not None and now.is_open:
            raise _Again("UNAVAILABLE", "some of its rows could not be scored")
        return True

    def _begun(self, id_: str, begun: list[Submission]) -> Submission | None:
        submission = self._ledger.begin(id_)
        if submission is not None:
            begun.append(submission)
            if submission.attempts > self._limits.max_attempts:
                raise _Again("ATTEMPTS_EXHAUSTED", "the workers that scored it ended again and again")
        return submission

    def _score(self, scorer: ScorerProcess, submission: Submission, payload: bytes) -> None:
        model, is_last = self._models.of(submission), self._is_last(submission)
        given: bytes | None = payload
        for rows in missing_chunks(submission, self._ledger.stored(submission.id)):
            self._check()
            found = scorer.score(
                model,
                submission.as_of_ts,
                given,
                rows,
                is_last=is_last,
                is_wanted=lambda: self._is_open(submission.id),
            )
            given = None
            if found.n_retryable and not is_last:
                raise _Again("UNAVAILABLE", "the online store did not answer, or scoring failed by our fault")
            reached("async_work.before_store")
            n_new = self._ledger.store(submission.id, [found.chunk], is_last=is_last)
            scorer.settle(bool(n_new))  # whoever stored it first has logged it
            if n_new is None:
                break
            reached("async_work.after_store")

    def _is_wanted(self, id_: str) -> bool:
        return not self._stopping.is_set() and self._is_open(id_)

    def _is_open(self, id_: str) -> bool:
        try:
            now = self._ledger.get(id_)
        except Exception:  # noqa: BLE001 - a database that is away says nothing of it
            return True
        return now is not None and now.is_open

    def _check(self) -> None:
        if self._stopping.is_set():
            raise Stopping


def missing_chunks(submission: Submission, stored: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield (first_row, n_rows) of the chunks that are not stored yet, in order.

    Args:
        submission: cut into chunks of its `chunk_rows`.
        stored: (first_row, n_rows) of those that are.
    """
    have = {first for first, _ in stored}
    for first in range(0, submission.n_rows, submission.chunk_rows):
        if first not in have:
            yield first, min(submission.chunk_rows, submission.n_rows - first)
