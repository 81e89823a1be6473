"""One request's latency and requests per second: the lean server and the registered pyfunc against the plain ways to serve a model.

    python -m tests.benchmarks.bench_serving [--seconds 5] [--rounds 3]

The flights model: five stored views, 53 features. All servers run side by side, each with one worker: `lean`
(jobs.serve_realtime), `pyfunc` (the model, registered with today's code, on `mlflow models serve`), and three peers on
`mlflow models serve` (serving_peers): the same estimator in a scikit-learn pipeline with features in pandas, in one with our
numpy features, both sent the request and the stored values, and alone, sent finished features. Ours look the stored values up in
a SQLite store, and log every answer; the peers do neither. All give the same scores. Load comes from another process (load.py)
over keep-alive connections on the loopback interface, to one server at a time, in rounds; the median of the rounds counts. A
ratio above 1: ours is better.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from feature_pipelines.stores.opening import open_store
from jobs.runs.session import spark_session
from tests.benchmarks.flights_store import fill, requests_of
from tests.benchmarks.publish import add_publish_arguments, entry, publish, table
from tests.benchmarks.serving_peers import body_of, log_peers, with_stored_values
from tests.benchmarks.workload import QUICK_ROWS, conf_of, environment, make_workload
from tests.toy.processes import free_port, server, wait_until
from tests.toy.stock_server import stock_server
from udfs.registry import connect, fetch, register

ROOT = Path(__file__).resolve().parents[2]
N_BODIES = 200
PEERS = ("pandas", "numpy", "estimator")


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement, at most")
    parser.add_argument("--rounds", type=int, default=3)
    add_publish_arguments(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="onescore-bench-") as scratch:
        home = arguments.home.resolve()
        records = measure_all(home, Path(scratch), arguments.seconds, arguments.rounds)
    publish("serving", records, table(records), arguments)
    return 0


def measure_all(home: Path, scratch: Path, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Return the records {name, ours, peer, ratio, unit, rows}.

    Raises:
        SystemExit: a server gives other scores.
    """
    workload = make_workload(home, QUICK_ROWS, 2)
    conf = conf_of(home)
    bundle = fetch(workload.version, Path(conf.storage.cache)).resolve()
    requests = requests_of(home, N_BODIES)
    url = f"sqlite:///{scratch}/online.db"
    with spark_session(conf.spark, scratch / "spark.log") as spark:
        fill(spark, conf, url)
    environ = environment(OMP_NUM_THREADS="1")
    with contextlib.ExitStack() as stack:
        ports = {"lean": stack.enter_context(_lean(bundle, url, environ, scratch))}
        answers = _ask(ports["lean"], {"inputs": requests, "params": {"features": True}})
        bodies = _bodies(home, scratch, url, requests, answers)
        ours = environ | {
            "ONESCORE_STORE_URL": url,
            "ONESCORE_PREDICTION_LOG": str(scratch / "pyfunc_log"),
        }
        models = {
            "pyfunc": _registered(bundle, requests, scratch),
            **{name: scratch / name for name in PEERS},
        }
        for name, model in models.items():
            env = ours if name == "pyfunc" else environ
            ports[name] = stack.enter_context(_stock(name, model, env, scratch))
        for name, port in ports.items():
            _require_same_scores(name, port, bodies[name], answers)
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for name, port in ports.items():
                for key, value in _measure(port, bodies[name], seconds).items():
                    found.setdefault((name, key), []).append(value)
    return _records({key: statistics.median(values) for key, values in found.items()})


def _bodies(
    home: Path,
    scratch: Path,
    url: str,
    requests: Sequence[Mapping[str, Any]],
    answers: Sequence[Mapping[str, Any]],
) -> dict[str, list[bytes]]:
    """Return what each server is sent, having saved the peers' models."""
    store = open_store(url, timeout_ms=10_000)
    rows = with_stored_values(store, requests)
    store.close()
    features = [answer["features"] for answer in answers]
    log_peers(home, scratch, rows, pd.DataFrame(features))
    ours = [json.dumps({"inputs": [row]}).encode() for row in requests]
    return {
        "lean": ours,
        "pyfunc": ours,
        "pandas": [body_of(row) for row in rows],
        "numpy": [body_of(row) for row in rows],
        "estimator": [body_of(row) for row in features],
    }


