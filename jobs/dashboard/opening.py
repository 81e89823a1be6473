"""A dashboard as a configuration describes it: for a server of its own, and for one that mounts it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from feature_pipelines.definitions import FeatureSet
from jobs.dashboard.alerts import Alerts, LogNotifier, Notifier
from jobs.dashboard.board import Board
from jobs.dashboard.follower import Follower
from jobs.dashboard.live import Live
from jobs.dashboard.notifying import OneTells, TargetNotifier, known_targets
from jobs.dashboard.recent import ShownFields
from jobs.dashboard.rules import parse_rule
from jobs.dashboard.skew_status import SkewWatch
from jobs.online.log_gaps import GapWatch
from jobs.online.sending import Sender
from jobs.runs.conf import Conf

__all__ = ["open_live"]


def _now() -> int:
    return time.time_ns() // 1000


def open_live(
    conf: Conf,
    directory: Path,
    feature_set: Callable[[], FeatureSet],
    *,
    clock: Callable[[], int] = _now,
) -> Live:
    """Return a dashboard that is not started yet.

    Args:
        conf: its `dashboard` section, the model's name, and where skew reports are.
        directory: the prediction log; it may come later.
        feature_set: returns the model's as it is now, which says what fields of its requests may be shown; of other models' none are.
        clock: microseconds since 1970, UTC.
    """
    settings = conf.dashboard
    rules = [parse_rule(name, text) for name, text in settings.alerts.items() if text is not None]
    told: list[Notifier] = [LogNotifier()]
    names = known_targets(settings.notify, conf.notify)
    targets = TargetNotifier(Sender(conf.notify), names, OneTells(directory / ".alerts.lock"))
    if settings.notify:
        told.append(targets)
    alerts = Alerts(rules, told, repeat_seconds=settings.alert_repeat_seconds)

    def shown(model: str) -> ShownFields:
        return ShownFields.of(feature_set()) if model == conf.model.name else ShownFields()

    board = Board(alerts, shown=shown, n_recent=settings.recent_rows)
    follower = Follower(
        directory, board, SkewWatch(Path(conf.skew.directory)), GapWatch(settings.overdue_seconds)
    )
    return Live(board, follower, clock, every_seconds=settings.refresh_seconds, ended=targets.close)
