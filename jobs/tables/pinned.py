"""An input as it was at one moment: its files by name and size, its schema, and a digest that stands for all of it.

A run reads what it pinned when it started, and a rerun must find the same; so a snapshot is a plain value that goes into a
manifest as JSON and comes back equal. This module reads no row and knows nothing of how a source is found.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.fs as pafs

from feature_pipelines.errors import TableError
from jobs.tables.files import filesystem_of

__all__ = ["InputFile", "Snapshot", "check_snapshot"]

Format = Literal["delta", "parquet"]


@dataclass(frozen=True)
class InputFile:
    """One Parquet file of an input.

    Args:
        uri: absolute path or URI.
        size: bytes.
        modified: milliseconds since 1970-01-01T00:00Z, as Delta's log or the file system says.
        partition_values: partition column to its value as text, None for null.
    """

    uri: str
    size: int
    modified: int
    partition_values: Mapping[str, str | None] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Snapshot:
    """The files and the schema of an input at one moment.

    Args:
        source: the input as it was asked for.
        format: "delta" or "parquet".
        version: of a Delta table; None for Parquet files.
        files: sorted by URI, whatever order they were listed in.
        schema: all columns in order, partition columns included; no dictionary, large or view types.
    """

    source: str
    format: Format
    version: int | None
    files: tuple[InputFile, ...]
    schema: pa.Schema

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", tuple(sorted(self.files, key=lambda file: file.uri)))

    def digest(self) -> str:
        """Return the SHA-256 (hex) of version, schema and every file's URI, size, time and partition values.

        Neither the order of a listing nor how the source was spelled changes it; a rewritten file does.
        """
        content = {
            "format": self.format,
            "version": self.version,
            "schema": [[f.name, str(f.type), f.nullable] for f in self.schema],
            "files": [asdict(file) for file in self.files],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """Return one line that `from_json` turns back into an equal snapshot."""
        return json.dumps(
            {
                "source": self.source,
                "format": self.format,
                "version": self.version,
                "files": [asdict(file) for file in self.files],
                "schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode("ascii"),
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Snapshot:
        """Return the snapshot that `to_json` wrote."""
        parts = json.loads(text)
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(parts["schema"])))
        files = tuple(InputFile(**file) for file in parts["files"])
        return cls(parts["source"], parts["format"], parts["version"], files, schema)

    @property
    def label(self) -> str:
        """What messages call it: the source, and the version if it has one."""
        return self.source if self.version is None else f"{self.source} at version {self.version}"


def check_snapshot(snapshot: Snapshot) -> None:
    """See that every pinned file is still there: of the same size and, for plain Parquet, not written again.

    Raises:
        TableError: some are not (vacuumed, deleted, overwritten); names the snapshot, the first five and their number.
    """
    groups: dict[int, list[InputFile]] = defaultdict(list)
    filesystems: dict[int, pafs.FileSystem] = {}
    for file in snapshot.files:
        filesystem, _ = filesystem_of(file.uri)
        filesystems[id(filesystem)] = filesystem
        groups[id(filesystem)].append(file)
    wrong = []
    for key, files in groups.items():
        infos = filesystems[key].get_file_info([filesystem_of(file.uri)[1] for file in files])
        wrong += [
            f"{file.uri} ({problem})"
            for file, info in zip(files, infos, strict=True)
            if (problem := _problem(file, info, snapshot.format))
        ]
    if wrong:
        listed = ", ".join(sorted(wrong)[:5])
        raise TableError(
            f"{snapshot.label} is no longer what was pinned: {len(wrong)} of {len(snapshot.files)} files have changed, such as "
            f"{listed}. A table must not be vacuumed past its oldest unfinished run; start a new run on what is there now.",
            source=snapshot.source,
            version=snapshot.version,
            n_changed=len(wrong),
        )


def _problem(file: InputFile, info: pafs.FileInfo, format_: Format) -> str:
    if not info.is_file:
        return "missing"
    if info.size != file.size:
        return f"{info.size} bytes, {file.size} when pinned"
    if format_ == "parquet" and info.mtime_ns is not None and info.mtime_ns // 1_000_000 != file.modified:
        return "written again"
    return ""
