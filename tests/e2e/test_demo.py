"""`make demo` in small: real flights ingested, a model trained and registered, requests scored, the summary true; twice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from tests.toy.processes import free_port, server, wait_until

pytestmark = pytest.mark.e2e
ROWS = 20_000
KEYS = {
    *("rows_in", "rows_scored", "rows_quarantined", "rows_per_second", "model_name", "model_version"),
    *("feature_fingerprint", "auc", "auc_without_views", "table"),
}


README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
COMMANDS = re.findall(r"<!-- online -->\n```\n(.*?)```", README, re.DOTALL)[0].splitlines()
REQUEST = json.loads(re.findall(r"<!-- request -->\n```\ncurl .* -d '(.*?)'\n```", README, re.DOTALL)[0])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One place for the demo and for what a person does after it."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def env(home: Path, process_env: dict[str, str]) -> dict[str, str]:
    """The environment of all its processes."""
    return {**process_env, "ONESCORE_HOME": str(home)}


def job(home: Path, env: dict[str, str], *command: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", *command],
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert "WARN" not in answer.stderr
    return answer.stdout


def demo(home: Path, env: dict[str, str]) -> tuple[str, dict[str, Any]]:
    text = job(home, env, "jobs.run_demo", "--rows", str(ROWS))
    return text, json.loads((home / ".onescore" / "demo_summary.json").read_text())


def test_demo_scores_what_it_says_and_a_second_one_does_nothing_again(
    home: Path, env: dict[str, str]
) -> None:
    text, first = demo(home, env)
    assert first.keys() >= KEYS
    assert first["rows_in"] == ROWS == first["rows_scored"] + first["rows_quarantined"]
    assert sum(first["quarantined_by_reason"].values()) == first["rows_quarantined"]
    assert 0.6 < first["auc_without_views"] < first["auc"] - 0.02 < 0.8
    assert first["model_version"] == "1"
    scored = DeltaTable(first["table"]).to_pyarrow_table()
    assert len(set(scored.column("row_id").to_pylist())) == scored.num_rows == first["rows_scored"]
    assert sum(scored.column("label").to_pylist()) == round(
        first["share_predicted_late"] * first["rows_scored"]
    )
    for said in (
        f"{first['auc']:.4f}",
        f"{first['auc_without_views']:.4f}",
        first["table"],
        "jobs.show_table",
        "mlflow ui",
        "make demo",
    ):
        assert said in text

    _, second = demo(home, env)
    assert second == first
    assert DeltaTable(first["table"]).to_pyarrow_table().num_rows == first["rows_scored"]


def test_a_flight_asked_for_online_as_the_readme_says_has_its_batch_score(
    home: Path, env: dict[str, str]
) -> None:
    """The lean server, then MLflow's own: every view looked up, the bits of the scored table."""
    assert [command.split()[2] for command in COMMANDS] == [
        "jobs.score_batch",
        "jobs.materialize_features",
        "jobs.serve_realtime",
    ]
    for command in COMMANDS[:2]:
        job(home, env, *command.split()[2:])
    (row,) = REQUEST["inputs"]
    tables = home / ".onescore" / "tables"
    batch = {
        r["row_id"]: r["score"] for r in DeltaTable(tables / "flights_scored").to_pyarrow_table().to_pylist()
    }
    answers = []
    for command in (COMMANDS[2].split()[1:], STOCK):
        port = free_port()
        full = [sys.executable, *(str(port) if part in ("8080", "PORT") else part for part in command)]
        served = {
            **env,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "ONESCORE_STORE_URL": f"sqlite:///{home}/.onescore/online.db",
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/.onescore/mlflow.db",
        }
        log = home / f"{command[1]}.log"
        with server(full, env=served, cwd=home, log=log):
            wait_until(lambda at=port: is_up(at), "the server answers", log=log)
            answers.append(ask(port, REQUEST))
    lean, stock = answers
    assert lean["score"].hex() == stock["score"].hex() == batch[row["flight_id"]].hex()
    assert lean["views"] == stock["views"]
    statuses = {name: view["status"] for name, view in lean["views"].items()}
    assert statuses.pop("plane") == "NOT_FOUND"  # a real plane that the registry does not have
    assert set(statuses.values()) == {"PRESENT"}
    assert len(statuses) == 4


STOCK = [
    "-m",
    "mlflow",
    "models",
    "serve",
    "-m",
    "models:/flights@champion",
    "--env-manager",
    "local",
    "--port",
    "PORT",
]


def is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def ask(port: int, body: Any) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        (predicted,) = json.load(answer)["predictions"]
    found: dict[str, Any] = predicted
    return found


def test_missing_java_is_said_with_a_line_for_each_system(root: Path, tmp_path: Path) -> None:
    answer = subprocess.run(
        [str(root / ".ci" / "check-java")],
        env={**os.environ, "JAVA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    for line in ("apt-get install -y openjdk-17", "dnf install", "brew install"):
        assert line in answer.stderr
