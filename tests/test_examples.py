"""The two worked examples are examples: what scores, serves and proves knows neither flights nor digits."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.features.digits import FEATURES as DIGITS
from feature_pipelines.features.flights import FEATURES as FLIGHTS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("feature_pipelines", "udfs", "jobs", "conf")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
OTHERS = sorted(
    file
    for package in PACKAGES
    for file in (ROOT / package).rglob("*.*")
    if file.suffix != ".py" and "__pycache__" not in file.parts and file.is_file()
)

FILES_OF = {
    "digits": {
        "conf/digits.yaml",
        "feature_pipelines/features/digits.py",
        "jobs/ingest_digits.py",
    },
    "flights": {
        "conf/flights.yaml",
        "feature_pipelines/features/flight_history.py",
        "feature_pipelines/features/flights.py",
        "jobs/ingest_flights.py",
        "jobs/run_demo.py",
        "jobs/tables/flights_ingest.py",
        "jobs/tables/flights_schemas.py",
        "jobs/tables/flights_source.py",
        "jobs/tables/resample_task.py",  # of ingest_flights: makes its table of any size
    },
}
DEFAULT_MODEL = ("jobs/runs/command.py", "flights")
HTTP_HEADER = ("jobs/dashboard/browser.py", "origin")  # where a browser says that a request comes from
SAYS_WHAT_IS_SET_WHERE = "conf/README.md"


def names_of(example: str, feature_set: FeatureSet) -> set[str]:
    """Return what the example calls its model, tables, fields, views and features."""
    settings = yaml.safe_load((ROOT / "conf" / f"{example}.yaml").read_text())
    tables = {text for text in _texts(settings) if text.startswith(f"{example}_")}
    views = {view.name for view in feature_set.views}
    steps = {step.name for step in feature_set.steps}
    return {example, *tables, *views, *steps, *feature_set.sources.names, *feature_set.feature_names}


def _texts(value: object) -> set[str]:
    if isinstance(value, dict):
        return {text for item in value.values() for text in _texts(item)}
    if isinstance(value, list):
        return {text for item in value for text in _texts(item)}
    return {value} if isinstance(value, str) else set()


def named_in(source: str, names: set[str]) -> set[str]:
    """Return which names a module has as a string of its own, or imports a module of."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value in names:
            found.add(node.value)
        elif isinstance(node, ast.Import):
            found |= {name for alias in node.names for name in _parts(alias.name) & names}
        elif isinstance(node, ast.ImportFrom):
            found |= _parts(node.module or "") & names | {a.name for a in node.names} & names
    return found


def _parts(module: str) -> set[str]:
    return {*module.split("."), *re.split(r"[._]", module)}


@pytest.mark.parametrize(("example", "feature_set"), [("digits", DIGITS), ("flights", FLIGHTS)])
def test_nothing_but_its_own_files_names_what_an_example_has(example: str, feature_set: FeatureSet) -> None:
    names = names_of(example, feature_set)
    found = {
        (str(file.relative_to(ROOT)), name)
        for file in SOURCES
        for name in named_in(file.read_text(encoding="utf-8"), names)
    } - {DEFAULT_MODEL, HTTP_HEADER}

    assert {file for file, _ in found} - FILES_OF[example] == set(), sorted(found)
    own = {file for file in FILES_OF[example] if file.endswith(".py")}
    assert own <= {file for file, _ in found}, "what is listed as an example's own file names nothing of it"


@pytest.mark.parametrize("example", FILES_OF)
def test_no_other_file_of_the_packages_names_an_example(example: str) -> None:
    named = re.compile(rf"\b{example}_|\b{example}\.yaml|\.{example}\b|: {example}$", re.MULTILINE)
    mentions = {
        str(file.relative_to(ROOT)) for file in OTHERS if named.search(file.read_text(encoding="utf-8"))
    }
    assert mentions - {SAYS_WHAT_IS_SET_WHERE} == {f"conf/{example}.yaml"}


def test_the_second_example_is_three_files() -> None:
    there = {
        str(file.relative_to(ROOT))
        for file in [*SOURCES, *OTHERS]
        if "digit" in file.name and "_test" not in file.name
    }
    assert there == FILES_OF["digits"]


def test_a_name_is_found_wherever_code_says_it() -> None:
    names = {"digits", "image_id", "digits_scored", "centre_row"}
    assert named_in("from feature_pipelines.features.digits import FEATURES", names) == {"digits"}
    assert named_in("from feature_pipelines.features import digits", names) == {"digits"}
    assert named_in("import jobs.ingest_digits", names) == {"digits"}
    assert named_in("def f(row, t='digits_scored'):\n    return row['image_id']", names) == {
        "image_id",
        "digits_scored",
    }
    assert named_in('digits = "decimal digits, an image_idea"', names) == set()
