"""A named place stops one process once, says which, and lets it go again; without the variables nothing happens."""

from __future__ import annotations

import json
import os
import re
import threading
import time

import pytest

from jobs.runs import kill_points
from jobs.runs.kill_points import KILL_POINTS, STAGING_POINTS, STREAM_KILL_POINTS, reached

WAIT = 20


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "pause"
    monkeypatch.setenv("ONESCORE_PAUSE_AT", "run.before_complete")
    monkeypatch.setenv("ONESCORE_PAUSE_FILE", str(path))
    return path


def arriving(point):
    thread = threading.Thread(target=reached, args=(point,), daemon=True)
    thread.start()
    return thread


def until_written(file):
    give_up = time.monotonic() + WAIT
    while time.monotonic() < give_up and not (file.exists() and file.read_text()):
        time.sleep(0.01)
    return json.loads(file.read_text())


def test_nothing_happens_without_the_variables(monkeypatch):
    monkeypatch.delenv("ONESCORE_PAUSE_AT", raising=False)
    reached("run.before_complete")


def test_other_places_are_passed(file):
    reached("run.after_complete")
    assert not file.exists()


def test_the_first_to_arrive_says_who_it_is_and_waits_until_the_file_is_emptied(file):
    thread = arriving("run.before_complete")
    assert until_written(file) == {"point": "run.before_complete", "pid": os.getpid(), "ppid": os.getppid()}
    thread.join(0.2)
    assert thread.is_alive()
    file.write_text("")
    thread.join(WAIT)
    assert not thread.is_alive()


def test_who_comes_later_is_not_stopped(file):
    first = arriving("run.before_complete")
    until_written(file)
    reached("run.before_complete")
    file.write_text("")
    first.join(WAIT)
    reached("run.before_complete")
    assert file.read_text() == ""


def test_patience_ends(file, monkeypatch):
    monkeypatch.setattr(kill_points, "_PATIENCE_SECONDS", 0.1)
    reached("run.before_complete")
    assert until_written(file)["pid"] == os.getpid()


def test_a_place_without_a_file_to_write_to_is_passed(monkeypatch):
    monkeypatch.setenv("ONESCORE_PAUSE_AT", "run.before_complete")
    monkeypatch.delenv("ONESCORE_PAUSE_FILE", raising=False)
    reached("run.before_complete")


def test_every_place_is_in_the_code_once(root):
    sources = [path.read_text() for path in sorted((root / "jobs" / "runs").glob("score_*.py"))]
    named = re.findall(r'"((?:plan|task|chunk|run)\.\w+)"', "\n".join(sources))
    assert sorted(named) == sorted(KILL_POINTS)
    staging = "".join(
        (root / "jobs" / "runs" / f"{name}.py").read_text() for name in ("staging", "shuffled_view")
    )
    assert sorted(re.findall(r'"(stage\.\w+)"', staging)) == sorted(STAGING_POINTS)
    streams = "".join(path.read_text() for path in sorted((root / "jobs" / "runs").glob("stream_*.py")))
    in_batches = [point for point in STREAM_KILL_POINTS if not point.endswith("_commit")]
    assert sorted(re.findall(r'reached\("(stream\w*\.\w+)"', streams)) == sorted(in_batches)
