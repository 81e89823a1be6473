"""Logged rows beside the same rows recomputed in batch: what is compared, and what causes are found from.

Plain data in canonical columns; it knows nothing of logs, tables or Spark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, take

__all__ = ["NO_TIME", "Pairs", "Side"]

NO_TIME = int(np.iinfo(np.int64).min)
"""The event_ts of a row for which a view had none."""


@dataclass(frozen=True, eq=False)
class Side:
    """One side of n rows.

    Args:
        columns: every source field of the feature set, request and stored, in canonical form.
        matrix: the features, (n_features, n), NaN canonical; of a refused row all NaN.
        score: (n,); of a refused row NaN.
        label: (n,), None for a regression.
        statuses: by view, the feature_pipelines.lookup.Status of each row.
        event_ts: by view, of the stored row that was used, microseconds; NO_TIME where none was.
        error: the reason why a row was refused, else None.
    """

    columns: Mapping[str, Column]
    matrix: NDArray[np.float64]
    score: NDArray[np.float64]
    label: NDArray[np.bool_] | None
    statuses: Mapping[str, NDArray[np.int8]]
    event_ts: Mapping[str, NDArray[np.int64]]
    error: NDArray[np.object_]

    def take(self, index: NDArray[np.int64]) -> Side:
        """Return the rows that `index` selects, in its order."""
        return Side(
            {name: take(column, index) for name, column in self.columns.items()},
            self.matrix[:, index],
            self.score[index],
            None if self.label is None else self.label[index],
            {name: of_view[index] for name, of_view in self.statuses.items()},
            {name: of_view[index] for name, of_view in self.event_ts.items()},
            self.error[index],
        )


@dataclass(frozen=True, eq=False)
class Pairs:
    """n logged rows of one version, and what the batch makes of the same requests at the same as-of.

    Args:
        row_id, as_of, served_ts: of each row; times in microseconds.
        online: as logged.
        offline: as recomputed with the reference version.
        version, digest, fingerprint, configuration, platform: as logged, per row; digest is the same for all.
        request_in_table: whether the request was found in the table of requests; where not, both sides have the log's fields.
        sent: by request field, whether the logged row carried it.
        process, sequence: which row of the log it is.
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

    def __len__(self) -> int:
        return len(self.row_id)

    def take(self, index: NDArray[np.int64]) -> Pairs:
        """Return the rows that `index` selects, in its order."""
        rows = index.tolist()

        def of(values: list[str]) -> list[str]:
            return [values[i] for i in rows]

        return Pairs(
            of(self.row_id),
            self.as_of[index],
            self.served_ts[index],
            self.online.take(index),
            self.offline.take(index),
            of(self.version),
            of(self.digest),
            of(self.fingerprint),
            of(self.configuration),
            of(self.platform),
            self.request_in_table[index],
            {name: sent[index] for name, sent in self.sent.items()},
            of(self.process),
            self.sequence[index],
        )
