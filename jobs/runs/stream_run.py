"""A streaming query from its first to its last batch in one process: opened, locked, recovered, run, told of."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
from jobs.runs.stream_beside import require_alone
from jobs.runs.stream_model import Newer, StreamModel, checked_scorer
from jobs.runs.stream_plan import begun_query, checkpoint_of, pinned_model, require_streamable
from jobs.runs.stream_progress import StreamProgress, last_process, log_stream_run
from jobs.runs.stream_query import RunningQuery
from jobs.runs.stream_source import StreamSource, open_source
from jobs.runs.stream_state import QueryManifest, StreamState
from jobs.runs.worker_errors import errors_of_workers
from jobs.tables.files import is_local
from jobs.tables.pinned import Snapshot
from udfs.registry import ModelVersion
from udfs.shipped import is_remote, ship_code

__all__ = ["StreamSummary", "score_stream", "stream_from"]


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


def stream_from(
    spark: SparkSession,
    conf: Conf,
    *,
    available_now: bool = False,
    beside: bool = False,
    stop: threading.Event | None = None,
) -> StreamSummary:
    """Run the query that the configuration names, with the version that it is pinned to, or is pinned to now.

    Args:
        spark: a classic session.
        conf: of a model.
        available_now: end when all that is there now is read.
        beside: whether a new query may add to tables that have rows of another query of this model.
        stop: set by whoever wants the query to end after the batch under way.

    Raises:
        RunConflictError: another process runs it, what is asked for differs from what it is, or it is new and its tables are not.
        ConfigurationError, ContractError, TableError, ModelError: see `open_source` and `registered_model`.
    """
    conf.require("model.name", "output.scored", "output.quarantine")
    require_streamable(conf)
    model, bundle = pinned_model(conf)
    newer: Newer = (lambda: registered_model(conf)) if conf.stream.follow_alias else (lambda: None)
    return score_stream(
        spark, conf, model, bundle, available_now=available_now, beside=beside, stop=stop, newer=newer
    )


def score_stream(
    spark: SparkSession,
    conf: Conf,
    model: ModelVersion,
    bundle: Path,
    *,
    available_now: bool = False,
    beside: bool = False,
    stop: threading.Event | None = None,
    newer: Newer = lambda: None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    log: bool = True,
) -> StreamSummary:
    """Run a query with a version, until all that is available is read, or until it is told to stop.

    Args:
        spark, conf, available_now, beside, stop: see `stream_from`.
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
        query = begun_query(state, conf, model, started, beside=beside)
        _note_for_replay(conf, query, source)
        reached("stream.after_query")
        using = StreamModel(spark, conf, model, bundle, rows.schema.names, newer)
        if (before := last_process(state)) is not None:
            say(f"the last process of query {query.query_id}: {before}")
        progress = StreamProgress(conf, state, query, using, clock)
        try:
            with (
                progress.beating(),
                errors_of_workers(),
            ):  # of workers, and where Spark asks our own source for offsets
                # Of two queries that begin together, neither of which saw the other's rows, the later one sees them here.
                look_again = (lambda: None) if beside else (lambda: require_alone(conf, str(state.root)))
                batches = BatchScorer(conf, state, query, using, rows, clock, progress, look_again)
                batches.recover()
                frame = source.begun(query.start)
                running = RunningQuery(frame, state.spark, batches, stop or threading.Event())
                progress.source = running.source_metrics
                end = running.run(None if available_now else conf.stream.trigger)
            progress.ended(end)
        except BaseException as exc:
            progress.ended("failed", exc)
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
