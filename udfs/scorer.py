"""A model as one object: features, fitted constants, an estimator and what its output means. Every path scores through it.

It knows nothing of Arrow, Spark, MLflow or storage: columns in, scores out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from types import FunctionType, MethodType, ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Columns
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ModelError
from feature_pipelines.evaluate import evaluate
from udfs.output import OutputSpec
from udfs.threads import find_pools, hold_one_thread

__all__ = [
    "CONTRACT_VERSION",
    "Evaluator",
    "LibraryEvaluator",
    "OutputSpec",
    "Scorer",
    "Scores",
    "Strategy",
    "parts_of",
    "use_one_thread",
]

CONTRACT_VERSION = 1
"""The version of the contract between packaged features and this code: columns, schema, evaluator. A model of another is refused."""

_THREADS = frozenset({"n_jobs", "n_threads", "nthread", "nthreads", "num_thread", "num_threads"})
"""scikit-learn's names for the number of threads, and LightGBM's and XGBoost's."""


class Evaluator(Protocol):
    """Something that scores a feature-major matrix; udfs.trees.FlatTrees is one."""

    def score(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return float64 scores of a matrix of shape (n_features, n_rows): shape (n_rows,), or (n_rows, n_classes) of several."""
        ...


@dataclass(frozen=True)
class Strategy:
    """How an estimator is asked, so that a row's bits depend on nothing beside it. Chosen by measurement when a model is logged.

    Args:
        block_rows: rows of one call at most; a multiple of pad_rows.
        pad_rows: a call's rows are filled up to a multiple of it. Equal to block_rows, every call has one shape.
        fill: what fills up: "zero", or "row", the block's first row again (a value that the estimator takes for sure).
        one_thread: hold the native thread pools (BLAS, OpenMP) of the process at one thread; see `udfs.threads.hold_one_thread`.

    >>> Strategy.from_json({"block_rows": 64, "pad_rows": 64, "fill": "row", "one_thread": True}).block_rows
    64
    """

    block_rows: int = 1024
    pad_rows: int = 8
    fill: str = "zero"
    one_thread: bool = False

    def __post_init__(self) -> None:
        whole = type(self.block_rows) is int and type(self.pad_rows) is int
        if not (whole and 0 < self.pad_rows <= self.block_rows and self.block_rows % self.pad_rows == 0):
            raise ModelError(
                f"a strategy's block_rows ({self.block_rows!r}) must be a multiple of its pad_rows ({self.pad_rows!r}), at least 1"
            )
        if self.fill not in ("zero", "row") or type(self.one_thread) is not bool:
            raise ModelError(
                f"a strategy's fill must be 'zero' or 'row' and one_thread a bool, not {self.fill!r} and {self.one_thread!r}"
            )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Strategy:
        """Return what `to_json` gave.

        Raises:
            ModelError: a key or a value that this release does not know: it would score differently.
        """
        names = [field.name for field in fields(cls)]
        if sorted(value) != sorted(names):
            raise ModelError(
                f"the model's strategy has the keys {', '.join(sorted(value))}; this release knows {', '.join(sorted(names))}. "
                "Use the release that wrote it, or train again"
            )
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class LibraryEvaluator:
    """An estimator's own predict, on C-contiguous blocks whose size and filling a strategy says.

    Whether the strategy keeps the arithmetic of a row apart from what stands beside it is measured when the model is logged,
    not assumed. The estimator is made to use one thread (see `use_one_thread`).

    Args:
        estimator: fitted.
        task: "classification" or "regression".
        strategy: how it is asked.
        n_classes: how many a classifier has; with more than two, a row has a score for each, in the order of its `classes_`.
    """

    estimator: Any
    task: str
    strategy: Strategy = Strategy()
    n_classes: int = 2

    def __post_init__(self) -> None:
        use_one_thread(self.estimator)
        if self.strategy.one_thread:
            find_pools()

    def score(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores; see Evaluator."""
        n_features, n_rows = matrix.shape
        plan = self.strategy
        if plan.one_thread:
            hold_one_thread()
        shape = n_rows if self.n_classes == 2 else (n_rows, self.n_classes)
        scores = np.empty(shape, dtype=np.float64)
        for start in range(0, n_rows, plan.block_rows):
            stop = min(start + plan.block_rows, n_rows)
            padded = -(-(stop - start) // plan.pad_rows) * plan.pad_rows
            block = np.zeros((padded, n_features), dtype=np.float64)
            block[: stop - start] = matrix[:, start:stop].T
            if plan.fill == "row":
                block[stop - start :] = block[0]
            scores[start:stop] = self.predict(block)[: stop - start]
        return scores

    def predict(self, block: NDArray[np.float64]) -> NDArray[Any]:
        """Return what the estimator itself says of rows, shape (n_rows, n_features), in one call: see Evaluator for its shape."""
        if self.task == "regression":
            values: NDArray[Any] = self.estimator.predict(block)
            return values
        probabilities: NDArray[Any] = self.estimator.predict_proba(block)
        if probabilities.shape[1] != self.n_classes:
            wanted = "two" if self.n_classes == 2 else self.n_classes
            raise ModelError(
                f"the classifier has {probabilities.shape[1]} classes; this output is for {wanted}"
            )
        return probabilities[:, 1] if self.n_classes == 2 else probabilities


def parts_of(estimator: Any) -> Iterator[Any]:
    """Yield an estimator and each object that it is made of, fitted parts included, once; not what classes and functions hold."""
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
            left.extend(vars(part).values())
            yield part


def use_one_thread(estimator: Any) -> None:
    """Set `n_jobs`, under each of its names, to 1 in an estimator and in all that it is made of; it is changed in place.

    With more, a forest adds up its trees in the order in which threads finish, so its last bits differ from call to call; and a
    Spark task has one core. Written out, because an n_jobs of None means as many as joblib's context says.
    """
    for part in parts_of(estimator):
        if hasattr(part, "get_params"):
            named = _THREADS.intersection(part.get_params(deep=False))
            if named:
                part.set_params(**dict.fromkeys(sorted(named), 1))


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
