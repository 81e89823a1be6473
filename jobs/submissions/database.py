"""The database of submissions, SQLite or PostgreSQL, opened the one way that the engine and our own tables can share.

SQLite: write-ahead log, writers one after the other (a transaction that writes takes the lock at its beginning), each commit on
disk before it is acknowledged. This module knows nothing of what the tables mean.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSClient

from feature_pipelines.errors import ConfigurationError, UnavailableError
from jobs.submissions.engine_names import APPLICATION
from jobs.submissions.tables import METADATA

__all__ = ["Database", "engine_url"]

_BUSY_MS = 30_000
_LOCK = 0x6F6E6573  # "ones"; whoever makes the tables holds it


def engine_url(url: str) -> str:
    """Return the URL as SQLAlchemy takes it, its driver named."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


class Database:
    """One process's connections.

    Args:
        url: `sqlite:///PATH` or `postgresql://...`; never printed.
        pool_size: connections at most.
    """

    def __init__(self, url: str, *, pool_size: int = 8) -> None:
        self.url = engine_url(url)
        self.is_sqlite = self.url.startswith("sqlite:")
        if self.is_sqlite:
            Path(self.url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {} if self.is_sqlite else {"pool_pre_ping": True}
        self.engine = sa.create_engine(
            self.url, pool_size=pool_size, max_overflow=0, pool_timeout=60, hide_parameters=True, **options
        )
        if self.is_sqlite:
            sa.event.listen(self.engine, "connect", _as_sqlite)

    @property
    def plain_url(self) -> str:
        """The URL as the engine takes it, which chooses the driver itself."""
        return self.url.replace("postgresql+psycopg://", "postgresql://")

    def engine_client(self) -> DBOSClient:
        """Return a client of the engine; the database is prepared."""
        return DBOSClient(
            system_database_url=self.plain_url, application_name=APPLICATION, system_database_pool_size=2
        )

    def prepare(self) -> None:
        """Make the tables, ours and the engine's, unless they are there; any number of processes may do so at once.

        Raises:
            UnavailableError: the database cannot be reached. ConfigurationError: it cannot hold tables.
        """
        try:
            DBOS.migrate(self.plain_url)
            with self.engine.connect() as connection:
                if self.is_sqlite:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
                METADATA.create_all(connection)
                _add_columns(connection)
                connection.commit()
        except sa.exc.OperationalError as exc:
            raise UnavailableError(
                f"submissions.database_url: the database cannot be reached: {type(exc.orig).__name__}"
            ) from exc
        except sa.exc.SQLAlchemyError as exc:
            raise ConfigurationError(
                f"submissions.database_url: the database cannot hold the tables: {type(exc).__name__}"
            ) from exc

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Open a transaction that writes; committed at the end, rolled back by an error."""
        with self.engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Open a connection that only reads, and sees one state of the database."""
        with self.engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN")
            try:
                yield connection
            finally:
                connection.rollback()

    def close(self) -> None:
        """Let go of the connections."""
        self.engine.dispose()


def _add_columns(connection: sa.Connection) -> None:
    """Add the columns that tables of an earlier version lack; they are nullable, so an earlier version still writes there."""
    seen = sa.inspect(connection)
    for table in METADATA.sorted_tables:
        known = {column["name"] for column in seen.get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                kind = column.type.compile(connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind}")


def _as_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `writing` and `reading` say so
    for pragma in (f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
