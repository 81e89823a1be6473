"""What is known of a request once it was answered: what a prediction log writes down. No Arrow, no files: data alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column
from feature_pipelines.schema import Field
from udfs.platform import platform_id
from udfs.scorer import Scorer

__all__ = ["Answered", "LoggedModel"]


@dataclass(frozen=True, eq=False)
class LoggedModel:
    """What a prediction log says of the model on every row.

    Args:
        name, version, digest, fingerprint: of the model; "" where unknown.
        platform_id: of this process.
        configuration_digest: of the settings that this process serves with.
        feature_names: the rows of the matrix.
        fields: what a request may carry, in order.
        row_id: the fields that identify a row, for sampling; empty = all that it carries.
        pii_fields, pii_features: the fields tagged "pii", and the features that are computed from one.
        stored: the fields of the views, in order.
        class_scores: of a model of several classes, each class and the name of its score in an answer.
        binary: the fields whose values may be large, such as images.
    """

    name: str
    version: str
    digest: str
    fingerprint: str
    platform_id: str
    configuration_digest: str
    feature_names: tuple[str, ...]
    fields: tuple[str, ...]
    row_id: tuple[str, ...]
    pii_fields: frozenset[str]
    pii_features: frozenset[str]
    stored: tuple[Field, ...] = ()
    class_scores: tuple[tuple[str, str], ...] = ()
    binary: tuple[str, ...] = ()

    @classmethod
    def of(cls, scorer: Scorer, version: str | None, configuration_digest: str) -> LoggedModel:
        """Return the facts of a loaded model."""
        feature_set, output = scorer.feature_set, scorer.output
        tainted = {f.name for f in feature_set.sources if "pii" in f.tags}
        fields = frozenset(tainted)
        for step in feature_set.steps:
            if tainted & set(step.inputs):
                tainted |= {step.name, *step.row_names}
        return cls(
            name=scorer.info["name"],
            version=version or "",
            digest=scorer.info.get("digest", ""),
            fingerprint=scorer.info.get("feature_fingerprint", ""),
            platform_id=platform_id(),
            configuration_digest=configuration_digest,
            feature_names=feature_set.feature_names,
            fields=feature_set.sources.names,
            row_id=feature_set.row_id,
            pii_fields=fields,
            pii_features=frozenset(tainted) & frozenset(feature_set.feature_names),
            stored=tuple(declared for view in feature_set.views for declared in view.fields),
            class_scores=tuple(zip(output.classes, output.score_names, strict=True))
            if output.classes
            else (),
            binary=tuple(f.name for f in feature_set.sources if f.dtype.kind == "binary"),
        )


@dataclass(frozen=True, eq=False)
class Answered:
    """One request and its answers, as the prediction log takes them.

    Args:
        model: the facts of the model.
        served_ts: the clock when the request came, microseconds.
        as_of: of each row, microseconds.
        rows: as they came.
        answers: one a row.
        features: the matrix of the scored rows, and `index` which rows those are.
        statuses, event_ts: by view, a row each; None = the rows were never looked up.
        latency_us: of the whole request: reading the store, features, model; all 0 = it failed by our fault, nothing was measured.
        stored: by stored field, its column of all rows as the model read it: looked up, defaulted or sent; read-only, so that a
            reference is as good as a copy.
    """

    model: LoggedModel
    served_ts: int
    as_of: Sequence[int]
    rows: Sequence[Any]
    answers: Sequence[Mapping[str, Any]]
    features: NDArray[np.float64]
    index: Sequence[int]
    statuses: Mapping[str, Sequence[int]]
    event_ts: Mapping[str, Sequence[int | None]]
    latency_us: tuple[int, int, int]
    stored: Mapping[str, Column] = field(default_factory=dict)
