"""What is said of a streaming query while it runs: a line for each batch, a file with the same for programs, an MLflow run at its end.

Lag is told in two ways: how far the latest event time is behind the clock, and how many files of the source are not read yet. Nothing
here may stop a query: what cannot be told is null.

The file `progress` is one JSON object. Of the process: `state` (`running`, `complete`, `stopped`, `failed`), `error` (why it failed, no
data in it), `pid`, `host`, `started`, `heartbeat`, `ended`. A process that is killed leaves `running`: it is dead when its
heartbeat, written every 10 seconds whatever the process is at, is older than a minute. Of the last batch, whichever process
committed it, and null until there is one: `batch`, `at`, `rows`, `seconds`, `lag_seconds` (as of the heartbeat) and so on; `totals`
are since the first start.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import mlflow
from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException

from feature_pipelines.errors import OnescoreError
from jobs.runs.conf import Conf
from jobs.runs.progress import say
from jobs.runs.secret_refs import mask
from jobs.runs.stream_batch import Done
from jobs.runs.stream_model import StreamModel
from jobs.runs.stream_source import FILE_FORMATS, source_place
from jobs.runs.stream_state import BatchRecord, QueryManifest, StreamState
from jobs.runs.tracking import connect_from
from jobs.tables.delta_additions import DeltaFiles
from jobs.tables.files import child_uri, filesystem_of, list_files, normal_uri
from udfs.platform import describe_platform
from udfs.registry import asking

__all__ = ["FilesBehind", "StreamProgress", "last_process", "log_stream_run"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REST = 20
_BEAT_SECONDS = 10.0
_STEP_SECONDS = 1.0
_OF_THE_BATCH = ("at", "again", "seconds", "rows_per_second", "source")
"""What is told of a batch and is not in its record."""


class StreamProgress:
    """Tells each batch that was committed; begins with the last one of the processes before.

    Args:
        conf, state, query, model: the query's.
        clock: now.
        source: returns what Spark says of the source since the last batch (Kafka tells there how far it is behind).
        seconds: a clock, never going back.
    """

    def __init__(
        self,
        conf: Conf,
        state: StreamState,
        query: QueryManifest,
        model: StreamModel,
        clock: Callable[[], datetime],
        source: Callable[[], Mapping[str, Any]] = dict,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state, self._model = state, model
        self._behind = FilesBehind(conf, state)
        self._clock, self.source, self._seconds = clock, source, seconds
        self._beaten, self._writing = float("-inf"), threading.Lock()
        self._latest_us: int | None = None
        self._last: dict[str, Any] = {
            "query_id": query.query_id,
            "state": "running",
            "error": None,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": clock().isoformat(),
            "ended": None,
            "batch": None,
        }
        record, before = state.last_record(), state.progress()
        if record is not None:
            is_told = (before.get("query_id"), before.get("batch")) == (query.query_id, record.batch)
            self._last |= {name: before.get(name) if is_told else None for name in _OF_THE_BATCH}
            self._last |= self._of(record)
        self.rows = self.quarantined = self.batches = 0

    def __call__(self, done: Done) -> None:
        """Tell of a batch."""
        record = done.record
        rows = record.rows.ids_in.count
        if not done.again:
            self.rows += rows
            self.quarantined += record.rows.ids_quarantined.count
            self.batches += 1
        told = self._of(record) | {
            "at": self._clock().isoformat(),
            "again": done.again,
            "seconds": round(done.seconds, 3),
            "rows_per_second": round(rows / done.seconds, 1) if done.seconds and not done.again else 0.0,
            "source": self._source(),
        }
        with self._writing:
            self._last = {**self._last, **told}
            self._write()
        say(_line(self._last))

    def beat(self) -> None:
        """Write now and then that the process is alive; that it cannot be written is seen by whoever looks."""
        if self._seconds() - self._beaten < _BEAT_SECONDS:
            return
        with self._writing, suppress(OSError):
            self._write_now()

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Beat meanwhile, from a thread of its own: also while the last batch is finished, or a long one is under way."""
        is_over = threading.Event()

        def beat() -> None:
            while not is_over.wait(_STEP_SECONDS):
                self.beat()

        self.beat()
        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def ended(self, state: str, error: BaseException | None = None) -> None:
        """Note how the query ended: `stopped`, `complete`, or `failed` and why."""
        with self._writing:
            told = {"state": state, "error": None if error is None else _reason(error)}
            self._last = {**self._last, **told, "ended": self._clock().isoformat()}
            self._write()

    @property
    def last(self) -> Mapping[str, Any]:
        """What was told last."""
        return self._last

    def _of(self, record: BatchRecord) -> dict[str, Any]:
        """Return what a batch's record says, and how far behind it is now."""
        self._latest_us = record.latest_us
        return {
            "batch": record.batch,
            "rows": record.rows.ids_in.count,
            "rows_scored": record.rows.ids_scored.count,
            "rows_quarantined": record.rows.ids_quarantined.count,
            "reasons": dict(record.rows.reasons),
            "model_version": record.version,
            "declined": self._model.declined,
            "views": dict(record.views),
            "watermark": _time(record.watermark_us),
            "latest_event_time": _time(record.latest_us),
            "lag_seconds": self._lag(),
            "files_behind": self._behind.after(record.batch),
            "totals": dict(record.totals.__dict__),
        }

    def _lag(self) -> float | None:
        if self._latest_us is None:
            return None
        latest = _EPOCH + timedelta(microseconds=self._latest_us)
        return round((self._clock() - latest).total_seconds(), 3)

    def _write_now(self) -> None:
        self._beaten = self._seconds()
        lag = {"lag_seconds": self._lag()} if self._last["batch"] is not None else {}
        self._last = {**self._last, **lag, "heartbeat": self._clock().isoformat()}
        self._state.write_progress(self._last)

    def _write(self) -> None:
        """Keep what was told; the batch is committed, whether or not the disk has room for that."""
        try:
            self._write_now()
        except OSError as exc:
            say(f"the progress could not be written to {self._state.path / 'progress'}: {exc}")

    def _source(self) -> dict[str, Any] | None:
        try:
            return dict(self.source())
        except (Py4JError, PySparkException, OSError, ValueError) as exc:
            say(f"Spark does not say how far the source is read: {type(exc).__name__}")
            return None


