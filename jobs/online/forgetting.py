"""Forgetting an entity in every place that a model's configuration names, and saying what is still owed after that.

Each place is a step that is whole in itself and finds nothing the second time, so a run that was killed is completed by running it
again. This module prints nothing and reads no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import OnescoreError
from feature_pipelines.stores.opening import open_store
from jobs.online.entity import Entity
from jobs.online.forget_store import ForgottenView, forget_in_store
from jobs.online.forget_tables import logged_test, quarantine_test, scored_test
from jobs.online.log_rewriting import Rewritten, forget_in_log
from jobs.online.replay_store import default_logs, default_store
from jobs.online.store_conf import store_url
from jobs.proof.forget_reports import ForgottenReports, forget_in_reports
from jobs.runs.conf import Conf
from jobs.runs.settings_async import revealed_database_url
from jobs.tables.delta_read import is_delta, open_table, table_schema
from jobs.tables.files import is_local, normal_uri
from jobs.tables.removal import Owed, RowTest, count_rows, owed, remove_rows

if TYPE_CHECKING:
    from jobs.submissions.forget_submissions import ForgottenSubmissions

__all__ = ["Forgotten", "forget", "kept_elsewhere", "log_directory", "store_owes", "submissions_owe"]

_SQLITE = "sqlite:///"


@dataclass
class Forgotten:
    """What was (or would be) removed, place by place.

    Args:
        store: by view; the text says why there is no store to ask.
        log: of the model's prediction log; None = there is none.
        reports: of the reports of reconciliations; the text says why none were looked at.
        submissions: of the database of asynchronous inference; None = there is none; the text says why it was not reached.
        tables: rows by location; the text says why a table was not touched.
        owed: by location.
    """

    store: dict[str, ForgottenView] | str = ""
    log: Rewritten | None = None
    reports: ForgottenReports | str = ""
    submissions: ForgottenSubmissions | str | None = None
    tables: dict[str, int | str] = field(default_factory=dict)
    owed: dict[str, Owed] = field(default_factory=dict)


def forget(
    conf: Conf, feature_set: FeatureSet, entity: Entity, log: Path | None, now: datetime, *, dry_run: bool
) -> Forgotten:
    """Remove an entity from store, what reconciliations wrote, the prediction log, the scored and the quarantine table, submissions.

    What reconciliations wrote comes before the log, which says at which places the entity's rows are. A database of submissions that
    this job has no access to is said not to be reached, and keeps nothing else from being done.

    Args:
        conf: names the places.
        feature_set: the model's.
        entity: what to forget.
        log: <log>/<model>; None = no log.
        now: an aware time, from which vacuum counts.
        dry_run: count, and change nothing.

    Raises:
        UnavailableError, TableError, RunConflictError: a place cannot be worked on; those before it are done.
    """
    done = Forgotten(store=_store(conf, feature_set, entity, dry_run))
    row_id = tuple(feature_set.row_id if conf.input.row_id is None else conf.input.row_id)
    places: list[str] = []
    key = conf.serve.log_pii_key.reveal().encode() if conf.serve.log_pii_key is not None else None
    if log is not None:
        done.log = forget_in_log(log, entity, key, dry_run=True)
        places = done.log.places
    _forget_reconciled(conf, logged_test(entity, places, row_id), now, done, dry_run)
    if log is not None and not dry_run:
        done.log = forget_in_log(log, entity, key, dry_run=False)
    for table, is_scored in ((conf.output.scored, True), (conf.output.quarantine, False)):
        location = conf.table_location(table)
        if not is_delta(location):
            done.tables[location] = "no Delta table there"
            continue
        test = scored_test(entity, _columns(location), row_id) if is_scored else quarantine_test(entity)
        if isinstance(test, list):
            done.tables[location] = (
                f"NOT TOUCHED: it does not repeat {', '.join(test)}, so its rows cannot be told; "
                "output.pass_through repeats a column in later runs"
            )
            continue
        done.tables[location] = _rows(location, test, now, dry_run)
        done.owed[location] = owed(location, test)
    try:
        done.submissions = _submissions(conf, entity, dry_run)
    except (OnescoreError, ImportError) as exc:
        done.submissions = f"NOT REACHED: {exc}"
    return done


def _forget_reconciled(conf: Conf, test: RowTest, now: datetime, done: Forgotten, dry_run: bool) -> None:
    """Remove rows from the table of corrections and from reports."""
    corrections = conf.table_location(conf.skew.corrections)
    if is_delta(corrections):
        done.tables[corrections] = _rows(corrections, test, now, dry_run)
        done.owed[corrections] = owed(corrections, test)
    if not is_local(conf.skew.directory):
        done.reports = "NOT TOUCHED: skew.directory is no directory that this machine has mounted"
        return
    directory = Path(normal_uri(conf.skew.directory)) / conf.model.name
    done.reports = forget_in_reports(directory, test.mask, dry_run=dry_run)


def log_directory(conf: Conf, option: str | None) -> Path | None:
    """Return where a model's part of the prediction log is: below an option's directory, else the configured one."""
    root = option or conf.serve.log_directory
    return Path(root).expanduser() / quote(conf.model.name, safe="") if root else None


def kept_elsewhere(conf: Conf, feature_set: FeatureSet) -> list[tuple[str, str]]:
    """Return (place, what it is) of what `forget` does not rewrite and that may hold an entity."""
    places: list[tuple[str | None, str]] = [
        (conf.views[view.name], f"view {view.name}: its history")
        for view in feature_set.views
        if view.name in conf.views
    ]
    places += [(table, "events that views are built from") for table in conf.view_sources.values()]
    places += [
        (conf.build.quarantine, "events that broke a view's contract"),
        (conf.input.source, "requests to score"),
        (conf.train.requests, "requests to learn from"),
        (conf.train.outcomes, "outcomes"),
        (conf.submissions.reference_root, "tables that submissions refer to"),
    ]
    named: dict[str, str] = {}
    for table, meaning in places:
        if table:
            named.setdefault(conf.table_location(table), meaning)
    found: Sequence[tuple[str, str]] = [
        (default_store(conf).removeprefix("sqlite:///"), "the store that replays fill; --store names others"),
        (str(default_logs(conf)), "logs of replays, with the requests; --log names others"),
        (conf.storage.runs, "runs: what an unfinished one has staged"),
        (conf.storage.cache, "copies of models and views; may be deleted at any time"),
        (
            "MLflow's runs of reconcile_scores",
            "copies of their reports as they were: delete the runs, then mlflow gc",
        ),
        ("registered versions of the model", "golden rows and fitted vocabularies"),
    ]
    return [*named.items(), *found]


def store_owes(conf: Conf) -> str:
    """Return where an online store keeps the bytes of deleted rows, and what removes them."""
    url = store_url(conf)
    if not url.startswith(_SQLITE):
        return "snapshots and append-only files that Redis wrote before hold it until they are written again: BGSAVE, BGREWRITEAOF"
    return _sqlite_vacuum(url)


def submissions_owe(conf: Conf) -> str:
    """Return where the database of submissions keeps the bytes of deleted rows, and what removes them."""
    url = revealed_database_url(conf.submissions)
    if url.startswith(_SQLITE):
        return _sqlite_vacuum(url)
    return "VACUUM FULL onescore_results, onescore_payloads; PostgreSQL's write-ahead log and backups keep them as long as these are kept"


def _sqlite_vacuum(url: str) -> str:
    steps = "c.execute('VACUUM'); c.execute('PRAGMA wal_checkpoint(TRUNCATE)')"
    return f'python -c "import sqlite3; c = sqlite3.connect({url.removeprefix(_SQLITE)!r}); {steps}"'


def _submissions(conf: Conf, entity: Entity, dry_run: bool) -> ForgottenSubmissions | None:
    url = revealed_database_url(conf.submissions)
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).is_file():
        return None
    from jobs.submissions.forget_submissions import forget_in_submissions  # its libraries are an extra

    return forget_in_submissions(url, conf.model.name, entity, dry_run=dry_run)


def _store(
    conf: Conf, feature_set: FeatureSet, entity: Entity, dry_run: bool
) -> dict[str, ForgottenView] | str:
    if not feature_set.views:
        return "the feature set has no stored views"
    url = store_url(conf)
    if url.startswith(_SQLITE) and not Path(url.removeprefix(_SQLITE)).is_file():
        return "there is no store file"
    store = open_store(url, timeout_ms=conf.store.write_timeout_ms)
    try:
        return forget_in_store(
            store,
            feature_set.views,
            entity,
            lambda name: conf.table_location(conf.views[name]) if name in conf.views else None,
            dry_run=dry_run,
        )
    finally:
        store.close()


def _columns(location: str) -> list[str]:
    return list(table_schema(open_table(location)).names)


def _rows(location: str, test: RowTest, now: datetime, dry_run: bool) -> int:
    return count_rows(location, test) if dry_run else remove_rows(location, test, now)
