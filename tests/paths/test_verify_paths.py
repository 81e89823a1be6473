"""`jobs.verify_paths` as a user runs it: the table, what it exits with, and what it says of a server that is not the one meant."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.proof.paths import PATHS
from jobs.runs.command import run
from jobs.verify_paths import main
from tests.toy.answers import NOW
from tests.toy.processes import descendants, free_port, wait_until
from tests.toy.verified import table_of, verified
from tests.toy.workspace import Workspace
from udfs.bundle import load_bundle
from udfs.online import OnlineScorer

GROUPS = {entry.name.partition("-")[0] for entry in PATHS}


@pytest.fixture
def houses(workspace: Workspace, process_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The toy model, with the environment by which a job finds it."""
    for name, value in (process_env | workspace.env()).items():
        monkeypatch.setenv(name, value)
    return workspace


def test_golden_rows_are_equal_on_every_path_of_this_process_and_on_the_lean_server(
    houses: Workspace, spark: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With labels: a classifier, with a stored view that the rows bring."""
    houses.train("model.name=dear", "train.task=classification", "train.label_above=400")
    left_out = ("stock", "async-batch")  # they take long; the slow tests have them all
    chosen = [entry.name for entry in PATHS if not entry.name.startswith(left_out)]
    paths = ",".join(chosen)
    code, lines, said = verified(
        capsys, "--set", "model.name=dear", "--paths", paths, "--json", str(tmp_path / "table.json")
    )
    assert code == 0, said
    assert list(lines) == chosen
    for path, line in lines.items():
        assert line[1:5] == ["64", "64", "0", "0"], path
        assert line[5] == "0", path
        assert line[6] == ("-" if path.startswith(("kernel", "udf", "batch", "async")) else "0"), path
    assert "equal in every bit: 832 answers on 13 paths" in said
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["equal"] is True
    assert (content["model"], content["version"], content["golden rows here"]) == ("dear", "1", "verified")
    assert [path["path"] for path in content["paths"]] == list(lines)
    assert {(path["rows"], path["equal"], path["n_differing"]) for path in content["paths"]} == {(64, 64, 0)}
    assert list((houses.root / ".onescore").glob("proof-*")) == []


@contextmanager
def imitation(bundle: Path, change: Callable[[list[dict[str, Any]]], None]) -> Iterator[str]:
    """Serve a bundle's answers, changed, as a lean server would; yield its URL."""
    online = OnlineScorer(load_bundle(bundle), None, clock=lambda: NOW, model_version="7")

    class Handler(BaseHTTPRequestHandler):
        def _say(self, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self._say({"digest": online.scorer.info["digest"]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.pop("params")
            (rows,) = asked.values()
            if isinstance(rows, dict):
                rows = [dict(zip(rows["columns"], values, strict=True)) for values in rows["data"]]
            answers = online.answer(rows, with_features=True)
            change(answers)
            self._say({"predictions": answers})

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def one_bit(answers: list[dict[str, Any]]) -> None:
    bits = np.float64(answers[5]["score"]).view(np.uint64) ^ np.uint64(1)
    answers[5]["score"] = float(bits.view(np.float64))


def no_score(answers: list[dict[str, Any]]) -> None:
    answers[3] = {"error": {"code": "STORE_UNAVAILABLE", "field": "rates", "message": "", "retryable": True}}


def one_feature(answers: list[dict[str, Any]]) -> None:
    answers[1]["features"]["area_squared"] = -answers[1]["features"]["area_squared"]


@pytest.mark.parametrize(
    ("change", "differing", "bits", "said"),
    [
        (one_bit, 5, ["1", "-", "0"], "worst score by 1 ULP"),
        (no_score, 3, ["0", "-", "0"], "refused, and should not be: STORE_UNAVAILABLE 1"),
        (one_feature, 1, ["0", "-", "1"], "worst score by 0 ULP"),
    ],
)
def test_one_wrong_bit_of_one_row_is_found_and_ends_the_job_with_1(
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    houses: Workspace,
    change: Callable[[list[dict[str, Any]]], None],
    differing: int,
    bits: list[str],
    said: str,
) -> None:
    with imitation(bundle, change) as url:
        code, lines, output = verified(
            capsys, "--bundle", str(bundle), "--url", url, "--paths", "lean-records"
        )
    assert code == 1
    assert lines["lean-records"][2:8] == ["64", "63", "1", *bits]
    assert f"rows that differ: {differing};" in output
    assert said in output
    assert f"NOT EQUAL on lean-records {url}" in output


def test_server_of_another_model_version_is_named_and_is_no_success(
    bundle: Path, capsys: pytest.CaptureFixture[str], houses: Workspace
) -> None:
    """The toy bundle has the same features and other trees than the registered version 1."""
    with imitation(bundle, lambda answers: None) as url:
        code, _, output = verified(capsys, "--url", url)
    other = load_bundle(bundle).info["digest"]
    meant = houses.connect().get_model_version("houses", "1").tags["onescore.digest"]
    assert code == 1
    assert (
        f"another model answers: version 7 (digest {other[:12]}), and not version 1 (digest {meant[:12]}), which is verified"
    ) in output


def test_bundle_alone_leaves_out_what_needs_a_registry_and_says_so(
    bundle: Path, houses: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, output = verified(
        capsys, "--bundle", str(bundle), "--paths", "kernel,online,lean-inputs,pyfunc"
    )
    assert code == 0
    assert [lines[name][2] for name in ("online", "kernel", "lean-inputs")] == ["64"] * 3
    assert lines["pyfunc"][2] == "-"
    assert "pyfunc: not asked: it needs a registered version" in output


def test_nothing_is_started_by_a_dry_run(
    houses: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    before = sorted(houses.root.rglob("*"))
    code = run(main, ["--model", "houses", "--dry-run"])
    said = capsys.readouterr().out
    assert code == 0
    assert "nothing was started" in said
    assert all(entry.name in said for entry in PATHS)
    assert sorted(houses.root.rglob("*")) == before


def test_path_that_cannot_be_asked_is_named_and_ends_the_job_with_2(
    houses: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines, output = verified(
        capsys, "--paths", "online,lean-inputs", "--set", "serve.max_rows=2", "--set", "serve.port=0"
    )
    assert (code, lines["online"][2]) == (2, "64")
    assert "answered 413 to inputs" in output
    assert "NOT ASKED: lean-inputs" in output


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--paths", "lean-input"], "there is no path 'lean-input'. Did you mean 'lean-inputs'?"),
        (["--url", "localhost:8080"], "--url: expected http://host:port"),
        (["--url", f"http://127.0.0.1:{free_port()}"], "does not answer: ConnectionRefusedError"),
        (["--bundle", "nowhere"], "--bundle nowhere: there is no model.json in it"),
        (["--set", "model.version=9"], "has no version 9"),
    ],
)
def test_what_makes_no_sense_is_said_and_ends_the_job_with_2(
    houses: Workspace, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    code, _, output = verified(capsys, *flags)
    assert (code, said in output) == (2, True), output


@pytest.mark.slow
@pytest.mark.e2e
def test_job_as_a_process_asks_every_path_there_is(houses: Workspace, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.verify_paths", "--model", "houses"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = table_of(done.stdout)
    assert list(lines) == [entry.name for entry in PATHS]
    assert {path: line[3] for path, line in lines.items()} == dict.fromkeys(lines, "0")


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_servers_end_with_a_job_that_is_told_to_end(houses: Workspace, tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-m", "jobs.verify_paths", "--model", "houses", "--paths", "stock,lean"]
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=tmp_path, stderr=said, stdout=said)
    try:
        wait_until(
            lambda: b"starting mlflow" in (tmp_path / "said").read_bytes(), "the stock server to be started"
        )
        wait_until(lambda: len(descendants(process.pid)) >= 2, "its processes")
        started = descendants(process.pid)
        process.send_signal(number)
        assert process.wait(60) == (130 if number == signal.SIGINT else 143)
    finally:
        process.kill()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started), "them to be gone", 20)
    assert list((houses.root / ".onescore").glob("proof-*")) == []
