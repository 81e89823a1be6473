"""Asynchronous inference against the raw engine and against real-time: submitting, time to result, submissions and rows per second.

    python -m tests.benchmarks.bench_async [--submissions 300]

Ours is one gateway and one worker with one process that scores, on SQLite, over HTTP, with stored features looked up in a SQLite store
and every answer logged and kept. `engine` is DBOS alone on a SQLite file of its own with the same settings and a workflow that does
nothing: enqueued by its client in this process, without HTTP, without rows, without answers. `real-time` is the lean server, asked
over one connection. Each is measured while the others rest. A ratio above 1: ours is better; against either it need not be.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dbos import DBOS, DBOSClient

from tests.benchmarks.publish import add_publish_arguments, entry, publish, table
from tests.toy.serving import asking, serving, write_store
from tests.toy.submitting import Running, open_async
from tests.toy.workspace import Workspace
from udfs.registry import fetch, resolve

ROOT = Path(__file__).resolve().parents[2]
CONNECTIONS = 16
MANY_ROWS = 10_000


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--submissions", type=int, default=300, help="of one measurement")
    add_publish_arguments(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="onescore-bench-") as scratch:
        records = measure_all(Path(scratch), arguments.submissions)
    publish("async", records, table(records), arguments)
    return 0


def measure_all(scratch: Path, n: int) -> list[dict[str, Any]]:
    """Return the records {name, ours, peer, ratio, unit, rows}."""
    workspace = Workspace.create(scratch / "home")
    workspace.train("train.params.max_iter=100")
    bundle = fetch(resolve("models:/houses@champion", workspace.connect()), scratch / "cache")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ONESCORE_", "MLFLOW_"))}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with engine(scratch) as (client, url):
        peer = measure_engine(client, url, n)
    through = write_store(scratch / "online.db")
    rows = [row for row in asking(MANY_ROWS + 5_000, through) if row["town"] not in (None, "town-5")][
        :MANY_ROWS
    ]
    with serving(scratch, environment | workspace.env(), "--bundle", str(bundle)) as lean:
        online = measure_realtime(lean.port, rows, n)
    settings = ("submissions.scorers=1", f"store.url=sqlite:///{scratch}/online.db")
    with open_async(scratch / "async", environment, bundle, *settings) as place:
        gateway = place.gateway()
        place.worker()
        ours = measure_ours(gateway, place.directory / "submissions.db", rows, n)
    return [
        entry("async/submit one row, p50, against the engine", ours["p50"], peer["p50"], "ms", 1),
        entry("async/submit one row, p99, against the engine", ours["p99"], peer["p99"], "ms", 1),
        entry(f"async/taken at {CONNECTIONS} connections, against the engine", ours["taken"], peer["taken"], "submissions/s", n),
        entry("async/scored, of one row each, against the engine", ours["done"], peer["done"], "submissions/s", n),
        entry("async/time to the result of one row, p50, against the engine", ours["result"], peer["result"], "ms", 1),
        entry("async/time to the result of one row, p50, against real-time", ours["result"], online["result"], "ms", 1),
        entry(f"async/rows/s, submissions of {MANY_ROWS:,}, against real-time", ours["rows"], online["rows"], "rows/s", MANY_ROWS),
    ]  # fmt: skip


@contextlib.contextmanager
def engine(scratch: Path) -> Iterator[tuple[DBOSClient, str]]:
    """Start the engine alone, its write-ahead log on as ours is."""
    path = scratch / "noop.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode=wal")
    url = f"sqlite:///{path}"
    DBOS.migrate(url)
    command = [sys.executable, str(ROOT / "tests/benchmarks/peers/dbos_noop.py"), url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None or process.stdout.readline().strip() != "ready":
            raise SystemExit("the engine did not start")
        client = DBOSClient(
            system_database_url=url, application_name="onescore-noop", system_database_pool_size=CONNECTIONS
        )
        yield client, url
        client.destroy()
        process.communicate("")


def measure_engine(client: DBOSClient, url: str, n: int) -> dict[str, float]:
    """Return what the engine alone takes, in milliseconds and per second."""

    def enqueue() -> Any:
        options: Any = {"workflow_name": "noop", "queue_name": "noop", "app_version": "1"}
        return client.enqueue(options, "x")

    def drained() -> bool:
        with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)) as connection:
            query = "select count(*) from workflow_status where status <> 'SUCCESS'"
            return connection.execute(query).fetchone()[0] == 0

    spent = timed(enqueue, n)
    until(drained)
    results = timed(lambda: enqueue().get_result(polling_interval_sec=0.002), n // 10)
    taken, done = pushed(lambda: with_threads(enqueue, n), drained, n)
    return {**percentiles(spent), "result": statistics.median(results) * 1000, "taken": taken, "done": done}


def measure_realtime(port: int, rows: list[dict[str, Any]], n: int) -> dict[str, float]:
    """Return what the lean server takes over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(body: bytes) -> None:
        connection.request("POST", "/invocations", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"the lean server answered {answer.status}")

    one, many = (json.dumps({"inputs": some}).encode() for some in (rows[:1], rows))
    spent = timed(lambda: ask(one), n)
    seconds = statistics.median(timed(lambda: ask(many), 5))
    connection.close()
    return {"result": statistics.median(spent) * 1000, "rows": len(rows) / seconds}


