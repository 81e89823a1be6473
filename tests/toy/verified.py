"""`jobs.verify_paths` in this process: its exit code, its table by path, and all that it said."""

from __future__ import annotations

import pytest

from jobs.runs.command import run
from jobs.verify_paths import main

__all__ = ["table_of", "verified"]


def table_of(output: str) -> dict[str, list[str]]:
    """Return the cells of the table's lines by path."""
    lines = output.partition("path ")[2].partition("\n\n")[0].splitlines()[1:]
    return {line.split()[0]: line.split() for line in lines if not line.startswith(" ")}


def verified(
    capsys: pytest.CaptureFixture[str], *flags: str, model: str = "houses"
) -> tuple[int, dict[str, list[str]], str]:
    """Run the job with these flags."""
    code = run(main, ["--model", model, *flags])
    said = capsys.readouterr()
    return code, table_of(said.out), said.out + said.err