class FilesBehind:
    """Counts the files of a source that are not read yet.

    A directory is listed again when twenty times as long has passed as that took; meanwhile the last list is told, less what was read
    since. A log of Spark's is read once.

    Args:
        conf, state: the query's.
        seconds: a clock.
    """

    def __init__(self, conf: Conf, state: StreamState, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._due = seconds, float("-inf")
        self._files, self._read, self._logs = set[str](), set[str](), set[str]()
        self._state, self._format, self._place = state, conf.stream.format, source_place(conf)
        options = {name.lower(): str(value).lower() for name, value in conf.stream.options.items()}
        skips = options.get("skipchangecommits") == "true"
        is_delta = self._format == "delta" and self._place is not None
        self._delta = DeltaFiles(self._place or "", skip_changes=skips) if is_delta else None

    def after(self, batch: int) -> int | None:
        """Return how many files come after a batch; None for a source without files, and where it cannot be told."""
        try:
            if self._delta is not None:
                lines = (self._state.spark / "offsets" / str(batch)).read_text().splitlines()
                return len(self._delta.advance(json.loads(lines[2]), self._delta.newest(), None)[1])
            if self._place is not None and self._format in FILE_FORMATS:
                return self._in_directory(self._place)
        except (OSError, ValueError, LookupError, OnescoreError):
            return None
        return None

    def _in_directory(self, place: str) -> int:
        began = self._seconds()
        if began >= self._due:
            self._files = _listed(place)
            self._due = self._seconds() + _REST * (self._seconds() - began)
        for log in (self._state.spark / "sources" / "0").glob("[0-9]*"):
            if log.name not in self._logs:
                self._read |= _noted(log)
                self._logs.add(log.name)
        self._files -= self._read
        return len(self._files)


def last_process(state: StreamState) -> str | None:
    """Return, in words, what the last process of a query said of itself; None if it ended in order, or there was none."""
    told = state.progress()
    if told.get("error") is not None:
        return f"failed at {told['ended']}: {told['error']}"
    if told.get("state") == "running" and "heartbeat" in told:
        return f"process {told['pid']} on {told['host']}, heard of last at {told['heartbeat']}, did not say that it ended"
    return None


def log_stream_run(
    conf: Conf, query: QueryManifest, progress: StreamProgress, started: datetime, ended: datetime
) -> None:
    """Log what a process did of a query; that MLflow does not answer is said and is no failure."""
    seconds = (ended - started).total_seconds()
    totals = progress.last.get("totals") or {}
    metrics = {
        "batches": progress.batches,
        "rows": progress.rows,
        "rows_quarantined": progress.quarantined,
        "seconds": seconds,
        "rows_per_second": progress.rows / seconds if seconds else 0.0,
        **{f"total.{name}": totals[name] for name in ("batches", "rows", "scored", "quarantined") if totals},
        **{f"total.quarantined.{code}": n for code, n in (totals.get("reasons") or {}).items()},
        **{n: v for n in ("lag_seconds", "files_behind") if (v := progress.last.get(n)) is not None},
    }
    try:
        connect_from(conf, create=True)
        with (
            asking("the tracking server"),
            mlflow.start_run(run_name=f"stream {conf.model.name} {query.query_id}"),
        ):
            mlflow.set_tags({"onescore.run_id": query.query_id, "onescore.job": "score_stream"})
            mlflow.log_params({name: str(value)[:500] for name, value in query.identity.items()})
            mlflow.log_metrics({name: float(value) for name, value in metrics.items()})
            mlflow.log_dict(conf.resolved(), "configuration.json")
            mlflow.log_dict(describe_platform(), "platform.json")
            mlflow.log_dict(dict(progress.last), "progress.json")
    except OnescoreError as exc:
        say(f"the run could not be logged: {exc}")


def _reason(error: BaseException) -> str:
    """Return why a process failed: what we say ourselves names no data, what others say may."""
    if isinstance(error, OnescoreError):
        return mask(" ".join(str(error).split()))
    return f"unexpected {type(error).__name__}; what the job printed says more"


def _line(told: Mapping[str, Any]) -> str:
    reasons = ", ".join(f"{code} {n:,}" for code, n in sorted(told["reasons"].items()))
    bad = f", {told['rows_quarantined']:,} quarantined ({reasons})" if told["rows_quarantined"] else ""
    speed = "committed again" if told["again"] else f"{told['rows_per_second']:,.0f} rows/s"
    parts = [
        f"batch {told['batch']}: {told['rows']:,} rows{bad}",
        speed,
        f"version {told['model_version']}",
    ]
    if told["latest_event_time"] is not None:
        lag = timedelta(seconds=round(told["lag_seconds"]))
        parts.append(f"events to {told['latest_event_time']}, {lag} behind")
    if told["files_behind"] is not None:
        parts.append(f"{told['files_behind']:,} files behind")
    return "; ".join(parts)


def _time(microseconds: int | None) -> str | None:
    return None if microseconds is None else (_EPOCH + timedelta(microseconds=microseconds)).isoformat()


def _listed(place: str) -> set[str]:
    """Return the files that Spark's file source would read."""
    _, root = filesystem_of(place)
    files = (info.path[len(root.rstrip("/")) + 1 :] for info in list_files(place))
    seen = [path for path in files if not any(part.startswith(("_", ".")) for part in path.split("/"))]
    return {child_uri(place, path) for path in seen}


def _noted(log: Path) -> set[str]:
    """Return the files that Spark's file source has noted in a log of the checkpoint as read or about to be."""
    return {normal_uri(json.loads(line)["path"]) for line in log.read_text().splitlines()[1:] if line}
