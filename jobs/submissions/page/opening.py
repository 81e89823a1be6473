"""The pages of a gateway as its configuration describes them. This module answers no request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp

from jobs.dashboard.app import Access, Guard, by_key, dashboard_app
from jobs.dashboard.live import Live
from jobs.dashboard.opening import open_live
from jobs.runs.conf import Conf
from jobs.submissions.app_routes import Gateway
from jobs.submissions.keys import LOOPBACK
from jobs.submissions.page.app import described_model, pages_app

__all__ = ["Pages"]


class Pages:
    """The page of submissions and, where a prediction log is configured, the dashboard.

    Who may submit may see the dashboard's figures. Single answers are other callers' too: they are shown where there is one caller,
    this machine, or to who has `dashboard.key`, which then is the only key that opens the dashboard.

    Args:
        conf: of a model.
        gateway: says who asks, and which version is served.
    """

    def __init__(self, conf: Conf, gateway: Gateway) -> None:
        self._conf, self._gateway = conf, gateway
        self._live: Live | None = None
        dashboard: Any = None
        if conf.serve.log_directory is not None:
            directory = Path(conf.serve.log_directory)
            self._live = open_live(conf, directory, lambda: gateway.served.now.feature_set)
            dashboard = dashboard_app(self._live, self._guard(), home="/")
        self.app: ASGIApp = pages_app(self._about, gateway.caller, dashboard=dashboard)

    def start(self) -> None:
        """Begin to follow the log."""
        if self._live is not None:
            self._live.start()

    def close(self) -> None:
        """Stop; open streams end."""
        if self._live is not None:
            self._live.close()

    def _guard(self) -> Guard:
        key = self._conf.dashboard.key
        return self._by_caller if key is None else by_key(key.reveal())

    def _by_caller(self, request: Request) -> Access:
        caller = self._gateway.caller(request)
        return Access.ALL if caller.key_id == LOOPBACK else Access.FIGURES

    def _about(self) -> Mapping[str, Any]:
        pinned, feature_set = self._gateway.served.now
        limits = self._gateway.limits
        return described_model(
            feature_set,
            model=pinned.name,
            version=pinned.version,
            max_rows=limits.max_rows,
            max_body_bytes=limits.max_body_bytes,
            notify=self._conf.notify,
        )
