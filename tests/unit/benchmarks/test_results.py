"""Measurements outlive an interruption, and never mix with those of another benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.results import Results

SETTINGS = {"rows": 1_000, "cores": 2}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with one measurement and one that failed, of a run that was interrupted."""
    path = tmp_path / "results.jsonl"
    results = Results(path, SETTINGS, None)
    results.add("A", "ours", 1, cold_s=2.0)
    results.add("A", "peer", 1, failed="exit code 1")
    return path


def kept(path: Path) -> list[Path]:
    return [file for file in path.parent.iterdir() if file != path]


def test_an_interrupted_run_continues_and_measures_again_only_what_failed(path: Path) -> None:
    results = Results(path, SETTINGS, None)
    assert results.has("A", "ours", 1)
    assert not results.has("A", "peer", 1)
    assert not results.has("B", "ours", 1)
    assert results.get("A", "ours", 1) == {**results.records["A", "ours", 1], "cold_s": 2.0}
    results.add("A", "peer", 1, cold_s=9.0)
    assert Results(path, SETTINGS, None).has("A", "peer", 1)
    assert kept(path) == []


@pytest.mark.parametrize("settings", [SETTINGS, {**SETTINGS, "rows": 2_000}], ids=["finished", "other rows"])
def test_a_finished_run_and_one_of_other_settings_start_over_and_the_old_file_is_kept(
    path: Path, settings: dict[str, int]
) -> None:
    old = Results(path, SETTINGS, None)
    if settings == SETTINGS:
        old.finish()
    before = path.read_text()
    assert Results(path, settings, None).records == {}
    assert [file.read_text() for file in kept(path)] == [before]
    assert json.loads(path.read_text()) == settings


def test_what_is_named_is_measured_again_among_the_rest_of_a_finished_run(path: Path) -> None:
    Results(path, SETTINGS, None).finish()
    results = Results(path, SETTINGS, ["ours"])
    assert not results.has("A", "ours", 1)
    assert set(results.records) == {("A", "ours", 1), ("A", "peer", 1)}
    results.add("A", "ours", 1, cold_s=1.0)
    assert Results(path, SETTINGS, ["peer"]).records["A", "ours", 1]["cold_s"] == 1.0
