"""What is counted of a batch of logged rows: which differ and in what, by hour and version; then, of those, by cause and repair.

Everything goes into a task's Totals, and a row that is equal leaves nothing else. This module reads no file and explains nothing.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_pipelines.parity import differing_bits, differing_rows
from jobs.proof.aggregate import Totals
from jobs.proof.class_scores import ulps_apart
from jobs.proof.corrections import corrected
from jobs.proof.log_rows import LogRows
from jobs.proof.logged_side import Online, bare_pairs, is_refused
from jobs.proof.recompute import Recomputed
from udfs.answered import LoggedModel

__all__ = ["count_differing", "count_rows"]

_DAY_US = 86_400_000_000
Mask = NDArray[np.bool_]


def count_rows(
    totals: Totals,
    rows: LogRows,
    online: Online,
    offline: Recomputed,
    facts: LoggedModel,
    corrections: pa.Table | None,
) -> tuple[Mask, Mask]:
    """Count all that is counted of rows before their causes.

    Args:
        totals: added to.
        rows: of the log; `online`, `offline` their two sides.
        facts: of the reference.
        corrections: that rows may have; None = none are looked at.

    Returns:
        Which rows differ and are not corrected, and in which of them the decision does.
    """
    known = offline.requests.is_known
    refused, refused_too = is_refused(online.error), is_refused(offline.error)
    both = ~(refused | refused_too) & known
    features = differing_bits(online.matrix, offline.matrix) & both
    ours, theirs = online.scores, offline.scores
    scores = differing_rows(ours, theirs)
    flips = np.zeros(len(rows), np.bool_)
    if online.label is not None and offline.label is not None:
        flips = (online.label != offline.label) & both
    differing = scores | (refused != refused_too) | flips | features.any(axis=0)
    codes = np.flatnonzero(refused & refused_too)
    differing[codes] |= np.asarray(online.error[codes] != offline.error[codes], np.bool_)
    differing &= known
    mended = _corrected(rows, online, offline, differing, corrections)
    for mask in (differing, flips, features):
        mask &= ~mended
    ulps, _ = ulps_apart(ours, theirs)
    ulps[mended] = 0
    _count_scores(totals, ours, theirs, facts, scores & both & ~mended, int(both.sum()))
    _count_fields(totals, online, offline, facts, features, both)
    totals.add_hours(rows.times("served_ts")[known], differing[known], flips[known], ulps[known])
    totals.counts.update(
        {
            "logged": len(rows),
            "compared": int(known.sum()),
            "differing": int(differing.sum()),
            "refused_online": int((refused & known).sum()),
            "refused_offline": int((refused_too & known).sum()),
            "not_in_table": int((known & ~offline.requests.in_table).sum()),
            "not_comparable": int((~known).sum()),
            "corrected": int(mended.sum()),
        }
    )
    _count_versions(totals, rows, known, differing, flips)
    _count_unlogged(totals, rows, online, facts)
    return differing, flips


def _corrected(
    rows: LogRows, online: Online, offline: Recomputed, differing: Mask, corrections: pa.Table | None
) -> Mask:
    """Return which of the differing rows have a correction that says what the batch says."""
    mended = np.zeros(len(rows), np.bool_)
    index = np.flatnonzero(differing)
    if corrections is not None and len(index):
        mended[index] = corrected(bare_pairs(rows.take(index), index, online, offline), corrections)
    return mended


def _count_scores(
    totals: Totals,
    online: NDArray[np.float64],
    offline: NDArray[np.float64],
    facts: LoggedModel,
    differing: Mask,
    n: int,
) -> None:
    """Count scores; of several classes each one's, and as the score of a row that of them which is furthest apart."""
    index = np.flatnonzero(differing)
    online, offline = online[index], offline[index]
    if online.ndim > 1:
        for at, (_, name) in enumerate(facts.class_scores, start=1):
            ours, theirs = online[:, at], offline[:, at]
            wrong = differing_bits(ours, theirs)
            totals.fields[name].add(n, ours[wrong], theirs[wrong])
        _, furthest = ulps_apart(online, offline)
        online, offline = (side[np.arange(len(index)), furthest] for side in (online, offline))
    totals.fields["score"].add(n, online, offline)


def _count_fields(
    totals: Totals, online: Online, offline: Recomputed, facts: LoggedModel, features: Mask, both: Mask
) -> None:
    n = int(both.sum())
    for at, name in enumerate(facts.feature_names):
        lacking = int((online.unlogged[name] & both).sum()) if name in online.unlogged else 0
        index = np.flatnonzero(features[at])
        totals.fields[name].add(n - lacking, online.matrix[at, index], offline.matrix[at, index])


