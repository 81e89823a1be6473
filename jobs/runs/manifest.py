"""A run on disk: what it scores (the manifest), what became of each chunk (records), and that it is complete.

    <runs>/<group>/lock              held by the one process that works on this group; says which, and what it scores
    <runs>/<group>/latest            the id of the newest run
    <runs>/<group>/<run>/manifest    identity, input snapshot and chunks; written once, before any work
    <runs>/<group>/<run>/chunk-N     files and counts of a chunk, written before either commit: a crash between the two commits
                                     is finished from the record, not from a second scoring
    <runs>/<group>/<run>/staged-V    files of view V, where it is too large for an index and was joined beforehand
    <runs>/<group>/<run>/complete    the summary
    <runs>/<group>/<run>/abandoned   it was superseded unfinished; its rows are taken out of the tables

A group is one job's place: model, source, range and output table. The directory must be on a file system that the driver can lock
(local, NFS, a mounted volume; see group_lock). This module knows nothing of Spark or of what a chunk holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from feature_pipelines.errors import ConfigurationError, RunConflictError
from jobs.runs.group_lock import differences_of, holding
from jobs.runs.ids import IdSum
from jobs.tables.files import is_local, normal_uri
from jobs.tables.sink import WrittenFile

__all__ = [
    "ChunkRecord",
    "RunDirectory",
    "RunGroup",
    "chunked",
    "require_same",
    "runs_directory",
    "whole_file",
    "write_json",
]


@dataclass(frozen=True)
class ChunkRecord:
    """What scoring one chunk gave, before it is committed.

    Args:
        chunk: its number.
        scored, quarantined: the files to commit to either table.
        ids_in, ids_scored, ids_quarantined: counts and checksums: of the rows read, and of what stands in the files.
        reasons: quarantined rows by reason code.
        positives: scored rows whose label is true.
        seconds: time spent per stage, summed over tasks.
    """

    chunk: int
    scored: tuple[WrittenFile, ...]
    quarantined: tuple[WrittenFile, ...]
    ids_in: IdSum
    ids_scored: IdSum
    ids_quarantined: IdSum
    reasons: Mapping[str, int] = field(default_factory=dict)
    positives: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "chunk": self.chunk,
            "scored": [file.to_json() for file in self.scored],
            "quarantined": [file.to_json() for file in self.quarantined],
            "ids": [ids.to_json() for ids in (self.ids_in, self.ids_scored, self.ids_quarantined)],
            "reasons": dict(self.reasons),
            "positives": self.positives,
            "seconds": dict(self.seconds),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ChunkRecord:
        """Return what `to_json` wrote."""
        return cls(
            value["chunk"],
            tuple(WrittenFile.from_json(text) for text in value["scored"]),
            tuple(WrittenFile.from_json(text) for text in value["quarantined"]),
            *_three_sums(value["ids"]),
            value["reasons"],
            value["positives"],
            value["seconds"],
        )


def _three_sums(ids: Sequence[list[Any]]) -> tuple[IdSum, IdSum, IdSum]:
    read, scored, quarantined = (IdSum.from_json(part) for part in ids)
    return read, scored, quarantined


class RunDirectory:
    """One run's files. Every file is written whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.path.name

    def manifest(self) -> dict[str, Any]:
        """Return the manifest."""
        return _read(self.path / "manifest")

    def record_path(self, chunk: int) -> Path:
        """Return where a chunk's record is."""
        return self.path / f"chunk-{chunk:06d}"

    def hashes_path(self, chunk: int) -> Path:
        """Where the hashes of a chunk's ids are; written before its record."""
        return self.path / f"hashes-{chunk:06d}.npy"

    def record(self, chunk: int) -> ChunkRecord | None:
        """Return a chunk's record, None if it has not been scored yet."""
        path = self.record_path(chunk)
        return ChunkRecord.from_json(_read(path)) if path.exists() else None

    def write_record(self, record: ChunkRecord) -> None:
        """Keep a chunk's record."""
        write_json(self.record_path(record.chunk), record.to_json())

    def staged(self, view: str) -> dict[str, Any] | None:
        """Return where a view that was joined beforehand is, None if it is not joined yet."""
        path = self.path / f"staged-{view}"
        return _read(path) if path.exists() else None

    def write_staged(self, view: str, value: Mapping[str, Any]) -> None:
        """Keep where a view that was joined beforehand is."""
        write_json(self.path / f"staged-{view}", value)

    def completed(self) -> dict[str, Any] | None:
        """Return the summary of a complete run, None if it is not complete."""
        path = self.path / "complete"
        return _read(path) if path.exists() else None

    def abandon(self) -> None:
        """Mark the run as one that is never continued: from here on its rows are taken back."""
        write_json(self.path / "abandoned", {})

    def is_abandoned(self) -> bool:
        """Return whether `abandon` was called."""
        return (self.path / "abandoned").exists()

    def complete(self, summary: Mapping[str, Any]) -> None:
        """Mark the run complete."""
        write_json(self.path / "complete", summary)


