"""A streaming query on disk: what it is, and what became of each micro-batch.

    <checkpoint>/spark/              Spark's own: offsets of a batch before it begins, and that it was committed
    <checkpoint>/onescore/lock       held by the one process that runs the query
    <checkpoint>/onescore/query      id and identity of the query, the version that it is pinned to, where in the source it began; written
                                     before its first batch
    <checkpoint>/onescore/batch-N    files, counts and watermark of batch N, written before either of its commits: what died between
                                     the two is finished from the record, not by scoring again
    <checkpoint>/onescore/progress   the last batch, the totals and the process, for whoever watches (see `stream_progress`)

Spark repeats the last batch after a crash, with the same number and offsets; a record of that number with other offsets is another
query's, and refused. This module knows nothing of Spark's API or of what a batch holds.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from feature_pipelines.errors import ConfigurationError, RunConflictError
from jobs.runs.group_lock import Busy, differences_of, holding
from jobs.runs.manifest import ChunkRecord, write_json
from jobs.tables.files import is_local, normal_uri

__all__ = ["QUERY_PREFIX", "BatchRecord", "QueryManifest", "StreamState", "Totals", "require_same"]

QUERY_PREFIX = "stream-"
"""How the id of a query begins, and of no other run."""
_KEPT = 20


@dataclass(frozen=True)
class Totals:
    """What a query has come to since its first start, over all its processes."""

    batches: int = 0
    rows: int = 0
    scored: int = 0
    quarantined: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchRecord:
    """What became of a micro-batch.

    Args:
        rows: files, counts and checksums; its chunk is the batch's number.
        offsets: digest of what Spark noted as the batch's offsets.
        version: of the model.
        views: by view, what its table was pinned at.
        watermark_us: by which rows of this batch were late, None = by none.
        latest_us: the latest event time that the watermark follows, this batch's rows included; None = there was none yet.
        totals: of the query, this batch included.
    """

    rows: ChunkRecord
    offsets: str
    version: str
    views: Mapping[str, str]
    watermark_us: int | None
    latest_us: int | None
    totals: Totals

    @property
    def batch(self) -> int:
        """The batch's number."""
        return self.rows.chunk

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {**self.__dict__, "rows": self.rows.to_json(), "totals": asdict(self.totals)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BatchRecord:
        """Return what `to_json` wrote."""
        rows, totals = ChunkRecord.from_json(value["rows"]), Totals(**value["totals"])
        return cls(**{**value, "rows": rows, "totals": totals})


@dataclass(frozen=True)
class QueryManifest:
    """What a query is.

    Args:
        query_id: its id: what its rows carry as run_id and its transactions as application id.
        identity: what a restart must share, by name.
        version: the model's version, as the registry numbers it.
        start: where in the source it began; None for a source that Spark itself keeps track of.
    """

    query_id: str
    identity: Mapping[str, Any]
    version: str
    start: Mapping[str, Any] | None = None


class StreamState:
    """The files of one query.

    Args:
        checkpoint: where they are.

    Raises:
        ConfigurationError: not on a file system that this machine has mounted, so it cannot be locked.
    """

    def __init__(self, checkpoint: str) -> None:
        if not is_local(checkpoint):
            raise ConfigurationError(
                f"stream.checkpoint: {checkpoint} cannot be locked; name a directory that driver and workers have mounted (local, "
                "NFS, a volume)",
                location=checkpoint,
            )
        self.root = Path(normal_uri(checkpoint))
        self.spark = self.root / "spark"
        self.path = self.root / "onescore"

    @contextmanager
    def locked(self, now: datetime) -> Iterator[None]:
        """Hold the checkpoint; the lock ends with the process, however that ends.

        Raises:
            RunConflictError: another process holds it; names it.
        """
        try:
            with holding(self.path, now, {"stream": str(self.root)}, setting="stream.checkpoint"):
                yield
        except Busy as busy:
            raise RunConflictError(
                f"stream.checkpoint: {self.root} is in use: process {busy.holder.get('pid')} on {busy.holder.get('host')} runs a query "
                f"on it since {busy.holder.get('since')}. Two queries on one checkpoint would each take the other's batches for its "
                "own: stop that one, or give this one a checkpoint and tables of its own",
                holder=dict(busy.holder),
            ) from busy

    def query(self) -> QueryManifest | None:
        """Return what was pinned at the first start, None if there was none.

        Raises:
            RunConflictError: Spark's part of the checkpoint is there and ours is not.
        """
        path = self.path / "query"
        if path.exists():
            return QueryManifest(**json.loads(path.read_text()))
        if any((self.spark / "offsets").glob("[0-9]*")):
            raise RunConflictError(
                f"stream.checkpoint: {self.spark} has the offsets of a query, but {path} is gone, so nobody knows which of its batches "
                "were committed. Restore it, or start a new query with a checkpoint and tables of its own",
                checkpoint=str(self.root),
            )
        return None

    def begin(
        self,
        now: datetime,
        identity: Mapping[str, Any],
        version: str,
        start: Mapping[str, Any] | None = None,
    ) -> QueryManifest:
        """Note a new query, and return it."""
        query_id = f"{QUERY_PREFIX}{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        manifest = QueryManifest(query_id, identity, version, start)
        self.write_query(manifest)
        return manifest

    def write_query(self, manifest: QueryManifest) -> None:
        """Keep what the query is."""
        write_json(self.path / "query", asdict(manifest))

    def offsets(self, batch: int) -> str | None:
        """Return the digest of the offsets that Spark noted for a batch, None if it noted none."""
        path = self.spark / "offsets" / str(batch)
        if not path.exists():
            return None
        # The last lines name the sources' offsets; those before are of the attempt (Spark's settings, the time it began).
        version, _, *sources = path.read_text().splitlines()
        return hashlib.sha256("\n".join([version, *sources]).encode()).hexdigest()

    def last_record(self) -> BatchRecord | None:
        """Return the newest batch's record, None if there is none."""
        numbers = self._numbers()
        return self.record(numbers[-1]) if numbers else None

    def record(self, batch: int) -> BatchRecord:
        """Return a batch's record."""
        return BatchRecord.from_json(json.loads(self._record_path(batch).read_text()))

    def write_record(self, record: BatchRecord) -> None:
        """Keep a batch's record; the oldest ones go, as nobody will ask for them."""
        write_json(self._record_path(record.batch), record.to_json())
        for number in self._numbers()[:-_KEPT]:
            self._record_path(number).unlink(missing_ok=True)

    def progress(self) -> dict[str, Any]:
        """Return what was shown last, {} if nothing was or it cannot be read."""
        try:
            shown = json.loads((self.path / "progress").read_text())
        except (OSError, ValueError):
            return {}
        return shown if isinstance(shown, dict) else {}

    def write_progress(self, progress: Mapping[str, Any]) -> None:
        """Keep what is shown of the last batch."""
        write_json(self.path / "progress", progress)

    def _record_path(self, batch: int) -> Path:
        return self.path / f"batch-{batch:09d}"

    def _numbers(self) -> list[int]:
        return sorted(int(path.name.partition("-")[2]) for path in self.path.glob("batch-*"))


def require_same(state: StreamState, recorded: QueryManifest, wanted: Mapping[str, Any]) -> None:
    """Raise a RunConflictError that names each part in which a query differs from what is asked for now."""
    differences = differences_of(recorded.identity, wanted)
    if differences:
        raise RunConflictError(
            f"stream.checkpoint: {state.root} is of query {recorded.query_id}, which differs from what is asked for: "
            f"{'; '.join(differences)}. Put these back to go on with it, or start another query with a checkpoint and tables of its own",
            query_id=recorded.query_id,
            differences=differences,
        )
