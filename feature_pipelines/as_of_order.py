"""The one total order of a view's rows, as an index needs it: for each row the newest of its key so far.

Newest is the greatest (event_ts, created_ts, digest of the row's canonical bytes); a tombstone has a place in it like any row. This
module knows nothing of requests or of how an index is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Columns, take
from feature_pipelines.packed import digest_ranks
from feature_pipelines.views import FeatureView

__all__ = ["NOTHING", "newest_so_far"]

NOTHING = -1


def newest_so_far(
    view: FeatureView,
    rows: NDArray[np.int64],
    entity: NDArray[np.int64],
    times: tuple[NDArray[np.int64], NDArray[np.int64]],
    fields: Columns,
    is_deleted: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """Return, for rows sorted by (entity, visible_ts), the position among them of the newest of the entity up to there.

    NOTHING stands where that is a tombstone.

    Args:
        view: the declaration.
        rows: which rows of `times`, `fields` and `is_deleted`, in that sorted order.
        entity: of each of `rows`, ascending.
        times: event_ts and created_ts.
        fields: every field of the view.
        is_deleted: which rows are tombstones; None = none.
    """
    newest = _running_newest(_total_order(view, rows, entity, times, fields, is_deleted))
    return newest if is_deleted is None else np.where(is_deleted[rows][newest], NOTHING, newest)


def _total_order(
    view: FeatureView,
    rows: NDArray[np.int64],
    entity: NDArray[np.int64],
    times: tuple[NDArray[np.int64], NDArray[np.int64]],
    fields: Columns,
    is_deleted: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """Return the rank of each of `rows` in (entity, event_ts, created_ts, digest); digests are computed for ties alone."""
    event_ts, created_ts = (time[rows] for time in times)
    order = np.lexsort((created_ts, event_ts, entity))
    sorted_columns = [column[order] for column in (entity, event_ts, created_ts)]
    same = np.all([column[1:] == column[:-1] for column in sorted_columns], axis=0)
    tied = np.zeros(len(rows), dtype=np.bool_)
    tied[order[1:]] |= same
    tied[order[:-1]] |= same
    digest_rank = np.zeros(len(rows), dtype=np.int64)
    where = np.flatnonzero(tied)
    if where.size:
        of_ties = {name: take(column, rows[where]) for name, column in fields.items()}
        deleted = None if is_deleted is None else is_deleted[rows[where]].tolist()
        digest_rank[where] = digest_ranks(view.fields, of_ties, deleted)
    rank = np.empty(len(rows), dtype=np.int64)
    rank[np.lexsort((digest_rank, created_ts, event_ts, entity))] = np.arange(len(rows))
    return rank


def _running_newest(rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return, for rows sorted by entity, the position of the highest rank among the entity's rows so far.

    Ranks rise with the entity, so that the maximum never reaches back into the entity before.
    """
    position_of_rank = np.empty(len(rank), dtype=np.int64)
    position_of_rank[rank] = np.arange(len(rank))
    return position_of_rank[np.maximum.accumulate(rank)]
