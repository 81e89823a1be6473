"""What a person sees: a line per step in a log, one rewritten line on a terminal, aligned tables."""

from __future__ import annotations

import io
from contextlib import closing

import pytest

from jobs.runs.progress import ProgressLine, say, table


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_log_gets_a_line_per_step_with_rate_and_time_left():
    log = io.StringIO()
    line = ProgressLine(log)
    line(250_000, 1_000_000, 2.0)
    line(1_000_000, 1_000_000, 8.0)
    first, last = log.getvalue().splitlines()
    assert "done      250,000 of 1,000,000 rows ( 25%)" in first
    assert "125,000 rows/s" in first
    assert first.endswith("6s left")
    assert "(100%)" in last
    assert last.endswith("0s left")
    assert "\r" not in log.getvalue()


def test_terminal_line_is_rewritten_and_ends_when_all_is_done():
    terminal = Terminal()
    line = ProgressLine(terminal)
    line(1, 2, 1.0)
    assert terminal.getvalue().startswith("\r")
    assert not terminal.getvalue().endswith("\n")
    line(2, 2, 2.0)
    assert terminal.getvalue().count("\r") == 2
    assert terminal.getvalue().endswith("\n")


def test_line_that_stops_half_way_is_ended_by_close_and_only_once():
    terminal = Terminal()
    with closing(ProgressLine(terminal)) as line:
        line(1, 2, 1.0)
    line.close()
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().endswith("\n")


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_close_adds_nothing_where_no_line_is_open(stream):
    line = ProgressLine(stream)
    line.close()
    assert stream.getvalue() == ""
    line(2, 2, 1.0)
    line.close()
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("done", "total", "seconds", "left"),
    [
        (1, 61, 1.0, "1m00s"),
        (1, 7_261, 1.0, "2h01m"),
        (0, 10, 5.0, "0s"),
        (0, 0, 0.0, "0s"),
        (5, 5, 0.0, "0s"),
    ],
)
def test_time_left_is_readable_and_never_fails(done, total, seconds, left):
    log = io.StringIO()
    ProgressLine(log)(done, total, seconds)
    assert log.getvalue().endswith(f"{left} left\n")


def test_more_rows_than_planned_are_never_more_than_all():
    log = io.StringIO()
    ProgressLine(log)(12, 10, 1.0)
    assert "(100%)" in log.getvalue()


def test_say_goes_to_stderr_so_that_stdout_holds_results_alone(capsys):
    say("scoring")
    assert capsys.readouterr() == ("", "scoring\n")


def test_table_aligns_names_and_spells_values_for_people():
    shown = table(
        {
            "rows in": 1_234_567,
            "by reason": {"OUT_OF_RANGE": 2},
            "ok": True,
            "none": None,
            "list": ["a", "b"],
            "{}": {},
        }
    )
    assert shown.splitlines() == [
        "  rows in          1,234,567",
        "  by reason",
        "    OUT_OF_RANGE   2",
        "  ok               yes",
        "  none             -",
        "  list             a, b",
        "  {}               none",
    ]


def test_table_of_nothing_is_empty():
    assert table({}) == ""
