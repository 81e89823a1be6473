"""The board's figures are those of the rows of the log, counted here once more by plain loops."""

from __future__ import annotations

import bisect
from collections import Counter
from typing import Any

import numpy as np
import pytest

from jobs.dashboard.alerts import Alerts
from jobs.dashboard.board import Board
from jobs.dashboard.logged_rows import LoggedRows, is_log
from jobs.dashboard.recent import ShownFields
from jobs.dashboard.rules import parse_rule
from jobs.dashboard.windows import WINDOWS, span_of
from jobs.online.log_gaps import Missing
from tests.toy.answered_rows import MINUTE, NOW, answered, log_table, mixed_rows

KINDS = ("two", "several", "regression")


def board_of(
    rows: list[dict[str, Any]], *, files: int = 7, seed: int = 3, rules: tuple[str, ...] = ()
) -> Board:
    """Return a board that was given rows in files, in any order."""
    alerts = Alerts([parse_rule(f"r{i}", rule) for i, rule in enumerate(rules)], [], repeat_seconds=60)
    board = Board(alerts, shown=lambda _: ShownFields(), n_recent=10)
    assert board.knows("toy")
    parts = [rows[i::files] for i in range(files)]
    for i in np.random.default_rng(seed).permutation(files).tolist():
        board.add("toy", LoggedRows.of(log_table(parts[i])), NOW)
    return board


