"""Alerts to people, by the targets that the configuration names. A slow mail server holds up no figure: what is told waits in a queue."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Protocol

from feature_pipelines.errors import ConfigurationError, did_you_mean
from jobs.dashboard.alerts import Notice
from jobs.runs.settings_notify import NotifySettings

__all__ = ["SendsToTargets", "TargetNotifier", "known_targets"]

_LOGGER = logging.getLogger("onescore.dashboard")
_WAITING = 100


class SendsToTargets(Protocol):
    """What sends; `jobs.online.sending.Sender` does."""

    def to_target(self, name: str, title: str, text: str) -> bool:
        """Send to a target; return whether it was taken."""
        ...


class TargetNotifier:
    """Tells targets of `notify.targets`, one after the other; what cannot be told is a line in the log.

    Args:
        sender: sends.
        names: of the targets.
    """

    def __init__(self, sender: SendsToTargets, names: Sequence[str]) -> None:
        self._sender, self._names = sender, tuple(names)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="alerts")
        self._free = BoundedSemaphore(_WAITING)

    def notify(self, notice: Notice) -> None:
        """Put one change into the queue; where that is full, it is in the log alone."""
        if not self._free.acquire(blocking=False):
            _LOGGER.error("too many alerts wait to be told: %s", notice.title)
            return
        self._pool.submit(self._tell, notice)

    def close(self) -> None:
        """Tell what waits, then stop."""
        self._pool.shutdown()

    def _tell(self, notice: Notice) -> None:
        try:
            for name in self._names:
                if not self._sender.to_target(name, notice.title, notice.body):
                    _LOGGER.error("target %s was not told: %s", name, notice.title)
        except Exception as exc:  # noqa: BLE001 - whatever a library raises: the next alert may be told
            _LOGGER.error("%s was not told: %s", notice.title, type(exc).__name__)
        finally:
            self._free.release()


def known_targets(names: Sequence[str], settings: NotifySettings) -> Sequence[str]:
    """Return names of targets.

    Raises:
        ConfigurationError: `notify.targets` lacks one of them.
    """
    for name in names:
        if name not in settings.targets:
            known = ", ".join(sorted(settings.targets)) or "none"
            raise ConfigurationError(
                f"dashboard.notify names {name!r}, and notify.targets has {known}.{did_you_mean(name, settings.targets)}"
            )
    return names
