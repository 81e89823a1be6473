"""The files that a Delta table's log adds, in the order in which a stream reads them, and the offsets that say how far it is.

A query begins with the table as it is then, file by file, and goes on with the files that later commits add. An offset is the next
file to read: {version, index, snapshot, table}; `index` counts the files of that version's commit, or, while `snapshot` is true, of the
whole table at that version; `table` is the table's own id (older offsets have none), so that another one made under its name is refused,
and not read on from the middle. Compaction and z-order add no rows and are passed over. A commit that takes rows out (DELETE, UPDATE,
MERGE, overwrite) cannot be read as added rows and is refused, unless `skipChangeCommits` says to pass it over as a whole. This module
knows nothing of Spark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from feature_pipelines.errors import ConfigurationError, TableError
from jobs.tables.files import child_uri, filesystem_of

if TYPE_CHECKING:
    from jobs.tables.pinned import InputFile

__all__ = ["DeltaFiles", "Offset", "first_offset", "option_of"]

Offset = dict[str, Any]


class DeltaFiles:
    """The files that a table's log adds, in the order in which a stream reads them.

    Args:
        uri: root of the table.
        skip_changes: pass over commits that take rows out, instead of refusing them.
    """

    def __init__(self, uri: str, *, skip_changes: bool = False) -> None:
        self.uri = uri
        self._skip_changes = skip_changes
        self._cache: dict[tuple[int, bool], list[InputFile]] = {}

    def newest(self) -> int:
        """Return the table's newest version."""
        return self.now()[0]

    def now(self) -> tuple[int, str]:
        """Return the table's newest version, and its id."""
        from jobs.tables.delta_read import open_table

        table = open_table(self.uri)
        return int(table.version()), str(table.metadata().id)

    def require_same(self, *offsets: Offset, start: Offset | None = None) -> tuple[int, str]:
        """Return what `now` does, having seen that offsets are of the table that is there now.

        Args:
            offsets: where a batch begins or ends.
            start: where the query began, which may be at a version that is still to come.

        Raises:
            TableError: it is another one, or has not come as far as they.
        """
        newest, table = self.now()
        known = next((o["table"] for o in offsets if o.get("table") not in (None, table)), None)
        if known is not None:
            raise TableError(
                f"{self.uri}: the stream is of the table with id {known}, and the table there now has id {table}: it was dropped and made "
                "anew. Restore the old one, or start a new query with a checkpoint of its own",
                expected=known,
                found=table,
            )
        furthest = max((o["version"] for o in offsets if o != start), default=0)
        if newest + 1 < furthest:
            raise TableError(
                f"{self.uri}: the stream goes on at version {furthest}, and the table's newest is {newest}: it was put back or made anew. "
                "Restore it, or start a new query with a checkpoint of its own",
                version=furthest,
            )
        return newest, table

    def of(self, version: int, snapshot: bool) -> list[InputFile]:
        """Return the files that a version's commit adds, or all that the table has at that version.

        Raises:
            TableError: the version is no longer there, it takes rows out, or it changes the schema.
        """
        key = (version, snapshot)
        if key not in self._cache:
            if len(self._cache) > 1_000:
                self._cache.clear()
            self._cache[key] = self._snapshot(version) if snapshot else self._added(version)
        return self._cache[key]

    def advance(self, start: Offset, newest: int, limit: int | None) -> tuple[Offset, list[InputFile]]:
        """Return the offset after the next `limit` files (None = all) up to a version, and these files."""
        version, index, snapshot, table = (
            start["version"],
            start["index"],
            start["snapshot"],
            start.get("table"),
        )
        taken: list[InputFile] = []
        while version <= newest:
            files = self.of(version, snapshot)[index:]
            room = len(files) if limit is None else max(limit - len(taken), 0)
            taken += files[:room]
            if room < len(files):
                return _offset(version, index + room, snapshot, table), taken
            version, index, snapshot = version + 1, 0, False
        return _offset(version, index, snapshot, table), taken

    def between(self, start: Offset, end: Offset) -> list[InputFile]:
        """Return the files from one offset to another.

        Raises:
            TableError: the one is after the other, or they count the files of different lists: a batch of them would lose rows.
        """
        found: list[InputFile] = []
        version, index, snapshot = start["version"], start["index"], start["snapshot"]
        while version < end["version"]:
            found += self._from(version, index, snapshot)
            version, index, snapshot = version + 1, 0, False
        if (version, snapshot) != (end["version"], end["snapshot"]) or index > end["index"]:
            raise self._apart(start, end)
        if index == end["index"]:
            return found
        last = self._from(version, index, snapshot)
        if len(last) < end["index"] - index:
            raise self._apart(start, end)
        return found + last[: end["index"] - index]

    def _from(self, version: int, index: int, snapshot: bool) -> list[InputFile]:
        files = self.of(version, snapshot)
        if index > len(files):
            raise TableError(
                f"{self.uri}: the stream is at file {index} of version {version}, which has {len(files)}: it is another table than the "
                "one that the query began with. Restore it, or start a new query with a checkpoint and tables of its own",
                version=version,
            )
        return files[index:]

    def _apart(self, start: Offset, end: Offset) -> TableError:
        return TableError(
            f"{self.uri}: a batch from {_text(start)} to {_text(end)} is no stretch of the table's files, and reading it would lose rows: "
            "the checkpoint or the table was put back or changed by others. Restore both, or start a new query with a checkpoint and "
            "tables of its own",
            version=end["version"],
        )

    def _snapshot(self, version: int) -> list[InputFile]:
        from jobs.tables.snapshot import pin_snapshot

        # By name: the log lists a version's files in another order once it is compacted into a checkpoint.
        return sorted(pin_snapshot(self.uri, version=version).files, key=lambda file: file.uri)

    def _added(self, version: int) -> list[InputFile]:
        from jobs.tables.snapshot import logged_files

        actions = self._log(version)
        if any("metaData" in action for action in actions) and self._changes_columns(version):
            raise TableError(
                f"{self.uri}: version {version} changes the table's columns, and a stream's columns are fixed; start a "
                "new query with a checkpoint and tables of its own, or one that begins after it (stream.options.startingVersion) and, with "
                "--beside, adds to these",
                version=version,
            )
        removed = [
            a["remove"] for a in actions if a.get("remove", {}).get("dataChange", True) and "remove" in a
        ]
        if removed:
            if self._skip_changes:
                return []
            raise TableError(
                f"{self.uri}: version {version} takes rows out (DELETE, UPDATE, MERGE or overwrite), so what it adds is not new rows. "
                "stream.options.skipChangeCommits=true passes such commits over, rows that they add included",
                version=version,
            )
        return logged_files(
            self.uri, [a["add"] for a in actions if "add" in a and a["add"].get("dataChange", True)]
        )

    def _changes_columns(self, version: int) -> bool:
        from jobs.tables.delta_read import open_table, table_schema

        if not version:
            return False
        before, after = (table_schema(open_table(self.uri, v)) for v in (version - 1, version))
        return not before.equals(after)

    def _log(self, version: int) -> list[dict[str, Any]]:
        filesystem, path = filesystem_of(child_uri(self.uri, f"_delta_log/{version:020d}.json"))
        try:
            with filesystem.open_input_stream(path) as stream:
                return [json.loads(line) for line in stream.read().splitlines() if line.strip()]
        except OSError as exc:
            raise TableError(
                f"{self.uri}: the log's entry of version {version} is gone, so the stream cannot tell what it added; start a new query "
                "with a checkpoint and tables of its own",
                version=version,
            ) from exc


