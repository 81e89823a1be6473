"""Spark's side of a streaming query: started, watched, and stopped in order or by what went wrong.

This module knows Spark's queries and threads, and nothing of what a batch is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame

from jobs.runs.progress import say

__all__ = ["RunningQuery"]

_STEP_SECONDS = 1
_GRACE_SECONDS = 30.0
_PATIENCE_SECONDS = 600.0


class _Stopped(Exception):
    """A batch that is not begun, as the query was told to stop."""


class RunningQuery:
    """One query.

    Args:
        frame: the source.
        checkpoint: of Spark.
        batch: scores and commits a batch; called in a thread of Spark's, one batch at a time.
        stop: set by whoever wants the query to end after the batch under way.
    """

    def __init__(
        self,
        frame: DataFrame,
        checkpoint: Path,
        batch: Callable[[Any, int], None],
        stop: threading.Event,
    ) -> None:
        self._frame, self._checkpoint, self._score, self._stop = frame, checkpoint, batch, stop
        self._query: Any = None
        self._failure: BaseException | None = None
        self._idle = threading.Event()
        self._idle.set()
        self._batch: int | None = None

    def run(self, trigger: str | None) -> str:
        """Run to the end, and return how it ended: `complete` or `stopped`.

        Args:
            trigger: how often a batch begins at most; None = until all that is there now is read.

        Raises:
            Exception: what a batch raised, or Spark.
        """
        writer = (
            self._frame.writeStream.foreachBatch(self._process)
            .queryName(f"onescore {self._checkpoint.parent.name}")
            .option("checkpointLocation", f"file://{self._checkpoint}")
        )
        timed = (
            writer.trigger(availableNow=True) if trigger is None else writer.trigger(processingTime=trigger)
        )
        self._query = query = timed.start()
        try:
            while not query.awaitTermination(_STEP_SECONDS):
                if self._stop.is_set():
                    self._end(query)
                    break
            else:
                return "complete"
        except PySparkException as exc:
            if isinstance(self._failure, _Stopped):
                return "stopped"
            if self._failure is not None:
                raise self._failure from exc
            raise
        finally:
            # The JVM may be gone, which is then what ends the job.
            with suppress(PySparkException, Py4JError, OSError):
                if query.isActive:
                    query.stop()
            # Nobody else gets the checkpoint while a batch of ours is under way.
            self._idle.wait(_PATIENCE_SECONDS)
        if self._failure is not None and not isinstance(self._failure, _Stopped):
            raise self._failure
        return "stopped"

    def _process(self, frame: Any, batch: int) -> None:
        """Score one batch, in Spark's thread; keep what it raises, which Spark turns into text."""
        self._idle.clear()
        try:
            if self._stop.is_set():
                raise _Stopped
            self._batch = batch
            self._score(frame, batch)
        except BaseException as exc:
            self._failure = exc
            raise
        finally:
            self._idle.set()

    def _end(self, query: Any) -> None:
        """Stop after the batch under way, when Spark has noted it as done, or is seen to begin the next one, which is not."""
        say("told to stop: the batch under way is finished")
        self._idle.wait()
        give_up = time.monotonic() + _GRACE_SECONDS
        while query.isActive and time.monotonic() < give_up and not self._is_noted():
            time.sleep(0.05)
        query.stop()

    def _is_noted(self) -> bool:
        return self._batch is None or (self._checkpoint / "commits" / str(self._batch)).exists()

    def source_metrics(self) -> dict[str, Any]:
        """Return what Spark said of the source after the last batch that it noted; Kafka tells there how far it is behind."""
        progress = self._query.lastProgress if self._query is not None else None
        sources = (progress or {}).get("sources") or []
        return dict(sources[0].get("metrics") or {}) if sources else {}
