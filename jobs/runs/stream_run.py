"""A streaming query from its first to its last batch in one process: planned, started or continued, watched, stopped in order.

A query is the directory of its checkpoint. What it is, with the version that it scores with, is noted there at its first start, and a
restart goes on with that or is refused, naming what differs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

import jobs
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ConfigurationError
from jobs.runs.chosen_model import registered_model
from jobs.runs.conf import Conf
from jobs.runs.kill_points import reached
from jobs.runs.manifest import runs_directory, write_json
from jobs.runs.plan import require_storable
from jobs.runs.progress import say
from jobs.runs.stream_batch import BatchScorer, Input
from jobs.runs.stream_model import Newer, StreamModel, checked_scorer
from jobs.runs.stream_progress import StreamProgress, log_stream_run
from jobs.runs.stream_source import StreamSource, open_source, source_identity
from jobs.runs.stream_state import QueryManifest, StreamState, require_same
from jobs.tables.files import is_local
from jobs.tables.pinned import Snapshot
from udfs.registry import ModelVersion
from udfs.shipped import is_remote, ship_code

__all__ = [
    "StreamSummary",
    "checkpoint_of",
    "describe_stream",
    "pinned_model",
    "score_stream",
    "stream_from",
]

_STEP_SECONDS = 1
_GRACE_SECONDS = 30.0
_PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class StreamSummary:
    """How a process's part of a query ended.

    Args:
        query_id: the query.
        state: `complete` (all that was available is read) or `stopped`.
        batches, rows, quarantined: of this process.
        totals: of the query, over all its processes.
        version: that scored last.
    """

    query_id: str
    state: str
    batches: int
    rows: int
    quarantined: int
    totals: dict[str, Any]
    version: str


class _Stopped(Exception):
    """A batch that is not begun, as the query was told to stop."""


def checkpoint_of(conf: Conf) -> str:
    """Return where the query's state is."""
    return conf.stream.checkpoint or f"{conf.storage.root.rstrip('/')}/streams/{conf.model.name}"


def stream_from(
    spark: SparkSession, conf: Conf, *, available_now: bool = False, stop: threading.Event | None = None
) -> StreamSummary:
    """Run the query that the configuration names, with the version that it is pinned to, or is pinned to now.

    Args:
        spark: a classic session.
        conf: of a model.
        available_now: end when all that is there now is read.
        stop: set by whoever wants the query to end after the batch under way.

    Raises:
        RunConflictError: another process runs it, or what is asked for differs from what it is.
        ConfigurationError, ContractError, TableError, ModelError: see `open_source` and `registered_model`.
    """
    conf.require("model.name", "output.scored", "output.quarantine")
    if conf.stream.follow_alias and conf.model.version is not None:
        raise ConfigurationError(
            f"stream.follow_alias: model.version is {conf.model.version}, so there is no alias to follow; set one of the two"
        )
    model, bundle = pinned_model(conf)
    newer: Newer = (lambda: registered_model(conf)) if conf.stream.follow_alias else (lambda: None)
    return score_stream(spark, conf, model, bundle, available_now=available_now, stop=stop, newer=newer)


def pinned_model(conf: Conf, cache: Path | None = None) -> tuple[ModelVersion, Path]:
    """Return the version that the query is pinned to, and its directory; that of model.version or the alias where it has none yet.

    Args:
        conf: of a model.
        cache: where versions are fetched to; None = storage.cache.

    Raises:
        ModelError, UnavailableError: see `registered_model`.
    """
    recorded = StreamState(checkpoint_of(conf)).query()
    if recorded is None or conf.model.version is not None:
        return registered_model(conf, cache)
    pinned = conf.model.model_copy(update={"version": int(recorded.version)})
    return registered_model(conf.model_copy(update={"model": pinned}), cache)


