"""The prediction log: every answer, written as Parquet files, a group at a time, by a thread beside the server.

A request only appends to a queue in memory and its rows get numbers; a thread writes what is there every `flush_seconds`, each file
under a hidden name, synced, then renamed, so that no reader sees a part of one. kill -9 loses what was not yet written: the
numbers were counted in a small file, so `prediction_files.gaps` says exactly which are missing. A full disk costs log rows, counted in
`metrics`, and never a prediction. This module knows nothing of models, servers or Spark.
"""

from __future__ import annotations

import atexit
import datetime
import io
import logging
import os
import secrets
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from feature_pipelines.errors import ConfigurationError
from udfs.answered import Answered
from udfs.platform import describe_platform, platform_id
from udfs.prediction_files import SEQUENCE, Journal, record_platform, write_file
from udfs.prediction_rows import SCHEMA, PiiPolicy, detached, is_sampled, to_columns

__all__ = ["PredictionLog"]

_LOGGER = logging.getLogger("onescore.prediction_log")
_FILE_ROWS = 50_000
_TABLE_REQUESTS = 32  # one at a time takes longer; more hold up the requests under way, for pyarrow keeps the interpreter's lock
_ATTEMPTS = 5
_DAY_US = 86_400_000_000
_EPOCH = datetime.date(1970, 1, 1)


