"""Expose metrics of a stock `mlflow models serve`: its prediction log, its health, the freshness of its features.

python -m jobs.watch_serving --log .onescore/prediction_log --url http://127.0.0.1:5000 --port 9100
"""

from __future__ import annotations

import contextlib
import http.client
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from feature_pipelines.errors import ConfigurationError, OnescoreError
from feature_pipelines.packaged import load_reference
from feature_pipelines.stores.opening import open_store
from jobs.online.json_logs import event, log_json
from jobs.online.log_tail import LogTail
from jobs.online.metrics import ServingMetrics
from jobs.online.store_conf import store_url
from jobs.runs.chosen_model import chosen_model
from jobs.runs.command import job_parser, load_from, run
from jobs.runs.conf import Conf
from jobs.runs.progress import table
from udfs.bundle import load_bundle

__all__ = ["main"]

_PROBE_SECONDS = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the watcher until SIGTERM; see --help."""
    parser = job_parser(
        "watch_serving",
        __doc__,
        "The metrics have the lean server's names; HTTP requests and their time are not among them, as a log has none. "
        "Counters start at zero with this process: files that are there already are not counted, so starting again counts nothing "
        "twice. Files may be deleted at any time. A log that loses rows (a full disk, kill -9) shows in "
        "onescore_prediction_log_lost_rows.",
    )
    parser.add_argument(
        "--log", type=Path, metavar="DIR", help="prediction log (default: serve.log_directory)"
    )
    parser.add_argument("--url", default="http://127.0.0.1:5000", help="the server (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="where metrics are served (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=9100, help="where metrics are served (default: %(default)s)"
    )
    parser.add_argument(
        "--every", type=float, default=5.0, metavar="SECONDS", help="how often to look (default: %(default)s)"
    )
    parser.add_argument(
        "--overdue",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long rows may be in no file until they count as lost; above the server's flush interval (default: %(default)s)",
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="the served model's directory: the store is asked about its views, not those of this code",
    )
    arguments = parser.parse_args(argv)
    conf = load_from(arguments)
    directory = arguments.log or (Path(conf.serve.log_directory) if conf.serve.log_directory else None)
    is_url = arguments.url.startswith(("http://", "https://"))
    if directory is None or not is_url or min(arguments.every, arguments.overdue) <= 0:
        raise ConfigurationError(
            "expected --log (or serve.log_directory), an http:// or https:// --url, and --every and --overdue above 0"
        )
    if arguments.dry_run:
        print("plan (nothing was started)")
        print(table({"log": str(directory), "server": arguments.url, "metrics": arguments.port}))
        return 0
    log_json()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    registry = CollectorRegistry()
    metrics = ServingMetrics(registry)
    tail = LogTail(directory, metrics, overdue_seconds=arguments.overdue)
    look_at_store = _store_watch(conf, metrics, arguments.bundle)
    try:
        served, _ = start_http_server(arguments.port, arguments.host, registry)
    except OSError as exc:
        raise ConfigurationError(f"--host {arguments.host} --port {arguments.port}: {exc.strerror}") from exc
    event("watching", server=arguments.url, port=arguments.port)
    while True:
        tail.poll()
        metrics.server(_answers(f"{arguments.url.rstrip('/')}/ping"))
        look_at_store()
        if stop.wait(arguments.every):
            break
    served.shutdown()
    event("watcher_ended")
    return 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_PROBE_SECONDS) as answer:  # noqa: S310 - checked above
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):  # the latter: it answers, but not in HTTP
        return False


def _store_watch(conf: Conf, metrics: ServingMetrics, bundle: Path | None) -> Callable[[], None]:
    """Return what asks the store how far the views go: those of a model's directory, else those of this code."""
    of_model = None if bundle is None else load_bundle(chosen_model(conf, bundle)[1]).feature_set
    views = (of_model or load_reference(conf.model.feature_set)).views
    store = open_store(store_url(conf), timeout_ms=conf.store.timeout_ms)

    def look() -> None:
        through: dict[str, int | None] | None = None
        with contextlib.suppress(OnescoreError):
            through = store.through(views)
        metrics.store(through, time.time_ns() // 1000)

    return look


if __name__ == "__main__":
    sys.exit(run(main))
