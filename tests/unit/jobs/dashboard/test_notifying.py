from __future__ import annotations

import email.header
import email.message
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message

from feature_pipelines.errors import ConfigurationError
from jobs.dashboard.alerts import Notice
from jobs.dashboard.notifying import OneTells, TargetNotifier, known_targets
from jobs.online.sending import Sender
from jobs.runs.conf import load
from tests.toy.processes import free_port, wait_until

NOTICE = Notice("flights", "refused", "error_share > 0.05 over 5m", True, 0.25, 1, 2)


@pytest.fixture
def turn(tmp_path: Path) -> OneTells:
    return OneTells(tmp_path / "lock")


class Sends:
    """Remembers what it was given; may wait, fail or raise."""

    def __init__(self, said: bool | Exception = True) -> None:
        self.said, self.got, self.may = said, [], threading.Event()
        self.may.set()

    def to_target(self, name: str, title: str, text: str) -> bool:
        self.may.wait(30)
        self.got.append((name, title, text))
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


def test_each_target_is_told_what_it_is_and_what_was_measured(turn: OneTells) -> None:
    sends = Sends()
    notifier = TargetNotifier(sends, ["ops", "desk"], turn)
    notifier.notify(NOTICE)
    notifier.close()
    told = ("ALERT: refused (flights)", "error_share > 0.05 over 5m: measured 0.25")
    assert sends.got == [("ops", *told), ("desk", *told)]


def test_slow_target_holds_up_nobody_and_what_is_too_much_is_in_the_log(
    turn: OneTells, caplog: pytest.LogCaptureFixture
) -> None:
    sends = Sends()
    sends.may.clear()
    notifier = TargetNotifier(sends, ["ops"], turn)
    for _ in range(103):
        notifier.notify(NOTICE)
    assert sum("too many alerts wait" in record.message for record in caplog.records) == 3
    sends.may.set()
    notifier.close()
    assert len(sends.got) == 100


@pytest.mark.parametrize("said", [False, OSError("mailto://me:hunter2@host")])
def test_what_cannot_be_told_is_in_the_log_without_its_address(
    turn: OneTells, said: bool | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = TargetNotifier(Sends(said), ["ops"], turn)
    notifier.notify(NOTICE)
    notifier.notify(NOTICE)
    notifier.close()
    assert len([record for record in caplog.records if "was not told" in record.message]) == 2
    assert "hunter2" not in caplog.text


class SaysInTurn(Sends):
    """Fails as it is told, by target, then takes what comes."""

    def __init__(self, **failures: int) -> None:
        super().__init__()
        self.failures = failures

    def to_target(self, name: str, title: str, text: str) -> bool:
        super().to_target(name, title, text)
        self.failures[name] = self.failures.get(name, 0) - 1
        if self.failures[name] >= 0 and name == "raises":
            raise OSError("mailto://me:hunter2@host")
        return self.failures[name] < 0


def told_in_the_end(turn: OneTells, sends: SaysInTurn, n: int) -> list[str]:
    notifier = TargetNotifier(sends, ["ops", "raises", "desk"], turn, pauses=(0.01, 0.01, 0.01))
    notifier.notify(NOTICE)
    wait_until(lambda: len(sends.got) == n, "all attempts", 20)
    notifier.close()
    return [name for name, _, _ in sends.got]


def test_target_that_was_not_told_is_told_later_and_the_others_once(
    turn: OneTells, caplog: pytest.LogCaptureFixture
) -> None:
    assert told_in_the_end(turn, SaysInTurn(ops=2, raises=1), 6) == [
        "ops",
        "raises",
        "desk",
        "ops",
        "raises",
        "ops",
    ]
    assert "was not told" not in caplog.text
    assert "hunter2" not in caplog.text


def test_target_that_never_takes_it_is_given_up(turn: OneTells, caplog: pytest.LogCaptureFixture) -> None:
    assert told_in_the_end(turn, SaysInTurn(ops=9), 6).count("ops") == 4
    assert "target ops was not told" in caplog.text


def test_closing_waits_for_no_pause(turn: OneTells, caplog: pytest.LogCaptureFixture) -> None:
    sends = Sends(False)
    notifier = TargetNotifier(sends, ["ops"], turn, pauses=(86_400.0,))
    notifier.notify(NOTICE)
    wait_until(lambda: bool(sends.got), "the first attempt", 20)
    notifier.close()
    assert len(sends.got) == 1
    assert "target ops was not told" in caplog.text


def test_mail_server_that_comes_late_has_the_alert_once(
    turn: OneTells, monkeypatch: pytest.MonkeyPatch
) -> None:
    got, port = list[email.message.Message](), free_port()

    class Keeping(Message):  # type: ignore[misc]
        def handle_message(self, message: email.message.Message) -> None:
            got.append(message)

    class Watched(Sender):
        failed = threading.Event()

        def to_target(self, *told: Any) -> bool:
            is_told = super().to_target(*told)
            if not is_told:
                self.failed.set()
            return is_told

    monkeypatch.setenv(
        "OPS_URL", f"mailto://127.0.0.1:{port}?from=scores@example.org&to=ops@example.org&mode=insecure"
    )
    settings = load(model="flights", overrides=["notify.targets={ops: 'env:OPS_URL'}"]).notify
    notifier = TargetNotifier(Watched(settings), ["ops"], turn, pauses=[0.1] * 200)
    notifier.notify(NOTICE)
    assert Watched.failed.wait(30)
    controller = Controller(Keeping(), hostname="127.0.0.1", port=port)
    controller.start()
    try:
        wait_until(lambda: bool(got), "the mail", 30)
        notifier.close()
    finally:
        controller.stop()
    [mail] = got
    assert mail["X-RcptTo"] == "ops@example.org"
    subject = str(email.header.make_header(email.header.decode_header(mail["Subject"])))
    assert subject == "ALERT: refused (flights)"
    parts = [part.get_payload(decode=True) for part in mail.walk() if not part.is_multipart()]
    assert any(b"measured 0.25" in part for part in parts if isinstance(part, bytes))


HOLDER = """
import sys, time
from pathlib import Path
from jobs.dashboard.notifying import OneTells
turn = OneTells(Path(sys.argv[1]))
print(turn.is_mine(), flush=True)
time.sleep(300)
"""


def test_of_several_one_tells_and_when_it_is_killed_the_next(tmp_path: Path, root: Path) -> None:
    sends, lock = Sends(), tmp_path / "lock"
    notifier = TargetNotifier(sends, ["ops"], OneTells(lock))
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "True\n"
        notifier.notify(NOTICE)
        first.kill()
        first.wait()
    notifier.notify(NOTICE)
    assert not OneTells(lock).is_mine()
    notifier.close()
    assert len(sends.got) == 1
    after = OneTells(lock)
    assert after.is_mine()
    after.close()


def test_where_nobody_can_say_whose_turn_it_is_everybody_tells(tmp_path: Path) -> None:
    turns = [OneTells(tmp_path / "not there" / "lock") for _ in range(2)]
    assert [turn.is_mine() for turn in turns] == [True, True]


def test_targets_must_be_configured() -> None:
    settings = load(model="flights", overrides=["notify.targets={ops: 'env:OPS_URL'}"]).notify
    assert known_targets(["ops"], settings) == ["ops"]
    with pytest.raises(
        ConfigurationError, match=r"names 'opps', and notify\.targets has ops\. Did you mean 'ops'"
    ):
        known_targets(["opps"], settings)