@dataclass
class _Queued:
    journal: Journal
    first: int
    kept: list[int]
    answered: Answered
    n_bytes: int = 0
    attempts: int = 0

    @property
    def date(self) -> str:
        return (_EPOCH + datetime.timedelta(days=self.answered.served_ts // _DAY_US)).isoformat()


class PredictionLog:
    """Writes answers of any number of models; any number of threads may use it, and it starts anew in a child after fork.

    Args:
        directory: made if it is not there.
        clock: microseconds since 1970, UTC; names this process's start.
        flush_seconds: how long an answer waits at most until it is written, and so what kill -9 may lose.
        sample_share: which share of the rows is logged, 0 to 1, chosen by a hash of the row's id.
        pii: what becomes of fields tagged "pii".
        max_queue: how many rows may wait in memory, such as while the disk is full; further ones are dropped and counted.
        max_queue_bytes: likewise, how many bytes their images and other binary fields may have, in base64; half of it is written at once.

    Raises:
        ConfigurationError: a setting out of its bounds.
    """

    def __init__(
        self,
        directory: Path,
        clock: Callable[[], int],
        *,
        flush_seconds: float = 5.0,
        sample_share: float = 1.0,
        pii: PiiPolicy | None = None,
        max_queue: int = 100_000,
        max_queue_bytes: int = 268_435_456,
    ) -> None:
        if not (flush_seconds > 0 and 0 <= sample_share <= 1 and max_queue > 0 and max_queue_bytes > 0):
            raise ConfigurationError(
                f"the prediction log needs flush_seconds > 0 (is {flush_seconds}), 0 <= sample_share <= 1 (is {sample_share}), "
                f"max_queue > 0 (is {max_queue}) and max_queue_bytes > 0 (is {max_queue_bytes})"
            )
        self.directory = Path(directory)
        self._clock, self._flush_seconds, self._share = clock, flush_seconds, sample_share
        self._pii, self._max_queue, self._max_bytes = pii or PiiPolicy(), max_queue, max_queue_bytes
        # pyarrow imports pandas when it first makes an array, which fails where that is the exit's last flush
        pq.write_table(pa.table([pa.array([], f.type) for f in SCHEMA], schema=SCHEMA), io.BytesIO())
        self._begin()
        mine = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _of(mine, PredictionLog._begin))
        atexit.register(lambda: _of(mine, PredictionLog.close))

    def _begin(self) -> None:
        """Start with nothing queued, under a process id of its own."""
        self._wake = threading.Condition()
        self._flushing = threading.RLock()  # a signal handler may drain while its own thread flushes
        self._queue: deque[_Queued] = deque()
        self._queued = self._queued_bytes = 0
        self._journals: dict[str, Journal] = {}
        self._on_platform: set[Path] = set()
        self._thread: threading.Thread | None = None
        self._is_closed = self._is_draining = False
        self._counts = dict.fromkeys(("written", "dropped", "unwritable", "failed_writes", "files"), 0)

    def write(self, answered: Answered) -> None:
        """Queue a copy of a request and its answers; does no more than that, never raises, and never waits for the disk."""
        try:
            model, share = answered.model, self._share
            kept = [i for i, row in enumerate(answered.rows) if share >= 1 or is_sampled(model, row, share)]
            if kept:
                self._enqueue(detached(answered, kept), kept)
            if self._is_draining:
                self.flush()
        except Exception as exc:  # noqa: BLE001 - whatever it is, no prediction fails by it
            self._counts["unwritable"] += len(answered.rows)
            _LOGGER.error("answers cannot be logged: %s", type(exc).__name__)

    def _enqueue(self, answered: Answered, kept: list[int]) -> None:
        with self._wake:
            if self._is_closed:
                self._counts["dropped"] += len(kept)
                return
            journal = self._journals.get(answered.model.name) or self._journal(answered.model.name)
            first = journal.claim(len(kept))
            n_bytes = _n_bytes(answered, kept) if answered.model.binary else 0
            if self._queued + len(kept) > self._max_queue or self._queued_bytes + n_bytes > self._max_bytes:
                self._counts["dropped"] += len(kept)
                return
            self._queue.append(_Queued(journal, first, kept, answered, n_bytes))
            self._queued += len(kept)
            self._queued_bytes += n_bytes
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
                self._thread.start()
            if self.is_half_full():
                self._wake.notify()

    def _journal(self, model: str) -> Journal:
        directory = self.directory / quote(model, safe="")
        started = self._clock()
        process = f"{os.getpid()}-{started}-{secrets.token_hex(3)}"
        descriptor = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(directory / f"{SEQUENCE}{process}", os.O_CREAT | os.O_WRONLY, 0o644)
        except OSError as exc:
            _LOGGER.error("the prediction log cannot count what it loses: %s", exc.strerror)
        self._journals[model] = Journal(directory, process, started, descriptor)
        return self._journals[model]

    def metrics(self) -> dict[str, int]:
        """Return counts since the start: rows written, dropped, unwritable, and queued now; files; failed_writes (tried again)."""
        with self._wake:
            return {**self._counts, "queued": self._queued}

    def flush(self) -> None:
        """Write now what is queued; what cannot be written stays queued, or is dropped after some attempts."""
        with self._flushing:
            with self._wake:
                taken = list(self._queue)
                self._queue.clear()
            again: list[_Queued] = []
            for run in _runs(taken):
                again += self._write_run(run)
            with self._wake:
                self._queue.extendleft(reversed(again))
                self._queued = sum(len(item.kept) for item in self._queue)
                self._queued_bytes = sum(item.n_bytes for item in self._queue)

    def drain(self) -> None:
        """Write what is queued, and from now on every answer at once: the process is about to end in a way that runs no code."""
        self._is_draining = True
        self.flush()

    def close(self) -> None:
        """Write what is queued, say in the sequence files that nothing follows, and stop."""
        with self._wake:
            if self._is_closed:
                return
            self._is_closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
        self.flush()
        with self._wake:
            self._counts["dropped"] += self._queued
            self._queue.clear()
            self._queued = self._queued_bytes = 0
            for journal in self._journals.values():
                journal.close()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._is_closed or self.is_half_full(), self._flush_seconds)
                if self._is_closed:
                    return
            self.flush()

    def is_half_full(self) -> bool:
        """Return whether so many rows or bytes wait that they are written without waiting any longer."""
        return self._queued >= self._max_queue // 2 or self._queued_bytes >= self._max_bytes // 2

    def _write_run(self, run: list[_Queued]) -> list[_Queued]:
        """Write one file, or two where a request between cannot be written; return what is to be tried again.

        A request of which no table can be made is found by halving, counted, and does not hold up the others.
        """
        try:
            parts = [run[at : at + _TABLE_REQUESTS] for at in range(0, len(run), _TABLE_REQUESTS)]
            table = pa.concat_tables([_table(part, self._pii) for part in parts])
        except Exception as exc:  # noqa: BLE001 - whatever a caller's value raises
            if len(run) > 1:
                middle = len(run) // 2
                return self._write_run(run[:middle]) + self._write_run(run[middle:])
            self._count("unwritable", len(run[0].kept))
            _LOGGER.error("an answer cannot be logged: %s", type(exc).__name__)
            return []
        first, last = run[0].first, run[-1].first + len(run[-1].kept) - 1
        journal = run[0].journal
        try:
            write_file(journal.path(run[0].date, first, last), table)
        except (OSError, pa.ArrowException) as exc:
            self._count("failed_writes", 1)
            _LOGGER.error("the prediction log cannot be written: %s", type(exc).__name__)
            for item in run:
                item.attempts += 1
            lost = [item for item in run if item.attempts >= _ATTEMPTS]
            self._count("dropped", sum(len(item.kept) for item in lost))
            return [item for item in run if item.attempts < _ATTEMPTS]
        self._say_platform(journal.directory, run[0].answered.model.platform_id)
        self._count("written", sum(len(item.kept) for item in run))
        self._count("files", 1)
        return []

    def _say_platform(self, directory: Path, named: str) -> None:
        """Write what this platform is beside the first rows that name it; a disk that takes it not may take it next time."""
        if directory in self._on_platform or named != platform_id():
            return
        try:
            record_platform(directory, named, describe_platform())
            self._on_platform.add(directory)
        except OSError as exc:
            _LOGGER.error("the prediction log cannot say what its platform is: %s", exc.strerror)

    def _count(self, what: str, n: int) -> None:
        with self._wake:
            self._counts[what] += n