def score_stream(
    spark: SparkSession,
    conf: Conf,
    model: ModelVersion,
    bundle: Path,
    *,
    available_now: bool = False,
    stop: threading.Event | None = None,
    newer: Newer = lambda: None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    log: bool = True,
) -> StreamSummary:
    """Run a query with a version, until all that is available is read, or until it is told to stop.

    Args:
        spark, conf, available_now, stop: see `stream_from`.
        model, bundle: the version and its directory.
        newer: asks the alias; see `StreamModel`.
        clock: now.
        log: whether MLflow is told at the end.

    Raises:
        RunConflictError, ConfigurationError, ContractError, TableError: see `stream_from`.
    """
    if is_remote(spark):
        raise ConfigurationError(
            "spark.remote: a stream's batches are committed by the driver, which with Spark Connect is the server; start this job with "
            "spark-submit or spark.master"
        )
    ship_code(spark, [jobs])
    scorer = checked_scorer(conf, model, bundle)
    source = open_source(spark, conf, scorer.feature_set)
    rows = _input_of(conf, scorer.feature_set, source)
    require_storable(scorer, rows.schema, rows.repeated)
    state = StreamState(checkpoint_of(conf))
    started = clock()
    with state.locked(started):
        query = _query(state, conf, model, started)
        _note_for_replay(conf, query, source)
        reached("stream.after_query")
        using = StreamModel(spark, conf, model, bundle, rows.schema.names, newer)
        progress = StreamProgress(conf, state, query, using, clock)
        batches = BatchScorer(conf, state, query, using, rows, clock, progress)
        batches.recover()
        running = _Running(spark, conf, state, source, batches, progress, stop or threading.Event())
        try:
            end = running.run(available_now)
            progress.ended(end)
        except BaseException:
            progress.ended("failed")
            raise
        finally:
            if log:
                log_stream_run(conf, query, progress, started, clock())
    last = progress.last
    return StreamSummary(
        query.query_id,
        end,
        progress.batches,
        progress.rows,
        progress.quarantined,
        dict(last.get("totals") or {}),
        str(last.get("model_version") or query.version),
    )


def describe_stream(conf: Conf, model: ModelVersion, bundle: Path) -> dict[str, Any]:
    """Return what a query would do, for people: what --dry-run prints. Starts nothing."""
    state = StreamState(checkpoint_of(conf))
    recorded = state.query()
    scorer = checked_scorer(conf, model, bundle)
    last = state.last_record() if recorded is not None else None
    settings = conf.stream
    policy = settings.refresh_views_seconds
    if recorded is not None:
        _require_same(state, recorded, conf, model)
    return {
        "query": f"{recorded.query_id}, continued" if recorded is not None else "new",
        "checkpoint": str(state.root),
        "batches so far": last.totals.batches if last is not None else 0,
        "source": {name.partition(".")[2]: value for name, value in source_identity(conf).items() if value},
        "model": f"{model.name} version {model.version}"
        + (f", follows alias {conf.model.alias}" if settings.follow_alias else ", pinned"),
        "feature fingerprint": model.feature_fingerprint,
        "model check": scorer.verified,
        "views": {name: conf.table_location(table) for name, table in conf.views.items()} or "none",
        "views are pinned": "when the query starts"
        if policy is None
        else "at each batch"
        if policy == 0
        else f"at a batch, every {policy} s at most",
        "watermark": settings.watermark or "none",
        "scored table": conf.table_location(conf.output.scored),
        "quarantine table": conf.table_location(conf.output.quarantine),
        "configuration digest": conf.digest(),
        "configuration files": list(conf.files),
    }


def _input_of(conf: Conf, feature_set: FeatureSet, source: StreamSource) -> Input:
    """Return what the rows of an opened source are to the tasks."""
    available = source.schema.names
    key = tuple(feature_set.row_id if conf.input.row_id is None else conf.input.row_id)
    keys = [name for view in feature_set.views for name in view.keys.values()]
    wanted = dict.fromkeys([*keys, *conf.output.pass_through])
    return Input(
        source.form,
        source.schema,
        source.root,
        key,
        tuple(name for name in wanted if name in available),
        conf.stream.event_time or feature_set.as_of,
    )