def first_offset(uri: str, options: Mapping[str, str]) -> Offset:
    """Return where a query that begins now begins; to be asked once, and kept.

    Args:
        uri: root of the table.
        options: of the source.

    Raises:
        ConfigurationError: startingVersion is neither a version nor `latest`. TableError: there is no such table.
    """
    starting = option_of(options, "startingVersion")
    if starting is not None and starting != "latest":
        return _offset(_version(starting), 0, False, DeltaFiles(uri).now()[1])
    newest, table = DeltaFiles(uri).now()
    return _offset(newest, 0, True, table) if starting is None else _offset(newest + 1, 0, False, table)


def option_of(options: Mapping[str, str], name: str) -> str | None:
    """Return an option, however its name is written; None where it is not given."""
    return next((value for key, value in options.items() if key.lower() == name.lower()), None)


def _offset(version: int, index: int, snapshot: bool, table: str | None) -> Offset:
    return {"version": version, "index": index, "snapshot": snapshot, "table": table}


def _text(offset: Offset) -> str:
    return f"file {offset['index']} of {'the table at ' if offset['snapshot'] else ''}version {offset['version']}"


def _version(text: str) -> int:
    if not text.isdigit():
        raise ConfigurationError(
            f"stream.options.startingVersion: expected a version or latest, got {text!r}"
        )
    return int(text)
