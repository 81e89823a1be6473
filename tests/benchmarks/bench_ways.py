"""Latency, throughput and cost per million rows of each way of inference, on one model and one machine, at configured prices.

    python -m tests.benchmarks.bench_ways [--rows 1000000] [--seconds 5] [--price-core-hour 0.05] ...

The model is the toy one with 100 boosted trees; each way is asked as a user would ask it. What runs all the time is paid by the hour: its
cost is that of the cores it keeps busy, at full load, so an idle server costs more per row than it says here. A function is paid by
request and by memory and time, rounded up to the millisecond: its cost holds at any load. The default prices are of the order
of a large cloud's list prices without discounts; give your own.

A way is a function that measures and one line in WAYS: it gets the `Setting` and returns one `Measured` per form of it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.proof.path_functions import gateway_event
from tests.benchmarks.bench_serverless import package
from tests.benchmarks.publish import add_publish_arguments, entry, publish

if TYPE_CHECKING:
    from tests.toy.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
_MILLION = 1_000_000
_TRIGGER = "1 second"


@dataclass(frozen=True)
class Prices:
    """What is paid, in one currency.

    Args:
        core_hour: a core of a machine that runs all the time, with its memory.
        gb_second: of a function.
        million_requests: to a function.
        function_gb: memory of the function.
    """

    core_hour: float
    gb_second: float
    million_requests: float
    function_gb: float

    def of_cores(self, rows_per_second: float, cores: int) -> float:
        """Return the cost of a million rows where cores are paid by the hour and are busy."""
        return _MILLION / rows_per_second / 3600 * cores * self.core_hour

    def of_requests(self, seconds: float, rows: int) -> float:
        """Return the cost of a million rows in requests to a function that take so long and bring so many rows each."""
        billed = math.ceil(seconds * 1000) / 1000 * self.function_gb * self.gb_second
        return _MILLION / rows * (billed + self.million_requests / _MILLION)


@dataclass(frozen=True)
class Measured:
    """One form of a way.

    Args:
        name: of the way and its form.
        latency_ms: until one row, or the first rows, have their scores; None where nobody waits for one.
        rows_per_second: at full load, on this machine.
        cost: of a million rows.
        rows: of one request or run.
    """

    name: str
    latency_ms: float | None
    rows_per_second: float
    cost: float
    rows: int


@dataclass(frozen=True)
class Setting:
    """What every way is measured on.

    Args:
        scratch: a directory.
        rows: of the batch.
        seconds: of one measurement, at most.
        prices: see there.
    """

    scratch: Path
    rows: int
    seconds: float
    prices: Prices

    @cached_property
    def workspace(self) -> Workspace:
        """The tables and the registered model."""
        from tests.toy.workspace import Workspace

        found = Workspace.create(self.scratch / "home")
        found.train("train.params.max_iter=100")
        return found

    @cached_property
    def bundle(self) -> Path:
        """The registered model's directory."""
        from udfs.registry import fetch, resolve

        return fetch(resolve("models:/houses@champion", self.workspace.connect()), self.scratch / "cache")

    @cached_property
    def table(self) -> str:
        """The table of requests that jobs score."""
        from tests.toy.workspace import house_rows

        self.workspace.write("many_houses", house_rows(self.rows), rows_per_file=250_000)
        return "many_houses"

    @cached_property
    def environment(self) -> dict[str, str]:
        """Of processes: this code, the workspace, nothing of the user's settings."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ONESCORE_", "MLFLOW_"))}
        return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **self.workspace.env()}


def batch(setting: Setting) -> list[Measured]:
    """The batch job over a table, as a process; its latency is that of the whole job."""
    return [_spark_job(setting, "batch: jobs.score_batch, start included", "score_batch")]


def stream(setting: Setting) -> list[Measured]:
    """The streaming job; throughput over all that has come, as a schedule starts it, latency of a row that comes while it runs."""
    name = f"stream: jobs.score_stream; latency while running ({_TRIGGER}), rows/s of --available-now, start included"
    caught_up = _spark_job(setting, name, "score_stream", "--available-now")
    return [replace(caught_up, latency_ms=_stream_latency(setting))]


def _stream_latency(setting: Setting) -> float:
    """Go on with the query without an end and return the median milliseconds from a row's commit to that of its score."""
    from deltalake import DeltaTable, write_deltalake

    from tests.toy.processes import server
    from tests.toy.workspace import house_rows

    source, scored = (setting.workspace.table(name) for name in (setting.table, "score_stream_scored"))
    command = _command(setting, "score_stream", "--set", f"stream.trigger={_TRIGGER}")
    log, spent = setting.scratch / "stream.log", []
    with server(command, env=setting.environment, cwd=ROOT, log=log) as process:

        def milliseconds(number: int) -> float:
            target = Path(scored) / "_delta_log" / f"{DeltaTable(scored).version() + 1:020}.json"
            write_deltalake(source, house_rows(1, seed=number), mode="append")
            began = time.perf_counter()
            while not target.exists():
                if process.poll() is not None or time.perf_counter() > began + 120:
                    raise SystemExit(f"the stream gives no score: {log.read_text()[-2000:]}")
                time.sleep(0.005)
            return (time.perf_counter() - began) * 1000

        milliseconds(1)  # the query starts
        end = time.perf_counter() + 4 * setting.seconds
        while not spent or time.perf_counter() < end:
            time.sleep(0.37)  # so that rows do not come in step with the trigger
            spent.append(milliseconds(2 + len(spent)))
    return statistics.median(spent)


