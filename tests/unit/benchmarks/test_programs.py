"""The programs of `make bench` can at least be started: nothing else runs them before somebody measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = sorted((Path(__file__).resolve().parents[2] / "benchmarks").glob("bench_*.py"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_program_of_the_benchmark_says_how_it_is_used(root: Path, program: Path) -> None:
    command = [sys.executable, "-m", f"tests.benchmarks.{program.stem}", "--help"]
    said = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)
    assert said.returncode == 0, said.stderr[-1000:]
    assert "--write-readme" in said.stdout
