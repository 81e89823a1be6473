"""Chunks of a submission into answers: the real-time server's own reader and scorer, with the clock stopped at when it came.

So the answers are those that the server would have given then, and a second attempt gives them again, as long as the online store still
knows that time. What failed by our fault, or because the store did not answer, is told apart: it is asked again. Answers are logged once
they were taken, so at most once: killed in between, the log lacks what the ledger has, where else it would have some twice. Several
versions are kept loaded. This module knows neither the ledger nor who asks.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from feature_pipelines.schema import RowError
from udfs.answered import Answered
from udfs.online import OnlineScorer
from udfs.serving import ServingSettings, open_scorer
from udfs.trees import warm_up

__all__ = ["Answers", "Model", "Scorers", "wire_lines"]


@dataclass(frozen=True)
class Model:
    """A version, in a directory on this machine.

    Args:
        directory: of it.
        version: as the registry names it; None where it is of none.
        digest: of it; another is refused.
        allow_tolerance: see `load_bundle`.
    """

    directory: str
    version: str | None
    digest: str
    allow_tolerance: bool = False


@dataclass(frozen=True)
class Answers:
    """Answers to the rows of a chunk.

    Args:
        body, ids: see `ledger.Chunk`.
        n_retryable: how many of them may be better when asked again.
        n_refused: how many rows were refused, these included.
    """

    body: bytes
    ids: bytes
    n_retryable: int
    n_refused: int


class _HeldLog:
    """Stands before a prediction log: what was answered is logged when somebody took the answers."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._held: list[Answered] = []

    def write(self, answered: Answered) -> None:
        """Hold the answers, beside what is held already."""
        self._held.append(answered)

    def release(self, is_taken: bool) -> None:
        """Log what is held, or forget it."""
        held, self._held = self._held, []
        for answered in held if is_taken and self._log is not None else ():
            self._log.write(answered)

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()


class Scorers:
    """The loaded versions of one process; one thread at a time, but that any may close them.

    Args:
        settings: of store and log.
        max_versions: further ones are closed, the longest unused first.
    """

    def __init__(self, settings: ServingSettings, max_versions: int) -> None:
        self._settings, self._max = settings, max_versions
        self._loaded: OrderedDict[Model, OnlineScorer] = OrderedDict()
        self._lock = threading.Lock()
        self._as_of = 0
        self._answered: Any = None

    def load(self, model: Model) -> OnlineScorer:
        """Return what answers with a version, loaded and verified if it is not yet.

        Raises:
            ModelError: see `load_bundle`. ConfigurationError: a setting makes no sense.
        """
        found = self._loaded.get(model)
        if found is None:
            directory = Path(model.directory)
            if (directory / "trees.npz").exists():
                warm_up()
            found = open_scorer(
                directory,
                self._settings,
                lambda: self._as_of,
                model_version=model.version,
                expected_digest=model.digest,
                allow_tolerance=model.allow_tolerance,
                log_clock=lambda: time.time_ns() // 1000,
            )
            held: Any = _HeldLog(found.log)
            found.log = held if found.log is not None else None
            with self._lock:
                self._loaded[model] = found
                while len(self._loaded) > self._max:
                    self._loaded.popitem(last=False)[1].close()
        with self._lock:
            self._loaded.move_to_end(model)
        return found

    def answer(
        self, model: Model, as_of: int, rows: Sequence[Any], refused: Sequence[RowError], *, is_last: bool
    ) -> Answers:
        """Return the answers to a chunk's rows; they are logged if `settle` says that they were taken.

        Args:
            model: the version.
            as_of: when the submission came, microseconds; rows that name no time of their own are scored as of it.
            rows: in the wire form.
            refused: what was found wrong with some of them already, by their positions in `rows`.
            is_last: whether the answers are taken even if some may be better when asked again.

        Raises:
            ModelError, ConfigurationError: see `load`.
        """
        self.settle(False)
        online = self.load(model)
        self._as_of, self._answered = as_of, online.log
        given = online.answer(rows, refused=refused, is_attempt=not is_last)
        errors = [answer["error"] for answer in given if "error" in answer]
        n_retryable = sum(error["retryable"] for error in errors)
        names = online.scorer.feature_set.row_id
        ids = [[row.get(name) if isinstance(row, Mapping) else None for name in names] for row in rows]
        return Answers(wire_lines(given), wire_lines(ids), n_retryable, len(errors))

    def settle(self, is_taken: bool) -> None:
        """Log the last answers, or forget them."""
        if self._answered is not None:
            self._answered.release(is_taken)
        self._answered = None

    def close(self) -> None:
        """Write what the logs have not written yet, and let go of the stores; what is under way may fail by that, and is not logged."""
        with self._lock:
            loaded = list(self._loaded.values())
        for online in loaded:
            if online.log is not None:
                online.log.close()
        for online in loaded:
            online.close()


def wire_lines(values: Sequence[Any]) -> bytes:
    """Return values as JSON, one a line, numbers written so that reading them gives the same bits."""
    return b"\n".join(_line(value) for value in values)


def _line(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # a client's own text that is not valid Unicode, or an integer beyond 64 bit
        return json.dumps(value, allow_nan=False).encode()
