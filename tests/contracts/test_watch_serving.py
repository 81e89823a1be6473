"""The watcher of a stock server as a scraper meets it: counts what is logged from now on, once, whatever retention deletes."""

from __future__ import annotations

import contextlib
import re
import resource
import signal
import socket
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client import CollectorRegistry

from feature_pipelines.errors import ConfigurationError
from feature_pipelines.stores.opening import open_store
from jobs.online.log_tail import LogTail
from jobs.online.metrics import ServingMetrics
from jobs.watch_serving import _answers, _store_watch
from tests.toy.processes import free_port, server, wait_until
from tests.toy.serving import asking, write_store
from tests.toy.workspace import CONF_DIR, Workspace
from udfs.bundle import load_bundle
from udfs.online import OnlineScorer
from udfs.prediction_log import PredictionLog
from udfs.prediction_schema import SCHEMA
from udfs.scorer import Scorer


@pytest.fixture(scope="module")
def houses(bundle: Path) -> Scorer:
    """The loaded toy model."""
    return load_bundle(bundle)


@contextlib.contextmanager
def stock_server(houses: Scorer, directory: Path) -> Iterator[Any]:
    """What a served model does to its store and log, in this process."""
    through = write_store(directory / "online.db")
    log = PredictionLog(directory / "log", lambda: through, flush_seconds=600)
    store = open_store(f"sqlite:///{directory}/online.db", timeout_ms=10_000)
    online = OnlineScorer(houses, store, clock=lambda: through, log=log, model_version="4")

    def answer(n: int, *, is_flushed: bool = True) -> None:
        online.answer([*asking(n, through)[1:], {"house_id": 1}])
        if is_flushed:
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


@pytest.mark.parametrize(
    "foreign",
    [{"x": [1]}, {name: [1] for name in SCHEMA.names}, {n: [1] for n in SCHEMA.names if n != "statuses"}],
    ids=["other columns", "other types", "one too few"],
)
def test_tail_steps_over_a_file_that_is_not_of_the_log(
    houses: Scorer, tmp_path: Path, foreign: dict[str, Any]
) -> None:
    registry = CollectorRegistry()
    tail = LogTail(tmp_path / "log", ServingMetrics(registry))
    file = tmp_path / "log" / "houses" / "date=2020-01-01" / "part-1-000000000001-000000000001.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.table(foreign), file)
    with stock_server(houses, tmp_path) as answer:
        answer(4)
        assert (tail.poll(), tail.poll()) == (4, 0)
        assert samples(registry)["onescore_rows_total[]"] == 4


def gap_samples(tail: LogTail, registry: CollectorRegistry) -> tuple[float, float]:
    tail.poll()
    found = samples(registry)
    return found["onescore_prediction_log_queued[]"], found["onescore_prediction_log_lost_rows[]"]


def test_rows_that_are_not_written_are_queued_and_after_a_while_lost(houses: Scorer, tmp_path: Path) -> None:
    """As of a server that was killed, or whose disk is full: no later row shows the gap."""
    now = [0.0]
    registry = CollectorRegistry()
    metrics = ServingMetrics(registry)
    tail = LogTail(tmp_path / "log", metrics, overdue_seconds=60, timer=lambda: now[0])
    with stock_server(houses, tmp_path) as answer:
        answer(4)
        assert gap_samples(tail, registry) == (0, 0)
        answer(7, is_flushed=False)
        assert gap_samples(tail, registry) == (7, 0)
        now[0] += 59
        assert gap_samples(tail, registry) == (7, 0)
        now[0] += 1
        assert gap_samples(tail, registry) == (0, 7)
        answer(2, is_flushed=False)  # the same gap, longer
        assert gap_samples(tail, registry) == (0, 9)
        answer(1)  # the disk has room again
        assert gap_samples(tail, registry) == (0, 0)
        now[0] += 1_000
        answer(3, is_flushed=False)  # another gap waits its own time
        assert gap_samples(tail, registry) == (3, 0)


def test_rows_before_written_ones_that_are_in_no_file_are_lost_at_once(
    houses: Scorer, tmp_path: Path
) -> None:
    registry = CollectorRegistry()
    with stock_server(houses, tmp_path) as answer:
        answer(4)
        answer(5)
        tail = LogTail(tmp_path / "log", ServingMetrics(registry))
        assert gap_samples(tail, registry) == (0, 0)
        first = min((tmp_path / "log").rglob("*.parquet"), key=lambda file: file.name)
        first.unlink()
        assert gap_samples(tail, registry) == (0, 4)
        (tmp_path / "log" / "houses" / ".sequence-torn").write_text("no number")
        assert gap_samples(tail, registry) == (0, 0)  # nothing can be told, and the watch goes on


def test_full_disk_shows_in_the_watch(houses: Scorer, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with stock_server(houses, tmp_path) as answer:
        answer(4)
        tail = LogTail(tmp_path / "log", ServingMetrics(registry))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            answer(6)
            for _ in range(4):
                answer(1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert gap_samples(tail, registry) == (10, 0)
        answer(1)
        assert gap_samples(tail, registry) == (0, 6)  # given up after five tries; the others had tries left


def test_server_that_does_not_speak_http_is_down_and_the_watch_goes_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def say_nonsense() -> None:
            for _ in range(2):
                client, _ = listening.accept()
                with client:
                    client.recv(1_000)
                    client.sendall(b"220 ready\r\n")

        thread = threading.Thread(target=say_nonsense)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/ping"
        assert [_answers(url), _answers(url)] == [False, False]
        thread.join(10)


def test_store_is_asked_about_the_served_models_views_not_those_of_this_code(
    bundle: Path, tmp_path: Path
) -> None:
    write_store(tmp_path / "online.db")
    changed = ("model.feature_set=tests.toy.parcels:FEATURES", f"store.url=sqlite:///{tmp_path}/online.db")
    conf = Workspace(tmp_path).conf(*changed)
    for directory, expected in ((None, set()), (bundle, {"onescore_view_age_seconds['rates']"})):
        registry = CollectorRegistry()
        _store_watch(conf, ServingMetrics(registry), directory)()
        assert {name for name in samples(registry) if "view_age" in name} == expected


def test_a_directory_of_another_model_is_refused(bundle: Path, tmp_path: Path) -> None:
    conf = Workspace(tmp_path).conf("model.name=flats", f"store.url=sqlite:///{tmp_path}/online.db")
    with pytest.raises(ConfigurationError, match="it is of model 'houses', not of 'flats'"):
        _store_watch(conf, ServingMetrics(CollectorRegistry()), bundle)


class _Ping(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer 200."""
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_watcher_exposes_the_log_the_health_and_the_freshness(
    houses: Scorer, bundle: Path, process_env: dict[str, str], tmp_path: Path
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
    command += [
        "--set",
        f"store.url=sqlite:///{tmp_path}/online.db",
        "--bundle",
        str(bundle),
        "--overdue",
        "0.5",
    ]
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
            assert found["onescore_prediction_log_lost_rows"] == 0
            assert not [
                name for name in found if "requests" in name or "failed_writes" in name
            ]  # not known here
            answer(3, is_flushed=False)
            wait_until(
                lambda: scraped()["onescore_prediction_log_lost_rows"] == 3, "the loss to show", 10, output
            )
        finally:
            pinged.shutdown()
            pinged.server_close()
            thread.join()
        wait_until(lambda: scraped()["onescore_server_up"] == 0, "the server to be down", 10, output)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
