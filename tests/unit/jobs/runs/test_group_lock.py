"""One process per group; who comes meanwhile is told which run is under way, and may go away content only if it is the same."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest

from feature_pipelines.errors import ConfigurationError, RunConflictError
from jobs.runs import group_lock
from jobs.runs.group_lock import Busy, holding
from jobs.runs.manifest import RunGroup

NOW = datetime(2013, 1, 1, 12, tzinfo=UTC)
MONDAY = {"model": "houses version 1", "input": "houses version 9"}
TUESDAY = {"model": "houses version 2", "input": "houses version 10"}


@pytest.fixture
def group(tmp_path):
    return tmp_path / "runs" / "houses-1"


def test_a_second_holder_of_the_same_run_is_told_who_holds_it_and_which_run_it_is(group):
    me = re.escape(
        f"process {os.getpid()} on {socket.gethostname()} is working on it since {NOW.isoformat()}: "
    )
    with holding(group, NOW, MONDAY) as working_on:
        with (
            pytest.raises(Busy, match=f"^{me}the same run, which has no id yet"),
            holding(group, NOW, MONDAY),
        ):
            pass
        working_on("20130101T120000Z-0badc0de")
        with (
            pytest.raises(Busy, match=f"^{me}run 20130101T120000Z-0badc0de") as caught,
            holding(group, NOW, MONDAY),
        ):
            pass
        assert caught.value.holder["run_id"] == "20130101T120000Z-0badc0de"
    with holding(group, NOW, MONDAY):
        pass


def test_another_run_is_a_conflict_that_names_both(group):
    with holding(group, NOW, MONDAY) as working_on:
        working_on("monday")
        with pytest.raises(RunConflictError) as caught, holding(group, NOW, TUESDAY):
            pass
    message = str(caught.value)
    assert f"process {os.getpid()} on {socket.gethostname()} is working on run monday since" in message
    assert "input: the run has 'houses version 9', now it is 'houses version 10'" in message
    assert "model: the run has 'houses version 1', now it is 'houses version 2'" in message
    assert "Nothing was scored: run this again when that one has ended" in message
    assert len(caught.value.evidence["differences"]) == 2
    assert caught.value.exit_code == 2
    with holding(group, NOW, TUESDAY):
        pass


@pytest.mark.parametrize(
    ("first", "second", "same"), [(False, True, False), (True, True, True), (True, False, True)]
)
def test_run_that_is_to_be_started_over_is_another_unless_the_holder_has_started_over_too(
    group, first, second, same
):
    with holding(group, NOW, MONDAY, new_run=first):
        expected = Busy if same else RunConflictError
        with (
            pytest.raises(expected, match="is working on it" if same else "--new-run"),
            holding(group, NOW, MONDAY, new_run=second),
        ):
            pass


def test_group_of_runs_is_held_by_the_same_lock(tmp_path):
    runs = RunGroup(tmp_path, "houses", {"source": "a"})
    with runs.locked(NOW, MONDAY), pytest.raises(Busy), holding(runs.path, NOW, MONDAY):
        pass


# --- what the holder says of itself


def test_holder_is_named_even_if_it_has_only_just_come(group):
    """Between taking the lock and writing its name a holder has an empty file."""
    with holding(group, NOW, MONDAY):
        lock = group / "lock"
        name = lock.read_text()
        lock.write_text("")
        writer = threading.Timer(0.2, lock.write_text, args=(name,))
        writer.start()
        with pytest.raises(Busy, match=f"process {os.getpid()}"), holding(group, NOW, MONDAY):
            pass
        writer.join()


def test_holder_that_has_only_just_come_is_not_taken_for_the_one_before(group):
    """One that was killed leaves its name in the file."""
    with holding(group, NOW, MONDAY):
        lock = group / "lock"
        name = lock.read_text()
        lock.write_text(name.replace("houses version 1", "houses version 0"))
        writer = threading.Timer(0.02, lock.write_text, args=(name,))
        writer.start()
        with pytest.raises(Busy), holding(group, NOW, MONDAY):
            pass
        writer.join()


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("", "another process is at work here"),
        ("[1]", "another process is at work here"),
        (json.dumps({"pid": 7, "host": "h", "since": "s"}), "process 7 on h is at work here"),
    ],
)
def test_holder_that_does_not_say_what_it_scores_may_score_something_else(group, monkeypatch, text, who):
    monkeypatch.setattr(group_lock, "_PATIENCE_SECONDS", 0.05)
    with holding(group, NOW, MONDAY):
        (group / "lock").write_text(text)
        with (
            pytest.raises(
                RunConflictError, match=f"^{who} and does not say on what, so this run may be another"
            ),
            holding(group, NOW, MONDAY),
        ):
            pass


def test_lock_that_is_given_back_meanwhile_is_taken(group):
    held = holding(group, NOW, MONDAY)
    held.__enter__()
    (group / "lock").write_text("")
    ending = threading.Timer(0.2, held.__exit__, args=(None, None, None))
    ending.start()
    with holding(group, NOW, TUESDAY):
        assert json.loads((group / "lock").read_text())["identity"] == TUESDAY
    ending.join()


def test_who_has_ended_leaves_no_name_behind(group):
    with pytest.raises(KeyError), holding(group, NOW, MONDAY):
        raise KeyError
    assert (group / "lock").read_text() == ""


def test_lock_ends_with_its_process_however_that_ends(group, root):
    code = (
        "import sys, time; from datetime import UTC, datetime; from pathlib import Path\n"
        "from jobs.runs.group_lock import holding\n"
        f"with holding(Path({str(group)!r}), datetime.now(UTC), {MONDAY!r}):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=f"process {process.pid} on"), holding(group, NOW, MONDAY):
            pass
        process.send_signal(signal.SIGKILL)
    assert "houses version 9" in (group / "lock").read_text()
    with holding(group, NOW, TUESDAY):
        assert "houses version 9" not in (group / "lock").read_text()


# --- places that cannot be locked


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_file_system_without_locks_is_named_with_the_key(group, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(group_lock.fcntl, "flock", flock)
    with (
        pytest.raises(ConfigurationError, match=f"^storage.runs: {group} cannot be locked") as caught,
        holding(group, NOW, MONDAY),
    ):
        pass
    assert os.strerror(number) in str(caught.value)


def test_directory_that_cannot_be_written_is_named_with_the_key(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with (
        pytest.raises(
            ConfigurationError, match=r"^storage\.runs: .*/runs/x cannot be written \(Not a directory"
        ),
        holding(tmp_path / "runs" / "x", NOW, MONDAY),
    ):
        pass
