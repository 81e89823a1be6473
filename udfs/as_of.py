"""As of when each row of a batch is scored: of its own `as_of_ts` where it carries one, as online, else of the as-of field.

It knows nothing of views, models and Spark.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_pipelines.columns import values_and_valid
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.request_rows import AS_OF_TS, as_of_field
from feature_pipelines.schema import Field, RowError
from feature_pipelines.schema_arrow import column_from_arrow

__all__ = ["as_of_times", "own_as_of"]


def own_as_of(feature_set: FeatureSet) -> Field | None:
    """Return the column by which a row names its own as-of time, if it is not the feature set's as-of field itself.

    None where nothing is asked as of a time, or where the request declares `as_of_ts` as something else than a time.
    """
    return None if feature_set.as_of in (None, AS_OF_TS) else as_of_field(feature_set)


def as_of_times(
    own: Field | None, times: NDArray[np.int64], batch: pa.RecordBatch
) -> tuple[NDArray[np.int64], list[RowError]]:
    """Return as of when each row is scored, microseconds, and the errors of rows whose own time cannot be read.

    Args:
        own: what `own_as_of` returned. Where the batch has no such column, or null in it, the as-of field decides.
        times: the as-of field's values, n rows.
        batch: n rows.
    """
    if own is None or own.name not in batch.schema.names:
        return times, []
    column, errors = column_from_arrow(own, batch.column(own.name))
    values: Any
    values, valid = values_and_valid(column)
    return (values if valid is None else np.where(valid, values, times)), errors
