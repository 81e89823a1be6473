"""What a run comes to: the results of tasks as the record of a chunk, and the records of chunks as a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.runs.ids import IdSum
from jobs.runs.manifest import ChunkRecord
from jobs.runs.score_task import TaskResult

__all__ = ["RunSummary", "merged", "summarised"]


@dataclass(frozen=True)
class RunSummary:
    """How a run ended.

    Args:
        run_id: the run.
        rows_in, rows_scored, rows_quarantined: proven equal: in = scored + quarantined.
        reasons: quarantined rows by reason code.
        positives: scored rows whose label is true.
        seconds: wall time of this process's part of the run.
        rows_per_second: rows that this process scored, per second of scoring.
        stages: seconds per stage, summed over tasks.
        resumed: whether a part had been done by an earlier process.
        did_nothing: the run was complete already.
    """

    run_id: str
    rows_in: int
    rows_scored: int
    rows_quarantined: int
    reasons: dict[str, int]
    positives: int
    seconds: float
    rows_per_second: float
    stages: dict[str, float]
    resumed: bool = False
    did_nothing: bool = False


def merged(chunk: int, results: Sequence[TaskResult]) -> ChunkRecord:
    """Return the record of a chunk from the results of its tasks."""
    reasons: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for result in results:
        reasons.update(result.reasons)
        seconds.update(result.seconds)
    return ChunkRecord(
        chunk=chunk,
        scored=tuple(result.scored for result in results if result.scored is not None),
        quarantined=tuple(result.quarantined for result in results if result.quarantined is not None),
        ids_in=sum((result.ids_in for result in results), IdSum()),
        ids_scored=sum((result.ids_scored for result in results), IdSum()),
        ids_quarantined=sum((result.ids_quarantined for result in results), IdSum()),
        reasons=dict(reasons),
        positives=sum(result.positives for result in results),
        seconds=dict(seconds),
    )


def summarised(
    run_id: str, records: Sequence[ChunkRecord], rows_here: int, seconds: float, resumed: bool
) -> RunSummary:
    """Return the summary of a run.

    Args:
        run_id: the run.
        records: of all its chunks.
        rows_here, seconds: what this process scored, and in how long.
        resumed: whether an earlier process had done a part.
    """
    stages: Counter[str] = Counter()
    for record in records:
        stages.update(record.seconds)
    return RunSummary(
        run_id=run_id,
        rows_in=sum(record.ids_in.count for record in records),
        rows_scored=sum(record.ids_scored.count for record in records),
        rows_quarantined=sum(record.ids_quarantined.count for record in records),
        reasons=dict(sum((Counter(record.reasons) for record in records), Counter[str]())),
        positives=sum(record.positives for record in records),
        seconds=round(seconds, 3),
        rows_per_second=round(rows_here / seconds, 1) if seconds else 0.0,
        stages={stage: round(value, 3) for stage, value in stages.items()},
        resumed=resumed,
    )
