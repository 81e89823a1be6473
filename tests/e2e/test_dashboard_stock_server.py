"""The dashboard beside `mlflow models serve`: the predictions of a server that knows nothing of it are shown, by the log alone."""

from __future__ import annotations

import json
import signal
import sys
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.toy.processes import free_port, server, wait_until
from tests.toy.serving import asking, write_store
from tests.toy.stock_server import stock_server
from tests.toy.workspace import CONF_DIR, Workspace

pytestmark = pytest.mark.slow
N = 60


def test_predictions_of_a_stock_server_are_shown(
    workspace: Workspace, process_env: dict[str, str], tmp_path: Path
) -> None:
    through = write_store(tmp_path / "online.db")
    env = process_env | {
        "MLFLOW_TRACKING_URI": workspace.conf().mlflow.tracking_uri,
        "ONESCORE_STORE_URL": f"sqlite:///{tmp_path}/online.db",
        "ONESCORE_PREDICTION_LOG": str(tmp_path / "log"),
        "ONESCORE_PREDICTION_LOG_FLUSH_SECONDS": "0.3",
    }
    port, output = free_port(), tmp_path / "dashboard.log"
    command = [sys.executable, "-m", "jobs.serve_dashboard", "--model", "houses", "--port", str(port)]
    command += ["--log", str(tmp_path / "log"), "--set", "dashboard.refresh_seconds=0.2"]
    own = process_env | {"ONESCORE_HOME": str(tmp_path), "ONESCORE_CONF_DIR": str(CONF_DIR)}

    def shown() -> dict[str, Any]:
        url = f"http://127.0.0.1:{port}/dashboard/data?window=3600&model=houses"
        with urllib.request.urlopen(url, timeout=20) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found

    def n_shown() -> int:
        n: int = shown().get("totals", {}).get("rows", 0)
        return n

    with server(command, env=own, cwd=tmp_path, log=output) as dashboard:
        wait_until(lambda: "dashboard_ready" in output.read_text(), "the dashboard", 60, output)
        assert n_shown() == 0
        with stock_server("models:/houses@champion", env, tmp_path) as running:
            rows = asking(N, through)
            for row in rows[::10]:
                row["area_m2"] = None
            answers = running.predictions({"inputs": rows[:50]})
            for row in rows[50:]:
                answers += running.predictions({"inputs": [row]})
            wait_until(lambda: n_shown() == N, "all answers", 60, output)
            running.end(running.uvicorn, signal.SIGTERM)
        data = shown()
        dashboard.send_signal(signal.SIGTERM)
        assert dashboard.wait(15) == 0

    refused = Counter(answer["error"]["code"] for answer in answers if "error" in answer)
    scores = [answer["score"] for answer in answers if "score" in answer]
    statuses = Counter(answer["views"]["rates"]["status"] for answer in answers if "score" in answer)
    assert sum(refused.values()) >= N // 10
    totals = data["totals"]
    assert (totals["rows"], totals["scored"], totals["calls"]) == (N, len(scores), 11)
    assert {one["code"]: one["rows"] for one in data["errors"]} == refused
    assert (data["scores"]["min"], data["scores"]["max"]) == (min(scores), max(scores))
    [view] = data["views"]
    assert (view["name"], view["statuses"]) == ("rates", dict(statuses))