def _command(setting: Setting, job: str, *flags: str) -> list[str]:
    command = [sys.executable, "-m", f"jobs.{job}", *flags, "--model", "houses"]
    outputs = (f"output.scored={job}_scored", f"output.quarantine={job}_quarantine")
    for pair in (f"input.source={setting.table}", *outputs, "quarantine.max_share=1"):
        command += ["--set", pair]
    return command


def _spark_job(setting: Setting, name: str, job: str, *flags: str) -> Measured:
    command = _command(setting, job, *flags)
    began = time.perf_counter()
    subprocess.run(command, env=setting.environment, cwd=ROOT, check=True, capture_output=True)
    seconds = time.perf_counter() - began
    rate = setting.rows / seconds
    cost = setting.prices.of_cores(rate, os.cpu_count() or 1)
    return Measured(name, seconds * 1000, rate, cost, setting.rows)


def realtime(setting: Setting) -> list[Measured]:
    """Both servers, one worker each, one row a request, over keep-alive connections."""
    import mlflow

    from tests.toy.house_bundle import house_wire
    from tests.toy.serving import serving, write_store
    from tests.toy.stock_server import stock_server

    directory = setting.scratch / "realtime"
    directory.mkdir()
    write_store(directory / "online.db")
    bodies = b"\n".join(json.dumps({"inputs": [row]}).encode() for row in house_wire(200))
    found = []

    def measure(name: str, port: int) -> None:
        spent = {n: _load(port, n, setting.seconds, bodies) for n in (1, 16)}
        p50 = statistics.median(spent[1]["seconds"]) * 1000
        rate = len(spent[16]["seconds"]) / spent[16]["wall"]
        found.append(Measured(name, p50, rate, setting.prices.of_cores(rate, 1), 1))

    with serving(directory, setting.environment, "--bundle", str(setting.bundle)) as server:
        measure("real-time: jobs.serve_realtime, one worker", server.port)
    setting.workspace.connect()
    (directory / "stock").mkdir()
    model = mlflow.artifacts.download_artifacts("models:/houses@champion", dst_path=str(directory / "stock"))
    environment = {**setting.environment, "ONESCORE_STORE_URL": f"sqlite:///{directory}/online.db"}
    with stock_server(model, environment, directory) as stock:
        measure("real-time: mlflow models serve, one worker", stock.port)
    return found


def asynchronous(setting: Setting) -> list[Measured]:
    """One gateway and one worker with one process that scores: from submitting to the answers in hand, alone and many rows at once."""
    from tests.toy.serving import asking, write_store
    from tests.toy.submitting import open_async

    directory = setting.scratch / "async"
    found = []
    settings = ("submissions.scorers=1", "submissions.max_rows=100000")
    with open_async(directory, setting.environment, setting.bundle, *settings) as place:
        rows = asking(10_000, write_store(directory / "online.db"))
        gateway = place.gateway()
        place.worker()
        for n in (1, len(rows)):
            spent, end = [], time.perf_counter() + setting.seconds
            while not spent or time.perf_counter() < end:
                began = time.perf_counter()
                gateway.finished(gateway.submit({"rows": rows[:n]}))
                spent.append(time.perf_counter() - began)
            seconds = statistics.median(spent)
            cost = setting.prices.of_cores(n / seconds, 2)
            name = f"asynchronous: one after the other, {n:,} row{'s' if n > 1 else ''} each"
            found.append(Measured(name, seconds * 1000, n / seconds, cost, n))
    return found


