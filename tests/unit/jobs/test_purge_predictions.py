"""Removing old days of the prediction log as a person runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import purge_predictions
from jobs.runs.command import run
from tests.toy.logged import logged_requests, write_log
from tests.toy.workspace import Workspace

DAY = 86_400_000_000


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configured log, with one answer of each of the first three days of 1970."""
    for name, value in Workspace(tmp_path).env().items():
        monkeypatch.setenv(name, value)
    directory = tmp_path / ".onescore" / "prediction_log"
    write_log(directory, [(i * DAY, [{"house_id": i}]) for i in range(3)])
    return directory


def purge(*arguments: str) -> int:
    return run(purge_predictions.main, ["--model", "houses", *arguments])


def test_days_before_a_time_are_removed(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert purge("--before", "1970-01-03T00:00:00Z", "--dry-run") == 0
    assert "nothing was removed" in capsys.readouterr().out
    assert len(logged_requests(log)) == 3
    assert purge("--before", "1970-01-03T00:00:00Z") == 0
    assert "1970-01-01, 1970-01-02" in capsys.readouterr().out
    assert logged_requests(log) == [{"house_id": "2"}]


def test_retention_counts_from_now_and_null_keeps_all(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert purge() == 0
    assert "every day is kept" in capsys.readouterr().out
    assert purge("--set", "serve.log_retention_days=36500") == 0  # about a hundred years
    assert len(logged_requests(log)) == 3
    assert purge("--set", "serve.log_retention_days=30") == 0
    assert logged_requests(log) == []


def test_log_elsewhere_is_named_and_a_time_without_an_offset_refused(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert purge("--log", str(log.parent / "other"), "--before", "1970-01-03T00:00:00Z") == 0
    assert purge("--before", "1970-01-03") == 2
    assert "--before" in capsys.readouterr().err
    assert len(logged_requests(log)) == 3
