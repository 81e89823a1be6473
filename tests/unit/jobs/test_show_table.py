"""A table looked at: its size, its first rows, and the rows that somebody asks for."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from jobs import show_table
from jobs.runs.command import run
from tests.toy.workspace import Workspace


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A home with a table of four rows in two files."""
    made = Workspace(tmp_path)
    for name, value in made.env().items():
        monkeypatch.setenv(name, value)
    scores = pa.table(
        {"row_id": ["a", "b", "b", "c"], "score": [0.1, 1 / 3, 0.25, 1.0], "late": [1, 0, 1, 0]}
    )
    made.write("scored", scores, rows_per_file=2)
    return made


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert run(show_table.main, ["scored", *arguments]) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_first_rows_are_shown(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "--rows", "3")
    assert {"rows 4", "files 2", f"table {place.table('scored')}"} <= set(lines)
    assert [line for line in lines if line.startswith("row ")] == ["row 1", "row 2", "row 3"]
    assert not any(line.startswith("rows with") for line in lines)


def test_rows_with_values_are_found_with_every_bit_of_a_number(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(capsys, "--where", "row_id=b")
    assert "rows with these values 2" in lines
    assert {line for line in lines if line.startswith("score")} == {f"score {1 / 3!r}", "score 0.25"}
    lines = shown(capsys, "--where", "row_id=b", "--where", "late=1")
    assert [line for line in lines if line.startswith("score")] == ["score 0.25"]
    lines = shown(capsys, "--where", "row_id=b", "--rows", "1")
    assert "rows with these values 2" in lines
    assert lines.count("row_id b") == 1


def test_no_row_with_a_value_is_said_so(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "--where", "row_id=z")
    assert lines[-1] == "rows with these values 0"


def test_wrong_condition_is_exit_2(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(show_table.main, ["scored", "--where", "late=soon"]) == 2
    assert "'soon' is no value of it" in capsys.readouterr().err


def test_of_a_file_in_a_column_the_beginning_is_shown(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    write_deltalake(
        place.table("scored"),
        pa.table({"image": [b"\x89PNG" + bytes(5_000), b"0123456789abcdef", b"", None]}),
        mode="overwrite",
        schema_mode="overwrite",
    )
    lines = shown(capsys, "--rows", "4")
    assert [line for line in lines if line.startswith("image")] == [
        r"image b'\x89PNG\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00'... (5,004 bytes)",
        "image b'0123456789abcdef'",
        "image b''",
        "image None",
    ]
