"""`make demo` in small: real flights ingested, a model trained and registered, requests scored, the summary true; twice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from tests.toy.processes import free_port, server, wait_until

pytestmark = pytest.mark.e2e
ROWS = 20_000
DOCUMENTED_KEYS = {
    *("rows_in", "rows_scored", "rows_quarantined", "rows_per_second", "model_name", "model_version"),
    *("feature_fingerprint", "auc", "table"),
}
ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"<!-- online -->\n```\n(.*?)```", README, re.DOTALL)[0].splitlines()
REQUEST = json.loads(re.findall(r"<!-- request -->\n```\ncurl .* -d '(.*?)'\n```", README, re.DOTALL)[0])
(OWN_SPARK_CODE,) = re.findall(r"<!-- own Spark code -->\n```python\n(.*?)```", README, re.DOTALL)
_COMPARED = """
import json, sys
found = {
    "frame": scored.select("flight_id", "s.score"),
    "sql": spark.sql("SELECT flight_id, score(struct(*)).score AS score FROM requests"),
}
bits = {}
for way, frame in found.items():
    rows = frame.where(frame.flight_id.isin(json.loads(sys.argv[1]))).collect()
    bits[way] = {row.flight_id: row.score.hex() for row in rows}
print(json.dumps(bits))
spark.stop()
"""
RECONCILED = re.findall(r"<!-- reconcile -->\n```\n(.*?)```\n\n.*answers `(.*?)`", README, re.DOTALL)[0]
SHOWN = re.findall(r"<!-- batch score -->\n```\n(.*?)\n```", README, re.DOTALL)[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One place for the demo and for what a person does after it."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def env(home: Path, process_env: dict[str, str]) -> dict[str, str]:
    """The environment of all its processes."""
    return {**process_env, "ONESCORE_HOME": str(home)}


@dataclass(frozen=True)
class Demo:
    """What a demo printed as result and as progress, and its summary for programs."""

    text: str
    progress: str
    summary: dict[str, Any]

    @property
    def shown(self) -> dict[str, str]:
        """The lines of the result for people, by name."""
        lines = [re.split(r" {2,}", line.strip(), maxsplit=1) for line in self.text.splitlines()]
        return {line[0]: line[1] for line in lines if len(line) == 2}


def job(home: Path, env: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    answer = subprocess.run(
        [sys.executable, *command],
        env=env,
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    return answer


def demo(home: Path, env: dict[str, str]) -> Demo:
    answer = job(home, env, "-m", "jobs.run_demo", "--rows", str(ROWS))
    assert "WARN" not in answer.stderr
    return Demo(
        answer.stdout, answer.stderr, json.loads((home / ".onescore" / "demo_summary.json").read_text())
    )


def scored_by(made: Demo) -> pa.Table:
    """Return the rows that the demo's own run scored; the table holds those of every run."""
    table = DeltaTable(made.summary["table"]).to_pyarrow_table()
    return table.filter(pc.field("run_id") == made.summary["run_id"])


@pytest.fixture(scope="module")
def first(home: Path, env: dict[str, str]) -> Demo:
    """The demo in an empty home."""
    return demo(home, env)


@pytest.fixture(scope="module")
def minute(first: Demo, home: Path, env: dict[str, str]) -> dict[str, float]:
    """The scores of the batch job that the README shows, of one minute's flights."""
    job(home, env, *COMMANDS[0].split()[1:])
    scored = DeltaTable(home / ".onescore" / "tables" / "flights_scored").to_pyarrow_table()
    asked = REQUEST["inputs"][0]["sched_dep_ts"].replace("Z", "+00:00")
    of_minute = scored.filter(pc.field("as_of_ts") == pa.scalar(datetime.fromisoformat(asked)))
    scores = {row["row_id"]: row["score"] for row in of_minute.to_pylist()}
    assert REQUEST["inputs"][0]["flight_id"] in scores
    return scores


def test_demo_scores_what_its_summary_says(first: Demo) -> None:
    facts = first.summary
    assert facts.keys() >= DOCUMENTED_KEYS
    assert facts["rows_per_second"] > 0
    assert facts["rows_in"] == ROWS == facts["rows_scored"] + facts["rows_quarantined"]
    assert sum(facts["quarantined_by_reason"].values()) == facts["rows_quarantined"]
    assert 0.6 < facts["auc_without_views"] < facts["auc"] - 0.02 < 0.8
    assert (facts["model_name"], facts["model_version"]) == ("flights", "1")
    scored = scored_by(first)
    assert len(set(scored.column("row_id").to_pylist())) == scored.num_rows == facts["rows_scored"]
    assert set(scored.column("feature_fingerprint").to_pylist()) == {facts["feature_fingerprint"]}
    assert sum(scored.column("label").to_pylist()) == round(
        facts["share_predicted_late"] * facts["rows_scored"]
    )


def test_demo_shows_progress_while_it_works(first: Demo) -> None:
    assert re.findall(r"^(\d)/5 ", first.progress, re.MULTILINE) == ["1", "2", "3", "4", "5"]
    assert re.search(
        r"^ *done +20,000 of 20,000 rows \(100%\) +[\d,]+ rows/s +0s left$", first.progress, re.MULTILINE
    )


