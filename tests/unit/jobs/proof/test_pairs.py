"""Two sides of a row: what differs does so by bits, and rows that are taken stay whole."""

from __future__ import annotations

from typing import Any

import numpy as np

from feature_pipelines.columns import Nullable, Strings
from jobs.proof.pairs import NO_TIME, Pairs, Side


def side(score: list[float], matrix: list[list[float]], error: list[str | None] | None = None) -> Side:
    n = len(score)
    refused = np.empty(n, dtype=np.object_)
    refused[:] = error or [None] * n
    return Side(
        columns={
            "town": Nullable(Strings.of(["a", "b", "c"][:n]), np.array([True] * n)),
            "area": np.arange(float(n)),
        },
        matrix=np.array(matrix),
        score=np.array(score),
        label=np.array(score) >= 0.5,
        statuses={"rates": np.zeros(n, np.int8)},
        event_ts={"rates": np.full(n, NO_TIME)},
        error=refused,
    )


def pairs(online: Side, offline: Side, **changes: Any) -> Pairs:
    n = len(online)
    texts = [str(i) for i in range(n)]
    facts: dict[str, Any] = dict.fromkeys(
        ("row_id", "version", "digest", "fingerprint", "configuration", "platform", "process"), texts
    )
    facts |= {name: np.arange(n) for name in ("as_of", "served_ts", "sequence")}
    facts |= {
        "request_in_table": np.ones(n, np.bool_),
        "sent": {"area": np.arange(n) == 0},
        "online": online,
        "offline": offline,
    }
    return Pairs(**facts | changes)


def test_rows_differ_by_bits_alone() -> None:
    nan = np.nan
    one = side([0.5, 0.5, 0.5], [[1.0, 0.0, nan]])
    assert not pairs(one, side([0.5, 0.5, 0.5], [[1.0, 0.0, nan]])).differing().any()
    other = side([np.nextafter(0.5, 1), 0.5, 0.5], [[1.0, -0.0, nan]])
    both = pairs(one, other)
    assert both.differing().tolist() == [True, True, False]
    assert both.differing_features().tolist() == [[False, True, False]]


def test_label_and_error_make_a_difference_and_features_of_a_refused_row_none() -> None:
    nan = np.nan
    online = side([0.5, nan, nan], [[1.0, nan, nan]], [None, "FEATURE_ERROR", "OUT_OF_RANGE"])
    offline = side([0.5, 0.5, nan], [[1.0, 3.0, nan]], [None, None, "OUT_OF_RANGE"])
    found = pairs(online, offline)
    assert found.differing().tolist() == [False, True, False]
    assert not found.differing_features().any()
    flipped = Side(**{**vars(offline), "label": np.array([False, True, False])})
    assert pairs(offline, flipped).differing().tolist() == [True, False, False]


def test_taken_rows_are_whole_and_in_order() -> None:
    whole = pairs(
        side([0.1, 0.2, 0.3], [[1.0, 2.0, 3.0]]),
        side([0.4, 0.5, 0.6], [[4.0, 5.0, 6.0]]),
        unlogged={"area": np.array([True, False, False])},
    )
    for index in (np.array([2, 0]), np.array([True, False, True])):
        part = whole.take(index)
        order = np.arange(3)[index].tolist()
        assert len(part) == 2
        assert part.row_id == [str(i) for i in order]
        assert part.online.score.tolist() == [[0.1, 0.2, 0.3][i] for i in order]
        assert part.offline.matrix.tolist() == [[[4.0, 5.0, 6.0][i] for i in order]]
        town: Any = part.online.columns["town"]
        assert town.values.tolist() == [["a", "b", "c"][i] for i in order]
        assert part.sent["area"].tolist() == [i == 0 for i in order]
        assert part.unlogged["area"].tolist() == [i == 0 for i in order]
