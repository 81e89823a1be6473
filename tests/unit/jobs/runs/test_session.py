"""A Spark that does not stop, or died, does not keep a finished job from ending."""

from __future__ import annotations

import logging
import threading
import time

from jobs.runs import session


class Deaf:
    """A session whose stop never returns by itself."""

    def __init__(self):
        self.heard = threading.Event()

    def stop(self):
        self.heard.wait(60)


class Dead:
    def stop(self):
        raise ConnectionError("gone")


def test_a_session_that_does_not_answer_is_left_behind(monkeypatch, caplog):
    monkeypatch.setattr(session, "_STOP_SECONDS", 0.2)
    deaf = Deaf()
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        session._stop(deaf)
    deaf.heard.set()
    assert time.monotonic() - started < 30
    assert "Spark did not stop within" in caplog.text


def test_a_session_that_died_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        session._stop(Dead())
    assert "Spark did not stop in order (ConnectionError: gone)" in caplog.text
