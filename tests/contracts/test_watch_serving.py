"""The watcher of a stock server as a scraper meets it: counts what is logged from now on, once, whatever retention deletes."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from feature_pipelines.stores.opening import open_store
from jobs.online.log_tail import LogTail
from jobs.online.metrics import ServingMetrics
from tests.toy.house_bundle import write_house_bundle
from tests.toy.processes import free_port, server, wait_until
from tests.toy.serving import asking, write_store
from tests.toy.workspace import CONF_DIR
from udfs.bundle import load_bundle
from udfs.online import OnlineScorer
from udfs.prediction_log import PredictionLog
from udfs.scorer import Scorer


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """The loaded toy model."""
    bundle = tmp_path_factory.mktemp("watched") / "bundle"
    write_house_bundle(bundle)
    return load_bundle(bundle)


@contextlib.contextmanager
def stock_server(houses: Scorer, directory: Path) -> Iterator[Any]:
    """What a served model does to its store and log, in this process."""
    through = write_store(directory / "online.db")
    log = PredictionLog(directory / "log", lambda: through, flush_seconds=600)
    store = open_store(f"sqlite:///{directory}/online.db", timeout_ms=10_000)
    online = OnlineScorer(houses, store, clock=lambda: through, log=log, model_version="4")

    def answer(n: int) -> None:
        online.answer([*asking(n, through)[1:], {"house_id": 1}])
        log.flush()

    yield answer
    online.close()


def samples(registry: CollectorRegistry) -> dict[str, float]:
    return {
        f"{s.name}{sorted(s.labels.values())}": s.value
        for metric in registry.collect()
        for s in metric.samples
    }


def test_tail_counts_each_row_once_from_now_on(houses: Scorer, tmp_path: Path) -> None:
    with stock_server(houses, tmp_path) as answer:
        answer(10)
        registry = CollectorRegistry()
        tail = LogTail(tmp_path / "log", ServingMetrics(registry))
        assert tail.poll() == 0  # what was there before is not counted
        answer(20)
        answer(5)
        assert (tail.poll(), tail.poll()) == (25, 0)
        found = samples(registry)
        assert found["onescore_rows_total[]"] == 25
        assert found["onescore_row_errors_total['NULL_NOT_ALLOWED']"] == 2
        assert found["onescore_latency_seconds_count['lookup']"] == 2
        looked_up = sum(v for k, v in found.items() if k.startswith("onescore_view_status_total"))
        assert looked_up == 23
        for file in (tmp_path / "log").rglob("*.parquet"):
            file.unlink()  # retention
        assert tail.poll() == 0
        answer(3)
        assert tail.poll() == 3
        assert samples(registry)["onescore_rows_total[]"] == 28


def test_tail_waits_for_a_log_and_steps_over_a_broken_file(houses: Scorer, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    tail = LogTail(tmp_path / "log", ServingMetrics(registry))
    assert tail.poll() == 0
    broken = tmp_path / "log" / "houses" / "date=2020-01-01" / "part-1-000000000001-000000000002.parquet"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no parquet")
    with stock_server(houses, tmp_path) as answer:
        answer(4)
        assert (tail.poll(), tail.poll()) == (4, 0)


class _Ping(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer 200."""
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_watcher_exposes_the_log_the_health_and_the_freshness(
    houses: Scorer, process_env: dict[str, str], tmp_path: Path
) -> None:
    port, output = free_port(), tmp_path / "watch.log"
    pinged = HTTPServer(("127.0.0.1", 0), _Ping)
    thread = threading.Thread(target=pinged.serve_forever)
    thread.start()
    command = [
        sys.executable,
        "-m",
        "jobs.watch_serving",
        "--model",
        "houses",
        "--log",
        str(tmp_path / "log"),
    ]
    command += ["--url", f"http://127.0.0.1:{pinged.server_port}", "--port", str(port), "--every", "0.2"]
    command += ["--set", f"store.url=sqlite:///{tmp_path}/online.db"]
    env = process_env | {"ONESCORE_HOME": str(tmp_path), "ONESCORE_CONF_DIR": str(CONF_DIR)}

    def scraped() -> dict[str, float]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
        return {k: float(v) for k, v in re.findall(r"^(onescore_\S+) (\S+)$", text, re.MULTILINE)}

    with (
        server(command, env=env, cwd=tmp_path, log=output) as process,
        stock_server(houses, tmp_path) as answer,
    ):
        try:
            wait_until(lambda: scraped().get("onescore_server_up") == 1, "the watcher", 40, output)
            answer(12)
            wait_until(lambda: scraped()["onescore_rows_total"] == 12, "the rows to be counted", 10, output)
            found = scraped()
            assert found["onescore_store_up"] == 1
            assert found['onescore_view_age_seconds{view="rates"}'] > 0
            assert found['onescore_row_errors_total{code="NULL_NOT_ALLOWED"}'] == 1
        finally:
            pinged.shutdown()
            pinged.server_close()
            thread.join()
        wait_until(lambda: scraped()["onescore_server_up"] == 0, "the server to be down", 10, output)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
