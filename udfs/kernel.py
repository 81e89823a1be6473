"""Arrow batches in, scores and row errors out: the one kernel that the pandas UDF, the Arrow mapper and the scan wrap.

For each batch: columns by the contract, stored features as of each request, features, model (see rows). This module knows nothing
of Spark or storage.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from feature_pipelines.definitions import FeatureSet, FeatureView
from feature_pipelines.errors import ContractError
from feature_pipelines.lookup import AsOfIndex
from feature_pipelines.schema import RowError, Schema
from feature_pipelines.schema_arrow import columns_from_arrow, missing_columns
from udfs.rows import ScoredRows, score_columns
from udfs.scorer import Scorer

__all__ = ["Kernel", "views_to_look_up"]


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


class Kernel:
    """A scorer with the views it looks up. Holds no state between batches; one instance serves one thread.

    Args:
        scorer: the loaded model.
        indexes: by view name, for the views that the input does not bring.
    """

    def __init__(self, scorer: Scorer, indexes: Mapping[str, AsOfIndex] | None = None) -> None:
        self.scorer = scorer
        self.indexes = dict(indexes or {})

    def score(self, batch: pa.RecordBatch, errors: Sequence[RowError] = ()) -> ScoredRows:
        """Score a batch of request rows; `errors` are of rows already known to be bad.

        Raises:
            ContractError: the batch as a whole cannot be scored (see views_to_look_up).
        """
        feature_set = self.scorer.feature_set
        views = views_to_look_up(feature_set, batch.schema.names, self.indexes)
        looked_up = {name for view in views for name in view.fields.names}
        declared = Schema(tuple(f for f in feature_set.sources if f.name not in looked_up))
        columns, broken = columns_from_arrow(
            declared, batch, skip_values=set(declared.names) - feature_set.inputs
        )
        return score_columns(self.scorer, columns, [*errors, *broken], batch.num_rows, views, self.indexes)
