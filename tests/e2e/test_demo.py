"""`make demo` in small: real flights ingested, a model trained and registered, requests scored, the summary true; twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

pytestmark = pytest.mark.e2e
ROWS = 20_000
KEYS = {
    *("rows_in", "rows_scored", "rows_quarantined", "rows_per_second", "model_name", "model_version"),
    *("feature_fingerprint", "auc", "table"),
}


def demo(home: Path, env: dict[str, str]) -> tuple[str, dict[str, Any]]:
    command = [sys.executable, "-m", "jobs.run_demo", "--rows", str(ROWS)]
    answer = subprocess.run(
        command,
        env={**env, "ONESCORE_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert "WARN" not in answer.stderr
    return answer.stdout, json.loads((home / ".onescore" / "demo_summary.json").read_text())


def test_demo_scores_what_it_says_and_a_second_one_does_nothing_again(
    home: Path, process_env: dict[str, str]
) -> None:
    text, first = demo(home, process_env)
    assert first.keys() >= KEYS
    assert first["rows_in"] == ROWS == first["rows_scored"] + first["rows_quarantined"]
    assert sum(first["quarantined_by_reason"].values()) == first["rows_quarantined"]
    assert 0.65 < first["auc"] < 0.8
    assert first["model_version"] == "1"
    scored = DeltaTable(first["table"]).to_pyarrow_table()
    assert len(set(scored.column("row_id").to_pylist())) == scored.num_rows == first["rows_scored"]
    assert sum(scored.column("label").to_pylist()) == round(
        first["share_predicted_late"] * first["rows_scored"]
    )
    for said in (f"{first['auc']:.4f}", first["table"], "jobs.show_table", "mlflow ui", "make demo"):
        assert said in text

    _, second = demo(home, process_env)
    assert second == first
    assert DeltaTable(first["table"]).to_pyarrow_table().num_rows == first["rows_scored"]


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
