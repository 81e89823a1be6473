"""Show live what the prediction log says of every online path: rates, latency, scores, freshness, skew, alerts.

python -m jobs.serve_dashboard --model flights --log .onescore/prediction_log
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route

from feature_pipelines.errors import ConfigurationError
from feature_pipelines.packaged import load_reference
from jobs.dashboard.app import by_key, dashboard_app
from jobs.dashboard.browser import is_loopback_name
from jobs.dashboard.live import Live
from jobs.dashboard.opening import open_live
from jobs.online.http_server import make_server
from jobs.online.json_logs import event, log_json
from jobs.online.supervisor import listen
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.progress import table

__all__ = ["main"]

_GRACE_SECONDS = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the dashboard until SIGTERM; see --help."""
    parser = job_parser(
        "serve_dashboard",
        __doc__,
        "It reads the files of the log, whichever server wrote them, and keeps nothing of its own: started anew, it shows the same. "
        'Fields of requests are shown of the model of --model alone, and none that its feature set tags "pii". Rules of '
        "dashboard.alerts are judged for every model in the log.",
    )
    parser.add_argument(
        "--log", type=Path, metavar="DIR", help="prediction log (default: serve.log_directory)"
    )
    parser.add_argument("--host", help="where to listen (default: dashboard.host)")
    parser.add_argument(
        "--port", type=int, help="where to listen; 0: any free port (default: dashboard.port)"
    )
    arguments = parser.parse_args(argv)
    for name in ("host", "port"):
        if getattr(arguments, name) is not None:
            arguments.overrides.append(f"dashboard.{name}={getattr(arguments, name)}")
    conf = load_from(arguments)
    directory = arguments.log or (Path(conf.serve.log_directory) if conf.serve.log_directory else None)
    settings = conf.dashboard
    if directory is None:
        raise ConfigurationError(
            "expected --log or serve.log_directory: the dashboard shows a prediction log"
        )
    if settings.key is None and not is_loopback_name(settings.host):
        raise ConfigurationError(
            f"dashboard.host {settings.host}: others than this machine may read what is shown, so set dashboard.key to a reference, "
            "env:NAME or file:PATH",
            host=settings.host,
        )
    if arguments.dry_run:
        print("plan (nothing was started)")
        print(
            table(
                {
                    "log": str(directory),
                    "host": settings.host,
                    "port": settings.port,
                    "rules": len(settings.alerts),
                }
            )
        )
        return 0
    key = None if settings.key is None else settings.key.reveal()
    feature_set = load_reference(conf.model.feature_set)
    log_json()
    listening = listen(settings.host, settings.port, "dashboard")
    live = open_live(conf, directory, lambda: feature_set)
    asyncio.run(_serve(_app(live, key), live, listening))
    event("dashboard_ended")
    return 0


def _app(live: Live, key: str | None) -> Starlette:
    app = dashboard_app(live, by_key(key), loopback_only=key is None)
    return Starlette(routes=[Route("/", lambda _: RedirectResponse("dashboard/")), Mount("/dashboard", app)])


async def _serve(app: Any, live: Live, listening: socket.socket) -> None:
    server = make_server(app, _GRACE_SECONDS)
    loop = asyncio.get_running_loop()

    def end() -> None:
        server.should_exit = True
        loop.run_in_executor(None, live.close)  # open streams end, and their connections with them

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    live.start()
    host, port = listening.getsockname()[:2]
    event("dashboard_ready", url=f"http://{host}:{port}/dashboard/")
    try:
        await server.serve(sockets=[listening])
    finally:
        await asyncio.to_thread(live.close)


if __name__ == "__main__":
    sys.exit(run(main))
