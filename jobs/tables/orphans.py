"""Files that a dead attempt left in a Delta table's directory, which no version of its log mentions.

This module decides by the log alone; which attempts are dead, its callers know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from urllib.parse import unquote

import pyarrow.parquet as pq

from jobs.tables.files import child_uri, filesystem_of, list_files, normal_uri

__all__ = ["delete_orphans", "orphans"]


def orphans(uri: str, prefix: str, *, modified_before: datetime | None = None) -> list[str]:
    """Return the data files that no version of the log mentions, as paths below the table's root, sorted.

    A file that a task is writing now, or that waits for its commit, is such a file too: ask only about a prefix nobody is
    using, or about old files.

    Args:
        uri: root of the table.
        prefix: beginning of the file's name (its last part).
        modified_before: an aware time; newer files are left out.
    """
    _, root = filesystem_of(uri)
    candidates = [
        info.path[len(root) + 1 :]
        for info in list_files(uri)
        if info.base_name.startswith(prefix) and (modified_before is None or info.mtime < modified_before)
    ]
    data_files = [path for path in candidates if not path.startswith("_delta_log/")]
    # The log is read after the listing: what is committed in between is then mentioned.
    return sorted(set(data_files) - set(_mentioned(uri))) if data_files else []


def delete_orphans(uri: str, prefix: str, *, modified_before: datetime | None = None) -> list[str]:
    """Delete what `orphans` returns, and return it. A file that is gone already is no error."""
    found = orphans(uri, prefix, modified_before=modified_before)
    for path in found:
        filesystem, full_path = filesystem_of(child_uri(uri, path))
        try:
            filesystem.delete_file(full_path)
        except FileNotFoundError:
            continue
    return found


def _mentioned(uri: str) -> Iterator[str]:
    """Every data file that any commit or checkpoint in the log adds or removes, as a path below the root."""
    root = normal_uri(uri)
    for info in list_files(child_uri(uri, "_delta_log")):
        filesystem, _ = filesystem_of(uri)
        if info.path.endswith(".json"):
            with filesystem.open_input_stream(info.path) as stream:
                entries = [json.loads(line) for line in stream.read().splitlines() if line.strip()]
            paths = [(e.get("add") or e.get("remove") or {}).get("path") for e in entries]
        elif info.path.endswith(".parquet"):
            with filesystem.open_input_file(info.path) as source:
                parquet = pq.ParquetFile(source)
                kinds = [kind for kind in ("add", "remove") if kind in parquet.schema_arrow.names]
                table = parquet.read(columns=[f"{kind}.path" for kind in kinds])
            paths = [(e or {}).get("path") for kind in kinds for e in table.column(kind).to_pylist()]
        else:
            continue
        for path in paths:
            if path:
                decoded = unquote(path)
                yield (
                    decoded.removeprefix(f"{root}/")
                    if "://" in decoded or decoded.startswith("/")
                    else decoded
                )
