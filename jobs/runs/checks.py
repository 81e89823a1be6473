"""What on a machine would keep a job from running: one function per check, each returning findings.

A check raises nothing that a user could cause. Nothing outside the standard library is imported before it is known to be
there, so that checks also work where hardly anything does. They change nothing: one writes an empty file where tables are
kept (or in the nearest existing parent) and removes it. This module prints nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.runs.conf import Conf

__all__ = [
    "FAIL",
    "OK",
    "WARN",
    "Finding",
    "check_disk",
    "check_java",
    "check_packages",
    "check_ports",
    "check_python",
    "check_registry",
    "check_spark",
    "check_tables",
    "format_findings",
    "missing_package",
]

OK, WARN, FAIL = "OK", "WARN", "FAIL"
NEEDED_JAVA = 17
NEEDED_PYTHON = (3, 11)
TESTED_PYTHON = ((3, 11), (3, 12))
TESTED_SPARK = "4.3"
SMOKE_TESTED_SPARK = ("3.5", "4.0")
NEEDED_EXTRAS = ("spark", "mlflow", "train")
USEFUL_EXTRAS = ("fast", "data")
PORTS = {4040: "Spark's UI takes the next free port", 5000: "choose another: mlflow ui --port 5001"}
INSTALL_JAVA = (
    "Debian/Ubuntu: sudo apt-get install -y openjdk-17-jre-headless | "
    "Fedora: sudo dnf install -y java-latest-openjdk-headless | macOS: brew install openjdk@17; "
    "set JAVA_HOME if several are installed"
)
INSTALL_PACKAGES = "pip install -c .ci/constraints.txt -e '.[all]' (or: make demo)"
_GIB = 2**30
_SPARK_PROBE = """
import sys
from jobs.runs.session import spark_session
from jobs.runs.settings import SparkSettings
with spark_session(SparkSettings.model_validate_json(sys.argv[1])) as spark:
    rows = spark.range(1000, numPartitions=2).mapInArrow(lambda batches: batches, "id long").count()
    print(f"Spark {spark.version}, {rows} rows through Python workers")
