"""The processes that score for one worker: lent one at a time, ended when they hang, replaced when they die.

A process that dies tells by that which submission it was at, so a submission that kills whoever scores it is found out and costs no
other one anything. This module knows nothing of the ledger.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.submissions.frames import Ended, Late, is_readable, read_frame, write_frame
from jobs.submissions.ledger_chunk import Chunk
from jobs.submissions.scoring import Model
from udfs.serving import ServingSettings

__all__ = ["Crashed", "Scored", "ScorerPool", "ScorerProcess", "Unscored", "Unwanted"]

_END_SECONDS = 10.0
_WRITE_SECONDS = (
    3.0  # one that never lets go of the interpreter cannot write its log, and is not waited for any longer
)
_LOAD_SECONDS = 120.0
_LOOK_SECONDS = 0.5
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Crashed(Exception):
    """The process that scored is gone, or hung and was ended; what it was at may be why.

    Args:
        how: what was seen of it.
        is_loading: whether it was at its model, and no submission is to blame.
    """

    def __init__(self, how: str, is_loading: bool = False) -> None:
        super().__init__(how)
        self.is_loading = is_loading


class Unscored(Exception):
    """The process could not begin: a model that will not do, a setting that makes no sense.

    Args:
        reason: the error's class.
        message: without data.
        retryable: whether asking again may help.
    """

    def __init__(self, reason: str, message: str, retryable: bool) -> None:
        super().__init__(message)
        self.reason, self.retryable = reason, retryable


class Unwanted(Exception):
    """Nobody wants the answers any more, and the process that was at them is to be replaced."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """A chunk's answers, and how many of them may be better when asked again."""

    chunk: Chunk
    n_retryable: int


