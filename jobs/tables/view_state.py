"""What a view's table was built from, kept in the table itself: numbers of its application transactions.

They are written in the commit that adds the rows and are part of every snapshot, so state and rows cannot disagree, and no
clean-up of the log loses them. This module knows numbers and a table, not how rows are computed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from deltalake import DeltaTable

from feature_pipelines.views import FeatureView

__all__ = ["ViewState", "definition_number"]

_PREFIX = "onescore/history"


@dataclass(frozen=True)
class ViewState:
    """How far a view's table is built.

    Args:
        through: created_ts of source rows up to which all is in the table, microseconds.
        rows, checksum: of the source rows up to there, when it was built.
        definition: see `definition_number`.
        corrected_at: created_ts of the last correction, microseconds; None if there was none.
    """

    through: int
    rows: int
    checksum: tuple[int, int]
    definition: int
    corrected_at: int | None = None

    @classmethod
    def of(cls, table: DeltaTable) -> ViewState | None:
        """Return the state in a snapshot; None of a table that was never built."""

        def number(name: str) -> int | None:
            found: int | None = table.transaction_version(f"{_PREFIX}/{name}")
            return found

        through = number("through")
        if through is None:
            return None
        return cls(
            through,
            number("rows") or 0,
            (number("checksum.0") or 0, number("checksum.1") or 0),
            number("definition") or 0,
            number("corrected_at"),
        )

    def transactions(self) -> dict[str, int]:
        """Return the transactions that record this state."""
        numbers = {
            "through": self.through,
            "rows": self.rows,
            "checksum.0": self.checksum[0],
            "checksum.1": self.checksum[1],
            "definition": self.definition,
        }
        if self.corrected_at is not None:
            numbers["corrected_at"] = self.corrected_at
        return {f"{_PREFIX}/{name}": value for name, value in numbers.items()}


def definition_number(view: FeatureView) -> int:
    """Return 60 bits that stand for what decides a view's rows: keys, source and history, but not ttl or policies."""
    described: dict[str, Any] = view.describe()
    decides = [list(view.keys), described.get("source"), described.get("history")]
    return int(hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:15], 16)
