"""A function's cold start and warm latency: the packaged handler against the same registered model loaded by mlflow.pyfunc.

    python -m tests.benchmarks.bench_serverless [--rounds 5] [--calls 2000]

Two versions of one model are registered: boosted trees, which are scored as flat arrays, and a decision tree that scikit-learn
scores. Each is packaged by `jobs.package_serverless`. A cold start is a process from its start to its first answer: ours is the
unzipped package with nothing else on its path; the peer imports MLflow, calls `mlflow.pyfunc.load_model` on the version and
predicts. Both get one row that brings its stored fields, and must give the same score. They take turns, one process at a time, and
the median of the rounds counts. These packages have neither a store nor a log, as the peer has none. Warm latency is that of the
handler with an event of API Gateway v2, against calling the scorer behind it with the same row in the same process. The flat trees are
also measured as they are packaged by default: stored features from a snapshot, which warm requests do not bring, and a log of one row
in a hundred; there the scorer too looks up and logs, and a hundred rows take turns. A ratio above 1: ours is better. Aims: 3 and 15 for
the cold starts, 0.5 for the warm ones; it ends with 1 where one is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.proof.path_functions import gateway_event
from tests.benchmarks.publish import add_publish_arguments, entry, publish, table

ROOT = Path(__file__).resolve().parents[2]
AIMS = {"flat trees": 15.0, "scikit-learn": 3.0, "warm": 0.5, "default package": 0.5}
_BARE = ("serverless.store=none", "serverless.log=none")
_ROWS = 100
_PEAK = """\
def peak():
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
"""
_OURS = """\
import json, sys
sys.path.insert(0, sys.argv[1])
from jobs.serve_lambda import handler
class Context:
    def get_remaining_time_in_millis(self): return 100000
(answer,) = handler({"inputs": [json.loads(sys.argv[2])]}, Context())["predictions"]
print(json.dumps([answer["score"], peak()]), flush=True)
"""
_PYFUNC = """\
import json, sys
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
(answer,) = model.predict([json.loads(sys.argv[2])])
print(json.dumps([answer["score"], peak()]), flush=True)
"""
_WARM = """\
import json, sys, time
sys.path.insert(0, sys.argv[1])
from jobs import serve_lambda
class Context:
    def get_remaining_time_in_millis(self): return 100000
