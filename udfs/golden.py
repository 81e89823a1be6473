"""Golden rows: a few rows that every process replays when it loads a model, with the bits of their features and scores.

This module knows nothing of files: what it records and reads are JSON values.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Columns, take
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ModelIntegrityError
from feature_pipelines.parity import differing_bits, differing_rows, row_ulps, ulp_distance
from feature_pipelines.schema import build_column, to_wire
from udfs.output import OutputSpec
from udfs.platform import platform_id
from udfs.scorer import Scorer
from udfs.trees import FlatTrees

__all__ = ["GoldenRows", "record_golden", "replay_golden"]

_ALONE = 8  # of them are replayed alone too


@dataclass(frozen=True, eq=False)
class GoldenRows:
    """What a model was logged with, as it was recorded: nothing was scored here.

    Args:
        info: as `Scorer.info`.
        feature_set: the model's own packaged copy of its features.
        columns: every source field in the wire form, n values each.
        matrix: the features, shape (n_features, n).
        score: shape (n,), or (n, n_classes) of several classes.
    """

    info: Mapping[str, Any]
    feature_set: FeatureSet
    columns: Mapping[str, Sequence[Any]]
    matrix: NDArray[np.float64]
    score: NDArray[np.float64]

    @classmethod
    def of(cls, info: Mapping[str, Any], feature_set: FeatureSet, recorded: Mapping[str, Any]) -> GoldenRows:
        """Return what `record_golden` recorded of a model."""
        matrix = _decode(recorded["features"]).reshape(len(feature_set.feature_names), recorded["rows"])
        score = _decode(recorded["score"])
        output = OutputSpec.from_json(info["output"])
        shaped = score.reshape(recorded["rows"], output.n_classes) if output.classes else score
        return cls(info, feature_set, recorded["columns"], matrix, shaped)


def record_golden(scorer: Scorer, columns: Columns, n: int) -> dict[str, Any]:
    """Return n golden rows as JSON values, with the bits of the features and scores that they have here."""
    scores = scorer.score(columns, n)
    return {
        "columns": {f.name: to_wire(f, columns[f.name]) for f in scorer.feature_set.sources},
        "rows": n,
        "features": _encode(scores.matrix),
        "score": _encode(scorer.output.scores(scores.outputs)),
    }


def replay_golden(scorer: Scorer, golden: GoldenRows, allow_tolerance: bool) -> str:
    """Return how this process reproduces the golden rows: "verified" or "tolerance"; raise when neither.

    They are asked together, in reverse order, and some alone: a strategy that was certified elsewhere may depend on the batch here.
    Flat trees are told to ask the compiled loop as well, once this process has it.

    Args:
        scorer: the model; golden: what it was logged with.
        allow_tolerance: see `udfs.bundle.load_bundle`.

    Raises:
        ModelIntegrityError: features or scores differ, by more than is allowed.
    """
    n = len(golden.score)
    columns = {f.name: build_column(f, golden.columns[f.name])[0] for f in scorer.feature_set.sources}
    wrong_features = np.zeros(len(golden.matrix), np.bool_)
    wrong_scores = np.zeros(n, np.bool_)
    worst = worst_feature = 0
    promised = []
    alone = np.unique(np.linspace(0, n - 1, _ALONE).astype(np.int64))
    for index in (np.arange(n), np.arange(n)[::-1], *alone[:, None]):
        scores = scorer.score({name: take(c, index) for name, c in columns.items()}, len(index))
        matrix, score = scores.matrix, scorer.output.scores(scores.outputs)
        wrong_features |= differing_bits(matrix, golden.matrix[:, index]).any(axis=1)
        wrong_scores[index] |= differing_rows(score, golden.score[index])
        worst = max(worst, int(row_ulps(score, golden.score[index]).max()))
        worst_feature = max(worst_feature, int(ulp_distance(matrix, golden.matrix[:, index]).max(initial=0)))
        promised.append((matrix, score))
    tolerance = int(scorer.info["tolerance_ulps"])
    is_equal = not wrong_features.any() and not wrong_scores.any()
    if is_equal or (allow_tolerance and max(worst, worst_feature) <= tolerance and tolerance > 0):
        if isinstance(scorer.evaluator, FlatTrees):
            scorer.evaluator.prove_loop_on(promised)
        return "verified" if is_equal else "tolerance"
    names = [
        name for name, wrong in zip(scorer.feature_set.feature_names, wrong_features, strict=True) if wrong
    ]
    differing = f"{', '.join(names[:5])} (worst by {_said(worst_feature)})" if names else "none"
    raise ModelIntegrityError(
        f"model {scorer.info['name']!r} does not reproduce its golden rows here: {int(wrong_scores.sum())} of {n} scores differ "
        f"(worst by {_said(worst)}, recorded tolerance {tolerance}), features that differ: {differing}. It was "
        f"logged on platform {scorer.info['platform_id']}, this is {platform_id()}. Run it there, train it here, or set "
        "model.allow_tolerance=true if its tolerance will do",
        worst_ulps=worst,
        worst_feature_ulps=worst_feature,
        features=names,
    )


def _said(ulps: int) -> str:
    return "NaN against a number" if ulps == np.iinfo(np.uint64).max else f"{ulps} ULP"


def _encode(values: NDArray[np.float64]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f8").tobytes()).decode()


def _decode(text: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text), dtype="<f8").astype(np.float64)
