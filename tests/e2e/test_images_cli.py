"""The second worked example as its first job says: the commands of its docstring, typed."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from deltalake import DeltaTable

from jobs import ingest_digits
from tests.toy.processes import free_port, server, wait_until

COMMANDS = [line.strip() for line in re.findall(r"^    (python -m .*)$", ingest_digits.__doc__ or "", re.M)]
SERVE = "python -m jobs.serve_realtime --model digits"


def test_the_job_says_how_to_go_on() -> None:
    assert [command.split()[2] for command in COMMANDS] == [
        "jobs.ingest_digits",
        "jobs.ingest_digits",
        "jobs.train_model",
        "jobs.score_batch",
        "jobs.show_table",
        "jobs.show_table",
        "jobs.verify_paths",
        "jobs.serve_realtime",
    ]


@pytest.mark.e2e
@pytest.mark.slow
def test_images_as_the_job_says(tmp_path: Path, process_env: dict[str, str]) -> None:
    env = {**process_env, "ONESCORE_HOME": str(tmp_path)}
    said = {}
    for command in COMMANDS:
        if command == SERVE:
            continue
        words = re.sub(r"  .*", "", command).split()[1:]
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said[" ".join(words[1:3])] = done.stdout

    assert re.search(r"^ *scored +1,797$", said["jobs.score_batch --model"], re.MULTILINE)
    assert "IMAGE_BROKEN" in said["jobs.show_table digits_quarantine"]
    assert "equal in every bit" in said["jobs.verify_paths --model"]
    requests = DeltaTable(str(tmp_path / ".onescore/tables/digits_requests")).to_pyarrow_table()
    scored = DeltaTable(str(tmp_path / ".onescore/tables/digits_scored")).to_pyarrow_table().to_pylist()
    rows = [
        {"image_id": row["image_id"], "image": base64.b64encode(row["image"] or b"").decode()}
        for row in requests.slice(1_790).to_pylist()
    ]
    port, log = free_port(), tmp_path / "server.log"
    command = [sys.executable, *SERVE.split()[1:], "--port", str(port)]
    with server(command, env=env, cwd=tmp_path, log=log) as process:
        wait_until(
            lambda: process.poll() is not None or '"worker_ready"' in log.read_text(), "the server", 60, log
        )
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations",
            json.dumps({"inputs": rows}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            answers = json.loads(answer.read())["predictions"]
    of_batch = {row["row_id"]: (row["score"], row["label"]) for row in scored}
    assert [(a["score"], a["label"]) for a in answers[:7]] == [of_batch[row["image_id"]] for row in rows[:7]]
    assert all("error" in a for a in answers[7:])
