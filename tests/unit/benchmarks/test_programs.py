"""The programs of `make bench` start, and those of functions and of all ways measure: nothing else runs them before somebody measures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.bench_serverless import AIMS, verdict
from tests.benchmarks.publish import entry

PROGRAMS = sorted((Path(__file__).resolve().parents[2] / "benchmarks").glob("bench_*.py"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_program_of_the_benchmark_says_how_it_is_used(root: Path, program: Path) -> None:
    command = [sys.executable, "-m", f"tests.benchmarks.{program.stem}", "--help"]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)
    assert said.returncode == 0, said.stderr[-1000:]
    assert "--write-readme" in said.stdout


def measured(root: Path, home: Path, part: str, *flags: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Run a program; return its exit code, what it printed and its records."""
    command = [sys.executable, "-m", f"tests.benchmarks.bench_{part}", "--home", str(home), *flags]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=600)
    file = home / f"part-{part}.json"
    assert file.is_file(), done.stderr[-2000:]
    return done.returncode, done.stdout, json.loads(file.read_text())


def test_missed_aim_of_functions_is_a_failure() -> None:
    reached = [entry(f"serverless/{name}: x", 1.0, aim, "ms", 1) for name, aim in AIMS.items()]
    assert verdict(reached)[0]
    for at, name in enumerate(AIMS):
        for peer in (AIMS[name] * 0.98, None):
            missed = [*reached]
            missed[at] = entry(f"serverless/{name}: x", 1.0, peer, "ms", 1)
            is_reached, said = verdict(missed)
            assert not is_reached
            assert said.count("NOT reached") == 1


@pytest.mark.slow
def test_cold_and_warm_functions_are_measured(root: Path, tmp_path: Path) -> None:
    code, said, records = measured(root, tmp_path, "serverless", "--rounds", "1", "--calls", "20")
    assert code == (1 if "NOT reached" in said else 0)
    assert len(records) == 8
    assert sum("default package" in record["name"] for record in records) == 3
    assert all(record["ours"] > 0 and record["peer"] > 0 for record in records)
    assert said.count("aim of ") == len(AIMS)


@pytest.mark.slow
def test_ways_of_inference_are_measured(root: Path, tmp_path: Path) -> None:
    flags = ("--rows", "2000", "--seconds", "0.2", "--ways", "stream,realtime,serverless")
    code, said, records = measured(root, tmp_path, "ways", *flags)
    assert code == 0
    n = 1 + 2 + 2  # the stream, both servers, the function with one row and with a hundred
    assert len(records) == 3 * n  # latency, throughput and cost of each
    assert all(record["ours"] > 0 for record in records)
    assert said.count("| stream: ") == 1
    assert said.count("| real-time: ") == 2
    assert said.count("| serverless: ") == 2
