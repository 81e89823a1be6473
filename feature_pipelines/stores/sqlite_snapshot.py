"""A read-only copy of some views of a SQLite store, for a process that is shipped with its store.

The copy holds the rows in the order of their keys and no journal, so equal contents are equal bytes, and a file system that cannot be
written serves it. It is a store like any other to whoever reads it. This module knows nothing of payloads.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from feature_pipelines.errors import ContractError, UnavailableError
from feature_pipelines.stores.base import check_schema
from feature_pipelines.stores.encoding import declared_schema, key_prefix
from feature_pipelines.views import FeatureView

__all__ = ["write_snapshot"]

_PAGE_BYTES = 4_096


def write_snapshot(source: Path, target: Path, views: Sequence[FeatureView]) -> dict[str, int]:
    """Copy the rows and the state of views as they are in one moment; return W of each, microseconds.

    Args:
        source: the store's file; it may be written meanwhile.
        target: the copy; must not exist.
        views: those that are copied, and no other.

    Raises:
        UnavailableError: there is no such store, or it cannot be read.
        ContractError: a view was never materialised, is being rebuilt, or is held under another schema.
    """
    uri = f"file:{quote(str(source.absolute()))}?mode=ro"
    try:
        with (
            contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as reader,
            contextlib.closing(sqlite3.connect(target, isolation_level=None)) as writer,
        ):
            reader.execute("BEGIN")
            writer.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            writer.execute("PRAGMA journal_mode = DELETE")
            through = _copy(reader, writer, views, str(source))
            writer.execute("VACUUM")
            return through
    except sqlite3.Error as exc:
        raise UnavailableError(f"online store sqlite:///{source}: {type(exc).__name__}: {exc}") from exc


def _copy(
    reader: sqlite3.Connection, writer: sqlite3.Connection, views: Sequence[FeatureView], url: str
) -> dict[str, int]:
    writer.execute("BEGIN")
    for (statement,) in reader.execute(
        "SELECT sql FROM sqlite_master WHERE name IN ('rows', 'views') ORDER BY name"
    ):
        writer.execute(statement)
    through: dict[str, int] = {}
    for view in sorted(views, key=lambda view: view.name):
        found = reader.execute(
            "SELECT schema, through_ts, source, rebuilding FROM views WHERE name = ?", (view.name,)
        ).fetchone()
        if found is None or found[1] is None or found[3]:
            raise ContractError(
                f"view {view.name!r}: the store to be shipped does not hold it whole; run jobs.materialize_features first",
                view=view.name,
            )
        check_schema(view, found[0], declared_schema(view), url)
        through[view.name] = int(found[1])
        writer.execute("INSERT INTO views VALUES (?, ?, ?, ?, 0, 0)", (view.name, *found[:3]))
        prefix = key_prefix(view)
        rows = reader.execute(
            "SELECT key, event_ts, created_ts, digest, is_deleted, payload FROM rows WHERE key >= ? AND key < ? ORDER BY key",
            (prefix, prefix + "~"),
        )
        writer.executemany("INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?)", rows)
    writer.execute("COMMIT")
    return through