events, rows, calls = json.loads(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
assert serve_lambda.handler(events[0], Context())["statusCode"] == 200
function, _ = serve_lambda.opened()
clock = time.perf_counter
spent = {"handler": [], "scorer": []}
for i in range(calls):
    event, row = events[i % len(rows)], rows[i % len(rows)]
    at = clock(); serve_lambda.handler(event, Context()); spent["handler"].append(clock() - at)
    at = clock(); function.online.answer([row]); spent["scorer"].append(clock() - at)
print(json.dumps({name: sorted(times)[len(times) // 2] * 1000 for name, times in spent.items()}))
"""


def main() -> int:
    """Run the benchmark; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="cold starts of each")
    parser.add_argument("--calls", type=int, default=2_000, help="warm calls")
    add_publish_arguments(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="onescore-bench-") as scratch:
        records = measure_all(Path(scratch), arguments.rounds, arguments.calls)
    reached, said = verdict(records)
    publish("serverless", records, table(records) + said, arguments)
    return 0 if reached else 1


def measure_all(scratch: Path, rounds: int, calls: int) -> list[dict[str, Any]]:
    """Return the records {name, ours, peer, ratio, unit, rows}."""
    from tests.toy.house_bundle import house_wire
    from tests.toy.serving import asking, write_store
    from tests.toy.workspace import Workspace

    workspace = Workspace.create(scratch / "home")
    workspace.train("train.params.max_iter=100")
    workspace.train(
        "train.estimator=sklearn.tree:DecisionTreeRegressor",
        "train.params.max_iter=null",
        "train.params.max_depth=8",
    )
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("ONESCORE_", "MLFLOW_", "PYTHON"))
    }
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **workspace.env()}
    packages = {
        name: package(scratch / str(version), version, environment)
        for version, name in ((1, "flat trees"), (2, "scikit-learn"))
    }
    through = write_store(scratch / "online.db")
    by_default = package(scratch / "by-default", 1, environment, f"store.url=sqlite:///{scratch}/online.db")
    row = json.dumps(house_wire(3)[1])
    tracking = workspace.conf().mlflow.tracking_uri
    peers = {k: v for k, v in environment.items() if k != "PYTHONPATH" and not k.startswith("ONESCORE_")}
    peers |= {"MLFLOW_TRACKING_URI": str(tracking)}
    commands = {}
    for version, name in ((1, "flat trees"), (2, "scikit-learn")):
        ours = [sys.executable, "-I", "-S", "-B", "-c", _PEAK + _OURS, str(packages[name]), row]
        peer = [sys.executable, "-c", _PEAK + _PYFUNC, f"models:/houses/{version}", row]
        commands |= {(name, "ours"): (ours, {"OMP_NUM_THREADS": "1"}), (name, "peer"): (peer, peers)}
    ours = [sys.executable, "-I", "-S", "-B", "-c", _PEAK + _OURS, str(by_default), row]
    commands["flat trees, default package", "ours"] = (ours, {"OMP_NUM_THREADS": "1"})
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {key: [] for key in commands}
    for _ in range(rounds):
        for key, (command, variables) in commands.items():
            found[key].append(first_answer(command, variables, scratch))
    found["flat trees, default package", "peer"] = found["flat trees", "peer"]
    for name in (*packages, "flat trees, default package"):
        scores = {score for who in ("ours", "peer") for _, score, _ in found[name, who]}
        if len(scores) != 1:
            raise SystemExit(f"{name}: the two give different scores: {scores}")
    warm = "warm p50 of one request, against calling the scorer"
    return [
        *_cold(found),
        _warm(f"serverless/{warm}", packages["flat trees"], [json.loads(row)], calls),
        _warm(f"serverless/default package: {warm}", by_default, asking(_ROWS, through), calls),
    ]


def package(directory: Path, version: int, environment: Mapping[str, str], *settings: str) -> Path:
    """Package a version of the toy model as a user would; return the unzipped package, without store and log if no setting is given."""
    command = [
        sys.executable,
        "-m",
        "jobs.package_serverless",
        "--model",
        "houses",
        "--output",
        str(directory),
    ]
    for setting in (f"model.version={version}", *(settings or _BARE)):
        command += ["--set", setting]
    subprocess.run(command, env=dict(environment), cwd=ROOT, check=True, capture_output=True, timeout=600)
    return directory / "context" / "app"


def first_answer(command: list[str], environment: Mapping[str, str], cwd: Path) -> tuple[float, float, float]:
    """Return the seconds from a process's start to its first answer, the answer, and its peak memory, MB."""
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=dict(environment), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        line = process.stdout.readline() if process.stdout else ""
        seconds = time.perf_counter() - began
        process.wait()
    if not line:
        raise SystemExit(f"no answer from {command[:4]}")
    score, memory = json.loads(line)
    return seconds, float(score), float(memory)


def _cold(found: Mapping[tuple[str, str], list[tuple[float, float, float]]]) -> list[dict[str, Any]]:
    records = []
    for name in ("flat trees", "scikit-learn", "flat trees, default package"):
        ours, peer = (found[name, who] for who in ("ours", "peer"))
        for what, at, unit, times in (("cold start", 0, "ms", 1_000), ("peak memory", 2, "MB", 1)):
            values = [statistics.median(one[at] for one in of) * times for of in (ours, peer)]
            records.append(entry(f"serverless/{name}: {what}", values[0], values[1], unit, 1))
    return records


def _warm(name: str, directory: Path, rows: list[Any], calls: int) -> dict[str, Any]:
    events = [
        gateway_event(2, "POST", "/invocations", json.dumps({"inputs": [row]}).encode()) for row in rows
    ]
    given = [str(directory), json.dumps(events), json.dumps(rows), str(calls)]
    command = [sys.executable, "-I", "-S", "-B", "-c", _WARM, *given]
    done = subprocess.run(command, env={"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)
    spent = json.loads(done.stdout.splitlines()[-1])  # before it, the log
    return entry(name, spent["handler"], spent["scorer"], "ms", 1)


def verdict(records: list[dict[str, Any]]) -> tuple[bool, str]:
    """Return whether every aim is reached, and a line on each."""
    lines, missed = [], 0
    for name, aim in AIMS.items():
        record = next(r for r in records if f"/{name}" in r["name"] and "memory" not in r["name"])
        is_reached = record["ratio"] is not None and record["ratio"] >= aim
        missed += not is_reached
        said = "reached" if is_reached else "NOT reached"
        lines.append(f"aim of {record['name'].partition('/')[2]}: {aim:g}x, {said} ({record['ratio']}x)")
    return not missed, "\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
