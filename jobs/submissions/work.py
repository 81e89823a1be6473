"""What is done with one submission: begun, scored chunk by chunk, stored; or begun again, later; or given up with a reason.

It is called at least once for each, by whoever is alive, and reads from the ledger how far it is. It never raises: what goes wrong by
our fault is tried again, a little later each time, until it has been tried often enough.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from feature_pipelines.errors import ModelError, OnescoreError
from jobs.submissions.ledger import Ledger, Submission
from jobs.submissions.models import Models
from jobs.submissions.scorer_pool import Crashed, ScorerPool, Unscored

__all__ = ["LargeScoring", "Limits", "Stopping", "Work", "missing_chunks"]

_LOGGER = logging.getLogger("onescore.async")
_LONGEST_PAUSE_SECONDS = 60.0


class Stopping(BaseException):
    """This worker is about to end; whatever it is at is somebody else's."""


@dataclass(frozen=True)
class Limits:
    """When a submission is large, and when it is given up; see `SubmissionsSettings`."""

    batch_rows: int
    max_crashes: int
    max_attempts: int
    retry_seconds: float


class LargeScoring(Protocol):
    """Scores a large submission and stores its answers, in a process of its own."""

    def __call__(self, submission: Submission, *, is_last: bool, is_wanted: Callable[[], bool]) -> None:
        """Return when all is stored, or when it is not wanted any more.

        Raises:
            Crashed, Unscored: as `ScorerProcess.score`.
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
        ended: is told each submission that came to its end here, after that is stored.
    """

    def __init__(
        self,
        ledger: Ledger,
        models: Models,
        pool: ScorerPool,
        large: LargeScoring,
        limits: Limits,
        ended: Callable[[Submission], None] = lambda submission: None,
    ) -> None:
        self._ledger, self._models, self._pool, self._large = ledger, models, pool, large
        self._limits, self._ended = limits, ended
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._at: set[str] = set()

    def running(self) -> set[str]:
        """Return the ids of what is being done now."""
        with self._lock:
            return set(self._at)

    def stop(self) -> None:
        """Begin nothing more: what is under way stops after its chunk, with `Stopping`."""
        self._stopping.set()

    def run(self, id_: str) -> None:
        """Bring a submission to its end, if it is not there.

        Raises:
            Stopping: this worker is about to end.
        """
        with self._lock:
            self._at.add(id_)
        try:
            self._run(id_)
        finally:
            with self._lock:
                self._at.discard(id_)

    def _run(self, id_: str) -> None:
        n = 0
        while True:
            self._check()
            n += 1
            try:
                submission = self._ledger.begin(id_)
                if submission is None or self._attempt(submission):
                    self._tell(id_)
                    return
            except Exception as exc:  # noqa: BLE001 - such as a database that is away: it comes back
                _say(exc)
            pause = min(self._limits.retry_seconds * 2 ** min(n - 1, 16), _LONGEST_PAUSE_SECONDS)
            if self._stopping.wait(pause):
                raise Stopping

    def _attempt(self, submission: Submission) -> bool:
        """Return whether the submission has come to its end."""
        is_last = submission.attempts >= self._limits.max_attempts
        try:
            if submission.attempts > self._limits.max_attempts:
                raise _Again("ATTEMPTS_EXHAUSTED", "the workers that scored it ended again and again")
            return self._scored(submission, is_last)
        except Crashed:
            if self._ledger.crashed(submission.id) < self._limits.max_crashes:
                return False
            message = "the process that scored it ended, again and again; one of its rows may be why"
            self._ledger.end(submission.id, "failed", "SCORER_CRASHED", message)
            return True
        except (Unscored, ModelError) as exc:
            again = _Again("MODEL_UNAVAILABLE", "its model version cannot be had or loaded here")
            _LOGGER.error("%s: %s", type(exc).__name__, exc)
        except OnescoreError as exc:
            again = _Again("UNAVAILABLE", "what it needs did not answer")
            _LOGGER.error("%s: %s", type(exc).__name__, exc)
        except _Again as exc:
            again = exc
        if is_last or submission.attempts > self._limits.max_attempts:
            self._ledger.end(submission.id, "failed", again.reason, str(again))
            return True
        return False

    def _scored(self, submission: Submission, is_last: bool) -> bool:
        if submission.kind == "reference" or submission.n_rows > self._limits.batch_rows:
            self._large(submission, is_last=is_last, is_wanted=lambda: self._is_wanted(submission.id))
            self._check()
            now = self._ledger.get(submission.id)
            if now is not None and now.is_open:
                raise _Again("UNAVAILABLE", "some of its rows could not be scored")
            return True
        model = self._models.of(submission)
        payload = self._ledger.payload(submission.id)
        if payload is None:
            return True  # it ended meanwhile
        given: bytes | None = payload
        with self._pool.lent() as scorer:
            for rows in missing_chunks(submission, self._ledger.stored(submission.id)):
                self._check()
                found = scorer.score(model, submission.as_of_ts, given, rows, is_last=is_last)
                given = None
                if found.n_retryable and not is_last:
                    raise _Again(
                        "UNAVAILABLE", "the online store did not answer, or scoring failed by our fault"
                    )
                if not self._ledger.store(submission.id, [found.chunk]):
                    break
        return True

    def _is_wanted(self, id_: str) -> bool:
        if self._stopping.is_set():
            return False
        now = self._ledger.get(id_)
        return now is not None and now.is_open

    def _tell(self, id_: str) -> None:
        now = self._ledger.get(id_)
        if now is not None and not now.is_open:
            self._ended(now)

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


def _say(exc: Exception) -> None:
    frames = reversed(traceback.extract_tb(exc.__traceback__))
    where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in frames)
    _LOGGER.error("an attempt failed: %s at %s", type(exc).__name__, where)