"""


@dataclass(frozen=True)
class Finding:
    """What one check found: OK, WARN (jobs run, with a limit) or FAIL (they do not), and how to mend it."""

    status: str
    subject: str
    found: str
    mend: str = ""


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> list[Finding]:
    """Return whether this Python is supported, and whether it is one of the tested versions."""
    text = f"Python {version[0]}.{version[1]} ({sys.executable})"
    if version < NEEDED_PYTHON:
        return [
            Finding(
                FAIL, "python", text, "use Python 3.11 or later: rm -rf .venv; make PYTHON=python3.12 demo"
            )
        ]
    if version not in TESTED_PYTHON:
        return [Finding(WARN, "python", text, "tested with 3.11, and in part with 3.12")]
    return [Finding(OK, "python", text)]


def check_java(java_home: str | None = None) -> list[Finding]:
    """Return whether the Java that Spark would start is recent enough.

    Args:
        java_home: where to look; None means JAVA_HOME, and without it the PATH.
    """
    java_home = java_home or os.environ.get("JAVA_HOME")
    java = str(Path(java_home) / "bin" / "java") if java_home else "java"
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return [Finding(FAIL, "java", f"none found ({java})", INSTALL_JAVA)]
    match = re.search(r'version "(\d+)(?:\.(\d+))?', answer.stderr + answer.stdout)
    if match is None:
        return [Finding(FAIL, "java", f"{java} does not say its version", INSTALL_JAVA)]
    version = int(match[2] or 0) if match[1] == "1" else int(match[1])
    if version < NEEDED_JAVA:
        return [
            Finding(FAIL, "java", f"Java {version} ({java}), needed {NEEDED_JAVA} or later", INSTALL_JAVA)
        ]
    return [Finding(OK, "java", f"Java {version} ({java})")]


def check_packages(
    requirements: Iterable[str] | None = None, installed: Callable[[str], str] = metadata.version
) -> list[Finding]:
    """Return, per package that this project declares, whether its version is within the declared bounds.

    A package of an extra that jobs need (spark, mlflow, train) must be there; one of a useful extra (fast, data) should. A Spark that
    is not tested in full is to be noted, also where it is older than declared.

    Args:
        requirements: requirement strings with extras as markers; None means those of the installed project.
        installed: gives a package's version, or raises PackageNotFoundError.
    """
    if importlib.util.find_spec("packaging") is None:
        return [Finding(FAIL, "packages", "packaging is not installed", INSTALL_PACKAGES)]
    if requirements is None:
        try:
            requirements = metadata.requires("onescore") or []
        except metadata.PackageNotFoundError:
            return [
                Finding(
                    WARN, "packages", "onescore is not installed, versions are not checked", INSTALL_PACKAGES
                )
            ]
    findings = [
        f for text in sorted(set(requirements)) if (f := _check_requirement(text, installed)) is not None
    ]
    bad = [finding for finding in findings if finding.status != OK]
    good = sorted({finding.found for finding in findings if finding.status == OK})
    return [*([Finding(OK, "packages", ", ".join(good))] if good else []), *dict.fromkeys(bad)]


def _check_requirement(text: str, installed: Callable[[str], str]) -> Finding | None:
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    marker = requirement.marker
    extras = ["", *NEEDED_EXTRAS, *USEFUL_EXTRAS]
    extra = next((name for name in extras if marker is None or marker.evaluate({"extra": name})), None)
    if extra is None or requirement.name == "onescore":
        return None
    missing = WARN if extra in USEFUL_EXTRAS else FAIL
    try:
        version = installed(requirement.name)
    except metadata.PackageNotFoundError:
        purpose = f" (extra {extra!r})" if extra else ""
        return Finding(missing, "packages", f"{requirement.name} is not installed{purpose}", INSTALL_PACKAGES)
    found = f"{requirement.name} {version}"
    if requirement.name == "pyspark" and version.startswith(tuple(f"{one}." for one in SMOKE_TESTED_SPARK)):
        noted = f"{found} is smoke-tested only: batch job and UDF of pandas kind"
        return Finding(WARN, "packages", noted, f"for all else use Spark {TESTED_SPARK}: {INSTALL_PACKAGES}")
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(FAIL, "packages", f"{found}, needed {requirement.specifier}", INSTALL_PACKAGES)
    if requirement.name == "pyspark" and not version.startswith(f"{TESTED_SPARK}."):
        noted = f"{found} is accepted and not tested; Spark {TESTED_SPARK} is"
        return Finding(WARN, "packages", noted, INSTALL_PACKAGES)
    return Finding(OK, "packages", found)


def missing_package(error: ModuleNotFoundError) -> Finding:
    """Return the finding that a package without which nothing more can be checked is not there."""
    return Finding(
        FAIL, "packages", f"{error.name} is not installed, the rest is not checked", INSTALL_PACKAGES
    )


def check_registry(conf: Conf, deadline_seconds: float | None = None) -> list[Finding]:
    """Return whether the model registry answers in time.

    A SQLite registry is opened read-only and may not exist yet. Any other is asked through MLflow's client.

    Args:
        conf: whose `mlflow` section says where the registry is.
        deadline_seconds: None means `mlflow.timeout_seconds`.
    """
    uri = conf.mlflow.registry_uri or conf.mlflow.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None:
        return [
            Finding(
                WARN, "registry", "left to the platform", "set mlflow.tracking_uri or MLFLOW_TRACKING_URI"
            )
        ]
    if uri.startswith("sqlite:///"):
        return [_check_sqlite(Path(uri.removeprefix("sqlite:///")))]
    deadline = conf.mlflow.timeout_seconds if deadline_seconds is None else deadline_seconds
    if importlib.util.find_spec("mlflow") is None:
        return [Finding(FAIL, "registry", "mlflow is not installed, not asked", INSTALL_PACKAGES)]
    importlib.import_module("mlflow")  # takes seconds, which are not the registry's
    try:
        names = _within(deadline, lambda: _registered_names(conf, uri, deadline))
    except TimeoutError:
        problem = f"no answer within {deadline:g} s"
    except Exception as exc:  # noqa: BLE001 - whatever a client of any registry raises is what was found
        problem = f"{type(exc).__name__}: {(str(exc).strip().splitlines() or [''])[0][:160]}"
    else:
        return [Finding(OK, "registry", f"{_without_credentials(uri)} answers: {_counted(names, conf)}")]
    mend = "is the server up, the address right, mlflow.token valid? A longer patience: --set mlflow.timeout_seconds=60"
    return [Finding(FAIL, "registry", _without_credentials(f"{uri}: {problem}"), mend)]


def _registered_names(conf: Conf, uri: str, deadline: float) -> list[str]:
    settings = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(max(1, int(deadline))),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    if conf.mlflow.token is not None:
        settings["MLFLOW_TRACKING_TOKEN"] = conf.mlflow.token.reveal()
    with _environment(settings):
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        return [model.name for model in client.search_registered_models(max_results=100)]


def _check_sqlite(path: Path) -> Finding:
    if not path.exists():
        return Finding(OK, "registry", f"{path} does not exist yet; the first training run creates it")
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
        ) as database:
            (count,) = database.execute("select count(*) from registered_models").fetchone()
    except sqlite3.Error as exc:
        return Finding(
            FAIL,
            "registry",
            f"{path}: {exc}",
            "not an MLflow database, or damaged: move it away and train again",
        )
    return Finding(OK, "registry", f"{path}: {count} registered model(s)")


def _counted(names: Sequence[str], conf: Conf) -> str:
    listed = f"{len(names)} registered model(s)"
    return f"{listed}, {conf.model.name!r} among them" if conf.model.name in names else listed


def check_disk(location: str, warn_gib: float = 10, fail_gib: float = 2) -> list[Finding]:
    """Return whether there is room where tables are kept; a URI with a scheme is not looked at."""
    if "://" in location:
        return [Finding(OK, "disk", f"{location} is remote, not measured")]
    free = shutil.disk_usage(_nearest_directory(Path(location))).free / _GIB
    status = FAIL if free < fail_gib else WARN if free < warn_gib else OK
    mend = "" if status == OK else "remove old tables, or put storage.root on a larger disk"
    return [Finding(status, "disk", f"{free:.1f} GiB free for {location}", mend)]


def check_tables(location: str) -> list[Finding]:
    """Return whether tables can be written, by creating and removing an empty file."""
    if "://" in location:
        return [
            Finding(
                WARN, "tables", f"{location} is remote", "the first commit tells whether it can be written"
            )
        ]
    directory = _nearest_directory(Path(location))
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".onescore-doctor-"):
            pass
    except OSError as exc:
        mend = f"make {directory} writable, or choose another: --set storage.root=DIRECTORY"
        return [Finding(FAIL, "tables", f"{directory} cannot be written: {exc.strerror}", mend)]
    return [Finding(OK, "tables", f"{location} can be written")]


def check_ports(ports: dict[int, str] | None = None) -> list[Finding]:
    """Return which of the ports that user interfaces take by default are in use on this machine.

    Args:
        ports: port and what to do when it is taken; None means those of Spark's and MLflow's UI.
    """
    findings = []
    for port, mend in (PORTS if ports is None else ports).items():
        with socket.socket() as probe:
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        findings.append(
            Finding(WARN, "ports", f"{port} is in use", mend)
            if taken
            else Finding(OK, "ports", f"{port} is free")
        )
    return findings


def check_spark(conf: Conf, timeout_seconds: float = 180) -> list[Finding]:
    """Return whether a Spark session starts and its Python workers answer; in a process of its own, within a deadline."""
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-c", _SPARK_PROBE, conf.spark.model_dump_json()]
    mend = "mend java and packages first; then look at spark.master or spark.remote"
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_seconds, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return [Finding(FAIL, "spark", f"no session within {timeout_seconds:g} s", mend)]
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        return [Finding(FAIL, "spark", last[:200], mend)]
    return [Finding(OK, "spark", answer.stdout.strip().splitlines()[-1])]


def format_findings(findings: Sequence[Finding]) -> str:
    """Return the findings as a table, what to do below each that is not OK, and one line that sums up."""
    width = max((len(finding.subject) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<4}  {finding.subject:<{width}}  {finding.found}")
        if finding.mend and finding.status != OK:
            lines.append(f"{'':<4}  {'':<{width}}  -> {finding.mend}")
    failed = sum(finding.status == FAIL for finding in findings)
    warned = sum(finding.status == WARN for finding in findings)
    verdict = "jobs can run" if failed == 0 else "jobs cannot run until what failed is mended"
    return "\n".join([*lines, "", f"{failed} failed, {warned} to note: {verdict}."])


def _nearest_directory(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.is_dir())


def _without_credentials(text: str) -> str:
    return re.sub(r"(?<=://)[^/\s@]+(?=@)", "***", text)


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _within(deadline_seconds: float, function: Callable[[], Any]) -> Any:
    """Return what the function returns, or raise TimeoutError; it is left behind in a thread that dies with the process."""
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(function())
        except BaseException as exc:  # noqa: BLE001 - carried over to the thread that waits
            failure.append(exc)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(deadline_seconds)
    if thread.is_alive():
        raise TimeoutError
    if failure:
        raise failure[0]
    return outcome[0]
