"""An online store in a dictionary: the interface and the order of rows, and nothing that can be down. For tests of what reads one."""

from __future__ import annotations

from collections.abc import Sequence

from feature_pipelines.errors import UnavailableError
from feature_pipelines.stores.base import Answer, Key, StoredRow, not_served
from feature_pipelines.stores.encoding import key_text
from feature_pipelines.views import FeatureView

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps the newest row of each entity; `reads` counts the reads.

    `is_down` makes every read fail, `is_empty` is a store that was never materialised, and `failures` stand for keys of views.
    """

    def __init__(self) -> None:
        self.rows: dict[str, StoredRow] = {}
        self.is_down = self.is_empty = False
        self.failures: dict[tuple[str, Key], Answer] = {}
        self.reads: list[list[tuple[str, list[Key]]]] = []

    def read(self, wanted: Sequence[tuple[FeatureView, Sequence[Key]]]) -> list[list[Answer]]:
        """See OnlineStore."""
        self.reads.append([(view.name, list(keys)) for view, keys in wanted])
        if self.is_down:
            raise UnavailableError("the store is down")
        if self.is_empty:
            return [
                [not_served(view, None, "", None, rebuilding=False, url="memory")] * len(keys)
                for view, keys in wanted
            ]
        return [
            [self.failures.get((view.name, key), self.rows.get(key_text(view, key))) for key in keys]
            for view, keys in wanted
        ]

    def write(self, view: FeatureView, keys: Sequence[Key], rows: Sequence[StoredRow]) -> int:
        """See OnlineStore."""
        changed = 0
        for key, row in zip(keys, rows, strict=True):
            held = self.rows.get(key_text(view, key))
            if held is None or row.order > held.order:
                self.rows[key_text(view, key)] = row
                changed += 1
        return changed

    def close(self) -> None:
        """See OnlineStore."""
