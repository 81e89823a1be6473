"""A table that a submission refers to: found below one root and nowhere else, and pinned as it is when it was accepted.

What is scored later is what was there then: `check_snapshot` tells files that were changed since, and they are not scored in place of
the others. This module reads no row.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from feature_pipelines.errors import TableError
from jobs.online.protocol import refuse
from jobs.submissions.payload import Payload
from jobs.tables.snapshot import pin_snapshot
from jobs.tables.units import plan_units

__all__ = ["hash_of_reference", "pin_reference"]


def hash_of_reference(reference: str) -> str:
    """Return the hash of what was sent: a request that is repeated is told by it, whatever became of the table."""
    return hashlib.sha256(b"reference\0" + reference.encode("utf-8", "surrogatepass")).hexdigest()


def pin_reference(reference: str, root: str | None, max_rows: int) -> Payload:
    """Return the payload of a reference.

    Args:
        reference: path of a Parquet file, a directory of them or a Delta table, relative to the root.
        root: below which it and each of its files must lie, symbolic links followed; None = no reference is taken.
        max_rows: a larger table is refused.

    Raises:
        ContractError: evidence `status` and `code`: references are not taken, or this one leads nowhere or out of the root.
    """
    if root is None:
        refuse(422, "REFERENCES_NOT_TAKEN", "this server takes no references; send the rows")
    below = Path(root).resolve()
    parts = Path(reference).parts
    if (
        "\0" in reference
        or "://" in reference
        or reference.startswith(("/", "~", "catalog:"))
        or ".." in parts
    ):
        refuse(422, "UNKNOWN_REFERENCE", "a reference is a relative path without '..'")
    try:
        found = (below / reference).resolve()
        is_there = found.exists() and below in found.parents
    except (OSError, ValueError, RuntimeError):  # a name too long or not Unicode, a circle of links
        is_there = False
    if not is_there:
        refuse(422, "UNKNOWN_REFERENCE", "there is no such table below the configured root")
    try:
        snapshot = pin_snapshot(str(found))
        n_rows = sum(unit.rows for unit in plan_units(snapshot, unit_rows=1 << 62))
    except TableError:
        refuse(422, "UNKNOWN_REFERENCE", "that is neither a Delta table nor Parquet that can be read")
    if not all(below in Path(file.uri).resolve().parents for file in snapshot.files):
        refuse(422, "UNKNOWN_REFERENCE", "a file of the table is not below the configured root")
    if not n_rows:
        refuse(422, "NO_ROWS", "the table has no row")
    if n_rows > max_rows:
        refuse(413, "TOO_LARGE", f"{n_rows} rows; at most {max_rows} are taken at once")
    text = snapshot.to_json().encode()
    return Payload("reference", text, n_rows, hash_of_reference(reference))