def _count_versions(totals: Totals, rows: LogRows, known: Mask, differing: Mask, flips: Mask) -> None:
    masks = {"compared": known, "differing": differing, "flips": flips}
    columns = {"version": rows.flat.column("model_version"), "digest": rows.flat.column("model_digest")}
    table = pa.table(columns | {name: pa.array(mask.astype(np.int64)) for name, mask in masks.items()})
    sums = table.group_by(list(columns)).aggregate([(name, "sum") for name in masks])
    for row in sums.to_pylist():
        counted = (row[f"{name}_sum"] for name in masks)
        totals.add_version(row["version"] or "", row["digest"] or "", *counted)


def _count_unlogged(totals: Totals, rows: LogRows, online: Online, facts: LoggedModel) -> None:
    for name, absent in online.unlogged.items():
        totals.unlogged[name] += int(absent.sum())
    without = int((~rows.has_stored).sum())
    if without:
        totals.unlogged.update({f.name: without for f in facts.stored})


def count_differing(totals: Totals, rows: pa.Table) -> None:
    """Count differing rows by cause, what correcting them does to decisions, and on which days the batch can write them again.

    Args:
        totals: added to.
        rows: of `differing_rows.DIFFERING_SCHEMA`, each once.
    """
    flips = rows.column("is_flip").to_numpy()
    positive = rows.column("offline_label").fill_null(False).to_numpy()
    of_classes = rows.column("offline_class_label").is_valid().to_numpy()
    wrong = _differs(rows, "error") | _scores_differ(rows)
    for what in ("label", "class_label"):
        wrong |= _differs(rows, what)
    in_table = rows.column("request_in_table").to_numpy()
    totals.counts.update(
        {
            "to_positive": int((flips & positive).sum()),
            "to_negative": int((flips & ~positive & ~of_classes).sum()),
            "flips": int(flips.sum()),
            "to_correct": int(wrong.sum()),
            "to_correct_not_in_table": int((wrong & ~in_table).sum()),
            "differing_refused_offline": rows.num_rows - rows.column("offline_error").null_count,
        }
    )
    _count_moves(totals, rows.filter(pa.array(flips & of_classes)))
    days = rows.column("as_of_ts").cast(pa.int64()).to_numpy() // _DAY_US
    values, counts = np.unique(days[wrong & in_table], return_counts=True)
    totals.days.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    keys = {
        "cause": rows.column("cause").fill_null(""),
        "where": rows.column("where").fill_null(""),
        "parts": pc.binary_join(rows.column("parts"), " + ").fill_null(""),
        "flips": pa.array(flips.astype(np.int64)),
    }
    counted = (
        pa.table(keys).group_by(["cause", "where", "parts"]).aggregate([([], "count_all"), ("flips", "sum")])
    )
    for row in counted.to_pylist():
        totals.add_cause(row["cause"], row["where"], row["parts"], row["count_all"], row["flips_sum"])


def _count_moves(totals: Totals, rows: pa.Table) -> None:
    """Count how many rows of several classes go from which class, as they were answered, to which."""
    names = ["online_class_label", "offline_class_label"]
    for row in rows.group_by(names).aggregate([([], "count_all")]).to_pylist():
        totals.moves[row[names[0]], row[names[1]]] += row["count_all"]


def _scores_differ(rows: pa.Table) -> Mask:
    """Return where the two sides' scores differ by bits, those of classes too; a score and none differ."""
    sides = [rows.column(f"{side}_score").fill_null(np.nan).to_numpy() for side in ("online", "offline")]
    differ = differing_bits(*sides)
    classes = [rows.column(f"{side}_class_scores") for side in ("online", "offline")]
    both = np.flatnonzero(np.logical_and(*(column.is_valid().to_numpy() for column in classes)))
    if len(both):
        values = [column.take(pa.array(both)).combine_chunks().items.to_numpy() for column in classes]
        differ[both] |= differing_rows(*(of_side.reshape(len(both), -1) for of_side in values))
    return differ


def _differs(rows: pa.Table, what: str) -> Mask:
    """Return where the two sides' values differ; a value and none differ."""
    online, offline = (rows.column(f"{side}_{what}") for side in ("online", "offline"))
    equal = pc.equal(online, offline).fill_null(False).to_numpy()
    neither = pc.and_(pc.is_null(online), pc.is_null(offline)).to_numpy()
    return np.asarray(~(equal | neither))