def _identity(conf: Conf, model: ModelVersion) -> dict[str, Any]:
    """Return what a restart must share; the version has a place of its own, as an alias that is followed changes it."""
    return {
        **conf.digested(),
        **source_identity(conf),
        "feature_fingerprint": model.feature_fingerprint,
        "configuration_digest": conf.digest(),
    }


def _require_same(state: StreamState, recorded: QueryManifest, conf: Conf, model: ModelVersion) -> None:
    wanted = _identity(conf, model)
    if not conf.stream.follow_alias:
        wanted["model.version"] = model.version
        recorded = replace(recorded, identity={**recorded.identity, "model.version": recorded.version})
    require_same(state, recorded, wanted)


def _query(state: StreamState, conf: Conf, model: ModelVersion, now: datetime) -> QueryManifest:
    """Return the query that the checkpoint is of, or note a new one."""
    recorded = state.query()
    if recorded is None:
        return state.begin(now, _identity(conf, model), model.version)
    _require_same(state, recorded, conf, model)
    return recorded


def _note_for_replay(conf: Conf, query: QueryManifest, source: StreamSource) -> None:
    """Keep the types of the source's columns where `jobs.score_batch --replay` looks for them, which scores quarantined rows again.

    Rows that came as text have no types to come back to: whoever sends them sends them again.
    """
    if source.form != "columns" or not is_local(conf.storage.runs):
        return
    directory = runs_directory(conf.storage.runs) / f"{conf.model.name}-stream" / query.query_id
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "manifest").exists():
        snapshot = Snapshot(source.root or conf.stream.format, "parquet", None, (), source.originals)
        write_json(directory / "manifest", {"input": snapshot.to_json(), "run_id": query.query_id})


class _Running:
    """Spark's query, and the end of it."""

    def __init__(
        self,
        spark: SparkSession,
        conf: Conf,
        state: StreamState,
        source: StreamSource,
        batches: BatchScorer,
        progress: StreamProgress,
        stop: threading.Event,
    ) -> None:
        self._spark, self._conf, self._state, self._source = spark, conf, state, source
        self._batches, self._progress, self._stop = batches, progress, stop
        self._failure: BaseException | None = None
        self._idle = threading.Event()
        self._idle.set()
        self._batch: int | None = None

    def run(self, available_now: bool) -> str:
        """Run to the end, and return how it ended: `complete` or `stopped`."""
        writer = (
            self._source.frame.writeStream.foreachBatch(self._process)
            .queryName(f"onescore {self._state.root.name}")
            .option("checkpointLocation", f"file://{self._state.spark}")
        )
        writer = (
            writer.trigger(availableNow=True)
            if available_now
            else writer.trigger(processingTime=self._conf.stream.trigger)
        )
        query = writer.start()
        self._progress.source = lambda: _source_metrics(query)
        try:
            while not query.awaitTermination(_STEP_SECONDS):
                if self._stop.is_set():
                    self._end(query)
                    return "stopped"
        except PySparkException as exc:
            if isinstance(self._failure, _Stopped):
                return "stopped"
            if self._failure is not None:
                raise self._failure from exc
            raise
        finally:
            with suppress(
                PySparkException, Py4JError, OSError
            ):  # the JVM may be gone, which is then what ends the job
                if query.isActive:
                    query.stop()
            self._idle.wait(
                _PATIENCE_SECONDS
            )  # nobody else gets the checkpoint while a batch of ours is under way
        return "complete"

    def _process(self, frame: Any, batch: int) -> None:
        """Score one batch, in Spark's thread; keep what it raises, which Spark turns into text."""
        self._idle.clear()
        try:
            if self._stop.is_set():
                raise _Stopped
            self._batch = batch
            self._batches(frame, batch)
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
        return self._batch is None or (self._state.spark / "commits" / str(self._batch)).exists()


def _source_metrics(query: Any) -> dict[str, Any]:
    progress = query.lastProgress
    sources = (progress or {}).get("sources") or []
    return dict(sources[0].get("metrics") or {}) if sources else {}
