"""Alerts to people, by the targets that the configuration names. A slow mail server holds up no figure: what is told waits in a queue.

A server that is away for a moment is asked again, a few times and less and less often. Of several dashboards that show one log, such as
those of several gateways, one tells.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore, Event
from typing import IO, Protocol

from feature_pipelines.errors import ConfigurationError, did_you_mean
from jobs.dashboard.alerts import Notice
from jobs.runs.settings_notify import NotifySettings

__all__ = ["OneTells", "SendsToTargets", "TargetNotifier", "known_targets"]

_LOGGER = logging.getLogger("onescore.dashboard")
_WAITING = 100
_PAUSES_SECONDS = (1.0, 5.0, 25.0)


class SendsToTargets(Protocol):
    """What sends; `jobs.online.sending.Sender` does."""

    def to_target(self, name: str, title: str, text: str) -> bool:
        """Send to a target; return whether it was taken."""
        ...


class OneTells:
    """Which of several processes tells people what all of them see: the first that has to, until it ends; then the next that has to.

    Args:
        file: is locked, on a file system that they share. Where it cannot be, each of them tells: better twice than never.
    """

    def __init__(self, file: Path) -> None:
        self._path = file
        self._file: IO[bytes] | None = None

    def is_mine(self) -> bool:
        """Return whether this process tells."""
        if self._file is not None:
            return True
        try:
            file = self._path.open("ab")
        except OSError:
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        except OSError:
            file.close()
            return True
        self._file = file
        return True

    def close(self) -> None:
        """Leave it to the others."""
        if self._file is not None:
            self._file.close()
            self._file = None


class TargetNotifier:
    """Tells targets of `notify.targets`, one after the other; what cannot be told is a line in the log.

    Args:
        sender: sends.
        names: of the targets.
        turn: says whether it is for this process to tell.
        pauses: seconds before each further attempt at a target that was not told.
    """

    def __init__(
        self,
        sender: SendsToTargets,
        names: Sequence[str],
        turn: OneTells,
        pauses: Sequence[float] = _PAUSES_SECONDS,
    ) -> None:
        self._sender, self._names, self._pauses = sender, tuple(names), tuple(pauses)
        self._turn = turn
        self._closing = Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="alerts")
        self._free = BoundedSemaphore(_WAITING)

    def notify(self, notice: Notice) -> None:
        """Put one change into the queue; where that is full, it is in the log alone."""
        if not self._turn.is_mine():
            return
        if not self._free.acquire(blocking=False):
            _LOGGER.error("too many alerts wait to be told: %s", notice.title)
            return
        self._pool.submit(self._tell, notice)

    def close(self) -> None:
        """Tell what waits, each target once, then stop."""
        self._closing.set()
        self._pool.shutdown()
        self._turn.close()

    def _tell(self, notice: Notice) -> None:
        try:
            waiting = self._not_told(self._names, notice)
            for pause in self._pauses:
                if not waiting or self._closing.wait(pause):
                    break
                waiting = self._not_told(waiting, notice)
            for name in waiting:
                _LOGGER.error("target %s was not told: %s", name, notice.title)
        finally:
            self._free.release()

    def _not_told(self, names: Sequence[str], notice: Notice) -> list[str]:
        """Tell targets once each; return those that were not."""
        return [name for name in names if not self._is_told(name, notice)]

    def _is_told(self, name: str, notice: Notice) -> bool:
        try:
            return self._sender.to_target(name, notice.title, notice.body)
        except Exception as exc:  # noqa: BLE001 - whatever a library raises: others, and the next alert, may be told
            _LOGGER.warning("target %s: %s", name, type(exc).__name__)
            return False


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
