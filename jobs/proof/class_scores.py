"""The scores of several classes on one side of a comparison, and any version's scores in the form of the reference's.

A version of other classes, or of none, is compared by the score and by the classes that the reference has. This module is data alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from feature_pipelines.parity import differing_bits, ulp_distance
from udfs.scorer import OutputSpec

__all__ = ["CLASS_SCORES", "ClassScores", "compared_form", "in_form_of", "ulps_apart"]

CLASS_SCORES = pa.map_(pa.string(), pa.float64())
"""The type of a column with the score of each class by its name."""


@dataclass(frozen=True, eq=False)
class ClassScores:
    """The scores of several classes of n rows.

    Args:
        names: the classes, in the reference's order.
        values: float64, shape (n, n_classes); NaN where a row has an error, or its log no such class.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]

    def take(self, index: NDArray[Any]) -> ClassScores:
        """Return the rows that `index` (integers or a mask) selects, in its order."""
        return ClassScores(self.names, self.values[index])

    def to_arrow(self, refused: NDArray[np.bool_]) -> pa.Array:
        """Return them as CLASS_SCORES, null where a row was refused."""
        n, k = self.values.shape
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * k)
        keys = pa.DictionaryArray.from_arrays(
            np.tile(np.arange(k, dtype=np.int32), n), pa.array(self.names, pa.string())
        )
        maps = pa.MapArray.from_arrays(offsets, keys.cast(pa.string()), pa.array(self.values.ravel()))
        return pa.array([None] * n, CLASS_SCORES) if refused.all() else _masked(maps, refused)

    @classmethod
    def of_arrow(cls, names: tuple[str, ...], maps: pa.Array) -> ClassScores:
        """Return what `to_arrow` gave: NaN where a row is null or lacks a class."""
        values = np.full((len(maps), len(names)), np.nan)
        place = {name: i for i, name in enumerate(names)}
        for row, entries in enumerate(maps.to_pylist()):
            for name, value in entries or ():
                if name in place:
                    values[row, place[name]] = value
        return cls(names, values)


def _masked(maps: pa.MapArray, refused: NDArray[np.bool_]) -> pa.Array:
    if not refused.any():
        return maps
    return maps.take(pa.array(np.arange(len(maps)), mask=refused))


def compared_form(score: NDArray[np.float64], classes: ClassScores | None) -> NDArray[np.float64]:
    """Return what is compared of rows: the score, shape (n,), or with several classes (n, 1 + n_classes), the score first."""
    return score if classes is None else np.column_stack([score, classes.values])


def ulps_apart(
    online: NDArray[np.float64], offline: NDArray[np.float64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return how far apart rows are, the maximum where one side has no score; and which of a row's values it is that differs so.

    Of several classes the largest distance counts. A class of which one side alone has a score has none.

    Args:
        online, offline: in the form of compared_form.
    """
    distance = ulp_distance(online, offline)
    if distance.ndim == 1:
        return distance, np.zeros(len(distance), dtype=np.int64)
    distance[:, 1:][np.isnan(online[:, 1:]) != np.isnan(offline[:, 1:])] = 0
    place = distance.argmax(axis=1)
    same = distance[np.arange(len(place)), place] == 0  # a sign of zero, or a class that one side lacks
    place[same] = differing_bits(online[same], offline[same]).argmax(axis=1)
    return distance.max(axis=1, initial=0), place


def in_form_of(wanted: OutputSpec, output: OutputSpec, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a version's scores in the form in which the reference's are compared; see compared_form.

    Args:
        wanted: the reference's output.
        output: the version's own.
        scores: what its evaluator gave.
    """
    columns: Mapping[str, NDArray[Any]] = output.columns(scores)
    if not wanted.classes:
        return np.asarray(columns["score"])
    nothing = np.full(len(scores), np.nan)
    return np.column_stack([columns["score"], *(columns.get(name, nothing) for name in wanted.score_names)])
