"""What the README tells a newcomer to type, typed: the files it shows are written, the commands it shows are run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from jobs import ingest_digits

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
FILES = re.findall(r"<!-- file: (\S+) -->\n```\w*\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"<!-- commands -->\n```\n(.*?)```", README, re.DOTALL)[0].splitlines()


def test_readme_shows_the_three_files_of_a_model() -> None:
    folders = [Path(name).parts[0] for name, _ in FILES]

    assert folders == ["feature_pipelines", "conf", "jobs"]
    assert len(COMMANDS) >= 4


def test_readme_shows_no_python_that_no_test_runs() -> None:
    """The files of the model are run below, the Spark code in test_demo, where its tables and model are."""
    shown = re.findall(r"(<!-- .* -->)?\n```python\n", README)

    assert len(shown) == 3
    assert all(mark.startswith("<!-- file: ") or mark == "<!-- own Spark code -->" for mark in shown), shown


def test_readme_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-")
        for h in re.findall(r"^#+ (.*)$", README, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.removeprefix("#") in headings if target.startswith("#") else (ROOT / target).exists(), (
            target
        )


def test_readme_names_only_tests_and_jobs_that_exist() -> None:
    for path in re.findall(r"`(tests/[\w/]+(?:\.py)?)`", README):
        assert (ROOT / path).exists(), path
    for job in re.findall(r"`jobs\.(\w+)`", README):
        assert (ROOT / "jobs" / f"{job}.py").exists(), job


def test_commands_of_the_second_example_are_those_that_a_test_runs() -> None:
    """tests/e2e/test_images_cli.py runs the commands of the ingest job's docstring."""
    [shown] = re.findall(r"<!-- image commands -->\n```\n(.*?)```", README, re.DOTALL)
    run = re.findall(r"^    (python -m .*?)(?:  .*)?$", ingest_digits.__doc__ or "", re.MULTILINE)
    assert shown.splitlines() == run[1:]


@pytest.mark.e2e
def test_score_your_own_model_as_the_readme_says(tmp_path: Path, process_env: dict[str, str]) -> None:
    project = tmp_path / "project"
    for folder in ("feature_pipelines", "udfs", "jobs", "conf"):
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, content in FILES:
        (project / name).write_text(content)
    said = []
    for command in COMMANDS:
        assert command.startswith("python -m "), command
        done = subprocess.run(
            [sys.executable, *command.split()[1:]],
            cwd=project,
            env={**process_env, "PYTHONPATH": str(project)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)

    scored = DeltaTable(str(project / ".onescore/tables/diabetes_scored")).to_pyarrow_table()
    quarantined = DeltaTable(str(project / ".onescore/tables/diabetes_quarantine")).to_pyarrow_table()
    assert scored.num_rows == 441
    assert quarantined.column("row_id").to_pylist() == ["7"]
    assert quarantined.column("code").to_pylist() == ["OUT_OF_RANGE"]
    assert pc.all(pc.is_finite(scored.column("score"))).as_py()
    assert re.search(r"^ *quarantined +1$", said[3], re.MULTILINE)
