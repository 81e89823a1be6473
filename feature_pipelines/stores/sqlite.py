"""The embedded store: one SQLite file in WAL mode, read by many processes while one writes.

Newest wins inside the database: one upsert, whose condition compares the two places in the order. Readers open the file
read-only; a connection serves one thread at a time, and none crosses a fork. What goes wrong with the file (missing,
damaged, locked beyond the deadline) is UnavailableError. This module knows nothing of the content of payloads beyond the schema they name.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import os
import secrets
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from feature_pipelines.errors import UnavailableError
from feature_pipelines.stores.base import (
    Answer,
    Key,
    StoredRow,
    ViewState,
    check_schema,
    not_served,
    superseded,
)
from feature_pipelines.stores.encoding import (
    declared_schema,
    key_prefix,
    key_texts,
    payload_head,
    unreadable_payload,
)
from feature_pipelines.views import FeatureView

__all__ = ["SqliteStore"]

_TABLES = """
CREATE TABLE IF NOT EXISTS views (
    name TEXT PRIMARY KEY, schema TEXT NOT NULL, through_ts INTEGER, source TEXT NOT NULL, epoch INTEGER NOT NULL,
    rebuilding INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS rows (
    key TEXT PRIMARY KEY, event_ts INTEGER NOT NULL, created_ts INTEGER NOT NULL, digest BLOB NOT NULL,
    is_deleted INTEGER NOT NULL, payload BLOB NOT NULL
) WITHOUT ROWID;
"""
_UPSERT = """
INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET event_ts = excluded.event_ts,
    created_ts = excluded.created_ts, digest = excluded.digest, is_deleted = excluded.is_deleted, payload = excluded.payload
WHERE (excluded.event_ts, excluded.created_ts, excluded.digest) > (rows.event_ts, rows.created_ts, rows.digest)
"""
_STATE = "SELECT schema, through_ts, source, epoch, rebuilding FROM views WHERE name = ?"
_WRITE_ROWS = 5_000
_PURGE_ROWS = 5_000
_ASKED = (
    *range(1, 17),
    32,
    64,
    128,
    256,
)  # of few keys exactly as many: one more costs a look-up, a statement little
_SIZE = {n: next(size for size in _ASKED if size >= n) for n in range(1, _ASKED[-1] + 1)}
_STATE_MARK = -1
_UNKNOWN = ("", None, 0, None, _STATE_MARK, None)
_CACHE_KIB = 32_000
_ABANDONED: list[object] = []
"""Connections that a fork left in a child: closing them there would release locks that the parent holds."""


class SqliteStore:
    """One file. See `base.OnlineStore` for what each method promises.

    Args:
        path: the file; made, with its directory, by the first write.
        timeout_ms: how long to wait for another process's lock, milliseconds.
    """

    def __init__(self, path: Path, *, timeout_ms: int = 250) -> None:
        self.path = path.absolute()
        self.url = f"sqlite:///{self.path}"
        self._name = str(self.path)
        self._timeout = timeout_ms / 1000
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._file: tuple[int, int] | None = None
        self._readers: deque[sqlite3.Connection] = deque()
        self._writers: deque[sqlite3.Connection] = deque()

    def read(self, wanted: Sequence[tuple[FeatureView, Sequence[Key]]]) -> list[list[Answer]]:
        """See OnlineStore."""
        texts = [key_texts(view, keys) for view, keys in wanted]
        every = texts[0] if len(texts) == 1 else [text for part in texts for text in part]
        states: dict[str, tuple[Any, ...]] = {}
        found: dict[str, StoredRow] = {}
        for line in self._lines(every, list(dict.fromkeys([view.name for view, _ in wanted]))):
            if line[4] == _STATE_MARK:
                states[line[0]] = line
            else:
                found[line[0]] = StoredRow(line[1], line[2], line[3], line[4] == 1, line[5])
        return [
            self._answers(view, states.get(view.name, _UNKNOWN), [found.get(text) for text in part])
            for (view, _), part in zip(wanted, texts, strict=True)
        ]

    def _answers(
        self, view: FeatureView, state: tuple[Any, ...], rows: list[StoredRow | None]
    ) -> list[Answer]:
        """Put what is wrong with a view, or with a row, in the place of rows."""
        declared = declared_schema(view)
        _, through_ts, rebuilding, schema, _, _ = state
        if schema != declared or rebuilding or through_ts is None:
            failed = not_served(view, schema, declared, through_ts, rebuilding=bool(rebuilding), url=self.url)
            return [failed] * len(rows)
        head = payload_head(view)
        return [
            row
            if row is None or row.is_deleted or row.payload.startswith(head)
            else unreadable_payload(view, row.payload, self.url)
            for row in rows
        ]

    def write(self, view: FeatureView, keys: Sequence[Key], rows: Sequence[StoredRow]) -> int:
        """See OnlineStore; each part of some thousand rows is one transaction."""
        records = [(text, *row) for text, row in zip(key_texts(view, keys), rows, strict=True)]
        records.sort(key=operator.itemgetter(0))  # neighbours share pages
        self.register(view)
        changed = 0
        for at in range(0, len(records), _WRITE_ROWS):
            with self._transaction() as writer:
                self._checked(writer, view)
                before = writer.total_changes
                writer.executemany(_UPSERT, records[at : at + _WRITE_ROWS])
                changed += writer.total_changes - before
        return changed

    def through(self, views: Sequence[FeatureView]) -> dict[str, int | None]:
        """See OnlineStore."""
        states = self.states(views)
        for view in views:
            state = states[view.name]
            if state is not None:
                check_schema(view, state.schema, declared_schema(view), self.url)
        return {name: state.through_ts if state else None for name, state in states.items()}

    def states(self, views: Sequence[FeatureView]) -> dict[str, ViewState | None]:
        """See OnlineStore."""
        with self._connection(write=False) as reader:
            return {view.name: self._state(reader, view) for view in views}

    def register(self, view: FeatureView, *, source: str = "") -> ViewState:
        """See OnlineStore."""
        with self._connection(write=True) as writer:
            state = self._state(writer, view)
        if state is None or (source and state.through_ts is None and not state.source):
            with self._transaction() as writer:
                writer.execute(
                    "INSERT OR IGNORE INTO views VALUES (?, ?, NULL, '', ?, 0)",
                    (view.name, declared_schema(view), _new_epoch()),
                )
                self._checked(writer, view)
                writer.execute(
                    "UPDATE views SET source = ? WHERE name = ? AND through_ts IS NULL AND source = ''",
                    (source, view.name),
                )
                return self._checked(writer, view)
        check_schema(view, state.schema, declared_schema(view), self.url)
        return state

    def advance(
        self, view: FeatureView, through_ts: int, *, source: str = "", epoch: int | None = None
    ) -> int:
        """See OnlineStore."""
        self.register(view)
        with self._transaction() as writer:
            state = self._checked(writer, view)
            if epoch is not None and epoch != state.epoch:
                raise superseded(view, self.url)
            if state.through_ts is not None and state.through_ts > through_ts:
                return state.through_ts
            writer.execute(
                "UPDATE views SET through_ts = ?, source = ?, rebuilding = 0 WHERE name = ?",
                (through_ts, source, view.name),
            )
        return through_ts

    def reset(self, view: FeatureView) -> ViewState:
        """See OnlineStore."""
        with self._transaction() as writer:
            writer.execute("DELETE FROM rows WHERE key >= ? AND key < ?", _range(view))
            writer.execute(
                "INSERT OR REPLACE INTO views VALUES (?, ?, NULL, '', ?, 1)",
                (view.name, declared_schema(view), _new_epoch()),
            )
            return self._checked(writer, view)

    def delete(self, view: FeatureView, keys: Sequence[Key]) -> int:
        """See OnlineStore."""
        texts = key_texts(view, keys)
        with self._transaction() as writer:
            before = writer.total_changes
            writer.executemany("DELETE FROM rows WHERE key = ?", [(text,) for text in texts])
            return writer.total_changes - before

    def purge(self, view: FeatureView, event_before_ts: int) -> int:
        """See OnlineStore; each step looks at some thousand keys and is one transaction."""
        after, end = _range(view)
        removed = 0
        while True:
            with self._transaction() as writer:
                last: str | None = writer.execute(
                    "SELECT max(key) FROM (SELECT key FROM rows WHERE key > ? AND key < ? ORDER BY key LIMIT ?)",
                    (after, end, _PURGE_ROWS),
                ).fetchone()[0]
                if last is None:
                    return removed
                removed += writer.execute(
                    "DELETE FROM rows WHERE key > ? AND key <= ? AND event_ts < ?",
                    (after, last, event_before_ts),
                ).rowcount
            after = last

    def close(self) -> None:
        """See OnlineStore."""
        if self._pid == os.getpid():
            while self._readers:
                self._readers.pop().close()
            while self._writers:
                self._writers.pop().close()

    def _lines(self, texts: list[str], names: list[str]) -> list[tuple[Any, ...]]:
        """Return the rows of the keys and the states of the views: queries of a few sizes, so that each is prepared once."""
        lines: list[tuple[Any, ...]] = []
        pool, reader = None, None
        try:
            pool, reader = self._borrow(write=False)
            if len(texts) > _ASKED[-1]:
                reader.execute("BEGIN")  # else a view could be dropped and filled again between two queries
            for at in range(0, len(texts), _ASKED[-1]):
                part = texts[at : at + _ASKED[-1]]
                size = _SIZE[len(part)]
                part += part[-1:] * (size - len(part))
                lines += reader.execute(_query(size, len(names)), part + names).fetchall()
            if reader.in_transaction:
                reader.execute("COMMIT")
        except (sqlite3.Error, OSError) as exc:
            if reader is not None:
                reader.close()
            raise self._unavailable(exc) from exc
        pool.append(reader)
        return lines

    def _unavailable(self, exc: Exception) -> UnavailableError:
        return UnavailableError(f"online store {self.url}: {type(exc).__name__}: {exc}", url=self.url)

    def _state(self, connection: sqlite3.Connection, view: FeatureView) -> ViewState | None:
        row = connection.execute(_STATE, (view.name,)).fetchone()
        return None if row is None else ViewState(row[0], row[1], row[2], row[3], row[4] == 1)

    def _checked(self, writer: sqlite3.Connection, view: FeatureView) -> ViewState:
        state = self._state(writer, view)
        if state is None:
            raise superseded(view, self.url)
        check_schema(view, state.schema, declared_schema(view), self.url)
        return state

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._connection(write=True) as writer:
            writer.execute("BEGIN IMMEDIATE")
            try:
                yield writer
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    writer.execute("ROLLBACK")
                raise
            writer.execute("COMMIT")

    @contextlib.contextmanager
    def _connection(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        """Lend a connection that nobody else uses; one that failed is not used again."""
        try:
            pool, connection = self._borrow(write=write)
            try:
                yield connection
            except sqlite3.Error:
                connection.close()
                raise
            except BaseException:
                pool.append(connection)
                raise
            pool.append(connection)
        except (sqlite3.Error, OSError) as exc:
            raise self._unavailable(exc) from exc

    def _borrow(self, *, write: bool) -> tuple[deque[sqlite3.Connection], sqlite3.Connection]:
        """Return a connection, and the pool to give it back to: that of the file it has open."""
        if self._pid != os.getpid():
            _ABANDONED.append((self._readers, self._writers))
            self._start()
        self._drop_those_of_another_file(write)
        pool = self._writers if write else self._readers
        try:
            return pool, pool.pop()
        except IndexError:
            return pool, self._connect(write=write)

    def _drop_those_of_another_file(self, write: bool) -> None:
        """A file that was put in the place of the one that is open, or is gone, is another store."""
        try:
            stat = os.stat(self._name)
        except FileNotFoundError:
            if not write:
                raise
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = None
        else:
            file = (stat.st_dev, stat.st_ino)
        if file != self._file:
            if self._file is not None:  # else this store made the file just now
                self.close()
                self._readers, self._writers = deque(), deque()
            self._file = file

    def _connect(self, *, write: bool) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={'rwc' if write else 'ro'}",
            uri=True,
            timeout=self._timeout,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=64,
        )
        try:
            if write:
                self._prepare(connection)
            else:
                connection.execute("PRAGMA query_only = 1")
                connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _prepare(self, writer: sqlite3.Connection) -> None:
        """Make the tables where there are none; SQLite does not wait by itself while another makes the same file."""
        give_up = time.monotonic() + self._timeout
        while True:
            try:
                writer.execute("PRAGMA journal_mode = WAL")
                writer.execute("PRAGMA synchronous = NORMAL")
                writer.executescript(_TABLES)
                return
            except sqlite3.OperationalError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.005)


@functools.cache
def _query(keys: int, views: int) -> str:
    """Return the one statement of a read: rows by key, and views by name as lines of the same shape.

    A join with what is wanted takes a third of the time of two IN lists, for which SQLite makes a temporary index each.
    """
    return (
        "SELECT key, event_ts, created_ts, digest, is_deleted, payload "  # noqa: S608 - marks alone are put in
        f"FROM (VALUES {_marks(keys)}) CROSS JOIN rows ON key = column1 UNION ALL "
        f"SELECT name, through_ts, rebuilding, schema, {_STATE_MARK}, NULL "
        f"FROM (VALUES {_marks(views)}) CROSS JOIN views ON name = column1"
    )


def _marks(n: int) -> str:
    return ",".join(["(?)"] * n)


def _range(view: FeatureView) -> tuple[str, str]:
    """Return bounds of the view's keys: what follows the prefix is a quote, a digit or a minus, all below a tilde."""
    return key_prefix(view), key_prefix(view) + "~"


def _new_epoch() -> int:
    return secrets.randbits(62)
