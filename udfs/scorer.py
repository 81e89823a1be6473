"""A model as one object: features, fitted constants, an estimator and what its output means. Every path scores through it.

It knows nothing of Arrow, Spark, MLflow or storage: columns in, scores out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import FunctionType, MethodType, ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Columns, DType
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import DefinitionError, ModelError
from feature_pipelines.evaluate import evaluate

__all__ = [
    "CONTRACT_VERSION",
    "Evaluator",
    "LibraryEvaluator",
    "OutputSpec",
    "Scorer",
    "Scores",
    "use_one_thread",
]

CONTRACT_VERSION = 1
"""The version of the contract between packaged features and this code: columns, schema, evaluator. A model of another is refused."""

_BLOCK = 1024
_PAD = 8


@dataclass(frozen=True)
class OutputSpec:
    """What a score means.

    Args:
        task: "classification" (score = probability of the positive class, and a label) or "regression" (score = the value).
        threshold: a row is labelled positive when score >= threshold; classification only.
    """

    task: str
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.task not in ("classification", "regression"):
            raise DefinitionError(f"task {self.task!r} must be 'classification' or 'regression'")
        if (self.threshold is None) == (self.task == "classification"):
            raise DefinitionError(
                f"a {self.task} output {'needs a' if self.threshold is None else 'takes no'} threshold"
            )

    @property
    def fields(self) -> dict[str, DType]:
        """The output columns and their types, in order."""
        score = {"score": DType("float64")}
        return {**score, "label": DType("bool")} if self.task == "classification" else score

    def columns(self, score: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Return the output columns of scores, shape (n,) each."""
        if self.threshold is None:
            return {"score": score}
        return {"score": score, "label": score >= self.threshold}


class Evaluator(Protocol):
    """Something that scores a feature-major matrix; udfs.trees.FlatTrees is one."""

    def score(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return float64 scores, shape (n_rows,), of a matrix of shape (n_features, n_rows)."""
        ...


@dataclass(frozen=True)
class LibraryEvaluator:
    """An estimator's own predict, in blocks that are zero-padded to a multiple of 8 rows and C-contiguous.

    Padding keeps the arithmetic of a row apart from how many rows stand beside it; whether that suffices for an estimator is
    measured when it is logged, not assumed. The estimator is made to use one thread (see `use_one_thread`).
    """

    estimator: Any
    task: str

    def __post_init__(self) -> None:
        use_one_thread(self.estimator)

    def score(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores; see Evaluator."""
        n_features, n_rows = matrix.shape
        scores = np.empty(n_rows, dtype=np.float64)
        for start in range(0, n_rows, _BLOCK):
            stop = min(start + _BLOCK, n_rows)
            padded = -(-(stop - start) // _PAD) * _PAD
            block = np.zeros((padded, n_features), dtype=np.float64)
            block[: stop - start] = matrix[:, start:stop].T
            scores[start:stop] = self._predict(block)[: stop - start]
        return scores

    def _predict(self, block: NDArray[np.float64]) -> NDArray[Any]:
        if self.task == "regression":
            values: NDArray[Any] = self.estimator.predict(block)
            return values
        probabilities: NDArray[Any] = self.estimator.predict_proba(block)
        if probabilities.shape[1] != 2:
            raise ModelError(f"the classifier has {probabilities.shape[1]} classes; this output is for two")
        return probabilities[:, 1]


def use_one_thread(estimator: Any) -> None:
    """Set `n_jobs` to 1 in an estimator and in all that it is made of, fitted parts included; it is changed in place.

    With more, a forest adds up its trees in the order in which threads finish, so its last bits differ from call to call; and a
    Spark task has one core. Written out, because an n_jobs of None means as many as joblib's context says.
    """
    left, seen = [estimator], set()
    while left:
        part = left.pop()
        if id(part) in seen or isinstance(part, type | FunctionType | MethodType | ModuleType):
            continue
        seen.add(id(part))
        if isinstance(part, Mapping):
            left.extend(part.values())
        elif isinstance(part, list | tuple):
            left.extend(part)
        elif isinstance(part, np.ndarray):
            left.extend(part.ravel().tolist() if part.dtype.hasobject else ())
        elif hasattr(part, "__dict__"):
            if hasattr(part, "get_params") and "n_jobs" in part.get_params(deep=False):
                part.set_params(n_jobs=1)
            left.extend(vars(part).values())


@dataclass(frozen=True)
class Scores:
    """Scored rows: the model's matrix (n_features, n_rows) and the output columns (n_rows each)."""

    matrix: NDArray[np.float64]
    outputs: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Scorer:
    """A loaded model.

    Args:
        feature_set: the model's own packaged copy of its features.
        constants: its fitted constants, as `constants_from_json` returns them.
        evaluator: flat trees where they were certified, else the library.
        output: what the scores mean.
        info: the model's recorded facts: name, fingerprint, format_version, platform_id, digest, ...
        verified: "verified" when the golden rows gave the recorded bits in this process; "tolerance" when they gave values
            within the recorded tolerance and the configuration allows that.
    """

    feature_set: FeatureSet
    constants: Mapping[str, Any]
    evaluator: Evaluator
    output: OutputSpec
    info: Mapping[str, Any]
    verified: str = "unverified"

    def score(self, columns: Columns, n_rows: int) -> Scores:
        """Return the features and scores of n_rows rows.

        Args:
            columns: every source field that the feature set reads, n_rows rows each.
            n_rows: 0 or more.

        Raises:
            FeatureRaised: a feature function raised. Exception: whatever the estimator raised.
        """
        matrix = evaluate(self.feature_set, columns, self.constants, n_rows)
        with np.errstate(
            all="ignore"
        ):  # what the process set decides nothing; a score that is not finite is looked for
            scores = self.evaluator.score(matrix)
        return Scores(matrix, self.output.columns(scores))
