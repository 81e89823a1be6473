"""The largest differences, row by row, with both sides' values beside each other: for people who look for the cause.

Personal data is left out: of a field tagged "pii", and of a feature that is computed from one, no value is shown.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_pipelines.columns import DType, take
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.lookup import Status
from feature_pipelines.parity import differing_bits
from feature_pipelines.schema import Field, to_wire
from feature_pipelines.wire import encode
from jobs.proof.aggregate import WORST
from jobs.proof.causes import Explained
from jobs.proof.class_scores import ulps_apart
from jobs.proof.pairs import NO_TIME, Pairs, Side
from udfs.answered import LoggedModel

__all__ = ["instant_text", "worst_rows"]

_TIMESTAMP = DType("timestamp")


def worst_rows(
    pairs: Pairs,
    explained: Explained,
    flips: NDArray[np.bool_],
    facts: LoggedModel,
    feature_set: FeatureSet,
) -> list[dict[str, Any]]:
    """Return at most WORST differing rows, largest difference first: see SkewReport.worst; and "rank", which orders them.

    Args:
        pairs: differing rows.
        explained, flips: of each row.
        facts: names personal data.
        feature_set: the reference's.
    """
    online, offline = pairs.online, pairs.offline
    ulps = ulps_apart(online.scores, offline.scores)[0].astype(np.float64)
    one_refused = np.isnan(online.score) != np.isnan(offline.score)
    ulps[one_refused] = 0.0
    first = (flips | one_refused).astype(np.int64)
    index = np.lexsort((-ulps, -first))[:WORST]
    taken = pairs.take(index)
    made = []
    for i, row in enumerate(index.tolist()):
        shown = _row(taken, i, facts, feature_set)
        cause = explained.cause[row]
        shown |= {
            "rank": [int(first[row]), float(ulps[row])],
            "cause": None if cause is None else str(cause),
            "where": explained.where[row],
            "parts": [str(part) for part in explained.parts[row]],
            "detail": explained.detail[row],
        }
        made.append(shown)
    return made


def instant_text(microseconds: int) -> Any:
    """Return a time in RFC 3339; None for NO_TIME."""
    return None if microseconds == NO_TIME else encode(_TIMESTAMP, [microseconds])[0]


def _row(pairs: Pairs, i: int, facts: LoggedModel, feature_set: FeatureSet) -> dict[str, Any]:
    online, offline = pairs.online, pairs.offline
    scores = [_score(side, i) for side in (online, offline)]
    both = None not in scores
    ours, theirs = online.take(np.array([i])).scores, offline.take(np.array([i])).scores
    names = [view.name for view in feature_set.views]
    return {
        "row_id": pairs.row_id[i],
        "as_of": instant_text(int(pairs.as_of[i])),
        "served_ts": instant_text(int(pairs.served_ts[i])),
        "version": pairs.version[i],
        "process": pairs.process[i],
        "sequence": int(pairs.sequence[i]),
        "score": {
            "online": scores[0],
            "offline": scores[1],
            "ulps": int(ulps_apart(ours, theirs)[0][0]) if both else None,
            "absolute": float(np.nanmax(np.abs(ours - theirs))) if both else None,
        },
        "classes": _classes(online, offline, i) if both else [],
        "label": [_label(side, i) for side in (online, offline)],
        "error": [online.error[i], offline.error[i]],
        "features": _features(pairs, i, facts),
        "inputs": _inputs(pairs, i, facts, feature_set),
        "statuses": {
            name: [Status(int(side.statuses[name][i])).name for side in (online, offline)] for name in names
        },
        "event_ts": {
            name: [instant_text(int(side.event_ts[name][i])) for side in (online, offline)] for name in names
        },
    }


def _score(side: Side, i: int) -> float | None:
    return None if side.error[i] is not None else float(side.score[i])


def _label(side: Side, i: int) -> Any:
    return None if side.label is None or side.error[i] is not None else side.label[i : i + 1].tolist()[0]


def _classes(online: Side, offline: Side, i: int) -> list[dict[str, Any]]:
    """Return the scores of several classes that differ, with both sides' values."""
    if online.classes is None or offline.classes is None:
        return []
    ours, theirs = online.classes.values[i], offline.classes.values[i]
    return [
        {"name": online.classes.names[at], "online": float(ours[at]), "offline": float(theirs[at])}
        for at in np.flatnonzero(differing_bits(ours, theirs)).tolist()
    ]


def _features(pairs: Pairs, i: int, facts: LoggedModel) -> list[dict[str, Any]]:
    differing = np.flatnonzero(pairs.differing_features()[:, i]).tolist()
    names = [(at, facts.feature_names[at]) for at in differing]
    return [
        {"name": name, "online": None, "offline": None}
        if name in facts.pii_features
        else {
            "name": name,
            "online": float(pairs.online.matrix[at, i]),
            "offline": float(pairs.offline.matrix[at, i]),
        }
        for at, name in names
    ]


def _inputs(pairs: Pairs, i: int, facts: LoggedModel, feature_set: FeatureSet) -> list[dict[str, Any]]:
    """Return the source fields whose values differ, in the wire form; 0.0 and -0.0 do."""
    found = []
    for declared in feature_set.sources:
        values = [_wire(declared, side, i) for side in (pairs.online, pairs.offline)]
        if repr(values[0]) != repr(values[1]):
            if declared.name in facts.pii_fields:
                values = [None, None]
            found.append({"name": declared.name, "online": values[0], "offline": values[1]})
    return found


def _wire(declared: Field, side: Side, i: int) -> Any:
    return to_wire(declared, take(side.columns[declared.name], np.array([i])))[0]
