"""`jobs.package_serverless` as a user runs it: what is in the package, that it needs nothing else, and that its bytes repeat."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from sklearn.tree import DecisionTreeRegressor

from jobs.package_serverless import main
from jobs.proof.path_functions import lambda_function
from jobs.runs.command import run
from tests.toy.house_bundle import house_wire, write_house_bundle
from tests.toy.serving import asking, write_store
from tests.toy.workspace import CONF_DIR, Workspace

TOP = {"context/Dockerfile", "context/Dockerfile.functions", "context/app", "function.zip"}


@pytest.fixture
def house_env(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(CONF_DIR))
    return home


def packaged(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    code = run(main, ["--model", "houses", *flags])
    said = capsys.readouterr()
    return code, said.out + said.err


def started_alone(package: Path, events: list[Any]) -> tuple[list[Any], list[str]]:
    """Return what the unzipped package's handler answers in a process that has nothing but it, and the libraries it imported."""
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from jobs.serve_lambda import handler\n"
        "class C: get_remaining_time_in_millis = staticmethod(lambda: 60000)\n"
        "print(json.dumps([[handler(e, C()) for e in json.load(sys.stdin)], "
        "sorted({m.partition('.')[0] for m in sys.modules} - set(sys.stdlib_module_names))]))"
    )
    command = [sys.executable, "-I", "-S", "-B", "-c", program, str(package)]
    done = subprocess.run(
        command, input=json.dumps(events), env={}, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, modules = json.loads(done.stdout.splitlines()[-1])
    return found, [name for name in modules if not name.startswith(("_", "sphinxcontrib"))]


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file below a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def starts_what_it_contains(context: Path) -> None:
    """Require that what the Dockerfiles copy and start is in the context, and is there when nothing else is."""
    started = {}
    for name, place in (("Dockerfile", "/var/task"), ("Dockerfile.functions", "/app")):
        text = (context / name).read_text()
        (copied,) = re.findall(r"^COPY (\S+) (\S+)$", text, re.M)
        (work,) = re.findall(r"^WORKDIR (\S+)$", text, re.M)
        assert (copied, work) == (("app/", f"{place}/"), place)
        (command,) = re.findall(r"^CMD (\[.*\])$", text, re.M)
        started[name] = json.loads(command)
    (handler,) = started["Dockerfile"]
    program, *options = started["Dockerfile.functions"]
    asked = dict(option.removeprefix("--").split("=") for option in options)
    assert program == "functions-framework"
    module, _, function = handler.rpartition(".")
    assert (context / "app" / f"{module.replace('.', '/')}.py").is_file()
    assert (context / "app" / asked["source"]).is_file()
    found = (
        "import sys, importlib; sys.path.insert(0, sys.argv[1]); "
        "print(callable(getattr(importlib.import_module(sys.argv[2]), sys.argv[3])))"
    )
    for of, named in ((module, function), (asked["source"].removesuffix(".py"), asked["target"])):
        command = [sys.executable, "-I", "-S", "-B", "-c", found, str(context / "app"), of, named]
        done = subprocess.run(command, env={}, capture_output=True, text=True, check=False, timeout=120)
        assert done.stdout == "True\n", done.stderr[-1000:]


@pytest.mark.e2e
def test_package_of_flat_trees_has_numpy_alone_answers_alone_and_repeats_to_the_byte(
    house_env: Path, bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    through = write_store(tmp_path / "online.db")
    flags = ["--bundle", str(bundle), "--set", f"store.url=sqlite:///{tmp_path}/online.db"]
    (tmp_path / "one").mkdir()  # an empty directory is taken
    code, said = packaged(capsys, *flags, "--output", str(tmp_path / "one"))
    assert code == 0, said
    assert "64 of 64 equal in every bit (verified)" in said
    found = {str(p.relative_to(tmp_path / "one")) for p in (tmp_path / "one").rglob("*")}
    assert found >= TOP
    with zipfile.ZipFile(tmp_path / "one" / "function.zip") as file:
        names = file.namelist()
        size = sum(one.file_size for one in file.infolist())
        file.extractall(tmp_path / "unzipped")
    tops = {name.partition("/")[0] for name in names}
    libraries = {top for top in tops if not top.endswith(".dist-info")}
    assert libraries - {"__pycache__", "main.py", "onescore.json", "store.db", "model"} == {
        "feature_pipelines",
        "jobs",
        "udfs",
        "numpy",
        "numpy.libs",
    }
    assert size < 100_000_000
    assert f"{size / 1e6:.1f} MB of 262 MB" in said
    assert "model/trees.npz" in names
    assert not [
        name for name in names if name.endswith(("estimator.skops", "/prediction_log.py", "/pyfunc.py"))
    ]
    rows = asking(5, through)
    os.chmod(tmp_path / "unzipped" / "store.db", 0o444)
    (direct,), modules = started_alone(tmp_path / "unzipped", [{"inputs": rows}])
    assert [a["materialised_through"]["rates"] for a in direct["predictions"]] == ["2020-04-01T00:00:00Z"] * 5
    assert modules == ["__main__", "feature_pipelines", "jobs", "numpy", "udfs"] or set(modules) == {
        "feature_pipelines",
        "jobs",
        "numpy",
        "udfs",
    }
    earlier = tmp_path / "two" / "context" / "app"
    earlier.mkdir(parents=True)
    (earlier / "onescore.json").write_text("{}")
    (earlier / "of_an_earlier_release.py").write_text("")
    assert packaged(capsys, *flags, "--output", str(tmp_path / "two"))[0] == 0
    assert (tmp_path / "one/function.zip").read_bytes() == (tmp_path / "two/function.zip").read_bytes()
    assert contents(tmp_path / "one" / "context") == contents(tmp_path / "two" / "context")
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".packaging")]
    starts_what_it_contains(tmp_path / "one" / "context")


