"""A version as it scores here, and its parts: feature functions, constants, estimator, each usable with another version's.

What is computed here is computed by the one evaluator and by the models' own estimators; nothing is imitated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, Columns, take
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.evaluate import FeatureRaised, evaluate
from feature_pipelines.reasons import RowsRefused
from feature_pipelines.schema import Schema, build_column, to_wire
from jobs.proof.class_scores import in_form_of
from udfs.platform import platform_id
from udfs.scorer import OutputSpec, Scorer

__all__ = [
    "Mask",
    "Matrix",
    "PlatformReplay",
    "World",
    "as_declared",
    "features_of",
    "read_fields",
    "scores_of",
]

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class World:
    """A version as it scores here.

    Args:
        scorer: the loaded model.
        version: its number in the registry.
        digest, fingerprint: of its content and of its feature functions.
        platform_id: of the process that scores with it.
        bundle: its directory, for whoever scores with it in another process; None = nobody can.
    """

    scorer: Scorer
    version: str
    digest: str
    fingerprint: str
    platform_id: str
    bundle: Path | None = None

    @classmethod
    def of(cls, scorer: Scorer, version: str, bundle: Path | None = None) -> World:
        """Return a loaded version as it scores in this process."""
        info = scorer.info
        return cls(scorer, version, info["digest"], info["feature_fingerprint"], platform_id(), bundle)


class PlatformReplay(Protocol):
    """Scores rows as another platform does; jobs.proof.platforms has one that does so in a subprocess."""

    def __call__(
        self, world: World, platform: str, columns: Columns, n_rows: int
    ) -> tuple[Matrix, Matrix] | None:
        """Return features (n_features, n_rows) and scores as an evaluator gives them; None = it cannot be had here.

        A refused row has NaN.
        """
        ...


def read_fields(feature_set: FeatureSet) -> list[str]:
    """Return the source fields that some function reads."""
    names = dict.fromkeys(name for step in feature_set.steps for name in step.inputs)
    return [name for name in names if name in feature_set.sources]


def as_declared(columns: Columns, given: Schema, wanted: FeatureSet) -> dict[str, Column] | None:
    """Return the columns that a feature set reads in the types that it declares; None where one is missing.

    Args:
        columns: in the types that `given` declares.
        given: the schema they come by.
        wanted: the feature set; a field of another type is converted through the wire form, as a request would be.
    """
    found = {}
    for name in read_fields(wanted):
        if name not in columns or name not in given:
            return None
        declared, field = given[name], wanted.sources[name]
        found[name] = columns[name]
        if (declared.dtype, declared.nullable) != (field.dtype, field.nullable):
            found[name] = build_column(field, to_wire(declared, columns[name]))[0]
    return found


def features_of(
    feature_set: FeatureSet, columns: Columns, constants: Mapping[str, Any], n_rows: int
) -> tuple[Matrix, Mask]:
    """Return the features of rows, and on which rows a function raised, or which it refused; those have NaN."""
    matrix = np.full((len(feature_set.feature_names), n_rows), np.nan)
    raised = np.zeros(n_rows, dtype=np.bool_)
    try:
        return evaluate(feature_set, columns, constants, n_rows), raised
    except RowsRefused as exc:
        raised[[error.row for error in exc.errors]] = True
        parts = [np.flatnonzero(~raised)]
    except FeatureRaised:
        if n_rows == 0:
            raise
        if n_rows == 1:
            return matrix, ~raised
        parts = np.array_split(np.arange(n_rows), 2)
    for part in parts:
        taken = {name: take(column, part) for name, column in columns.items()}
        matrix[:, part], raised[part] = features_of(feature_set, taken, constants, len(part))
    return matrix, raised


def scores_of(scorer: Scorer, matrix: Matrix, wanted: OutputSpec | None = None) -> Matrix:
    """Return an estimator's scores of features in the form of an output, see class_scores.in_form_of; NaN where it raises.

    Args:
        scorer: whose estimator.
        matrix: features, (n_features, n_rows).
        wanted: the reference's output; None = its own.
    """
    with np.errstate(all="ignore"):
        try:
            scores = scorer.evaluator.score(np.ascontiguousarray(matrix))
        except Exception:  # noqa: BLE001 - another version's estimator on these features: whatever it is, no score
            of_classes = (len(scorer.output.classes),) if scorer.output.classes else ()
            scores = np.full((matrix.shape[1], *of_classes), np.nan)
        return in_form_of(wanted or scorer.output, scorer.output, scores)
