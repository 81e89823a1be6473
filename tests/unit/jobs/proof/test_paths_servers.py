"""Servers that are started: waited for within a limit, ended with all that they started; and what is sent in which form."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from feature_pipelines.errors import ConfigurationError, UnavailableError
from jobs.proof import path_servers
from jobs.proof.path_servers import Server, lean_server
from tests.toy.processes import command_of, free_port, is_listening, wait_until

READY = """
import json, socket, subprocess, sys, time
listening = socket.create_server(("127.0.0.1", 0))
below = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"])
print(json.dumps({"event": "server_starting", "address": listening.getsockname()}), flush=True)
print(json.dumps({"event": "worker_ready", "below": below.pid}), flush=True)
time.sleep(60)
"""


def started(program: str, directory: Path) -> ExitStack:
    stack = ExitStack()
    command = [sys.executable, "-c", program]
    stack.server = stack.enter_context(lean_server(command, {"PATH": ""}, directory))  # type: ignore[attr-defined]
    return stack


@pytest.mark.parametrize("how", [None, KeyboardInterrupt, ValueError])
def test_server_ends_with_all_that_it_started_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: type[BaseException] | None
) -> None:
    monkeypatch.setattr(path_servers, "_END_SECONDS", 1)
    below = 0
    try:
        with started(READY, tmp_path) as stack:
            port = int(stack.server.url.rpartition(":")[2])  # type: ignore[attr-defined]
            assert is_listening(port)
            below = json.loads((tmp_path / "server.log").read_text().splitlines()[1])["below"]
            if how is not None:
                raise how
    except (KeyboardInterrupt, ValueError):
        assert how is not None
    wait_until(
        lambda: not is_listening(port) and not command_of(below), "the server and its child to be gone", 10
    )


def test_server_that_ends_is_reported_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(
        UnavailableError, match=r"lean server ended with exit code 3; it said last: no model here"
    ):
        started("import sys; print('no model here'); sys.exit(3)", tmp_path)


def test_server_that_does_not_answer_in_time_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path_servers, "_LEAN_SECONDS", 0.5)
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(UnavailableError, match=r"the lean server did not answer within 0.5 s"):
        started(program, tmp_path)
    pid = int((tmp_path / "server.log").read_text() or 0)
    assert not pid or not command_of(pid)


def test_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(UnavailableError, match=r"cannot be started: no-such-program"),
        lean_server(["no-such-program"], {}, tmp_path),
    ):
        pass


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://a", "http://", "http://user:secret@host:1"])
def test_url_that_is_none_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--url: expected http://host:port") as refused:
        Server(url)
    assert "secret" not in str(refused.value)


def test_server_that_is_not_there_is_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(
        UnavailableError, match=f"server {url} does not answer: ConnectionRefusedError. Is it running"
    ):
        Server(url).facts()
