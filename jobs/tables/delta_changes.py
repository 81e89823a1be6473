"""Whether rows were taken out of a Delta table since a version, by what its log says.

A commit that rewrites files without changing rows (compaction, z-order) says so (`dataChange`); an overwrite, DELETE, UPDATE, MERGE
or RESTORE does not. This module reads logs alone, never rows.
"""

from __future__ import annotations

import json

from feature_pipelines.errors import TableError
from jobs.tables.files import child_uri, filesystem_of

__all__ = ["first_removal"]


def first_removal(uri: str, after: int, through: int) -> int | None:
    """Return the first version in (after, through] whose commit took rows out; None = rows were only added.

    Args:
        uri: root of the table.
        after, through: versions.

    Raises:
        TableError: a commit in between is no longer in the log, so that it cannot be told.
    """
    for version in range(after + 1, through + 1):
        filesystem, path = filesystem_of(child_uri(uri, f"_delta_log/{version:020d}.json"))
        try:
            with filesystem.open_input_stream(path) as stream:
                lines = stream.read().splitlines()
        except OSError as exc:
            raise TableError(f"{uri}: the log's entry of version {version} is gone.", uri=uri) from exc
        if any(_takes_rows_out(json.loads(line)) for line in lines if line.strip()):
            return version
    return None


def _takes_rows_out(action: dict[str, dict[str, object]]) -> bool:
    removed = action.get("remove")
    return removed is not None and removed.get("dataChange") is not False
