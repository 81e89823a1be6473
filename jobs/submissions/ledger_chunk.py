"""A chunk of answers as it is kept. It knows no database, so that who scores on another machine can make one."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

__all__ = ["Chunk"]


@dataclass(frozen=True)
class Chunk:
    """Adjacent answers, compressed as they are kept.

    Args:
        first_row, n_rows: of which rows.
        packed_body: a JSON object a line, of each row its answer.
        packed_ids: a JSON list a line, of each row the values of the fields that identify it, as they came.
        n_refused: how many of the rows were refused; None = not counted, and where it was read again.
    """

    first_row: int
    n_rows: int
    packed_body: bytes
    packed_ids: bytes
    n_refused: int | None = None

    @classmethod
    def packed(
        cls, first_row: int, n_rows: int, body: bytes, ids: bytes, n_refused: int | None = None
    ) -> Chunk:
        """Return a chunk of what is not compressed yet."""
        return cls(first_row, n_rows, zlib.compress(body, 1), zlib.compress(ids, 1), n_refused)

    @property
    def body(self) -> bytes:
        """The answers, a line each."""
        return zlib.decompress(self.packed_body)

    @property
    def ids(self) -> bytes:
        """What identifies the rows, a line each."""
        return zlib.decompress(self.packed_ids)