class ScorerProcess:
    """One process that scores.

    Args:
        settings: of store and log; they may hold the store's password, so they travel by the pipe.
        max_versions: how many versions it keeps loaded.
        chunk_seconds: how long one chunk may take.
    """

    def __init__(self, settings: ServingSettings, max_versions: int, chunk_seconds: float) -> None:
        self._chunk_seconds = chunk_seconds
        self._loaded: set[Model] = set()
        self._answers, told = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobs.submissions.scorer_process", str(told)],
                env=_environment(os.environ),
                stdin=subprocess.PIPE,
                pass_fds=(told,),
                bufsize=0,
            )
        finally:
            os.close(told)
        self._asks = self.process.stdin.fileno() if self.process.stdin is not None else -1
        os.set_blocking(self._asks, False)
        with contextlib.suppress(Ended, Late):  # found out by whoever asks first
            spec = {"settings": dataclasses.asdict(settings), "max_versions": max_versions}
            write_frame(self._asks, spec, deadline=time.monotonic() + _LOAD_SECONDS)

    def load(self, model: Model) -> str:
        """Have a version loaded; return whether it is verified. Raises as `score` does."""
        try:
            said, _ = self._ask({"op": "load", "model": dataclasses.asdict(model)}, seconds=_LOAD_SECONDS)
        except Crashed as exc:
            raise Crashed(str(exc), is_loading=True) from exc
        self._loaded.add(model)
        return str(said["verified"])

    def has_loaded(self, model: Model) -> bool:
        """Return whether it lives and has loaded a version."""
        return model in self._loaded and self.process.poll() is None

    def score(
        self,
        model: Model,
        as_of: int,
        payload: bytes | None,
        rows: tuple[int, int],
        *,
        is_last: bool,
        is_wanted: Callable[[], bool],
    ) -> Scored:
        """Return the answers to adjacent rows; they are logged once `settle` says so.

        Args:
            model: the version.
            as_of: see `Scorers.answer`.
            payload: of the submission, with its first chunk; None = that of the last call.
            rows: the first, and how many.
            is_last: see `Scorers.answer`.
            is_wanted: asked now and then while there is no answer.

        Raises:
            Crashed, Unscored, Unwanted: see there.
        """
        if model not in self._loaded:
            self.load(model)
        first, n = rows
        asked = {"op": "score", "model": dataclasses.asdict(model), "as_of": as_of, "is_last": is_last}
        asked |= {"first_row": first, "n_rows": n}
        said, body = self._ask(asked, payload or b"", seconds=self._chunk_seconds, is_wanted=is_wanted)
        cut = said["ids"]
        return Scored(Chunk.packed(first, n, body[cut:], body[:cut], said["n_refused"]), said["n_retryable"])

    def settle(self, is_taken: bool) -> None:
        """Tell whether the last answers were taken, without waiting; of a process that is gone, they are not logged."""
        with contextlib.suppress(Ended, Late):  # found out by whoever asks next
            write_frame(
                self._asks, {"op": "settle", "is_taken": is_taken}, deadline=time.monotonic() + _END_SECONDS
            )

    def leave(self) -> None:
        """Tell it to write its log and end, whatever it is at."""
        if self.process.stdin is not None:
            self.process.stdin.close()

    def end(self, seconds: float) -> None:
        """Wait until it has ended; it is made to, if it takes longer."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._forget()

    def _ask(
        self,
        header: Mapping[str, Any],
        body: bytes = b"",
        *,
        seconds: float,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + seconds
        try:
            write_frame(self._asks, header, body, deadline)
            while not is_readable(self._answers, min(_LOOK_SECONDS, deadline - time.monotonic())):
                if not is_wanted():
                    raise Unwanted
                if time.monotonic() >= deadline:
                    raise Late
            said, answers = read_frame(self._answers, deadline)
        except (Ended, Late) as exc:
            raise Crashed(type(exc).__name__) from exc
        if "refused" in said:
            raise Unscored(said["refused"], said["message"], said["retryable"])
        return said, answers

    def _forget(self) -> None:
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self._answers)
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()


class ScorerPool:
    """Some processes that score; any number of threads may borrow.

    Args:
        size: how many.
        settings, max_versions, chunk_seconds: see `ScorerProcess`.
    """

    def __init__(self, size: int, settings: ServingSettings, max_versions: int, chunk_seconds: float) -> None:
        self._make: Callable[[], ScorerProcess] = lambda: ScorerProcess(settings, max_versions, chunk_seconds)
        self._idle: queue.SimpleQueue[ScorerProcess] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._all: list[ScorerProcess] = []
        self.replaced = 0
        for _ in range(size):
            self._add()

    @contextlib.contextmanager
    def lent(self, seconds: float | None = None) -> Iterator[ScorerProcess]:
        """Lend a process; one that crashed meanwhile, or is at what nobody wants, is replaced.

        Raises:
            queue.Empty: none was free for so many seconds.
        """
        scorer = self._idle.get(timeout=seconds)
        try:
            if scorer.process.poll() is not None:  # it died between two submissions, by none of them
                scorer = self._replace(scorer, is_crash=True)
            yield scorer
        except (Crashed, Unwanted) as exc:
            scorer = self._replace(scorer, is_crash=isinstance(exc, Crashed))
            raise
        finally:
            self._idle.put(scorer)

    def cannot_load(self, model: Model, seconds: float) -> str | None:
        """Return why no process scores with a version now; None where one has it loaded, or could load it.

        Args:
            model: the version.
            seconds: how long to wait for a process that is free.
        """
        with self._lock:
            scorers = list(self._all)
        if any(scorer.has_loaded(model) for scorer in scorers):
            return None
        try:
            with self.lent(seconds) as scorer:
                scorer.load(model)
        except (Crashed, Unscored, queue.Empty) as exc:
            return type(exc).__name__
        return None

    def load(self, model: Model) -> None:
        """Have a version loaded by all processes that are idle. Raises as `ScorerProcess.load` does."""
        with self._lock:
            scorers = list(self._all)
        for scorer in scorers:
            scorer.load(model)

    def close(self) -> None:
        """End all processes; what they are at is lost."""
        with self._lock:
            scorers, self._all = self._all, []
        for scorer in scorers:
            scorer.leave()
        deadline = time.monotonic() + _END_SECONDS
        for scorer in scorers:
            scorer.end(max(0.0, deadline - time.monotonic()))

    def _add(self) -> ScorerProcess:
        scorer = self._make()
        with self._lock:
            self._all.append(scorer)
        self._idle.put(scorer)
        return scorer

    def _replace(self, dead: ScorerProcess, *, is_crash: bool) -> ScorerProcess:
        dead.leave()
        dead.end(_WRITE_SECONDS)  # what it answered of others is logged first
        scorer = self._make()
        with self._lock:
            self.replaced += is_crash
            if dead in self._all:
                self._all.remove(dead)
            self._all.append(scorer)
        return scorer


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return a process's: this very code, and one thread for libraries that would take all cores."""
    code = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [code, environment.get("PYTHONPATH", "")]))
    return {**dict.fromkeys(_ONE_THREAD, "1"), **environment, "PYTHONPATH": path}
