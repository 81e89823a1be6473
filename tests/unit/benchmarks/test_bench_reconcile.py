"""The benchmark of reconciling fails for every row that is not proved equal, and for time and memory beyond what is allowed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parents[2] / "benchmarks"
MB = {"driver": 500.0, "jvm": 900.0, "worker": 800.0}


@pytest.fixture(scope="module")
def bench() -> Any:
    """The program, which finds its neighbours by the path."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "path", [*sys.path])
        return importlib.import_module("tests.benchmarks.bench_reconcile")


def clean(bench: Any, **changes: int) -> dict[str, int]:
    rows = {"rows_logged": 100, "rows_compared": 100, "rows_equal": 100}
    return rows | dict.fromkeys(bench._NONE, 0) | changes


def failures(bench: Any, seconds: float = 20.0, **peaks: float) -> list[str]:
    once = bench.Finished(10.0, MB)
    records = bench.records_of(
        1_000, once, bench.Finished(seconds, MB), once, bench.Finished(30.0, {**MB, **peaks})
    )
    found: list[str] = bench.exceeded(records)
    return found


def test_every_row_that_is_not_proved_equal_is_a_fault(bench: Any) -> None:
    assert bench.faults_of(clean(bench), 100) == []
    assert bench.faults_of(clean(bench), 101)[0] == "rows_logged is 100, expected 101"
    for name in ("rows_differing", "rows_lost", "rows_refused_online", "rows_not_comparable"):
        assert bench.faults_of(clean(bench, **{name: 1}), 100) == [f"{name} is 1, expected 0"]
    assert len(bench.faults_of(clean(bench, rows_compared=99, rows_equal=99), 100)) == 2


def test_twice_the_time_and_a_quarter_more_memory_are_allowed_and_no_more(bench: Any) -> None:
    assert failures(bench) == []
    assert failures(bench, jvm=1_124.0) == []
    (slow,) = failures(bench, seconds=20.2)
    assert slow == "reconciling, against scoring the same requests: 2.02 times as much, allowed is 2.0 times"
    for role in MB:
        (grown,) = failures(bench, **{role: MB[role] * 1.3})
        assert f"peak memory of the {role} for 4 times the rows" in grown


def test_log_in_which_each_answer_stands_four_times_has_other_processes(bench: Any, tmp_path: Path) -> None:
    name = "part-1-1370044800000000-a43932-{}000000000001-000000000009.parquet"
    file = tmp_path / "log" / "flights" / "date=2013-06-13" / name.format("")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"rows")
    for _ in range(2):
        log = bench.copied(bench.Log(None, tmp_path / "log"))
    found = sorted(path.name for path in log.directory.rglob("*.parquet"))
    assert found == [name.format(f"{copy}-") for copy in range(4)]
    assert all(bench.FILE_NAME.fullmatch(one) for one in found)
