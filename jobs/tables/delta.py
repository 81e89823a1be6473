"""Delta tables through delta-rs: files become rows in one transaction, exactly once, with no JVM and no Delta jars.

    tasks:   ParquetSink ... close() -> WrittenFile (JSON)         nothing is visible yet
    driver:  commit_files(uri, files, app_id="run/chunk")          all of it is visible, or none

delta-rs records an application transaction but does not refuse a second one, so what makes it "once" is here: the id is looked
up in the very snapshot that the commit builds on, and a commit that lost a race looks again. This module does not know what
rows mean, nor which runs exist.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

from feature_pipelines.errors import TableError
from jobs.tables.delta_read import is_delta, open_table, read_delta, reason_of, table_schema
from jobs.tables.files import child_uri, filesystem_of, normal_uri
from jobs.tables.orphans import delete_orphans, orphans
from jobs.tables.sink import ParquetSink, WrittenFile

__all__ = [
    "ParquetSink",
    "WrittenFile",
    "add_columns",
    "commit_files",
    "commit_when",
    "committed_version",
    "delete_orphans",
    "delete_rows",
    "ensure_table",
    "open_table",
    "orphans",
    "read_delta",
    "recorded_digest",
    "replace_files",
    "swap_files",
    "table_schema",
]

_ATTEMPTS = 20
_DIGEST = "onescore_digest"


def ensure_table(
    uri: str,
    schema: pa.Schema,
    *,
    properties: Mapping[str, str] | None = None,
    description: str | None = None,
) -> DeltaTable:
    """Return the Delta table at a place, created if there was none; any number of processes may do so at once.

    Args:
        uri: root of the table.
        schema: names, order, types and nullability that the table must have.
        properties: properties of a new table; names that Delta does not know are kept as they are.
        description: what a new table says about itself.

    Raises:
        TableError: the table has another schema; the message has what each side says about every column that differs.
    """
    place = normal_uri(uri)
    if not is_delta(uri):
        _create(place, schema, dict(properties or {}), description)
    table = open_table(uri)
    _require_schema(table, schema, uri)
    return table


def add_columns(uri: str, schema: pa.Schema) -> bool:
    """Add the nullable columns of a schema that a table lacks, at its end; rows that are there have null. True if there were any.

    Args:
        uri: root of the table, which exists.
        schema: what the table is to have.

    Raises:
        TableError: the store does not answer, or too many lost races.
    """
    wanted = DeltaSchema.from_arrow(schema.remove_metadata()).fields

    def attempt(table: DeltaTable) -> bool:
        there = {field.name for field in table.schema().fields}
        lacking = [field for field in wanted if field.nullable and field.name not in there]
        if lacking:
            table.alter.add_columns(lacking)
        return bool(lacking)

    return _until_committed(uri, "new columns", attempt)


def commit_files(
    uri: str,
    files: Sequence[WrittenFile],
    *,
    app_id: str,
    schema: pa.Schema,
    version: int = 1,
    metadata: Mapping[str, Any] | None = None,
) -> bool:
    """Append files to a table in one transaction, exactly once for each `app_id`.

    With no files the transaction is recorded all the same (delta-rs writes a commit of the transaction alone), so that "done
    with nothing" is not done again.

    Args:
        uri: root of the table, which exists.
        files: what the sinks wrote.
        app_id: names the work, such as "run/chunk"; Delta keeps one version for each, so each piece of work has its own.
        schema: what the files were written with; must be the table's.
        version: recorded beside `app_id`.
        metadata: further facts for the commit's entry in the history.

    Returns:
        True if this call committed, False if `app_id` was committed before or by somebody else meanwhile (the files of this
        call are then orphans).

    Raises:
        TableError: another schema, a file that is missing or of another size, or too many lost races.
    """
    actions = _add_actions(uri, files)

    def attempt(table: DeltaTable) -> bool:
        if table.transaction_version(app_id) is not None:
            return False
        _require_schema(table, schema, uri)
        properties = CommitProperties(
            custom_metadata=dict(metadata or {}), app_transactions=[Transaction(app_id, version)]
        )
        _write(table, actions, "append", properties)
        return True

    return _until_committed(uri, f"application transaction {app_id!r}", attempt)


def commit_when(
    uri: str,
    decide: Callable[[DeltaTable], Sequence[WrittenFile] | None],
    *,
    schema: pa.Schema,
    what: str,
    transactions: Mapping[str, int] | None = None,
    replace: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> bool:
    """Commit what is decided on the very snapshot that the commit builds on; decided again after each lost race.

    Args:
        uri: root of the table, which exists.
        decide: returns the files to commit, or None to commit nothing; may raise.
        schema: what the files were written with; must be the table's.
        what: names the work in messages.
        transactions: application ids and the numbers to record for them, in the same commit; later ones replace earlier ones.
        replace: make the table hold these files alone, instead of these besides.
        metadata: further facts for the commit's entry in the history.

    Returns:
        True if this call committed, False if nothing was to be committed.

    Raises:
        TableError: as for `commit_files`.
    """

    def attempt(table: DeltaTable) -> bool:
        files = decide(table)
        if files is None:
            return False
        _require_schema(table, schema, uri)
        properties = CommitProperties(
            custom_metadata=dict(metadata or {}),
            app_transactions=[Transaction(name, number) for name, number in (transactions or {}).items()],
            max_commit_retries=0,  # a retry of its own would build on a snapshot that nobody has decided on
        )
        _write(table, _add_actions(uri, files), "overwrite" if replace else "append", properties)
        return True

    return _until_committed(uri, what, attempt)


def committed_version(uri: str, app_id: str) -> int | None:
    """Return the version recorded for an application transaction, None if it was never committed."""
    found: int | None = open_table(uri).transaction_version(app_id)
    return found


def replace_files(
    uri: str,
    files: Sequence[WrittenFile],
    *,
    digest: str,
    schema: pa.Schema,
    metadata: Mapping[str, Any] | None = None,
) -> bool:
    """Make a table hold exactly these files, unless what it holds is already of this digest.

    Readers of older versions are not disturbed: their files stay until somebody vacuums.

    Args:
        uri: root of the table, which exists.
        files: what the sinks wrote.
        digest: identity of the content; `recorded_digest` gives it back.
        schema: what the files were written with; must be the table's.
        metadata: further facts for the commit's entry in the history.

    Returns:
        True if this call committed, False if the table already held this content.

    Raises:
        TableError: as for `commit_files`.
    """
    actions = _add_actions(uri, files)

    def attempt(table: DeltaTable) -> bool:
        if _digest_of(table) == digest:
            return False
        _require_schema(table, schema, uri)
        # Two overwrites of an empty table do not conflict for delta-rs, and a retry would append: hence no retries of its own.
        properties = CommitProperties(
            custom_metadata={**(metadata or {}), _DIGEST: digest}, max_commit_retries=0
        )
        _write(table, actions, "overwrite", properties)
        return True

    return _until_committed(uri, f"content {digest[:12]}", attempt)


def swap_files(
    uri: str,
    decide: Callable[[DeltaTable], Mapping[str, WrittenFile | None]],
    *,
    what: str,
    deleted_at_ms: int,
) -> bool:
    """Replace some files by others in one transaction, decided on the very snapshot that it builds on.

    Unlike a deletion by predicate, the log's entry does not repeat which values were looked for.

    Args:
        uri: root of an unpartitioned table.
        decide: returns, for each file to take out (as the log names it), what takes its place, None for nothing; called again
            after each lost race, when nobody will commit what it returned before.
        what: names the work in messages.
        deleted_at_ms: when the files were taken out, from which vacuum counts; milliseconds since 1970.

    Returns:
        True if this call committed, False if no file was to be replaced.

    Raises:
        TableError: as for `commit_files`.
    """

    def attempt(table: DeltaTable) -> bool:
        swapped = decide(table)
        if not swapped:
            return False
        removed = [RemoveAction(path, True, deleted_at_ms, None, {}) for path in swapped]
        added = _add_actions(uri, [file for file in swapped.values() if file is not None])
        _write(table, [*removed, *added], "append", CommitProperties(max_commit_retries=0))
        return True

    return _until_committed(uri, what, attempt)


def delete_rows(uri: str, column: str, value: str) -> int:
    """Delete the rows whose string column has a value, in one transaction, and return how many they were.

    Raises:
        TableError: other writers keep winning the race for the next version.
    """
    literal = value.replace("'", "''")
    deleted = 0

    def attempt(table: DeltaTable) -> bool:
        nonlocal deleted
        deleted = int(table.delete(f"{column} = '{literal}'")["num_deleted_rows"])
        return True

    _until_committed(uri, f"deleting the rows with {column} {value}", attempt)
    return deleted


def recorded_digest(uri: str) -> str | None:
    """Return the digest of the last `replace_files`, None if there was none, no table, or its log entry has expired."""
    if not is_delta(uri):
        return None
    return _digest_of(open_table(uri))


def _create(place: str, schema: pa.Schema, properties: dict[str, str], description: str | None) -> None:
    """Create a table, or find that somebody just did.

    Without `max_commit_retries=0` delta-rs turns a lost race into version 1 with a second table id.
    """
    try:
        DeltaTable.create(
            place,
            schema.remove_metadata(),
            mode="ignore",
            description=description,
            configuration=properties,
            commit_properties=CommitProperties(max_commit_retries=0),
            raise_if_key_not_exists=False,
        )
    except CommitFailedError:
        return
    except (DeltaError, OSError) as exc:
        raise TableError(f"{place}: cannot create a Delta table ({reason_of(exc)}).", uri=place) from exc


def _require_schema(table: DeltaTable, schema: pa.Schema, uri: str) -> None:
    """Compare with the schema as Delta would store it; delta-rs itself appends files of any schema."""
    ours = _described(DeltaSchema.from_arrow(schema.remove_metadata()))
    theirs = _described(table.schema())
    if ours == theirs and list(ours) == list(theirs):
        return
    differences = [
        f"{name}: the table has {theirs.get(name, 'no such column')}, expected {ours.get(name, 'no such column')}"
        for name in [*theirs, *(name for name in ours if name not in theirs)]
        if ours.get(name) != theirs.get(name)
    ] or [f"order: the table has {', '.join(theirs)}, expected {', '.join(ours)}"]
    raise TableError(
        f"{uri}: the table has another schema. {'; '.join(differences)}.", uri=uri, differences=differences
    )


def _described(schema: DeltaSchema) -> dict[str, str]:
    fields = json.loads(schema.to_json())["fields"]
    return {
        f[
            "name"
        ]: f"{f['type'] if isinstance(f['type'], str) else json.dumps(f['type'])}{'' if f['nullable'] else ' not null'}"
        for f in fields
    }


def _add_actions(uri: str, files: Sequence[WrittenFile]) -> list[AddAction | RemoveAction]:
    """Turn written files into log entries, having seen that each is there: a log must never mention a missing file."""
    actions: list[AddAction | RemoveAction] = []
    missing = []
    for written in files:
        filesystem, path = filesystem_of(child_uri(uri, written.path))
        info = filesystem.get_file_info(path)
        if not info.is_file or info.size != written.size:
            missing.append(written.path)
            continue
        modified = int(info.mtime_ns // 1_000_000) if info.mtime_ns else 0
        actions.append(
            AddAction(
                written.path, written.size, dict(written.partition_values), modified, True, written.stats
            )
        )
    if missing:
        raise TableError(
            f"{uri}: {len(missing)} of {len(files)} files to commit are missing or of another size, such as {missing[0]}.",
            missing=missing[:5],
        )
    return actions


def _write(
    table: DeltaTable, actions: list[AddAction | RemoveAction], mode: str, properties: CommitProperties
) -> None:
    table.create_write_transaction(
        actions,
        mode,
        table.schema(),
        partition_by=table.metadata().partition_columns,
        commit_properties=properties,
    )


def _until_committed(uri: str, what: str, attempt: Callable[[DeltaTable], bool]) -> bool:
    """Try on the newest version until it neither loses a race nor finds the work done."""
    last: Exception | None = None
    for count in range(_ATTEMPTS):
        try:
            return attempt(open_table(uri))
        except CommitFailedError as exc:
            last = exc
            time.sleep(min(0.02 * 2**count, 1.0))
        except (DeltaError, OSError) as exc:
            raise TableError(f"{uri}: cannot commit {what} ({reason_of(exc)}).", uri=uri) from exc
    raise TableError(f"{uri}: {what} lost {_ATTEMPTS} races against other commits.", uri=uri) from last


def _digest_of(table: DeltaTable) -> str | None:
    return next((entry[_DIGEST] for entry in table.history() if _DIGEST in entry), None)
