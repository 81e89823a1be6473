from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace

import pytest

from jobs.proof.skew import SkewReport
from jobs.reports.skew_terminal import terminal_table
from tests.unit.jobs.reports.skew_samples import (
    bad,
    clean,
    empty,
    field,
    hostile,
    hostile_classes,
    of_classes,
    partly,
)


def test_equal_rows_are_said_in_the_first_line() -> None:
    lines = terminal_table(clean()).splitlines()
    assert lines[0].startswith("EQUAL: 1,000,000 rows, every bit equal")
    assert "Repair" not in "".join(lines)


def test_rows_that_differ_are_said_in_the_first_line_and_the_budget_below() -> None:
    lines = terminal_table(bad()).splitlines()
    assert lines[0].startswith("NOT EQUAL: 6,132 of 48,211 rows differ. 211 decisions flipped")
    assert lines[1] == "BUDGET EXCEEDED: rows that differ 12.72 %, at most 0 % allowed"
    assert "note: 113 rows of the log lost" in lines
    assert lines[-1] == "note: The last command stands there twice."


def test_nothing_compared_is_no_equality() -> None:
    assert terminal_table(empty()).startswith("NOTHING WAS COMPARED")


def test_rows_that_were_lost_or_left_out_are_no_equality() -> None:
    lines = terminal_table(partly()).splitlines()
    text = " ".join(line.strip() for line in lines)
    assert lines[0].startswith("Not proved equal: 113 rows of the log lost and 12 logged rows not compared.")
    assert not any(line.startswith("EQUAL") for line in lines)
    assert "1,000 rows compared, and none differs." in text
    assert "within budget: rows lost from the log 10.04 %, at most 20.00 % allowed" in text
    assert "BUDGET EXCEEDED: logged rows not compared 1.19 %, at most 0 % allowed" in text
    assert "note: 7 rows not yet written to the log" in lines
    corrected = terminal_table(replace(partly(), rows_corrected=3, rows_equal=997))
    assert "none differs; 3 of them are corrected." in " ".join(corrected.split())


def test_rows_that_may_yet_be_written_are_a_note_beside_equality() -> None:
    lines = terminal_table(replace(clean(), rows_not_yet_written=7)).splitlines()
    assert lines[0].startswith("EQUAL: ")
    assert "note: 7 rows not yet written to the log" in lines


def test_decisions_that_move_to_another_class_are_counted() -> None:
    said = terminal_table(of_classes())
    assert "to correct, 211 decisions moved to another class" in said
    assert "positive decisions" not in said
    assert "score_dear" in said


def test_causes_and_fields_stand_in_columns() -> None:
    lines = terminal_table(bad()).splitlines()
    causes = lines.index(next(line for line in lines if line.startswith("Cause")))
    assert lines[causes + 1].split() == ["stale", "plane_history", "3,010", "49.09", "%", "122"]
    assert len({len(line) for line in lines[causes : causes + 10]}) == 1
    fields = lines.index(next(line for line in lines if line.startswith("Field")))
    assert [line.split()[0] for line in lines[fields + 1 : fields + 3]] == ["score", "plane_flights_7d"]


def test_ten_features_are_shown_and_the_others_counted() -> None:
    report = replace(bad(), features=[field(f"feature_{i}", 100, i + 1) for i in range(30)])
    text = terminal_table(report)
    assert "feature_29" in text
    assert "feature_20" in text
    assert "feature_19" not in text
    assert "… and 20 more" in text


@pytest.mark.parametrize("sample", [clean, bad, partly, empty, hostile, of_classes, hostile_classes])
def test_lines_fit_and_move_no_cursor(sample: Callable[[], SkewReport]) -> None:
    text = terminal_table(sample())
    assert max(len(line) for line in text.splitlines() if not line.startswith("  <script>")) <= 100
    assert not [c for c in text if not c.isprintable() and c != "\n"]


def test_long_commands_can_be_copied() -> None:
    command = "python -m jobs.score_batch --set 'input.source=a table' " + " ".join(
        f"--set view_versions.view_{i}={i}" for i in range(12)
    )
    report = bad()
    text = terminal_table(
        replace(report, repair={**report.repair, "steps": [], "commands": [command], "notes": []})
    )
    copied = text[text.index("  python -m") :]
    assert max(map(len, copied.splitlines())) <= 100
    assert copied.count("\n") > 2
    assert shlex.split(copied.replace("\\\n", "")) == shlex.split(command)