class RunGroup:
    """The runs of one job's place.

    Args:
        root: the directory of all runs.
        label: a readable beginning of the group's name.
        key: what makes the group; JSON values.
    """

    def __init__(self, root: Path, label: str, key: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        self.path = root / f"{label}-{digest}"

    def locked(
        self, now: datetime, identity: Mapping[str, Any], *, new_run: bool = False
    ) -> AbstractContextManager[Callable[[str], None]]:
        """Hold the group; see `group_lock.holding`."""
        return holding(self.path, now, identity, new_run=new_run)

    def latest(self) -> RunDirectory | None:
        """Return the newest run that has a manifest, None if there is none."""
        pointer = self.path / "latest"
        return RunDirectory(self.path / pointer.read_text().strip()) if pointer.exists() else None

    def new(self, now: datetime, manifest: Mapping[str, Any]) -> RunDirectory:
        """Create a run from its manifest and make it the newest."""
        run = RunDirectory(self.path / f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}")
        run.path.mkdir(parents=True)
        write_json(run.path / "manifest", {**manifest, "run_id": run.run_id})
        _write(self.path / "latest", run.run_id)
        return run


def runs_directory(location: str) -> Path:
    """Return the directory of all runs.

    Raises:
        ConfigurationError: it is not in a file system that this machine has mounted, so it cannot be locked.
    """
    if not is_local(location):
        raise ConfigurationError(
            f"storage.runs: {location} cannot be locked; name a directory that the driver has mounted (local, NFS, a volume)",
            location=location,
        )
    return Path(normal_uri(location))


def require_same(run: RunDirectory, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise a RunConflictError that names each part of the identity in which a run differs from what is asked for now."""
    differences = differences_of(recorded, wanted)
    if differences:
        raise RunConflictError(
            f"run {run.run_id} is unfinished and differs from what is asked for: {'; '.join(differences)}. Put these back to "
            "finish it (model.version, input.version and view_versions.<view> name a version), or start over with --new-run, which "
            "takes back what it committed",
            run_id=run.run_id,
            differences=differences,
        )


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all, and durably."""
    _write(path, json.dumps(value, indent=1) + "\n")


def _write(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode())


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that gets its name, durably, when the block has ended well; two writers of one name do not meet before that."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def chunked(rows: Sequence[int], chunk_rows: int) -> list[tuple[int, int]]:
    """Return [start, stop) of the units of each chunk: consecutive units, at least one, at most chunk_rows rows if they fit.

    >>> chunked([60, 60, 60, 200, 10], 120)
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    chunks: list[tuple[int, int]] = []
    start, total = 0, 0
    for i, n in enumerate(rows):
        if i > start and total + n > chunk_rows:
            chunks.append((start, i))
            start, total = i, 0
        total += n
    return [*chunks, (start, len(rows))] if rows else []
