"""What a path is, and what it says of a row: the one protocol behind which every way of scoring stands to be compared.

This module knows no path, no server and no Spark, nor how answers are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from feature_pipelines.columns import DType
from feature_pipelines.errors import UnavailableError
from feature_pipelines.wire import parse
from udfs.output import CLASS_SCORE

__all__ = ["Answer", "Row", "ScoringPath", "answer_of", "as_answered", "class_scores_of"]

Row = Mapping[str, Any]
"""One row in the wire form: the request's fields and every stored field."""

_FLOAT64 = DType("float64")


@dataclass(frozen=True)
class Answer:
    """What a path said of one row: it is scored, or has a reason code.

    Args:
        score: None where it was refused.
        label: None where it was refused, and for a regression; of several classes one's name.
        features: the model's features in the set's order; None where the path does not return them.
        code: why it was refused; None where it was scored.
        field: the field that the refusal names.
        digest, version, verified: of the model that answered, as far as the answer names it.
        classes: of a model of several classes the score of each by its column's name; None of others.
    """

    score: float | None = None
    label: bool | str | None = None
    features: Sequence[float] | None = field(default=None, repr=False)
    code: str | None = None
    field: str = ""
    digest: str | None = None
    version: str | None = None
    verified: str | None = None
    classes: Mapping[str, float] | None = None


class ScoringPath(Protocol):
    """One way to score rows. A new one is a class with these two members, and a line in `jobs.proof.paths.PATHS`."""

    @property
    def cannot_carry(self) -> frozenset[str]:
        """The codes by which it refuses a good row that it cannot carry exactly, as CSV a null text; empty for an exact path."""
        ...

    def score(self, rows: Sequence[Row]) -> Sequence[Answer]:
        """Return one answer per row, in order.

        Raises:
            OnescoreError: the path as a whole cannot be asked.
        """
        ...


def answer_of(said: Mapping[str, Any], feature_names: Sequence[str]) -> Answer:
    """Return what an online answer says: that of `OnlineScorer`, the pyfunc and both servers.

    Args:
        said: the answer to one row.
        feature_names: the model's, in order.
    """
    error = said.get("error")
    if error is not None:
        return Answer(code=str(error["code"]), field=str(error["field"]))
    values = said.get("features")
    features = None if values is None else [_number(values[name]) for name in feature_names]
    return Answer(
        score=_number(said["score"]),
        label=said.get("label"),
        features=features,
        digest=said.get("digest"),
        version=said.get("model_version"),
        verified=said.get("verified"),
        classes=class_scores_of(said),
    )


def class_scores_of(said: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the scores of several classes among an answer's or a row's values, by name; None where there are none."""
    return {name: _number(value) for name, value in said.items() if name.startswith(CLASS_SCORE)} or None


def as_answered(path: str, answers: Sequence[Any], rows: Sequence[Any]) -> Sequence[Any]:
    """Return the answers if there is one for each row.

    Raises:
        UnavailableError: there are more or fewer: then none can be told to be of a row.
    """
    if len(answers) != len(rows):
        raise UnavailableError(f"{path}: {len(answers)} answers to {len(rows)} rows")
    return answers


def _number(value: Any) -> float:
    return float(np.nan) if value is None else float(parse(_FLOAT64, value))
