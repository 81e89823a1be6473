from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.run_demo import main
from jobs.runs.command import run


def test_a_million_rows_or_more_are_scored_unless_asked_otherwise(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(main, ["--dry-run"]) == 0
    assert run(main, ["--dry-run", "--rows", "20000"]) == 0

    rows = [int(n.replace(",", "")) for n in re.findall(r"score ([\d,]+) rows", capsys.readouterr().out)]
    assert rows[0] >= 1_000_000
    assert rows[1:] == [20_000]
    assert list(home.iterdir()) == []
