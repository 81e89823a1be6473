"""The batch's side of logged rows: the same requests at the same as-of, looked up and scored by the batch's own kernel parts.

A request comes from the requests table where it has a row of that id, else from the log. This module knows nothing of Spark, and nothing
of what is compared with what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_pipelines.columns import Column, Columns, concat, take
from feature_pipelines.lookup import Status
from feature_pipelines.missing import apply_missing
from feature_pipelines.reasons import RowError
from feature_pipelines.schema import Field
from feature_pipelines.views import FeatureView
from jobs.proof.class_scores import ClassScores, compared_form
from jobs.proof.log_rows import LogRows
from jobs.proof.log_texts import column_from_texts, is_hashed
from jobs.proof.pairs import NO_TIME, Side
from jobs.proof.requests import ERROR, THERE, Declared, canonical_column, errors_of
from udfs.kernel import Kernel
from udfs.rows import Found, score_columns

__all__ = ["Recomputed", "Requests", "logged_columns", "recompute", "requests_of", "statuses_of"]


@dataclass(frozen=True, eq=False)
class Requests:
    """The requests of n logged rows.

    Args:
        columns: the request's fields, and those of views that the table brings itself.
        found: by view, what the table brings with its status.
        errors: of the contract, in the order in which the batch finds them.
        in_table: which rows the table has.
        is_known: of which rows the request is known: in the table, or whole in the log.
    """

    columns: dict[str, Column]
    found: dict[str, Found]
    errors: list[RowError]
    in_table: NDArray[np.bool_]
    is_known: NDArray[np.bool_]


def requests_of(
    rows: LogRows,
    joined: pa.RecordBatch | None,
    declared: Declared,
    personal: frozenset[str],
    read: frozenset[str],
) -> Requests:
    """Return the requests of logged rows.

    Args:
        rows: of the log.
        joined: what the table has for each, see `ReadRequests`; None = there is no table.
        declared: what was read of the table.
        personal: fields tagged "pii": where the log has no text of one, or a hash, its value is not known.
        read: fields that some feature or look-up reads.
    """
    n = len(rows)
    in_table = np.zeros(n, np.bool_)
    columns: dict[str, Column] = {}
    errors: list[RowError] = []
    if joined is not None:
        in_table = joined.column(THERE).is_valid().to_numpy(zero_copy_only=False)
        columns = {f.name: canonical_column(f, joined.column(f.name)) for f in declared.all}
        errors = errors_of(joined.column(ERROR))
    is_known = in_table.copy()
    if not in_table.all():
        lacking = np.flatnonzero(~in_table)
        logged, broken, whole = _of_log(rows.take(lacking), declared, personal & read)
        errors = sorted(
            [*errors, *(error._replace(row=int(lacking[error.row])) for error in broken)], key=lambda e: e.row
        )
        is_known[lacking] = whole
        index = np.arange(n)
        index[lacking] = n + np.arange(len(lacking)) if columns else np.arange(len(lacking))
        columns = {
            name: take(concat([columns[name], column]), index) if columns else column
            for name, column in logged.items()
        }
    found: dict[str, Found] = {}
    for status in declared.statuses:
        view = status.name.removesuffix("__status")
        found[view] = columns, np.asarray(columns.pop(status.name)).astype(np.int8)
    return Requests(columns, found, errors, in_table, is_known)


def _of_log(
    rows: LogRows, declared: Declared, personal: frozenset[str]
) -> tuple[dict[str, Column], list[RowError], NDArray[np.bool_]]:
    """Return the requests as the log has them, their errors, and which of them are whole there."""
    sent, stored = rows.maps["request"], rows.maps["stored"]
    columns: dict[str, Column] = {}
    errors: list[RowError] = []
    whole = np.diff(sent.offsets) > 0
    for f in declared.fields:
        texts = sent.values(f.name) if f.name not in stored.names else stored.values(f.name)
        if f.name in personal:
            unknown = ~texts.is_valid().to_numpy(zero_copy_only=False) | is_hashed(texts)
            whole &= ~unknown
        columns[f.name], broken = column_from_texts(f, texts)
        errors += broken
    for f in declared.statuses:
        columns[f.name] = statuses_of(rows, f.name.removesuffix("__status")).astype(np.int32)
    return columns, sorted(errors, key=lambda error: error.row), whole


def statuses_of(rows: LogRows, view: str) -> NDArray[np.int8]:
    """Return the logged Status of each row's look-up; PRESENT where the log has none, for the row never came so far."""
    encoded = rows.maps["statuses"].values(view).dictionary_encode()
    codes = [int(Status[name]) for name in encoded.dictionary.to_pylist()]
    indices = encoded.indices.fill_null(len(codes)).to_numpy(zero_copy_only=False)
    statuses: NDArray[np.int8] = np.array([*codes, int(Status.PRESENT)], np.int8)[indices]
    return statuses


