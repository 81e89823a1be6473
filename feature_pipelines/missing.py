"""What a request gets where a view has no row for it: the view's policy, applied by batch and online in this one place.

It knows nothing of where rows are looked up; it is given what was found, and what became of each look-up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, concat, take
from feature_pipelines.lookup import Status
from feature_pipelines.reasons import Reason, RowError
from feature_pipelines.schema import Field, build_column
from feature_pipelines.views import FeatureView

__all__ = ["apply_missing"]

_WITHOUT_ROW = np.isin(np.arange(len(Status)), (Status.NOT_FOUND, Status.EXPIRED, Status.NULL))
_KEPT = np.isin(np.arange(len(Status)), (Status.PRESENT, Status.OVERRIDDEN))
_NO_REFUSAL = _WITHOUT_ROW | _KEPT


def apply_missing(
    view: FeatureView, columns: dict[str, Column], statuses: NDArray[np.int8]
) -> tuple[dict[str, Column], list[RowError]]:
    """Return the view's columns by its policy, and the errors of the rows that it refuses, ascending.

    NOT_FOUND, EXPIRED and NULL are treated as `missing` says, UNAVAILABLE as `unavailable` says. FUTURE refuses the row, whatever the
    policy: the store no longer has what was known then.

    Args:
        view: the declaration.
        columns: every field, n rows each; the null value where nothing was found.
        statuses: the Status of each row, int8, shape (n,).
    """
    if not np.count_nonzero(statuses):
        return columns, []
    if view.missing == "null" and np.count_nonzero(_NO_REFUSAL[statuses]) == len(statuses):
        return columns, []  # the null values are there already
    is_absent = _WITHOUT_ROW[statuses]
    if view.unavailable == "missing":
        is_absent |= statuses == Status.UNAVAILABLE
    is_refused = ~(is_absent | _KEPT[statuses])
    if view.missing == "reject":
        is_refused |= is_absent
    elif view.missing == "defaults" and is_absent.any():
        rows = np.where(is_absent, len(statuses), np.arange(len(statuses)))
        columns = {f.name: take(concat([columns[f.name], _default(view, f)]), rows) for f in view.fields}
    errors = [_refusal(view, row, Status(statuses[row])) for row in np.flatnonzero(is_refused).tolist()]
    return columns, errors


def _default(view: FeatureView, declared: Field) -> Column:
    """Return a column of one row: the default, null where none is declared."""
    return build_column(declared, [(view.defaults or {}).get(declared.name)])[0]


def _refusal(view: FeatureView, row: int, status: Status) -> RowError:
    if status is Status.FUTURE:
        message = f"view {view.name!r}: the store's row for the key is newer than the request's as-of time"
        return RowError(row, Reason.AS_OF_BEFORE_STORE, view.name, message)
    if status is Status.UNAVAILABLE and view.unavailable == "fail":
        message = f"view {view.name!r}: the online store did not answer"
        return RowError(row, Reason.STORE_UNAVAILABLE, view.name, message)
    message = f"view {view.name!r} has no row for the key: {status.name}"
    return RowError(row, Reason.STORED_FEATURES_MISSING, view.name, message)
