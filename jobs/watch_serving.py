"""Expose metrics of a stock `mlflow models serve`: its prediction log, its health, the freshness of its features.

python -m jobs.watch_serving --log .onescore/prediction_log --url http://127.0.0.1:5000 --port 9100
"""

from __future__ import annotations

import argparse
import contextlib
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
from jobs.runs.command import add_common_arguments, load_from, run
from jobs.runs.conf import Conf
from jobs.runs.progress import table

__all__ = ["main"]

_PROBE_SECONDS = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the watcher until SIGTERM; see --help."""
    parser = argparse.ArgumentParser(
        prog="jobs.watch_serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="The metrics are those of the lean server, by the same names. Counters start at zero with this process: "
        "files that are there already are not counted, so starting again counts nothing twice. Files may be deleted at any time.",
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
    add_common_arguments(parser)
    arguments = parser.parse_args(argv)
    conf = load_from(arguments)
    directory = arguments.log or (Path(conf.serve.log_directory) if conf.serve.log_directory else None)
    if directory is None or not arguments.url.startswith(("http://", "https://")) or arguments.every <= 0:
        raise ConfigurationError(
            "expected --log (or serve.log_directory), an http:// or https:// --url, and --every above 0"
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
    tail = LogTail(directory, metrics)
    look_at_store = _store_watch(conf, metrics)
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
    except OSError:  # urllib's own errors are such
        return False


def _store_watch(conf: Conf, metrics: ServingMetrics) -> Callable[[], None]:
    """Return what asks the store how far its views go."""
    views = load_reference(conf.model.feature_set).views
    store = open_store(store_url(conf), timeout_ms=conf.store.timeout_ms)

    def look() -> None:
        through: dict[str, int | None] | None = None
        with contextlib.suppress(OnescoreError):
            through = store.through(views)
        metrics.store(through, time.time_ns() // 1000)

    return look


if __name__ == "__main__":
    sys.exit(run(main))
