"""Corrected scores of logged rows: what each should have been, and which rows have been put right by them.

A log is history and is not rewritten. A correction stands beside it, under the number that the log gave the row (process and
sequence), so that whoever used the score finds the right one. A row counts as corrected while the correction is what the batch
computes: by bits of the score, label and reason of a refusal. Should the batch come to another result later, the row differs again.
This module knows nothing of tables or Spark, so that a task on a worker can use it; corrections_table keeps them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_pipelines.parity import differing_bits, differing_rows
from jobs.proof.class_scores import CLASS_SCORES, ClassScores
from jobs.proof.pairs import Pairs, Side

__all__ = ["CORRECTIONS_SCHEMA", "corrected", "corrections_of"]

_TIME = pa.timestamp("us", tz="UTC")
CORRECTIONS_SCHEMA: Final = pa.schema(
    [
        pa.field("process", pa.string(), nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("row_id", pa.string()),
        pa.field("as_of_ts", _TIME, nullable=False),
        pa.field("served_ts", _TIME, nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("served_version", pa.string(), nullable=False),
        pa.field("served_score", pa.float64()),
        pa.field("served_label", pa.bool_()),
        pa.field("served_error", pa.string()),
        pa.field("score", pa.float64()),
        pa.field("label", pa.bool_()),
        pa.field("error", pa.string()),
        pa.field("version", pa.string(), nullable=False),
        pa.field("digest", pa.string(), nullable=False),
        pa.field("cause", pa.string(), nullable=False),
        pa.field("corrected_ts", _TIME, nullable=False),
        pa.field("served_class_label", pa.string()),
        pa.field("class_label", pa.string()),
        pa.field("served_class_scores", CLASS_SCORES),
        pa.field("class_scores", CLASS_SCORES),
    ]
)
"""One row a correction: `score`, `label` and `error` are what `version` gives; a row that it refuses has no score. A model of several
classes has `class_label` and `class_scores` in the place of `label`; tables of older versions lack these four columns."""

_FROM_DIFFERING: Final = {
    "process": "process",
    "sequence": "sequence",
    "row_id": "row_id",
    "as_of_ts": "as_of_ts",
    "served_ts": "served_ts",
    "served_version": "model_version",
    "served_score": "online_score",
    "served_label": "online_label",
    "served_error": "online_error",
    "score": "offline_score",
    "label": "offline_label",
    "error": "offline_error",
    "served_class_label": "online_class_label",
    "class_label": "offline_class_label",
    "served_class_scores": "online_class_scores",
    "class_scores": "offline_class_scores",
    "cause": "cause",
}


def corrections_of(
    differing: pa.Table, *, model: str, version: str, digest: str, corrected_ts: int
) -> pa.Table:
    """Return the corrections of differing rows, of CORRECTIONS_SCHEMA, in their order.

    Args:
        differing: rows as a reconciliation writes them.
        model, version, digest: of the reference, whose results are the right ones.
        corrected_ts: when, microseconds.
    """
    n = differing.num_rows
    constants: dict[str, Any] = {"model": model, "version": version, "digest": digest}
    arrays = []
    for declared in CORRECTIONS_SCHEMA:
        if declared.name in _FROM_DIFFERING:
            arrays.append(differing.column(_FROM_DIFFERING[declared.name]).cast(declared.type))
        elif declared.name == "corrected_ts":
            arrays.append(pa.chunked_array([pa.array(np.full(n, corrected_ts)).cast(_TIME)]))
        else:
            arrays.append(pa.chunked_array([pa.array([constants[declared.name]] * n, declared.type)]))
    return pa.Table.from_arrays(arrays, schema=CORRECTIONS_SCHEMA)


def corrected(pairs: Pairs, corrections: pa.Table) -> NDArray[np.bool_]:
    """Return which rows have a correction that says what the batch says; bool, (n,).

    Of several corrections of a row the newest counts, and of two of one time the later in the table.

    Args:
        pairs: n rows.
        corrections: of CORRECTIONS_SCHEMA, of any rows.
    """
    found = np.zeros(len(pairs), dtype=np.bool_)
    processes = pa.array(sorted(set(pairs.process)), pa.string())
    known = corrections.filter(pc.is_in(corrections.column("process"), processes))
    if not known.num_rows or not len(pairs):
        return found
    known = known.take(pc.sort_indices(known, [("corrected_ts", "ascending")]))[::-1]
    place = pc.index_in(
        _keys(pa.array(pairs.process, pa.string()), pa.array(pairs.sequence)),
        _keys(known.column("process").combine_chunks(), known.column("sequence").combine_chunks()),
    )
    rows = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False))
    at = known.take(place.drop_null())
    offline = pairs.offline
    score = at.column("score").fill_null(np.nan).to_numpy()
    same = ~differing_bits(_canonical(score), _canonical(offline.score[rows]))
    same &= np.array(at.column("error").to_pylist(), dtype=np.object_) == offline.error[rows]
    if offline.label is not None:
        scored = np.array([code is None for code in offline.error[rows]], dtype=np.bool_)
        same &= (_labels(at, offline) == offline.label[rows]) | ~scored
    if offline.classes is not None:
        maps = at.column("class_scores").combine_chunks()
        scores = ClassScores.of_arrow(offline.classes.names, maps).values
        same &= ~differing_rows(_canonical(scores), _canonical(offline.classes.values[rows]))
    found[rows] = same
    return found


def _labels(corrections: pa.Table, offline: Side) -> NDArray[Any]:
    """Return the labels of corrections in the form of a side's."""
    if offline.classes is None:
        return np.asarray(corrections.column("label").fill_null(False).to_numpy())
    return np.asarray(corrections.column("class_label").fill_null("").to_numpy(), dtype=np.object_)


def _keys(process: pa.Array, sequence: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(process, pc.cast(sequence, pa.string()), "/")


def _canonical(score: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isnan(score), np.nan, score)
