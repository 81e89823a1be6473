"""A ledger and an intake over a database of their own, with a clock that tests turn."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.submissions.database import Database
from jobs.submissions.intake import Intake, PinnedModel, Taken
from jobs.submissions.ledger import Ledger
from jobs.submissions.payload import read_json

__all__ = ["MODEL", "Kept"]

MODEL = PinnedModel("houses", "3", "d" * 64, ("house_id",), ("score",))


@dataclass
class Kept:
    """A database, what keeps and what takes submissions, and the time."""

    database: Database
    now: int = 1_000_000
    max_queued: int = 1_000
    max_queued_bytes: int = 10**9
    max_queued_share: float = 1.0
    _intake: Intake | None = None
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.database, self.clock)

    def clock(self) -> int:
        self.now += 1
        return self.now

    @property
    def intake(self) -> Intake:
        if self._intake is None:
            self._intake = Intake(
                self.database,
                self.clock,
                chunk_rows=2,
                batch_rows=10,
                max_queued=self.max_queued,
                max_queued_bytes=self.max_queued_bytes,
                max_queued_share=self.max_queued_share,
                retry_after_seconds=5,
            )
        return self._intake

    def take(
        self,
        n_rows: int = 5,
        key: str | None = None,
        who: str = "me",
        content: str = "1",
        model: PinnedModel = MODEL,
    ) -> Taken:
        body = b'{"rows": [' + b",".join([content.encode()] * n_rows) + b"]}"
        payload = read_json(body, 1_000)[0]
        assert payload is not None
        return self.intake.take(payload, who, model, key).result(30)

    def close(self) -> None:
        if self._intake is not None:
            self._intake.close()
        self.database.close()
