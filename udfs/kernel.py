"""Arrow batches in, scores and row errors out: the one kernel that the pandas UDF, the Arrow mapper and the scan wrap.

For each batch: columns by the contract, stored features as of each request (see as_of), features, model (see rows). This module
knows nothing of Spark or storage.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from feature_pipelines.columns import Int32
from feature_pipelines.definitions import FeatureSet, FeatureView
from feature_pipelines.errors import ContractError
from feature_pipelines.lookup import AsOfIndex, Status
from feature_pipelines.schema import Field, RowError, Schema
from feature_pipelines.schema_arrow import column_from_arrow, columns_from_arrow, missing_columns
from udfs.as_of import as_of_times, own_as_of
from udfs.rows import Found, ScoredRows, score_columns
from udfs.scorer import Scorer

__all__ = ["Kernel", "status_fields", "views_to_look_up"]


def views_to_look_up(
    feature_set: FeatureSet, columns: Collection[str], indexed: Collection[str]
) -> list[FeatureView]:
    """Return the views that must be looked up: those whose fields the input does not bring itself.

    Args:
        feature_set: the model's features.
        columns: what the input has.
        indexed: the names of the views for which there is an index.

    Raises:
        ContractError: a required request column is missing; a view is brought in part; a view is neither brought nor indexed.
    """
    missing_columns(feature_set.request, columns)
    wanted = []
    for view in feature_set.views:
        brought = [name for name in view.fields.names if name in columns]
        if len(brought) == len(view.fields.names):
            continue
        if brought:
            lacking = sorted(set(view.fields.names) - set(brought))
            raise ContractError(
                f"view {view.name!r}: the input brings {', '.join(brought)} but not {', '.join(lacking)}"
            )
        if view.name not in indexed:
            raise ContractError(
                f"view {view.name!r}: the input does not bring its fields ({', '.join(view.fields.names[:5])}, ...), and no "
                f"table is given for it; set views.{view.name}",
                view=view.name,
            )
        wanted.append(view)
    return wanted


def status_fields(feature_set: FeatureSet) -> list[Field]:
    """Return the columns by which an input that brings a view says what became of its look-up: `{view}__status`."""
    return [
        Field(f"{view.name}__status", Int32, minimum=0, maximum=max(Status)) for view in feature_set.views
    ]


def _brought(feature_set: FeatureSet, batch: pa.RecordBatch) -> tuple[dict[str, Found], list[RowError]]:
    """Return what the batch brings of views with a status beside their fields, and the errors of the rows that have a fault.

    Where nothing was found, null fields are no fault: the view's policy says what becomes of the row.
    """
    found: dict[str, Found] = {}
    errors: list[RowError] = []
    for view, declared in zip(feature_set.views, status_fields(feature_set), strict=True):
        if declared.name in batch.schema.names and set(view.fields.names) <= set(batch.schema.names):
            status, broken = column_from_arrow(declared, batch.column(declared.name))
            columns, faults = columns_from_arrow(view.fields, batch)
            statuses = np.asarray(status).astype(np.int8)
            found[view.name] = columns, statuses
            errors += [*broken, *(error for error in faults if statuses[error.row] == Status.PRESENT)]
    return found, errors


class Kernel:
    """A scorer with the views it looks up. Holds no state between batches; one instance serves one thread.

    Args:
        scorer: the loaded model.
        indexes: by view name, for the views that the input does not bring.
    """

    def __init__(self, scorer: Scorer, indexes: Mapping[str, AsOfIndex] | None = None) -> None:
        self.scorer = scorer
        self.indexes = dict(indexes or {})

    def score(
        self,
        batch: pa.RecordBatch,
        errors: Sequence[RowError] = (),
        found: Mapping[str, Found] | None = None,
    ) -> ScoredRows:
        """Score a batch of request rows.

        Args:
            batch: n rows.
            errors: of rows already known to be bad.
            found: by view name, what has been looked up already: n rows each.

        Raises:
            ContractError: the batch as a whole cannot be scored (see views_to_look_up).
        """
        feature_set = self.scorer.feature_set
        wanted = views_to_look_up(feature_set, batch.schema.names, {*self.indexes, *(found or ())})
        brought, broken_views = _brought(feature_set, batch)
        found = {**(found or {}), **brought}
        views = [view for view in feature_set.views if view in wanted or view.name in brought]
        looked_up = {name for view in views for name in view.fields.names}
        declared = Schema(tuple(f for f in feature_set.sources if f.name not in looked_up))
        columns, broken = columns_from_arrow(
            declared, batch, skip_values=set(declared.names) - feature_set.inputs
        )
        as_of: Any = columns[feature_set.as_of] if feature_set.as_of is not None else None
        timeless: list[RowError] = []
        if as_of is not None:
            as_of, timeless = as_of_times(own_as_of(feature_set), as_of, batch)
        broken = [*errors, *broken, *timeless, *broken_views]
        return score_columns(
            self.scorer, columns, broken, batch.num_rows, views, self.indexes, found, as_of=as_of
        )
