"""One worker as a process: it takes submissions off the engine's queue and brings each to its end, until it is told to end itself.

    SIGTERM, SIGINT   nothing more is taken, chunks under way are finished and stored, the rest goes back to the queue; exit code 0

Any number of workers may share one database; when one dies, the others take over what it was at. This module knows no HTTP but that of
its metrics.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dbos import DBOS, DBOSClient, DBOSConfig

from feature_pipelines.errors import ConfigurationError, OnescoreError
from jobs.online.json_logs import event
from jobs.online.serve_conf import serving_settings
from jobs.runs.conf import Conf
from jobs.runs.kill_points import reached
from jobs.runs.settings_async import revealed_database_url
from jobs.submissions.batch_process import BatchProcess
from jobs.submissions.database import Database
from jobs.submissions.engine_names import APPLICATION, APPLICATION_VERSION, WORKFLOW, queue_name
from jobs.submissions.housekeeping import expire, settle
from jobs.submissions.intake import PinnedModel
from jobs.submissions.ledger import Ledger
from jobs.submissions.models import Models
from jobs.submissions.notifier import Notifier
from jobs.submissions.scorer_pool import Crashed, ScorerPool, Unscored
from jobs.submissions.scoring import Model
from jobs.submissions.served import resolve_served
from jobs.submissions.takeover import SignsOfLife, adopt, put_off
from jobs.submissions.work import Limits, Stopping, Work
from jobs.submissions.worker_metrics import Readiness, WorkerMetrics

__all__ = ["adopt_moved", "run_worker"]

_HOUSEKEEPING_SECONDS = 60.0
_LARGE_POLL_SECONDS = 0.5
_SETTLED_AFTER_US = 300_000_000
_HOUR_US = 3_600_000_000
_AHEAD = 4  # so many are taken for each process that scores, which then waits for no look into the queue


def run_worker(
    conf: Conf,
    bundle: Path | None,
    flags: Sequence[str],
) -> int:
    """Work until told to end; return the exit code.

    Told to end, it begins nothing more at once, and has ended after `submissions.shutdown_seconds`, and ten more for its processes that
    score to write their logs.

    Args:
        conf: of a model.
        bundle: the one model of this worker; None = each submission's version is had from the registry.
        flags: of the configuration, for the Spark job of a large submission.

    Raises:
        OnescoreError: the model, the database or a setting will not do.
    """
    settings = conf.submissions
    database = Database(revealed_database_url(settings), pool_size=_AHEAD * settings.scorers + 6)
    database.prepare()
    ledger, models = Ledger(database, _now), Models(conf, bundle)
    pool = ScorerPool(
        settings.scorers, serving_settings(conf), settings.max_versions, settings.chunk_timeout_seconds
    )
    notifier = Notifier(database, conf.notify, _now)
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ending.set())
    try:
        pinned = resolve_served(conf, bundle).pinned
        model = _warm_up(pinned, models, pool)
        queues = _queues(pinned)
        limits = Limits(settings.max_crashes, settings.max_attempts, settings.retry_seconds)
        large = BatchProcess(models, flags, ledger, settings.large_timeout_seconds)
        work = Work(ledger, models, pool, large, limits)
        executor_id = f"{os.uname().nodename[:40]}-{os.getpid()}-{secrets.token_hex(4)}"
        signs = SignsOfLife(database, executor_id, settings.dead_after_seconds, work.running)
        readiness = Readiness(ledger, pool, model, pinned.name, queues)
        with WorkerMetrics(settings.worker_port, work, pool, signs, readiness) as metrics:
            run = metrics.counted(work)
            _launch(database, executor_id, queues, settings.poll_seconds, settings.scorers, run)
            notifier.start()
            event("worker_ready", executor=executor_id, scorers=settings.scorers, metrics=metrics.port)
            _until(ending, ledger, database.engine_client(), settings.retention_hours, pinned, queues)
            event("worker_draining")
            _leave(work, notifier, signs, settings.shutdown_seconds)
    finally:
        pool.close()
    database.close()
    event("worker_ended")
    return 0


def adopt_moved(conf: Conf, bundle: Path | None) -> int:
    """Take what waits for a model, whatever store it was pinned to, into the queues that workers of this configuration look into.

    What a worker is at meanwhile stays where it is. Arguments and errors as in `run_worker`.

    Returns:
        How many submissions that were.
    """
    pinned = resolve_served(conf, bundle).pinned
    database = Database(revealed_database_url(conf.submissions), pool_size=1)
    database.prepare()
    client = database.engine_client()
    try:
        return adopt(database, client, pinned.name, *_queues(pinned), is_moved=True)
    finally:
        client.destroy()
        database.close()


def _queues(pinned: PinnedModel) -> tuple[str, str]:
    """Return where small and large submissions of a model wait."""
    small, large = (queue_name(pinned.name, pinned.store, is_large=is_large) for is_large in (False, True))
    return small, large


def _warm_up(pinned: PinnedModel, models: Models, pool: ScorerPool) -> Model:
    """Have the version loaded that new submissions are pinned to now; one that will not do ends the worker before it takes any."""
    model = models.known(pinned.name, pinned.version, pinned.digest)
    try:
        pool.load(model)
    except Unscored as exc:
        raise ConfigurationError(f"the model cannot be served here: {exc}") from exc
    except Crashed as exc:
        raise ConfigurationError("the process that scores ended while it loaded the model") from exc
    return model


class _PutOff(BaseException):
    """Ends a workflow without an outcome, which the engine gives whatever is an Exception; it is in its queue again."""


def _launch(
    database: Database,
    executor_id: str,
    queues: tuple[str, str],
    poll_seconds: float,
    scorers: int,
    run: Callable[[str], float | None],
) -> None:
    """Start the engine in this process; what is to be tried again later leaves it meanwhile, and its place to others."""
    client = database.engine_client()
    config: DBOSConfig = {
        "name": APPLICATION,
        "system_database_url": database.plain_url,
        "application_version": APPLICATION_VERSION,
        "executor_id": executor_id,
        "log_level": "WARNING",
        "console_log_level": "WARNING",
        "run_migrations": False,
        "max_executor_threads": _AHEAD * scorers + 8,
        "sys_db_pool_size": _AHEAD * scorers + 6,
    }
    DBOS(config=config)

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
    def score_submission(id_: str) -> None:
        try:
            pause = run(id_)
        except Stopping:
            threading.Event().wait()  # this process is about to end; the workflow must not, it is somebody else's then
        if pause is not None:
            _put_off(client, executor_id, id_, pause)
            raise _PutOff
        reached("async_worker.before_outcome")

    small, large = queues
    DBOS.listen_queues([small, large])
    DBOS.launch()
    engine_log = logging.getLogger("dbos")
    engine_log.handlers.clear()  # what it says goes where all goes
    engine_log.propagate = True
    _register(small, _AHEAD * scorers, poll_seconds)
    _register(large, 1, max(poll_seconds, _LARGE_POLL_SECONDS))


def _register(queue: str, at_once: int, poll_seconds: float) -> None:
    DBOS.register_queue(
        queue, worker_concurrency=at_once, polling_interval_sec=poll_seconds, on_conflict="always_update"
    )


def _put_off(client: DBOSClient, executor_id: str, id_: str, seconds: float) -> None:
    """Leave a submission to later; while the database is away, keep it."""
    while True:
        try:
            put_off(client, executor_id, id_, seconds)
        except Exception as exc:  # noqa: BLE001 - whatever the driver raises: it comes back
            event("not_put_off", id=id_, raised=type(exc).__name__)
            time.sleep(seconds)
        else:
            return


def _until(
    ending: threading.Event,
    ledger: Ledger,
    client: DBOSClient,
    retention_hours: float,
    pinned: PinnedModel,
    queues: tuple[str, str],
) -> None:
    """Wait to be told to end; meanwhile keep house."""
    is_first = True
    while is_first or not ending.wait(min(_HOUSEKEEPING_SECONDS, retention_hours * 360)):
        is_first = False
        try:
            expire(ledger, client, _now() - round(retention_hours * _HOUR_US))
            n = settle(ledger, client, _now() - _SETTLED_AFTER_US)
            n_adopted = adopt(ledger.database, client, pinned.name, *queues)
            n_elsewhere = ledger.queued_elsewhere(pinned.name, queues)
        except Exception as exc:  # noqa: BLE001 - a database that is away comes back
            event("housekeeping_failed", raised=type(exc).__name__)
        else:
            if n:
                event("lost_by_engine", submissions=n)
            if n_adopted:
                event("adopted", submissions=n_adopted)
            if n_elsewhere:
                why = "they were taken for another store.url than this worker's"
                event("not_taken_here", submissions=n_elsewhere, model=pinned.name, why=why)
    client.destroy()


def _leave(work: Work, notifier: Notifier, signs: SignsOfLife, seconds: float) -> None:
    """Begin nothing more, let chunks under way be stored and messages be sent, both within so long, and hand the rest back."""
    work.stop()
    deadline = time.monotonic() + seconds
    closing = threading.Thread(target=notifier.close, args=(seconds,), daemon=True)
    closing.start()
    while work.running() and time.monotonic() < deadline:
        time.sleep(0.02)
    closing.join()
    with contextlib.suppress(OnescoreError):
        DBOS.destroy()
    signs.leave()


def _now() -> int:
    return time.time_ns() // 1000
