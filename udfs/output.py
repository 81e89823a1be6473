"""What a model's scores mean: one number, one of two classes by a threshold, or one of several classes by their probabilities.

Everything downstream (tables, UDFs, answers, logs, proofs) goes by the columns that stand here. It knows nothing of estimators.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import DType
from feature_pipelines.errors import DefinitionError

__all__ = ["CLASS_SCORE", "MOST_CLASSES", "OutputSpec"]

MOST_CLASSES: Final = 1_000
"""Each class is a column of every table of scored rows."""

CLASS_SCORE: Final = "score_"
"""What the name of a class's column begins with, and no other output's."""

_UNNAMEABLE: Final = re.compile(r"[\s,;{}()=.`\"\\\x00-\x1f]")
_FLOAT64: Final = DType("float64")


@dataclass(frozen=True)
class OutputSpec:
    """What a score means.

    Columns, in order: `score` alone for a regression; `score` (the probability of the positive class) and a boolean `label` for two
    classes; for several, `score` (the highest probability), `label` (its class, a string; of equal ones the first), and then
    `score_{class}` for each class.

    Args:
        task: "classification" or "regression".
        threshold: a row is labelled positive when score >= threshold; for two classes only.
        classes: three or more, in the order of the estimator's; empty for two classes and for a regression. They are parts of columns'
            names, so they hold no white space and none of `,;{}()=."` nor a backslash or backtick, and differ in more than case.

    Raises:
        DefinitionError: these do not go together, or a class cannot be part of a column's name.

    >>> list(OutputSpec("classification", classes=("low", "mid", "high")).fields)
    ['score', 'label', 'score_low', 'score_mid', 'score_high']
    """

    task: str
    threshold: float | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in ("classification", "regression"):
            raise DefinitionError(f"task {self.task!r} must be 'classification' or 'regression'")
        object.__setattr__(self, "classes", tuple(map(str, self.classes)))
        if self.classes:
            self._check_classes()
        elif (self.threshold is None) == (self.task == "classification"):
            raise DefinitionError(
                f"a {self.task} output {'needs a' if self.threshold is None else 'takes no'} threshold"
            )

    def _check_classes(self) -> None:
        if self.task != "classification" or self.threshold is not None:
            raise DefinitionError(
                "an output of several classes is a classification without a threshold: the highest probability decides"
            )
        if not 3 <= len(self.classes) <= MOST_CLASSES:
            raise DefinitionError(
                f"an output of several classes has 3 to {MOST_CLASSES:,}, not {len(self.classes)}; two classes have a threshold"
            )
        unfit = [c for c in self.classes if not c or _UNNAMEABLE.search(c) is not None]
        if unfit:
            raise DefinitionError(
                f"{len(unfit)} class(es) cannot be part of a column's name: {', '.join(map(repr, unfit[:5]))}. Name them without "
                "white space, dots, quotes, backslashes and any of ,;{}()= in the outcomes' table"
            )
        seen: dict[str, str] = {}
        for c in self.classes:
            if c.casefold() in seen:
                raise DefinitionError(
                    f"the classes {seen[c.casefold()]!r} and {c!r} are one name to Spark and Delta, which do not tell case apart"
                )
            seen[c.casefold()] = c

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> OutputSpec:
        """Return what `to_json` gave."""
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values; without several classes as releases wrote it that knew of none."""
        output: dict[str, Any] = {"task": self.task, "threshold": self.threshold}
        return {**output, "classes": list(self.classes)} if self.classes else output

    @property
    def n_classes(self) -> int:
        """How many classes it tells apart; 2 for a regression as well, which has one score a row as two classes have."""
        return len(self.classes) or 2

    @property
    def score_names(self) -> tuple[str, ...]:
        """The columns that hold what an evaluator gave: one, or one for each of several classes."""
        return tuple(CLASS_SCORE + c for c in self.classes) or ("score",)

    @functools.cached_property
    def fields(self) -> Mapping[str, DType]:
        """The output columns and their types, in order."""
        if self.classes:
            of_classes = dict.fromkeys(self.score_names, _FLOAT64)
            return {"score": _FLOAT64, "label": DType("string"), **of_classes}
        return (
            {"score": _FLOAT64, "label": DType("bool")} if self.threshold is not None else {"score": _FLOAT64}
        )

    @functools.cached_property
    def _labels(self) -> NDArray[np.object_]:
        return np.array(self.classes, dtype=np.object_)

    def columns(self, scores: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """Return the output columns of scores, shape (n,) each.

        Args:
            scores: what an evaluator gave: shape (n,), or (n, n_classes) of several classes.
        """
        if self.classes:
            best = scores.argmax(axis=1)  # the first of equal ones
            of_classes = {name: np.ascontiguousarray(scores[:, i]) for i, name in enumerate(self.score_names)}
            return {"score": scores[np.arange(len(best)), best], "label": self._labels[best], **of_classes}
        if self.threshold is None:
            return {"score": scores}
        return {"score": scores, "label": scores >= self.threshold}

    def scores(self, outputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Return what the evaluator gave, of the output columns that `columns` made of it."""
        if not self.classes:
            return outputs["score"]
        return np.stack([outputs[name] for name in self.score_names], axis=1)