@pytest.mark.e2e
def test_registered_version_is_packaged_and_says_its_number(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, value in workspace.env().items():
        monkeypatch.setenv(name, value)
    code, said = packaged(capsys, "--set", "serverless.store=environment")
    assert code == 0, said
    package = workspace.root / ".onescore" / "functions" / "houses-1"
    assert re.search(rf"package +{package}\n", said)
    app = package / "context" / "app"
    assert (app / "redis" / "__init__.py").is_file()
    assert (app / "feature_pipelines" / "stores" / "redis.py").is_file()
    rows = house_wire(3)
    with lambda_function(app, tmp_path / "results", tmp_path) as function:
        answers = function.answers_to({"inputs": rows})["predictions"]
    assert {(a["model_version"], a["verified"]) for a in answers} == {("1", "verified")}


@pytest.mark.e2e
@pytest.mark.slow
def test_package_of_an_estimator_has_its_libraries_fits_into_lambda_and_answers_alone(
    house_env: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_house_bundle(tmp_path / "bundle", estimator=DecisionTreeRegressor(max_depth=4, random_state=0))
    flags = ["--bundle", str(tmp_path / "bundle"), "--set", "serverless.store=none"]
    code, said = packaged(capsys, *flags, "--output", str(tmp_path / "out"))
    assert code == 0, said
    app = tmp_path / "out" / "context" / "app"
    assert (app / "model" / "estimator.skops").is_file()
    assert not {"pandas", "pyarrow", "mlflow", "pyspark"} & {path.name for path in app.iterdir()}
    (direct,), modules = started_alone(app, [{"inputs": house_wire(2)}])
    assert direct["predictions"][0]["verified"] == "verified"
    assert {"sklearn", "scipy", "skops"} <= set(modules)


def test_dry_run_writes_nothing_and_what_makes_no_sense_is_said(
    house_env: Path, bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, said = packaged(capsys, "--bundle", str(bundle), "--dry-run")
    assert (code, "nothing was written" in said) == (0, True)
    assert list(house_env.iterdir()) == []
    code, said = packaged(capsys, "--bundle", str(bundle), "--output", str(tmp_path / "out"))
    assert (code, "online store sqlite:///" in said) == (2, True)
    code, said = packaged(capsys, "--bundle", str(bundle), "--set", "store.url=redis://h:6379/0")
    assert (code, "set serverless.store=environment" in said) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (["thesis.tex"], r"holds no earlier package alone \(1 that are none: thesis\.tex\)"),
        (["context/app/onescore.json", "function.zip", "main.tf"], r"\(1 that are none: main\.tf\)"),
        (["context/notes.txt"], r"\(1 that are none: context\)"),
        ([f"{i}.txt" for i in range(9)], r"\(9 that are none: 0\.txt, 1\.txt, 2\.txt, 3\.txt, 4\.txt\)"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_directory_that_holds_anything_else_is_never_replaced(
    house_env: Path,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    there: list[str],
    said: str,
    flags: list[str],
) -> None:
    for name in there:
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    before = contents(tmp_path / "out")
    code, found = packaged(capsys, "--bundle", str(bundle), "--output", str(tmp_path / "out"), *flags)
    assert code == 2
    assert re.search(said, found), found
    assert "with --output, or empty it yourself" in found
    assert contents(tmp_path / "out") == before


def test_file_is_never_replaced_by_a_package(
    house_env: Path, bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("kept")
    code, said = packaged(capsys, "--bundle", str(bundle), "--output", str(tmp_path / "out"))
    assert (code, "out is there and is no directory: give another one with --output" in said) == (2, True)
    assert (tmp_path / "out").read_text() == "kept"


def test_package_that_is_too_large_is_refused_with_what_is_large(bundle: Path, tmp_path: Path) -> None:
    from feature_pipelines.errors import VerificationError
    from jobs.serverless.package import describe_package

    (tmp_path / "huge").mkdir()
    with (tmp_path / "huge" / "sparse").open("wb") as file:
        file.truncate(120_000_000)
    with pytest.raises(
        VerificationError,
        match=r"have 120 MB, expected 100 MB at most with numpy alone; largest: huge 120 MB",
    ):
        describe_package(tmp_path, [], {"numpy": "2"}, {})
    assert describe_package(tmp_path, [], {"numpy": "2", "redis": "8"}, {}).unzipped_bytes == 120_000_000


def test_snapshot_and_model_are_no_part_of_what_code_and_libraries_may_have(tmp_path: Path) -> None:
    from jobs.serverless.package import describe_package

    (tmp_path / "model").mkdir()
    for path in (tmp_path / "store.db", tmp_path / "model" / "trees.npz"):
        with path.open("wb") as file:
            file.truncate(120_000_000)
    assert describe_package(tmp_path, [], {"numpy": "2"}, {}).unzipped_bytes == 240_000_000


@pytest.mark.e2e
def test_package_that_is_too_large_for_a_zip_is_a_whole_container_and_says_so(
    house_env: Path,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jobs.package_serverless.MOST_BYTES", 10_000_000)
    (tmp_path / "out" / "context" / "app").mkdir(parents=True)
    for name in ("function.zip", "context/app/onescore.json"):
        (tmp_path / "out" / name).write_text("{}")
    flags = ["--bundle", str(bundle), "--set", "serverless.store=none", "--output", str(tmp_path / "out")]
    code, said = packaged(capsys, *flags)
    assert code == 0, said
    assert re.search(
        r"function\.zip +none: Lambda unzips 10 MB at most, and this has more; largest: numpy", said
    )
    assert "Deploy the container, context/" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["context"]
    starts_what_it_contains(tmp_path / "out" / "context")
    (direct,), _ = started_alone(tmp_path / "out" / "context" / "app", [{"inputs": house_wire(1)}])
    assert direct["predictions"][0]["verified"] == "verified"


def test_package_that_lacks_a_file_or_gives_another_bit_is_not_handed_over(
    house_env: Path, bundle: Path, tmp_path: Path
) -> None:
    import shutil

    from feature_pipelines.errors import VerificationError
    from jobs.serverless.package_check import ask_package
    from tests.toy.functions import package_of

    package = package_of(tmp_path / "app", bundle)
    with pytest.raises(
        VerificationError, match=r"does not start with nothing but itself: .*No module named 'jobs'"
    ):
        ask_package(package, bundle)
    shutil.rmtree(package)
