"""Why a row was refused online: its reason and what became of its look-ups say so, because it has no features to compare.

A refusal by a feature or by the model is replayed: the inputs of the batch, one group exchanged for the logged one, through the
code that every path scores with, until the same reason comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import Column, take
from feature_pipelines.lookup import Status
from feature_pipelines.reasons import Reason
from feature_pipelines.views import FeatureView
from jobs.proof.differences import How
from jobs.proof.groups import ABSENT, ORDER, Cause, Groups, input_groups, status_causes
from jobs.proof.pairs import Pairs
from jobs.proof.worlds import World
from udfs.rows import score_columns

__all__ = ["Refusal", "explain_refusals"]

_OF_VIEW: Final = frozenset(
    {
        Reason.STORED_FEATURES_MISSING,
        Reason.AS_OF_BEFORE_STORE,
        Reason.STORE_UNAVAILABLE,
        Reason.STORED_VALUE_UNREADABLE,
    }
)
_NOT_REPRODUCED: Final = "MODEL_NOT_REPRODUCED"  # see udfs.online
_IMAGE: Final = frozenset(reason for reason in Reason if reason.startswith("IMAGE_"))
_RAISED: Final = frozenset({Reason.FEATURE_ERROR, Reason.MODEL_ERROR, Reason.NON_FINITE_SCORE, *_IMAGE})
_HAS_ROW: Final = (Status.PRESENT, Status.OVERRIDDEN)


class Refusal(NamedTuple):
    """Why a row was refused online: see jobs.proof.causes.Explained."""

    cause: Cause
    where: str
    parts: tuple[Cause, ...]
    detail: str


def explain_refusals(pairs: Pairs, reference: World, served: World | None) -> list[Refusal]:
    """Return why each row was refused online; offline it was scored, or refused for another reason.

    Of a view: MISSING, EXPIRED or FUTURE by its status; CONFIGURATION where the batch found the same and did not refuse. By the
    contract: DATA_TYPE, or NULL_FILL for a null. By a process that could not reproduce the model: PLATFORM. By a feature or the
    model: what, exchanged, has the same reason come out.
    """
    feature_set = reference.scorer.feature_set
    inputs = input_groups(pairs, feature_set, set(feature_set.sources.names))
    by_status = {view.name: status_causes(pairs, view) for view in feature_set.views}
    found: list[Refusal] = []
    for row, reason in enumerate(pairs.online.error):
        detail = f"refused online: {reason}"
        if reason in _OF_VIEW:
            found.append(_of_view(pairs, feature_set.views, by_status, inputs, row, detail))
        elif reason == _NOT_REPRODUCED:
            found.append(Refusal(Cause.PLATFORM, "compiled loop", (), detail))
        elif reason in _RAISED or reason not in Reason.__members__:
            found.append(_replayed(pairs, reference, served, inputs, row, detail))
        else:
            cause = Cause.NULL_FILL if reason == Reason.NULL_NOT_ALLOWED else Cause.DATA_TYPE
            found.append(Refusal(cause, _differing_fields(inputs, row), (), detail))
    return found


def _differing_fields(inputs: Groups, row: int) -> str:
    return ", ".join(
        group.name
        for group in inputs.groups
        if group.kind == "field" and inputs.how[group.name][row] != How.SAME
    )


def _of_view(
    pairs: Pairs,
    views: Sequence[FeatureView],
    by_status: Mapping[str, NDArray[np.int8]],
    inputs: Groups,
    row: int,
    detail: str,
) -> Refusal:
    lacking = [view for view in views if pairs.online.statuses[view.name][row] not in _HAS_ROW]
    for view in lacking:
        slot = int(inputs.carried[view.name][row]) if view.name in inputs.carried else -1
        if slot >= 0:  # looked up by another key
            return Refusal(ORDER[inputs.cause[slot, row]], inputs.groups[slot].name, (), detail)
        if by_status[view.name][row] != ABSENT:
            return Refusal(ORDER[by_status[view.name][row]], view.name, (), detail)
    if lacking:  # the batch found no more, and scored
        return Refusal(Cause.CONFIGURATION, lacking[0].name, (), detail)
    return Refusal(Cause.MISSING, ", ".join(view.name for view in views), (), detail)


def _replayed(
    pairs: Pairs, reference: World, served: World | None, inputs: Groups, row: int, detail: str
) -> Refusal:
    """Exchange one group, all of one cause, then all, until the logged reason comes out; then with the version that answered."""
    present = [i for i in range(len(inputs.groups)) if inputs.cause[i, row] != ABSENT]
    present.sort(key=lambda i: (inputs.cause[i, row], i))
    alike = [[i for i in present if inputs.cause[i, row] == inputs.cause[k, row]] for k in present]
    trials = [*([i] for i in present), *alike, present]
    reason = pairs.online.error[row]
    for trial in trials:
        if _reason(pairs, inputs, reference, row, trial) == reason:
            causes = [ORDER[code] for code in sorted({int(inputs.cause[i, row]) for i in trial})]
            where = ", ".join(inputs.groups[i].name for i in trial)
            if len(causes) == 1:
                return Refusal(causes[0], where, (), detail)
            return Refusal(Cause.INTERACTION, where, tuple(causes), detail)
    if served is not None and pairs.digest[row] != reference.digest:
        if _reason(pairs, inputs, served, row, []) == reason:
            return Refusal(Cause.MODEL_VERSION, f"version {served.version}", (), detail)
        for trial in trials:
            if _reason(pairs, inputs, served, row, trial) == reason:
                others = {int(inputs.cause[i, row]) for i in trial}
                parts = (Cause.MODEL_VERSION, *(ORDER[code] for code in sorted(others)))
                where = ", ".join([f"version {served.version}", *(inputs.groups[i].name for i in trial)])
                return Refusal(Cause.INTERACTION, where, parts, detail)
    return Refusal(Cause.UNEXPLAINED, "", (), detail)


def _reason(pairs: Pairs, inputs: Groups, world: World, row: int, trial: list[int]) -> str | None:
    """Return why a version refuses the row with these groups exchanged; None where it scores it, or cannot be asked."""
    swapped = {name for i in trial for name in inputs.groups[i].fields}
    for i, group in enumerate(inputs.groups):
        if group.kind == "view":
            slot = int(inputs.carried[group.name][row])
            if slot in trial:
                swapped.update(inputs.groups[i].fields)
            elif slot >= 0:
                swapped.difference_update(inputs.groups[i].fields)
    at = np.array([row], dtype=np.int64)
    mixed: dict[str, Column] = {
        name: take((pairs.online if name in swapped else pairs.offline).columns[name], at)
        for name in pairs.online.columns
    }
    scored = score_columns(world.scorer, mixed, [], 1)
    return str(scored.errors[0].code) if scored.errors else None
