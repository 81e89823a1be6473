"""What the log says of rows, put beside their recomputation: cheap for all rows, whole for those that differ.

Where the log does not hold a value (personal data, a log of an older version, another version's features), the online side repeats the
offline one, so that nothing differs by it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from feature_pipelines.columns import Column, concat, take
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.schema import Field
from jobs.proof.class_scores import ClassScores, compared_form
from jobs.proof.log_rows import LogRows
from jobs.proof.pairs import NO_TIME, Pairs, Side
from jobs.proof.recompute import Recomputed, logged_columns, statuses_of
from jobs.proof.requests import log_ids
from udfs.answered import LoggedModel

__all__ = ["Online", "Pairing", "bare_pairs", "is_refused", "online_of"]

_TEXTS = (
    "process",
    "model_version",
    "model_digest",
    "feature_fingerprint",
    "configuration_digest",
    "platform_id",
)


@dataclass(frozen=True, eq=False)
class Online:
    """What the log says of n rows: as in Side, and by feature the rows whose value it does not hold."""

    matrix: NDArray[np.float64]
    score: NDArray[np.float64]
    label: NDArray[Any] | None
    error: NDArray[np.object_]
    unlogged: dict[str, NDArray[np.bool_]]
    classes: ClassScores | None = None

    @property
    def scores(self) -> NDArray[np.float64]:
        """What is compared of the scores: see compared_form."""
        return compared_form(self.score, self.classes)


def online_of(rows: LogRows, offline: Recomputed, facts: LoggedModel) -> Online:
    """Return what the log says of rows.

    Args:
        rows: of the log.
        offline: the same rows recomputed.
        facts: of the reference.
    """
    flat = rows.flat
    error = flat.column("error_code").to_numpy().astype(np.object_)
    score = flat.column("score").to_numpy().astype(np.float64)
    scored = flat.column("error_code").combine_chunks().is_null().to_numpy(zero_copy_only=False)
    matrix, lacking = rows.maps["features"].matrix(facts.feature_names)
    unlogged = {}
    for name, absent in lacking.items():
        absent = absent & scored
        if absent.any():
            at = facts.feature_names.index(name)
            matrix[at, absent] = offline.matrix[at, absent]
            unlogged[name] = absent
    label, classes = None, None
    if facts.class_scores:
        names = tuple(name for name, _ in facts.class_scores)
        classes = ClassScores(names, rows.maps["class_scores"].matrix(names)[0].T)
        label = flat.column("class_label").fill_null("").to_numpy().astype(np.object_)
    elif offline.label is not None:
        label = flat.column("label").combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)
    return Online(matrix, score, label, error, unlogged, classes)


@dataclass(frozen=True, eq=False)
class Pairing:
    """Makes pairs of rows of a batch.

    Args:
        feature_set: the reference's; `facts` what else is known of it.
        key, types: see `log_ids`.
    """

    feature_set: FeatureSet
    facts: LoggedModel
    key: tuple[Field, ...]
    types: pa.Schema

    def pairs(
        self,
        rows: LogRows,
        index: NDArray[np.int64],
        online: Online,
        offline: Recomputed,
        served: FeatureSet | None,
    ) -> Pairs:
        """Return some rows of a batch, all of one digest, as pairs.

        Args:
            rows: the batch; `online`, `offline`: its two sides.
            index: which rows.
            served: the features of the version that answered, where it is another and at hand: its further source fields are read too.
        """
        feature_set, taken = self.feature_set, rows.take(index)
        other = offline.side(feature_set.views, index)
        personal = self.facts.pii_fields
        columns, lacking = logged_columns(taken, tuple(feature_set.request), "request", personal)
        stored, lacking_too = logged_columns(taken, self.facts.stored, "stored", personal)
        columns |= stored
        lacking |= lacking_too
        for name, absent in lacking.items():
            columns[name] = _mixed(columns[name], other.columns[name], absent)
        columns |= self._further(taken, served)
        statuses = {view.name: statuses_of(taken, view.name) for view in feature_set.views}
        times = {view.name: _times(taken, view.name) for view in feature_set.views}
        bare = _bare(online, index)
        side = replace(
            bare, columns=columns, matrix=online.matrix[:, index], statuses=statuses, event_ts=times
        )
        sent = {
            f.name: (taken.maps["request"].positions(f.name) >= 0)
            | lacking.get(f.name, np.zeros(len(index), np.bool_))
            for f in feature_set.request
        }
        unlogged = lacking | {
            name: absent[index] for name, absent in online.unlogged.items() if absent[index].any()
        }
        texts = {name: [text or "" for text in taken.flat.column(name).to_pylist()] for name in _TEXTS}
        return Pairs(
            row_id=self._row_ids(taken),
            as_of=taken.times("as_of_ts"),
            served_ts=taken.times("served_ts"),
            online=side,
            offline=other,
            version=texts["model_version"],
            digest=texts["model_digest"],
            fingerprint=texts["feature_fingerprint"],
            configuration=texts["configuration_digest"],
            platform=texts["platform_id"],
            request_in_table=offline.requests.in_table[index],
            sent=sent,
            process=texts["process"],
            sequence=taken.flat.column("sequence").to_numpy(),
            overrides=_overrides(taken),
            unlogged=unlogged,
        )

    def _row_ids(self, rows: LogRows) -> list[str]:
        ids = log_ids(rows, self.key, self.types, "\0").to_pylist()
        return ["" if text.startswith("\0") else text for text in ids]

    def _further(self, rows: LogRows, theirs: FeatureSet | None) -> dict[str, Column]:
        """Return source fields that the version that answered has and the reference has not."""
        if theirs is None:
            return {}
        known = self.feature_set.sources
        further = [f for f in theirs.sources if f.name not in known]
        personal = frozenset(f.name for f in further if "pii" in f.tags)
        in_request = [f for f in further if f.name in theirs.request]
        stored = [f for f in further if f.name not in theirs.request]
        return (
            logged_columns(rows, in_request, "request", personal)[0]
            | logged_columns(rows, stored, "stored", personal)[0]
        )


def bare_pairs(rows: LogRows, index: NDArray[np.int64], online: Online, offline: Recomputed) -> Pairs:
    """Return pairs with scores alone: no inputs and features, and nothing that they are explained by."""
    texts = [""] * len(index)
    side, other = _bare(online, index), _bare(offline, index)
    return Pairs(
        row_id=texts,
        as_of=rows.times("as_of_ts"),
        served_ts=rows.times("served_ts"),
        online=side,
        offline=other,
        version=texts,
        digest=texts,
        fingerprint=texts,
        configuration=texts,
        platform=texts,
        request_in_table=offline.requests.in_table[index],
        sent={},
        process=[text or "" for text in rows.flat.column("process").to_pylist()],
        sequence=rows.flat.column("sequence").to_numpy(),
    )


def _bare(of: Online | Recomputed, index: NDArray[np.int64]) -> Side:
    """Return the answers to some rows, without inputs and features."""
    label = None if of.label is None else of.label[index]
    classes = None if of.classes is None else of.classes.take(index)
    nothing = np.zeros((0, len(index)))
    return Side({}, nothing, of.score[index], label, {}, {}, of.error[index], classes)


def is_refused(error: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Return which rows have a reason why they were refused."""
    return np.asarray(error != None, np.bool_)  # noqa: E711 - element by element


def _mixed(column: Column, other: Column, where: NDArray[np.bool_]) -> Column:
    """Return the column, with the other's values in some rows."""
    n = len(where)
    return take(concat([column, other]), np.arange(n) + n * where)


def _times(rows: LogRows, view: str) -> NDArray[np.int64]:
    values = rows.maps["event_ts"].values(view).cast(pa.int64())
    times: NDArray[np.int64] = values.fill_null(NO_TIME).to_numpy(zero_copy_only=False)
    return times


def _overrides(rows: LogRows) -> dict[str, NDArray[np.bool_]]:
    lists = rows.flat.column("overrides").combine_chunks()
    parents = pc.list_parent_indices(lists).to_numpy()
    names = pc.list_flatten(lists).dictionary_encode()
    found = {}
    for code, name in enumerate(names.dictionary.to_pylist()):
        mask = np.zeros(len(rows), np.bool_)
        mask[parents[names.indices.to_numpy() == code]] = True
        found[str(name)] = mask
    return found
