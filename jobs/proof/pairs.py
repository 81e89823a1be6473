"""One row twice: as it was answered online (the prediction log) and as a batch computes the same request at the same as-of.

Both sides are whole: inputs, features, score, and what became of each look-up, so that whoever explains a difference can put one
side's part in the place of the other's and score again. This module is data alone: it reads no log and scores nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, take
from feature_pipelines.parity import differing_bits, differing_rows
from jobs.proof.class_scores import ClassScores, compared_form

__all__ = ["NO_TIME", "Pairs", "Side"]

NO_TIME = int(np.iinfo(np.int64).min)
"""The event_ts where no row was used."""


@dataclass(frozen=True, eq=False)
class Side:
    """One side of n rows.

    Args:
        columns: every source field of the reference's feature set (request and stored), n rows each, as the model read them:
            defaults where a view had no row. A value that breaks the contract stands as the null value. The online side has the
            further source fields of the version that answered, where that version is at hand.
        matrix: the features, (n_features, n), the rows in the order of the reference's `feature_names`; null is the one canonical
            NaN; NaN throughout where the row has an error.
        score: (n,); NaN where the row has an error.
        label: (n,), None for a regression; of two classes bool, of several their names (objects). Where the row has an error,
            False or "".
        statuses: by view the `feature_pipelines.lookup.Status` of each row, int8.
        event_ts: by view the event_ts of the row that was found, also of one that is expired or of the future, microseconds;
            NO_TIME where none was.
        error: (n,) objects: the reason code of a row that was refused online or would be quarantined offline; None = scored.
        classes: of a reference of several classes the score of each; `score` is then the highest.
    """

    columns: Mapping[str, Column]
    matrix: NDArray[np.float64]
    score: NDArray[np.float64]
    label: NDArray[Any] | None
    statuses: Mapping[str, NDArray[np.int8]]
    event_ts: Mapping[str, NDArray[np.int64]]
    error: NDArray[np.object_]
    classes: ClassScores | None = None

    def __len__(self) -> int:
        return len(self.score)

    @property
    def scores(self) -> NDArray[np.float64]:
        """What is compared of the scores: see compared_form."""
        return compared_form(self.score, self.classes)

    def take(self, index: NDArray[Any]) -> Side:
        """Return the rows that `index` (integers or a mask) selects, in its order."""
        return Side(
            {name: take(column, index) for name, column in self.columns.items()},
            self.matrix[:, index],
            self.score[index],
            None if self.label is None else self.label[index],
            {name: status[index] for name, status in self.statuses.items()},
            {name: times[index] for name, times in self.event_ts.items()},
            self.error[index],
            None if self.classes is None else self.classes.take(index),
        )


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows that one version (one digest) answered online, and their recomputation: up to 65,536 at a time.

    Args:
        row_id: the text by which a batch names the row; "" where the log lacks a part of the key.
        as_of, served_ts: microseconds, int64.
        online, offline: the two sides.
        version, digest, fingerprint, configuration, platform: of the answer, as logged.
        request_in_table: whether the offline side's request comes from the requests table; else from the log.
        sent: by request field, whether the logged row carried it (or carried personal data that is not in the log).
        process, sequence: where the row is in the log.
        overrides: by stored field, the rows that sent it themselves; a row that sends all fields of a view has OVERRIDDEN among
            its statuses too. A field that no row sent may be absent.
        unlogged: by field or feature, the rows of which the log does not hold the value: personal data, a log that an older
            version wrote, a feature that the answering version does not have. There the online side repeats the offline side, so
            that nothing differs by it. Absent = the log holds all.
    """

    row_id: list[str]
    as_of: NDArray[np.int64]
    served_ts: NDArray[np.int64]
    online: Side
    offline: Side
    version: list[str]
    digest: list[str]
    fingerprint: list[str]
    configuration: list[str]
    platform: list[str]
    request_in_table: NDArray[np.bool_]
    sent: Mapping[str, NDArray[np.bool_]]
    process: list[str]
    sequence: NDArray[np.int64]
    overrides: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    unlogged: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.as_of)

    def take(self, index: NDArray[Any]) -> Pairs:
        """Return the rows that `index` (integers or a mask) selects, in its order."""
        positions = np.arange(len(self))[index]
        return Pairs(**{one.name: _taken(getattr(self, one.name), positions) for one in fields(self)})

    def differing_features(self) -> NDArray[np.bool_]:
        """Return where features differ by bits, (n_features, n); nowhere in rows of which a side has none."""
        both: NDArray[np.bool_] = (self.online.error == None) & (self.offline.error == None)  # noqa: E711 - element by element
        return differing_bits(self.online.matrix, self.offline.matrix) & both

    def differing(self) -> NDArray[np.bool_]:
        """Return which rows differ: in the bits of a score or of a feature, in the label, or in the error's code."""
        online, offline = self.online, self.offline
        found: NDArray[np.bool_] = differing_rows(online.scores, offline.scores)
        found |= np.asarray(online.error != offline.error, dtype=np.bool_)
        if online.label is not None and offline.label is not None:
            found |= online.label != offline.label
        return found | self.differing_features().any(axis=0)


def _taken(value: Any, positions: NDArray[np.int64]) -> Any:
    if isinstance(value, Side):
        return value.take(positions)
    if isinstance(value, Mapping):
        return {name: part[positions] for name, part in value.items()}
    if isinstance(value, list):
        return [value[i] for i in positions]
    return value[positions]
