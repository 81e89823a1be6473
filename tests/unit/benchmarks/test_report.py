"""What `make bench` publishes, from a few measurements made by hand."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.publish import PARTS, publish, write_readme
from tests.benchmarks.report import Report

OURS = "onescore"
SAME = {"differing_bits": 0, "max_abs_diff": 0.0}


def record(
    workload: str,
    name: str,
    cold: float,
    warm: float,
    mb: float,
    check: dict[str, Any] | None = SAME,
    **more: Any,
) -> dict[str, Any]:
    """Return a measurement of 1,000 rows as results.jsonl has it."""
    return {
        "key": [workload, name, 1],
        "rows": 1_000,
        "load_before": 0.5,
        "cold_s": cold,
        "warm_s": warm,
        "peak_mb": {"driver": mb, "all": 2 * mb},
        "facts": {},
        "check": check,
        **more,
    }


def report(**changes: Any) -> Report:
    """Return the report of ours, a slower peer, a peer that failed, and the time budget; changes are further records by key."""
    records: dict[tuple[Any, ...], dict[str, Any]] = {
        ("A", OURS, 1): record("A", OURS, 2.0, 1.0, 100),
        ("A", "slow", 1): record("A", "slow", 10.0, 4.0, 250, {"differing_bits": 3, "max_abs_diff": 1.5e-9}),
        ("A", "broken", 1): {"key": ["A", "broken", 1], "rows": 1_000, "load_before": 0.7, "failed": "exit code 1: out|of memory"},
        ("B", "time budget", 1): {"key": [], "rows": 1_000, "facts": {"rows": 500, "ns_per_row": {"read": 70.0, "model": 930.0}}},
    }  # fmt: skip
    return Report(records | changes.get("more", {}), 1_000, 2, OURS)


def by_name(made: Report) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in made.entries()}


def test_entries_have_the_same_keys_and_their_names_say_workload_kind_and_peer() -> None:
    entries = report().entries()
    for entry in entries:
        assert list(entry)[:6] == ["name", "ours", "peer", "ratio", "unit", "rows"]
        assert set(entry) - {"failed"} == {"name", "ours", "peer", "ratio", "unit", "rows"}
    assert [entry["name"] for entry in entries] == [
        "A/cold/slow",
        "A/warm/slow",
        "A/cold/broken",
        "A/warm/broken",
        "A/peak memory/slow",
        "budget/read",
        "budget/model",
    ]


def test_ratio_is_above_1_where_ours_is_faster_or_smaller() -> None:
    found = by_name(report())
    assert found["A/cold/slow"] == {
        "name": "A/cold/slow", "ours": 500.0, "peer": 100.0, "ratio": 5.0, "unit": "rows/s", "rows": 1_000,
    }  # fmt: skip
    assert (found["A/warm/slow"]["ours"], found["A/warm/slow"]["ratio"]) == (1_000.0, 4.0)
    memory = found["A/peak memory/slow"]
    assert (memory["ours"], memory["peer"], memory["ratio"], memory["unit"]) == (200, 500, 2.5, "MB")


def test_ratio_is_below_1_where_the_peer_is_faster() -> None:
    fast = {("A", "fast", 1): record("A", "fast", 1.0, 0.5, 50)}
    found = by_name(report(more=fast))
    assert (found["A/warm/fast"]["ratio"], found["A/peak memory/fast"]["ratio"]) == (0.5, 0.5)


def test_memory_that_grows_with_the_table_has_a_ratio_below_1() -> None:
    sizes = {
        ("memory", OURS, rows): {"peak_mb": {"driver": mb, "jvm": 400, "worker": 300}}
        for rows, mb in ((1_000, 100), (20_000, 200))
    }
    found = by_name(report(more=sizes))
    grown = found["memory/driver/20000 rows against 1000"]
    assert (grown["ours"], grown["peer"], grown["ratio"], grown["rows"]) == (200, 100, 0.5, 20_000)
    assert found["memory/jvm/20000 rows against 1000"]["ratio"] == 1.0


def test_a_peer_that_failed_is_reported_with_its_reason_and_without_a_ratio() -> None:
    made = report()
    broken = by_name(made)["A/warm/broken"]
    assert (broken["ours"], broken["peer"], broken["ratio"]) == (1_000.0, None, None)
    assert broken["failed"] == "exit code 1: out|of memory"
    assert "| broken | failed: exit code 1: out/of memory | | | | |" in made.markdown()
    assert made.is_sound()


def test_of_two_rounds_the_faster_and_the_larger_memory_count_and_a_failure_counts_only_alone() -> None:
    again = {
        ("A", OURS, 2): record("A", OURS, 1.0, 2.0, 300),
        ("A", "slow", 2): {"key": ["A", "slow", 2], "rows": 1_000, "failed": "stopped after 3600 s"},
        ("A", "broken", 2): record("A", "broken", 4.0, 2.0, 60),
    }
    found = by_name(report(more=again))
    assert found["A/cold/slow"] | {"name": ""} == {
        "name": "", "ours": 1_000.0, "peer": 100.0, "ratio": 10.0, "unit": "rows/s", "rows": 1_000,
    }  # fmt: skip
    assert found["A/warm/slow"]["ours"] == 1_000.0
    assert found["A/peak memory/slow"]["ours"] == 600
    assert "failed" not in found["A/warm/broken"]


@pytest.mark.parametrize(
    "ours",
    [
        {"failed": "no such file"},
        record("A", OURS, 2.0, 1.0, 100, {"differing_bits": 1, "max_abs_diff": 1e-16}),
        record("A", OURS, 2.0, 1.0, 100, None),
    ],
    ids=["failed", "other bits", "not compared"],
)
def test_a_report_is_not_sound_where_ours_failed_or_gave_other_bits(ours: dict[str, Any]) -> None:
    assert not report(more={("A", OURS, 1): {"key": ["A", OURS, 1], "rows": 1_000, **ours}}).is_sound()


def test_the_table_says_how_many_times_as_fast_ours_is_and_how_far_scores_differ() -> None:
    text = report().markdown()
    assert "| onescore | 2.0 | 1.0 | 1,000 | 100 / - / - | none: the same bits |" in text
    assert "| slow | 10.0 (5.0x) | 4.0 (4.0x) | 250 | 250 / - / - | 1.5e-09 |" in text
    assert "load average before a measurement up to 0.7" in text
    assert "read 70, model 930; together 1000." in text
    assert "**B:" not in text


def test_parts_are_published_together_and_one_that_is_measured_again_replaces_itself(tmp_path: Path) -> None:
    home = tmp_path / "bench"
    told = argparse.Namespace(home=home, write_readme=False)
    for part, name in (("serving", "serving/a"), ("batch", "A/cold/x"), ("serving", "serving/b")):
        publish(part, [{"name": name}], "text", told)
    written = json.loads((tmp_path / "bench.json").read_text())
    assert [record["name"] for record in written] == ["A/cold/x", "serving/b"]


def test_write_readme_replaces_the_block_of_the_part_and_nothing_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    other = "<!-- bench stores -->\nkept\n<!-- /bench stores -->\n"
    readme.write_text(f"before\n{other}<!-- bench batch -->\nold\n\nolder\n<!-- /bench batch -->\nafter\n")
    write_readme(readme, "batch", r"new \1 and \g<2>" + "\n")
    assert readme.read_text() == (
        f"before\n{other}<!-- bench batch -->\nnew \\1 and \\g<2>\n<!-- /bench batch -->\nafter\n"
    )


def test_write_readme_refuses_a_file_without_markers(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no block\n")
    with pytest.raises(ValueError, match=r"README.md has no <!-- bench batch --> markers"):
        write_readme(readme, "batch", "new\n")
    assert readme.read_text() == "no block\n"


def test_every_part_has_its_block_in_the_readme(root: Path) -> None:
    text = (root / "README.md").read_text()
    assert re.findall(r"^<!-- bench (.*) -->$", text, re.MULTILINE) == list(PARTS)