def serverless(setting: Setting) -> list[Measured]:
    """The packaged Lambda handler, warm, by events of API Gateway v2 with one row and with a hundred."""
    from tests.toy.house_bundle import house_wire

    app = package(setting.scratch / "function", 1, setting.environment)
    found = []
    for n in (1, 100):
        body = json.dumps({"inputs": house_wire(n)}).encode()
        event = json.dumps(gateway_event(2, "POST", "/invocations", body))
        command = [sys.executable, "-I", "-S", "-B", "-c", _HANDLER, str(app), str(setting.seconds)]
        done = subprocess.run(command, input=event, env={}, capture_output=True, text=True, check=True)
        seconds = float(done.stdout)
        cost = setting.prices.of_requests(seconds, n)
        name = f"serverless: Lambda handler, {n} row{'s' if n > 1 else ''} a request"
        found.append(Measured(name, seconds * 1000, n / seconds, cost, n))
    return found


_HANDLER = """\
import json, sys, time
sys.path.insert(0, sys.argv[1])
from jobs.serve_lambda import handler
class Context:
    def get_remaining_time_in_millis(self): return 100000
event, spent = json.load(sys.stdin), []
handler(event, Context())
end = time.perf_counter() + float(sys.argv[2])
while time.perf_counter() < end:
    at = time.perf_counter(); handler(event, Context()); spent.append(time.perf_counter() - at)
print(sorted(spent)[len(spent) // 2])
"""

WAYS: dict[str, Callable[[Setting], list[Measured]]] = {
    "batch": batch,
    "stream": stream,
    "realtime": realtime,
    "async": asynchronous,
    "serverless": serverless,
}
"""All there are."""


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the batch")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement, at most")
    parser.add_argument("--ways", default=",".join(WAYS), help="which, of %(default)s")
    parser.add_argument(
        "--price-core-hour", type=float, default=0.05, help="a core, by the hour (%(default)s)"
    )
    parser.add_argument("--price-gb-second", type=float, default=0.0000166667, help="of a function")
    parser.add_argument("--price-million-requests", type=float, default=0.20, help="to a function")
    parser.add_argument(
        "--function-gb", type=float, default=1.769, help="its memory; with 1.769 GB it has one core"
    )
    add_publish_arguments(parser)
    arguments = parser.parse_args()
    prices = Prices(
        arguments.price_core_hour,
        arguments.price_gb_second,
        arguments.price_million_requests,
        arguments.function_gb,
    )
    with tempfile.TemporaryDirectory(prefix="onescore-bench-") as scratch:
        setting = Setting(Path(scratch), arguments.rows, arguments.seconds, prices)
        found = [one for name in arguments.ways.split(",") for one in WAYS[name](setting)]
    publish("ways", _records(found), _table(found, prices), arguments)
    return 0


def _load(port: int, connections: int, seconds: float, bodies: bytes) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "tests/benchmarks/load.py"), str(port), str(connections)]
    command += ["20000", str(seconds)]
    done = subprocess.run(command, input=bodies, capture_output=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _records(found: Sequence[Measured]) -> list[dict[str, Any]]:
    records = []
    for one in found:
        for what, value, unit in (
            ("latency", one.latency_ms, "ms"),
            ("throughput", one.rows_per_second, "rows/s"),
            ("cost of a million rows", one.cost, "currency"),
        ):
            records.append(entry(f"ways/{one.name}: {what}", value, None, unit, one.rows))
    return records


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(found: Sequence[Measured], prices: Prices) -> str:
    lines = ["| way | latency | rows/s | cost of 1M rows |", "|---|---:|---:|---:|"]
    for one in found:
        latency = "-" if one.latency_ms is None else f"{_digits(one.latency_ms)} ms"
        lines.append(f"| {one.name} | {latency} | {one.rows_per_second:,.0f} | {one.cost:.4f} |")
    said = (
        f"at {prices.core_hour:g} a core and hour, {prices.gb_second:g} a GB and second, {prices.million_requests:g} a million "
        f"requests, functions of {prices.function_gb:g} GB"
    )
    return "\n".join(lines) + f"\n\n({said})\n"


if __name__ == "__main__":
    sys.exit(main())