@dataclass(frozen=True, eq=False)
class Recomputed:
    """n rows scored by the reference; inputs are those that its kernel read, before a view's policy filled them.

    Args:
        requests: see `requests_of`.
        found: by view the stored fields and each row's Status; `event_ts` of the row that was found.
        matrix, score, label, error, classes: as in Side.
    """

    requests: Requests
    found: Mapping[str, Found]
    event_ts: Mapping[str, NDArray[np.int64]]
    matrix: NDArray[np.float64]
    score: NDArray[np.float64]
    label: NDArray[Any] | None
    error: NDArray[np.object_]
    classes: ClassScores | None = None

    @property
    def scores(self) -> NDArray[np.float64]:
        """What is compared of the scores: see compared_form."""
        return compared_form(self.score, self.classes)

    def side(self, views: Sequence[FeatureView], index: NDArray[np.int64]) -> Side:
        """Return some rows as a Side: stored fields as the views' policies fill them."""
        columns = {name: take(column, index) for name, column in self.requests.columns.items()}
        statuses = {}
        for view in views:
            if view.name not in self.found:
                statuses[view.name] = np.zeros(len(index), np.int8)
                continue
            fields, status = self.found[view.name]
            statuses[view.name] = status[index]
            taken = {f.name: take(fields[f.name], index) for f in view.fields}
            columns |= apply_missing(view, taken, status[index])[0]
        times = {
            view.name: self.event_ts[view.name][index]
            if view.name in self.event_ts
            else np.full(len(index), NO_TIME)
            for view in views
        }
        label = None if self.label is None else self.label[index]
        classes = None if self.classes is None else self.classes.take(index)
        score, error = self.score[index], self.error[index]
        return Side(columns, self.matrix[:, index], score, label, statuses, times, error, classes)


def recompute(
    kernel: Kernel,
    requests: Requests,
    as_of: NDArray[np.int64],
    joined: Mapping[str, tuple[Columns, NDArray[np.int8], NDArray[np.int64]]] | None = None,
) -> Recomputed:
    """Score requests as of given times, as the batch job does.

    Args:
        kernel: the reference version, with its indexed views.
        requests: n rows.
        as_of: microseconds, (n,).
        joined: by view that has no index what was looked up for these rows already, as `AsOfIndex.lookup_timed` gives it.
    """
    n = len(as_of)
    feature_set = kernel.scorer.feature_set
    found: dict[str, Found] = {}
    event_ts = {}
    for view in feature_set.views:
        if view.name in requests.found:
            columns, status = requests.found[view.name]
            found[view.name] = {name: columns[name] for name in view.fields.names}, status
        elif view.name in (joined or {}):
            columns, status, event_ts[view.name] = (joined or {})[view.name]
            found[view.name] = columns, status
        elif view.name in kernel.indexes:
            keys = [requests.columns[name] for name in view.keys.values()]
            fields, status, event_ts[view.name] = kernel.indexes[view.name].lookup_timed(keys, as_of)
            found[view.name] = fields, status
    views = [view for view in feature_set.views if view.name in found]
    names = {name for view in views for name in view.fields.names}
    scored = score_columns(
        kernel.scorer,
        {name: column for name, column in requests.columns.items() if name not in names},
        requests.errors,
        n,
        views,
        found=found,
        as_of=as_of,
        with_features=True,
    )
    error = np.full(n, None, dtype=np.object_)
    for refused in scored.errors:
        error[refused.row] = str(refused.code)
    matrix: Any = scored.features
    score, label = scored.outputs["score"], scored.outputs.get("label")
    output = kernel.scorer.output
    classes = output.scores(scored.outputs).T if output.classes else None
    if len(scored.index) < n:
        matrix = _spread(matrix, scored.index, n, np.nan)
        score = _spread(score, scored.index, n, np.nan)
        label = None if label is None else _spread(label, scored.index, n, "" if output.classes else False)
        classes = None if classes is None else _spread(classes, scored.index, n, np.nan)
    scores = None if classes is None else ClassScores(output.classes, classes.T)
    return Recomputed(requests, found, event_ts, matrix, score, label, error, scores)


def _spread(values: NDArray[Any], index: NDArray[np.int64], n: int, nothing: Any) -> NDArray[Any]:
    out = np.full((*values.shape[:-1], n), nothing, values.dtype)
    out[..., index] = values
    return out


def logged_columns(
    rows: LogRows, fields: Sequence[Field], where: str, personal: frozenset[str]
) -> tuple[dict[str, Column], dict[str, NDArray[np.bool_]]]:
    """Return fields as the log has them, and by field the rows of which it does not hold the value, where there are any.

    Args:
        rows: of the log.
        fields: of the request, or stored ones.
        where: "request" or "stored".
        personal: fields tagged "pii".
    """
    columns: dict[str, Column] = {}
    lacking: dict[str, NDArray[np.bool_]] = {}
    for f in fields:
        texts = rows.maps[where].values(f.name)
        absent = ~texts.is_valid().to_numpy(zero_copy_only=False)
        unknown = np.zeros(len(rows), np.bool_)
        if f.name in personal:
            unknown = absent | is_hashed(texts)
        if where == "stored":
            unknown |= absent
        columns[f.name], _ = column_from_texts(_unbounded(f) if where == "stored" else f, texts)
        if unknown.any():
            lacking[f.name] = unknown
    return columns, lacking


def _unbounded(declared: Field) -> Field:
    """Return a stored field without its bounds: no store checks them, so the model read what stood there."""
    return replace(declared, minimum=None, maximum=None)
