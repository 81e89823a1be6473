from __future__ import annotations

import threading

import pytest

from feature_pipelines.errors import ConfigurationError
from jobs.dashboard.alerts import Notice
from jobs.dashboard.notifying import TargetNotifier, known_targets
from jobs.runs.conf import load

NOTICE = Notice("flights", "refused", "error_share > 0.05 over 5m", True, 0.25, 1, 2)


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


def test_each_target_is_told_what_it_is_and_what_was_measured() -> None:
    sends = Sends()
    notifier = TargetNotifier(sends, ["ops", "desk"])
    notifier.notify(NOTICE)
    notifier.close()
    told = ("ALERT: refused (flights)", "error_share > 0.05 over 5m: measured 0.25")
    assert sends.got == [("ops", *told), ("desk", *told)]


def test_slow_target_holds_up_nobody_and_what_is_too_much_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sends = Sends()
    sends.may.clear()
    notifier = TargetNotifier(sends, ["ops"])
    for _ in range(103):
        notifier.notify(NOTICE)
    assert sum("too many alerts wait" in record.message for record in caplog.records) == 3
    sends.may.set()
    notifier.close()
    assert len(sends.got) == 100


@pytest.mark.parametrize("said", [False, OSError("mailto://me:hunter2@host")])
def test_what_cannot_be_told_is_in_the_log_without_its_address(
    said: bool | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = TargetNotifier(Sends(said), ["ops"])
    notifier.notify(NOTICE)
    notifier.notify(NOTICE)
    notifier.close()
    assert len([record for record in caplog.records if "was not told" in record.message]) == 2
    assert "hunter2" not in caplog.text


def test_targets_must_be_configured() -> None:
    settings = load(model="flights", overrides=["notify.targets={ops: 'env:OPS_URL'}"]).notify
    assert known_targets(["ops"], settings) == ["ops"]
    with pytest.raises(
        ConfigurationError, match=r"names 'opps', and notify\.targets has ops\. Did you mean 'ops'"
    ):
        known_targets(["opps"], settings)
