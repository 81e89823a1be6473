"""What a store said is logged, seldom."""

from __future__ import annotations

import logging

import pytest

from feature_pipelines.errors import ContractError, UnavailableError
from udfs.store_failures import StoreFailures

SECOND = 1_000_000_000


class Timer:
    """Nanoseconds that a test moves."""

    ns = 5

    def __call__(self) -> int:
        """Return the time."""
        return self.ns


def test_each_kind_is_said_at_once_and_then_every_ten_seconds_with_how_often_it_was_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    timer = Timer()
    failures = StoreFailures(timer)
    down = UnavailableError("online store redis://host:1/0: refused", url="redis://host:1/0")
    never = UnavailableError("view 'plane': it was never materialised", view="plane", url="redis://host:1/0")
    torn = ContractError("view 'plane': a stored value was cut", view="plane", url="redis://host:1/0")
    with caplog.at_level(logging.WARNING, "onescore.store"):
        for _ in range(3):
            failures.say([down, never])
        failures.say([torn])
        timer.ns += 10 * SECOND
        failures.say([down])
    assert [record.getMessage() for record in caplog.records] == [
        "online store redis://host:1/0: refused",
        "view 'plane': it was never materialised [redis://host:1/0]",
        "view 'plane': a stored value was cut [redis://host:1/0]",
        "online store redis://host:1/0: refused (2 more requests since it was last said)",
    ]