def _registered(bundle: Path, requests: Sequence[Mapping[str, Any]], scratch: Path) -> Path:
    """Register the model anew, so that it is served by the code that is here now, and return its directory."""
    artifacts = str(scratch / "artifacts")
    client = connect(f"sqlite:///{scratch}/mlflow.db", experiment="bench", artifact_root=artifacts)
    model = json.loads((bundle / "model.json").read_text())
    with mlflow.start_run():
        version = register(client, "flights", bundle, requests[:1], model)
    target = scratch / "pyfunc"
    target.mkdir()
    return Path(mlflow.artifacts.download_artifacts(version.uri, dst_path=str(target)))


@contextlib.contextmanager
def _lean(bundle: Path, url: str, environ: Mapping[str, str], scratch: Path) -> Iterator[int]:
    port, output = free_port(), scratch / "lean.log"
    command = [sys.executable, "-m", "jobs.serve_realtime", "--model", "flights", "--bundle", str(bundle)]
    command += ["--port", str(port), "--workers", "1", "--set", f"store.url={url}"]
    env = {**environ, "ONESCORE_HOME": str(scratch)}
    with server(command, env=env, cwd=scratch, log=output) as process:
        wait_until(
            lambda: process.poll() is not None or '"worker_ready"' in output.read_text(), "lean", 60, output
        )
        yield port


@contextlib.contextmanager
def _stock(name: str, model: Path, environ: Mapping[str, str], scratch: Path) -> Iterator[int]:
    directory = scratch / f"{name}-server"
    directory.mkdir()
    with stock_server(model, environ, directory) as started:
        yield started.port


def _ask(port: int, body: Any) -> list[Any]:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", sent, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: list[Any] = json.load(answer)["predictions"]
        return found


def _require_same_scores(
    name: str, port: int, bodies: Sequence[bytes], answers: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse to compare servers that give different scores, or rows for which hardly anything was looked up."""
    present = 0
    for body, answer in list(zip(bodies, answers, strict=True))[:50]:
        (found,) = _ask(port, body)
        score = found[1] if name in PEERS else found["score"]
        if score != answer["score"]:
            raise SystemExit(f"{name}: gives {found}, expected {answer['score']}")
        present += sum(view["status"] == "PRESENT" for view in answer["views"].values())
    if present < 4 * 50:
        raise SystemExit(f"{present} of {5 * 50} look-ups found a row: too few to measure look-ups by")


def _measure(port: int, bodies: Sequence[bytes], seconds: float) -> dict[str, float]:
    found = {}
    for connections in (1, 16):
        command = [sys.executable, str(ROOT / "tests/benchmarks/load.py"), str(port), str(connections)]
        command += ["1000000", str(seconds)]
        done = subprocess.run(
            command, input=b"\n".join(bodies), capture_output=True, check=True, env=os.environ
        )
        load = json.loads(done.stdout)
        spent = sorted(load["seconds"])
        if connections == 1:
            found["p50"] = spent[len(spent) // 2] * 1000
            found["p99"] = spent[int(len(spent) * 0.99)] * 1000
        else:
            found["requests/s"] = len(spent) / load["wall"]
    return found


def _records(found: Mapping[tuple[str, str], float]) -> list[dict[str, Any]]:
    records = []
    for peer in PEERS:
        for name in ("lean", "pyfunc"):
            for key, unit in (("p50", "ms"), ("p99", "ms"), ("requests/s", "requests/s")):
                what = {"requests/s": "requests/s at 16 connections"}.get(key, f"{key} of one request")
                title = f"serving/{name} against {peer}: {what}"
                records.append(entry(title, found[name, key], found[peer, key], unit, 1))
    return records


if __name__ == "__main__":
    sys.exit(main())
