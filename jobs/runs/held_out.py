"""Which requests are held out of training: those of a later time, or a share of them where there is no time to split at.

This module knows nothing of models and tables: columns in, a mask out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_pipelines.columns import Column
from feature_pipelines.errors import ConfigurationError
from feature_pipelines.schema import parse_timestamp
from jobs.runs.ids import id_sum, row_ids
from jobs.runs.settings import TrainSettings

__all__ = ["describe_split", "held_out_by_share", "held_out_by_time"]


def held_out_by_share(keys: pa.Table, share: float) -> NDArray[np.bool_]:
    """Return which requests belong to a share, shape (n,): decided by a hash of the key alone, so each stays where it is while tables grow.

    Args:
        keys: the columns that identify a request, n rows.
        share: about which share of the keys is held out, between 0 and 1.
    """
    hashes: list[NDArray[np.uint64]] = []
    for batch in keys.combine_chunks().to_batches():
        id_sum(row_ids(batch, tuple(keys.schema.names), "", 0), hashes)
    at = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    held_out: NDArray[np.bool_] = at < np.uint64(int(share * 2**64))
    return held_out


def held_out_by_time(
    settings: TrainSettings, asked: Column | None, known_ts: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which requests are as of the split or later, and which may be used: those, and those whose outcome was known before it.

    Args:
        settings: says the split.
        asked: as of when each request is, microseconds; None where the feature set does not say.
        known_ts: when its outcome became known, microseconds.

    Raises:
        ConfigurationError: there is no time to split at.
    """
    if settings.split_at is None or asked is None:
        raise ConfigurationError(
            "train.split_at: training needs a time to split at and a feature set with an as-of field, or train.held_out_share, "
            "the share of the requests to hold out"
        )
    split = parse_timestamp(settings.split_at.isoformat())
    times: Any = asked
    held_out = times >= split
    return held_out, held_out | (known_ts < split)


def describe_split(settings: TrainSettings) -> str:
    """Return what is held out, in words."""
    if settings.held_out_share is None:
        return f"as of {settings.split_at} or later"
    return f"a share of {settings.held_out_share:g}, by a hash of {', '.join(settings.join_on)}"