def ranked(texts: list[str]) -> list[tuple[str, int]]:
    return sorted(Counter(texts).items(), key=lambda item: (-item[1], item[0]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", WINDOWS)
def test_figures_are_those_of_the_rows(kind: str, seconds: int) -> None:
    files = 1 if kind == "several" else 7  # rows that were scored together are in one file
    board = board_of(mixed_rows(900, kind), files=files)
    found = board.snapshot("toy", seconds, NOW)
    from_ts, to_ts = span_of(seconds, NOW, WINDOWS[seconds])
    assert to_ts - from_ts == seconds * 1_000_000
    assert from_ts <= NOW - seconds * 1_000_000 + WINDOWS[seconds] * 1_000_000
    rows = [row for row in mixed_rows(900, kind) if from_ts <= row["served_ts"] < to_ts]
    assert len(rows) > 10

    refused = [row["error_code"] for row in rows if row["error_code"]]
    scores = [row["score"] for row in rows if row["score"] is not None]
    assert found["totals"] == {
        "rows": len(rows),
        "scored": len(scores),
        "refused": len(refused),
        "calls": len({(row["process"], row["served_ts"]) for row in rows}),
        "rows_per_second": len(rows) / seconds,
    }
    assert [(one["code"], one["rows"]) for one in found["errors"]] == ranked(refused)
    assert [(one["version"], one["rows"]) for one in found["versions"]] == ranked(
        [r["model_version"] for r in rows]
    )
    labels = {
        "two": [str(row["label"]).lower() for row in rows if row["label"] is not None],
        "several": [row["class_label"] for row in rows if row["class_label"] is not None],
        "regression": [],
    }[kind]
    assert [(one["label"], one["rows"]) for one in found["classes"]] == ranked(labels)

    bins = found["scores"]["bins"]
    last = bins[-1]["to"] if kind != "regression" else None
    for one in bins:
        inside = [s for s in scores if one["from"] <= s < one["to"] or (s == one["to"] == last)]
        assert len(inside) == one["rows"]
    assert sum(one["rows"] for one in bins) == len(scores)
    assert (found["scores"]["min"], found["scores"]["max"]) == (min(scores), max(scores))
    assert found["scores"]["mean"] == pytest.approx(sum(scores) / len(scores), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_latency_is_of_calls_not_of_rows(kind: str) -> None:
    rows = mixed_rows(900, kind)
    found = board_of(rows, files=1).snapshot("toy", 3_600, NOW)["latency_us"]
    from_ts, to_ts = span_of(3_600, NOW, 60)
    calls = {
        (row["process"], row["served_ts"], row["lookup_us"], row["features_us"], row["model_us"])
        for row in rows
        if from_ts <= row["served_ts"] < to_ts
    }
    parts = {
        "lookup": sorted(call[2] for call in calls),
        "features": sorted(call[3] for call in calls),
        "model": sorted(call[4] for call in calls),
        "total": sorted(sum(call[2:]) for call in calls),
    }
    for part, spent in parts.items():
        assert found[part]["mean"] == sum(spent) / len(spent)
        assert found[part]["max"] == spent[-1]
        for figure, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
            exact = spent[max(0, int(np.ceil(share * len(spent))) - 1)]
            assert found[part][figure] <= exact <= found[part][figure] * (1 + 1 / 16)


def test_freshness_is_as_of_the_request_and_of_rows_that_were_found() -> None:
    rows = mixed_rows(900, "two")
    [view] = board_of(rows).snapshot("toy", 3_600, NOW)["views"]
    from_ts, to_ts = span_of(3_600, NOW, 60)
    asked = [row for row in rows if from_ts <= row["served_ts"] < to_ts and row["error_code"] is None]
    assert view["name"] == "rates"
    assert view["statuses"] == dict(Counter(row["statuses"]["rates"] for row in asked))
    present = [row for row in asked if row["statuses"]["rates"] == "PRESENT"]
    ages = sorted((row["as_of_ts"] - row["event_ts"]["rates"]) / 1e6 for row in present)
    assert view["age_seconds"]["max"] == ages[-1]
    assert (
        view["age_seconds"]["p50"] <= ages[(len(ages) + 1) // 2 - 1] <= view["age_seconds"]["p50"] * 17 / 16
    )
    assert view["newest_event_ts"] == max(row["event_ts"]["rates"] for row in present)


def test_series_have_the_rows_of_each_step() -> None:
    rows = mixed_rows(900, "two")
    found = board_of(rows).snapshot("toy", 900, NOW)
    start, step = found["window"]["from_ts"], found["window"]["step_seconds"] * 1_000_000
    edges = [start + i * step for i in range(31)]
    expected, refused, true = [0] * 30, [0] * 30, [0] * 30
    for row in rows:
        at = bisect.bisect_right(edges, row["served_ts"]) - 1
        if 0 <= at < 30:
            expected[at] += 1
            refused[at] += row["error_code"] is not None
            true[at] += row["label"] is True
    series = found["series"]
    assert (series["rows"], series["refused"], series["classes"]["true"]) == (expected, refused, true)
    assert len(series["latency_us"]["model"]) == len(series["latency_p99_us"]) == 30


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_files_changes_no_figure(kind: str) -> None:
    rows = mixed_rows(600, kind)
    first = board_of(rows, files=9, seed=1).snapshot("toy", 3_600, NOW)
    second = board_of(rows, files=9, seed=2).snapshot("toy", 3_600, NOW)
    for found in (first, second):
        found["scores"]["mean"] = round(found["scores"]["mean"], 9)
        found["series"]["score_mean"] = [v and round(v, 9) for v in found["series"]["score_mean"]]
    assert first == second


def test_memory_is_bounded_whatever_the_log_holds() -> None:
    board = board_of([])
    for i in range(40):
        rows = [
            answered(
                n,
                NOW - MINUTE,
                process=f"{i}-{n}-a",
                error_code=f"CODE_{i}_{n}",
                score=None,
                class_label=f"{i}-{n}",
            )
            for n in range(30)
        ]
        board.add("toy", LoggedRows.of(log_table(rows)), NOW)
    found = board.snapshot("toy", 300, NOW)
    assert found["totals"]["refused"] == 1_200
    assert len(found["errors"]) <= 65
    assert sum(one["rows"] for one in found["errors"]) == 1_200
    assert len(found["log"]["processes"]) <= 32
    assert sum(board.knows(f"model-{i}") for i in range(100)) == 31


def test_cells_that_no_window_reaches_are_dropped_and_so_are_their_rows() -> None:
    board = board_of([answered(1, NOW - MINUTE)])
    later = NOW + 25 * 60 * MINUTE
    board.forget(later)
    assert board._models["toy"].windows._coarse == {}
    board.add(
        "toy", LoggedRows.of(log_table([answered(2, later - MINUTE), answered(3, NOW - MINUTE)])), later
    )
    found = board.snapshot("toy", 86_400, later)
    assert (found["totals"]["rows"], found["log"]["ahead_rows"]) == (1, 0)


def test_a_clock_that_is_far_ahead_makes_no_cells_and_no_newest_answer() -> None:
    found = board_of([answered(1, NOW + 60 * MINUTE), answered(2, NOW - MINUTE)]).snapshot("toy", 300, NOW)
    assert (found["log"]["ahead_rows"], found["log"]["newest_ts"], found["totals"]["rows"]) == (
        1,
        NOW - MINUTE,
        1,
    )


def test_logs_without_the_columns_of_several_classes_are_read() -> None:
    table = log_table([answered(1, NOW - MINUTE, label=True)], without=("class_label", "class_scores"))
    assert is_log(table.schema)
    assert LoggedRows.of(table).label.counts() == {"true": 1}
    assert not is_log(log_table([answered(1, NOW)], without=("statuses",)).schema)


def test_rules_are_judged_with_the_exact_counts_of_their_window() -> None:
    scores = [0.91] * 30 + [0.9] * 10 + [0.5] * 60
    rows = [answered(i, NOW - MINUTE, score=score, label=score > 0.6) for i, score in enumerate(scores, 1)]
    rules = (
        "score_share[0.9..1] > 0.39 over 5m from 100 rows",
        "score_share[0.9..1] > 0.4 over 5m",
        "class_share.true > 0.39 over 5m",
        "class_share.true > 0.39 over 5m from 101 rows",
        "lost_rows > 2",
        "rows_per_second < 0.3 over 10m",
        "rows_per_second < 0.3 over 5m",
        "latency_ms.total.max > 0.22 over 5m",
        "skew_differing_rows > 0",
    )
    board = board_of(rows, rules=rules)
    board.note("toy", missing=Missing(3, 0), skew=None)
    assert board.judge(NOW)
    found = board.snapshot("toy", 300, NOW)
    states = ["firing", "ok", "firing", "unknown", "firing", "firing", "ok", "firing", "unknown"]
    assert [one["state"] for one in found["alerts"]] == states
    assert found["alerts"][0]["value"] == 0.4
    assert {(one["model"], one["rule"]) for one in found["firing"]} == {
        ("toy", f"r{i}") for i in (0, 2, 4, 5, 7)
    }
    assert not board.judge(NOW)


def test_an_empty_board_says_so() -> None:
    board = Board(Alerts([], [], repeat_seconds=1), shown=lambda _: ShownFields(), n_recent=1)
    found = board.snapshot(None, 300, NOW)
    assert (found["models"], found["model"]) == ([], None)
