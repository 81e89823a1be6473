"""What of a logged answer the version that gave it does not give again, here, for the very inputs that were logged.

What remains then is no input's doing: the feature functions that ran were others than those registered, or the platform was
another. The logged features decide which: if the estimator gives the logged score for them, the features are where it went apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Columns, take
from feature_pipelines.parity import differing_bits, differing_rows, row_ulps, ulp_distance
from jobs.proof.class_scores import in_form_of
from jobs.proof.pairs import Pairs
from jobs.proof.worlds import Mask, Matrix, PlatformReplay, World, features_of, scores_of
from udfs.scorer import OutputSpec

__all__ = ["FEW_ULPS", "Residual", "residual"]

FEW_ULPS: Final = 256
"""How far other kernels for exponentials and sums of some hundred terms may be off; a value that went through float32 is 2**28 off."""


@dataclass(frozen=True, eq=False)
class Residual:
    """What is left of n rows when every input is the logged one.

    Args:
        world: the version that answered.
        features: what its registered code gives here for the logged inputs, (n_features, n).
        target: the logged features in its order; a feature that was not logged is what `features` has.
        differs: where these two differ, (n_features, n).
        score_ok: whether its estimator gives the logged score for the logged features.
        code: whether features that are left are those of other code under the same fingerprint.
        code_features: which, (n_features, n).
        platform: whether something that is left is another platform's: features, or the score alone; never where that platform
            was replayed, gave the logged features and another score.
        platform_features: which features: those that it gives where it was replayed, else those that are off by few ULPs.
        replayed: whether that platform was replayed, and gave what is left to it as it was logged.
    """

    world: World
    features: Matrix
    target: Matrix
    differs: Mask
    score_ok: Mask
    code: Mask
    code_features: Mask
    platform: Mask
    platform_features: Mask
    replayed: Mask


def residual(
    pairs: Pairs,
    names: Sequence[str],
    world: World,
    columns: Columns,
    unlogged: Mask | None = None,
    replay: PlatformReplay | None = None,
    output: OutputSpec | None = None,
) -> Residual:
    """Return what the version leaves unexplained of the logged answers.

    Args:
        pairs: n rows that were scored online.
        names: of the rows of the pairs' matrices.
        world: the version that answered.
        columns: the logged inputs, in its own types.
        unlogged: where the log has no value of a feature of the version; taken for what its code gives.
        replay: scores as another platform does.
        output: the reference's, in whose form scores are compared; None = the version's own.
    """
    output = output or world.scorer.output
    logged_scores = pairs.online.scores
    n, scorer = len(pairs), world.scorer
    features, _ = features_of(scorer.feature_set, columns, scorer.constants, n)
    target = _in_order(pairs.online.matrix, names, scorer.feature_set.feature_names, features)
    if unlogged is not None:
        target = np.where(unlogged, features, target)
    differs = differing_bits(features, target)
    scores = scores_of(scorer, target, output)
    score_ok = ~differing_rows(scores, logged_scores)
    is_elsewhere = np.array([name != world.platform_id for name in pairs.platform], dtype=np.bool_)
    left = is_elsewhere & (differs.any(axis=0) | ~score_ok)
    platform_features, score_only = np.zeros_like(differs), np.zeros(n, dtype=np.bool_)
    replayed = np.zeros(n, dtype=np.bool_)
    rows = np.flatnonzero(left)
    if rows.size:
        logged, score = np.take(target, rows, axis=1), logged_scores[rows]
        there = _replayed(pairs, world, columns, replay, rows, output)
        same = ~differing_bits(there.features, logged)
        told = there.is_done & same.all(
            axis=0
        )  # of other features its score says nothing about the logged one
        whole = told & ~differing_rows(there.score, score)
        # that platform was replayed and gives another score, and so does this one
        refuted = told & ~whole & ~score_ok[rows]
        few_score = row_ulps(scores[rows], score) <= FEW_ULPS
        likely = np.where(there.is_done, same, _is_few(np.take(features, rows, axis=1), logged))
        of_platform = differs[:, rows] & (whole | (likely & few_score)) & ~refuted
        platform_features[:, rows] = of_platform
        score_only[rows] = whole | (few_score & ~score_ok[rows] & ~refuted)
        replayed[rows] = whole | (there.is_done & of_platform.any(axis=0))
    platform = platform_features.any(axis=0) | score_only
    code_features = differs & ~platform_features & (score_ok | platform)
    code: Mask = np.asarray(code_features.any(axis=0))
    return Residual(
        world,
        features,
        target,
        differs,
        score_ok,
        code,
        code_features,
        platform,
        platform_features,
        replayed,
    )


def _in_order(logged: Matrix, names: Sequence[str], wanted: Sequence[str], features: Matrix) -> Matrix:
    if tuple(names) == tuple(wanted):
        return logged
    place = {name: row for row, name in enumerate(names)}
    rows = [logged[place[name]] if name in place else features[i] for i, name in enumerate(wanted)]
    return np.stack(rows)


class _Elsewhere(NamedTuple):
    """What the platforms of m rows, replayed here, give for the logged inputs, where that was done."""

    is_done: Mask
    features: Matrix
    score: Matrix


def _replayed(
    pairs: Pairs,
    world: World,
    columns: Columns,
    replay: PlatformReplay | None,
    rows: NDArray[np.int64],
    output: OutputSpec,
) -> _Elsewhere:
    shape = (len(world.scorer.feature_set.feature_names), len(rows))
    nothing = np.full_like(pairs.online.scores[rows], np.nan)
    found = _Elsewhere(np.zeros(len(rows), dtype=np.bool_), np.full(shape, np.nan), nothing)
    ids = np.array(pairs.platform, dtype=np.object_)[rows]
    for platform in sorted(set(ids)) if replay is not None else ():
        at = np.flatnonzero(ids == platform)
        part = {name: take(column, rows[at]) for name, column in columns.items()}
        there = replay(world, platform, part, len(at)) if replay is not None else None
        if there is not None:
            found.is_done[at] = True
            found.features[:, at] = there[0]
            found.score[at] = in_form_of(output, world.scorer.output, there[1])
    return found


def _is_few(left: Matrix, right: Matrix) -> Mask:
    few: NDArray[np.bool_] = ulp_distance(left, right) <= FEW_ULPS
    return few