def test_demo_ends_with_what_a_person_wants_to_know(first: Demo) -> None:
    facts, shown = first.summary, first.shown
    expected = {
        "rows in": f"{ROWS:,}",
        "scored": f"{facts['rows_scored']:,}",
        "quarantined": f"{facts['rows_quarantined']:,}",
        **{reason: f"{count:,}" for reason, count in facts["quarantined_by_reason"].items()},
        "rows per second": f"{facts['rows_per_second']:,.0f}",
        "feature fingerprint": f"{facts['feature_fingerprint'][:16]}...",
        "AUC, held-out months": f"{facts['auc']:.4f}",
        "without stored views": f"{facts['auc_without_views']:.4f}",
        "predicted late": f"{facts['share_predicted_late']:.1%}",
        "scored table": facts["table"],
    }
    assert {name: shown.get(name) for name in expected} == expected
    assert shown["model"].startswith(f"flights version {facts['model_version']} (verified")
    assert "make demo" in shown["add a feature"]


def test_commands_that_the_demo_names_work(first: Demo, home: Path, env: dict[str, str]) -> None:
    table, ui = first.shown["look at the table"].split(), first.shown["open the MLflow UI"].split()
    assert table[:3] == [".venv/bin/python", "-m", "jobs.show_table"]
    assert "scored_at" in job(home, env, *table[1:]).stdout
    assert ui[:3] == [".venv/bin/mlflow", "ui", "--backend-store-uri"]
    assert Path(ui[3].removeprefix("sqlite:///")) == home / ".onescore" / "mlflow.db"
    for name in ("build what is new", "score a month again", "see a plan first"):
        assert (ROOT / "jobs" / f"{first.shown[name].split()[2].removeprefix('jobs.')}.py").is_file()


def test_a_second_demo_does_nothing_again(first: Demo, home: Path, env: dict[str, str]) -> None:
    before = DeltaTable(first.summary["table"]).version()

    second = demo(home, env)

    assert second.summary == first.summary
    assert second.shown["rows per second"].endswith("(in the first run)")
    assert DeltaTable(first.summary["table"]).version() == before
    assert scored_by(second).num_rows == first.summary["rows_scored"]


def test_own_spark_code_of_the_readme_gives_the_bits_of_the_batch_job(
    minute: dict[str, float], home: Path, env: dict[str, str], tmp_path: Path
) -> None:
    """The very block that is printed there, run as a program, and then its own variables asked."""
    script = tmp_path / "own.py"
    script.write_text(OWN_SPARK_CODE + _COMPARED)

    said = job(home, env, str(script), json.dumps(list(minute))).stdout.splitlines()

    bits = {flight: score.hex() for flight, score in minute.items()}
    assert json.loads(said[-1]) == {"frame": bits, "sql": bits}
    assert sum("|flight_id" in line.replace(" ", "") for line in said) == 2  # the two tables that it shows


def test_a_flight_asked_for_online_as_the_readme_says_has_its_batch_score(
    minute: dict[str, float], home: Path, env: dict[str, str]
) -> None:
    """The lean server, then MLflow's own: every view looked up, the bits of the scored table."""
    assert [command.split()[2] for command in COMMANDS] == [
        "jobs.score_batch",
        "jobs.materialize_features",
        "jobs.serve_realtime",
    ]
    job(home, env, *COMMANDS[1].split()[1:])
    (row,) = REQUEST["inputs"]
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
    assert lean["score"].hex() == stock["score"].hex() == minute[row["flight_id"]].hex()
    text = job(home, env, *SHOWN.split()[1:]).stdout
    assert set(re.findall(r"^  score +(\S+)$", text, re.MULTILINE)) == {repr(lean["score"])}
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


def test_a_day_replayed_and_reconciled_as_the_readme_says_is_equal_in_every_bit(
    first: Demo, home: Path, env: dict[str, str]
) -> None:
    replay, reconcile = RECONCILED[0].splitlines()
    job(home, env, *replay.split()[1:])
    (replayed,) = (home / ".onescore" / "replays").iterdir()
    done = job(home, env, *reconcile.replace("REPLAY_ID", replayed.name).split()[1:])
    assert RECONCILED[1] in done.stdout
    (report,) = (home / ".onescore" / "skew" / "flights").glob("*/report.html")
    assert str(report) in done.stdout


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


def test_make_demo_scores_the_demos_own_number_of_rows(root: Path) -> None:
    """So that what `jobs.run_demo` has as its default is what a newcomer gets."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    printed = subprocess.run(
        ["make", "-n", "demo"], cwd=root, env=plain, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert ".ci/check-java" in printed
    assert printed[-1] == ".venv/bin/python -m jobs.run_demo"


@pytest.mark.parametrize("version", ["3.9.2", None])
def test_python_that_is_too_old_or_missing_is_said_with_what_to_type(
    root: Path, tmp_path: Path, version: str | None
) -> None:
    python = tmp_path / "python"
    if version is not None:  # knows its version, and fails whatever it is asked to compute
        python.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo Python {version} || exit 1\n')
        python.chmod(0o755)
    answer = subprocess.run(
        [str(root / ".ci" / "make-venv"), "all", "stamp"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert answer.returncode == 1
    found = f"Python {version}" if version else f"no {python}"
    assert answer.stderr.splitlines() == [
        f"Python 3.11 or later is needed; found {found}.",
        "Install one and name it: make PYTHON=python3.12 ...",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == (["python"] if version else [])