def measure_ours(gateway: Running, database: Path, rows: list[dict[str, Any]], n: int) -> dict[str, float]:
    """Return what a gateway and a worker take over HTTP."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=120)
    one, many = (json.dumps({"rows": some}).encode() for some in (rows[:1], rows))

    def call(method: str, path: str, body: bytes | None = None) -> Any:
        connection.request(method, path, body, {"content-type": "application/json"})
        return json.loads(connection.getresponse().read())

    def result(body: bytes) -> None:
        where = call("POST", "/submissions", body)["status_url"]
        while call("GET", where + "?limit=1")["state"] in ("queued", "running"):
            time.sleep(0.002)

    def drained() -> bool:
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as opened:
            query = "select count(*) from onescore_submissions where state <> 'succeeded'"
            return opened.execute(query).fetchone()[0] == 0

    def load() -> None:
        command = [
            sys.executable,
            str(ROOT / "tests/benchmarks/load.py"),
            str(gateway.port),
            str(CONNECTIONS),
        ]
        subprocess.run(
            [*command, str(n), "120", "/submissions"], input=one, stdout=subprocess.DEVNULL, check=True
        )

    result(one)
    spent = timed(lambda: call("POST", "/submissions", one), n)
    until(drained)
    results = timed(lambda: result(one), n // 10)
    taken, done = pushed(load, drained, n)
    seconds = statistics.median(timed(lambda: result(many), 5))
    found = {**percentiles(spent), "result": statistics.median(results) * 1000, "taken": taken, "done": done}
    return found | {"rows": len(rows) / seconds}


def timed(call: Callable[[], Any], n: int) -> list[float]:
    """Return the seconds of each of n calls."""
    spent = []
    for _ in range(n):
        begun = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begun)
    return spent


def pushed(push: Callable[[], Any], drained: Callable[[], bool], n: int) -> tuple[float, float]:
    """Return how many of n a second were taken, and were done, when they come as fast as they are taken."""
    begun = time.perf_counter()
    push()
    taken = time.perf_counter() - begun
    until(drained)
    return n / taken, n / (time.perf_counter() - begun)


def with_threads(call: Callable[[], Any], n: int) -> None:
    """Call n times from as many threads as there are connections."""
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        for done in [threads.submit(call) for _ in range(n)]:
            done.result()


def until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit("not within two minutes")
        time.sleep(0.01)


def percentiles(spent: list[float]) -> dict[str, float]:
    """Return p50 and p99, milliseconds."""
    ordered = sorted(spent)
    return {"p50": ordered[len(ordered) // 2] * 1000, "p99": ordered[int(len(ordered) * 0.99)] * 1000}


if __name__ == "__main__":
    sys.exit(main())
