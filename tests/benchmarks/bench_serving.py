"""One request's latency and requests per second: the lean server and the registered pyfunc against the plain way to serve a pipeline.

    python -m tests.benchmarks.bench_serving [--seconds 5] [--rounds 3]

Three servers run side by side, each with one worker: `lean` (jobs.serve_realtime), `pyfunc` (the registered model on
`mlflow models serve`), and `plain`: the same fitted estimator logged by mlflow.sklearn with a DataFrame signature on
`mlflow models serve`. Ours look stored features up in a SQLite store, compute the rest and log every answer; `plain` is sent the
finished feature values, which favours it. All three must give the same scores. Load comes from another process (load.py) over
keep-alive connections on the loopback interface, to one server at a time, in rounds; the median of the rounds counts. A ratio
above 1: ours is better.
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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import infer_signature

from tests.benchmarks.publish import add_publish_arguments, entry, publish, table
from tests.toy.house_bundle import house_wire
from tests.toy.processes import free_port, is_listening, server, wait_until
from tests.toy.serving import serving, write_store
from tests.toy.workspace import Workspace
from udfs.registry import fetch, resolve

ROOT = Path(__file__).resolve().parents[2]
N_BODIES = 200
PEER = "plain"


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
        records = measure_all(Path(scratch), arguments.seconds, arguments.rounds)
    publish("serving", records, table(records), arguments)
    return 0


def measure_all(scratch: Path, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """Return the records {name, ours, peer, ratio, unit, rows}."""
    workspace = Workspace.create(scratch / "home")
    workspace.train("train.params.max_iter=100")
    version = resolve("models:/houses@champion", workspace.connect())
    bundle = fetch(version, scratch / "cache")
    through = write_store(scratch / "online.db")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ONESCORE_", "MLFLOW_"))}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ours = [_request(row, through) for row in house_wire(3 * N_BODIES) if row["town"] not in (None, "town-5")]
    bodies = {"lean": [json.dumps({"inputs": [row]}).encode() for row in ours[:N_BODIES]]}
    bodies["pyfunc"] = bodies["lean"]
    logged = next((scratch / "home" / ".onescore").rglob("MLmodel")).parent
    stock = environment | {"ONESCORE_STORE_URL": f"sqlite:///{scratch}/online.db"}
    stock["ONESCORE_PREDICTION_LOG"] = str(scratch / "pyfunc_log")
    options = ("--bundle", str(bundle))
    with contextlib.ExitStack() as stack:
        lean = stack.enter_context(serving(scratch, environment | workspace.env(), *options))
        ports = {"lean": lean.port}
        answers = _ask(lean.port, {"inputs": ours[:N_BODIES], "params": {"features": True}})
        _log_plain(bundle, answers, scratch / "plain")
        bodies[PEER] = [_split(answer["features"]) for answer in answers]
        ports["pyfunc"] = stack.enter_context(_stock("pyfunc", logged, stock, scratch))
        ports[PEER] = stack.enter_context(_stock(PEER, scratch / "plain", environment, scratch))
        for name, port in ports.items():
            _require_same_scores(name, port, bodies[name], answers)
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(rounds):
            for name, port in ports.items():
                for key, value in _measure(port, bodies[name], seconds).items():
                    found.setdefault((name, key), []).append(value)
    return _records({key: statistics.median(values) for key, values in found.items()})


def _request(row: Mapping[str, Any], through: int) -> dict[str, Any]:
    return {name: v for name, v in row.items() if not name.startswith("rate_")} | {"as_of_ts": through}


def _split(features: Mapping[str, Any]) -> bytes:
    return json.dumps(
        {"dataframe_split": {"columns": list(features), "data": [list(features.values())]}}
    ).encode()


def _log_plain(bundle: Path, answers: list[dict[str, Any]], directory: Path) -> None:
    """Log the estimator of the bundle as one would who knows nothing of us."""
    import skops.io

    file = bundle / "estimator.skops"
    estimator = skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))
    frame = pd.DataFrame([answer["features"] for answer in answers]).astype("float64")
    signature = infer_signature(frame, estimator.predict(frame.to_numpy()))
    with contextlib.suppress(AttributeError):
        del estimator.feature_names_in_
    mlflow.sklearn.save_model(
        estimator, str(directory), signature=signature, serialization_format="cloudpickle"
    )


@contextlib.contextmanager
def _stock(name: str, model: Path, environment: Mapping[str, str], scratch: Path) -> Iterator[int]:
    port, log = free_port(), scratch / f"{name}.log"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model)]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    env = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    with server(command, env=env, cwd=scratch, log=log) as process:
        wait_until(lambda: is_listening(port) or process.poll() is not None, name, 150, log)
        yield port


def _ask(port: int, body: Any) -> list[Any]:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", sent, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: list[Any] = json.load(answer)["predictions"]
        return found


def _require_same_scores(name: str, port: int, bodies: list[bytes], answers: list[dict[str, Any]]) -> None:
    """Refuse to compare servers that give different scores."""
    score_of: Callable[[Any], float] = (
        (lambda found: found) if name == PEER else (lambda found: found["score"])
    )
    for body, answer in list(zip(bodies, answers, strict=True))[:20]:
        (found,) = _ask(port, body)
        if score_of(found) != answer["score"]:
            raise SystemExit(f"{name}: gives {found}, expected {answer['score']}")


def _measure(port: int, bodies: list[bytes], seconds: float) -> dict[str, float]:
    found = {}
    for connections in (1, 16):
        command = [sys.executable, str(ROOT / "tests/benchmarks/load.py"), str(port), str(connections)]
        command += ["20000", str(seconds)]
        done = subprocess.run(command, input=b"\n".join(bodies), capture_output=True, check=True)
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
    for name in ("lean", "pyfunc"):
        for key, unit in (("p50", "ms"), ("p99", "ms"), ("requests/s", "requests/s")):
            what = {"requests/s": "requests/s at 16 connections"}.get(key, f"{key} of one request")
            records.append(entry(f"serving/{name}: {what}", found[name, key], found[PEER, key], unit, 1))
    return records


if __name__ == "__main__":
    sys.exit(main())