def _n_bytes(answered: Answered, kept: Sequence[int]) -> int:
    """Return about how much memory the large fields of the kept rows take."""
    values = (answered.rows[i].get(name) for i in kept if answered.rows[i] for name in answered.model.binary)
    return sum(len(value) for value in values if isinstance(value, str))


def _of(log: weakref.ref[PredictionLog], call: Callable[[PredictionLog], None]) -> None:
    """Call a method of a log that still exists: waiting for a fork or the exit must not keep it alive."""
    alive = log()
    if alive is not None:
        call(alive)


def _runs(items: Iterable[_Queued]) -> Iterator[list[_Queued]]:
    """Cut into files: of one process and model, one day, numbers without a hole, not too many rows."""
    by_journal: dict[int, list[_Queued]] = {}
    for item in items:
        by_journal.setdefault(id(item.journal), []).append(item)
    for of_journal in by_journal.values():
        run: list[_Queued] = []
        rows = 0
        for item in of_journal:
            follows = run and run[-1].first + len(run[-1].kept) == item.first and run[-1].date == item.date
            if run and (not follows or rows >= _FILE_ROWS):
                yield run
                run, rows = [], 0
            run.append(item)
            rows += len(item.kept)
        yield run


def _table(items: Sequence[_Queued], pii: PiiPolicy) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for item in items:
        n = len(item.kept)
        for name, values in to_columns(item.answered, item.kept, pii).items():
            columns[name] += values
        columns["process"] += [item.journal.process] * n
        columns["process_started_ts"] += [item.journal.started_ts] * n
        columns["sequence"] += range(item.first, item.first + n)
    return pa.table([pa.array(columns[f.name], f.type) for f in SCHEMA], schema=SCHEMA)
