"""The engine in a worker: what was taken in is run once, what a worker leaves is queued again, on each kind of database."""

from __future__ import annotations

import sys

import pytest

from tests.toy.processes import finished


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def test_what_is_taken_in_is_run_once_or_put_off_and_what_is_left_is_queued_again(
    kind, request, tmp_path, process_env
):
    url = f"sqlite:///{tmp_path}/kept.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    command = [sys.executable, "-m", "tests.toy.engine_program", url]
    done = finished(command, env=process_env, cwd=tmp_path, seconds=90)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [
        "run once: True",
        "put off and done: {'SUCCESS'} False",
        "at it: True",
        "closed beside the work: True",
        "left behind: ['ENQUEUED']",
        "begun: 1 0",
    ]
