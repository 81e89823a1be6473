"""What the job says and how it ends, whatever becomes of the logging; and that its comparison can be asked for again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from feature_pipelines.errors import UnavailableError
from jobs import reconcile_scores
from jobs.proof.reconcile_plan import Asked
from jobs.proof.reconcile_report import Written, comparison_of
from jobs.runs.command import load_from
from tests.unit.jobs.reports.skew_samples import bad, clean, empty

TIMES = ["--from", "2013-06-01T00:00:00.000007Z", "--to", "2013-06-02T00:00:00Z"]


def finished(monkeypatch: pytest.MonkeyPatch, report: Any, error: Exception | None) -> int:
    def log(*_: Any) -> str:
        if error is not None:
            raise error
        return "run-7"

    monkeypatch.setattr(reconcile_scores, "log_skew_run", log)
    nothing: Any = None
    return reconcile_scores._say_and_log(nothing, nothing, Written(report, Path("/reports/one")))


@pytest.mark.parametrize(("sample", "code"), [(clean, 0), (bad, 1), (empty, 1)])
def test_report_is_said_with_the_run_that_has_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sample: Any, code: int
) -> None:
    assert finished(monkeypatch, sample(), None) == code
    said = capsys.readouterr().out
    assert "/reports/one/report.html" in said
    assert "run-7" in said


@pytest.mark.parametrize("error", [UnavailableError("no answer"), OSError("no space left")])
def test_exceeded_budget_is_said_and_decides_though_mlflow_takes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    assert finished(monkeypatch, bad(), error) == 1
    said = capsys.readouterr()
    assert said.out.startswith("NOT EQUAL: 6,132 of 48,211 rows differ")
    assert "/reports/one/report.html" in said.out
    assert f"MLflow does not have it: {type(error).__name__}: {error}" in said.err
    with pytest.raises(type(error)):
        finished(monkeypatch, clean(), error)
    assert capsys.readouterr().out.startswith("EQUAL: ")


def asked_of(*arguments: str) -> tuple[Any, Asked]:
    """Parse a command line as the job does."""
    parsed = reconcile_scores._parser().parse_args(["--set", "serve.log_directory=/log", *arguments])
    overrides = list(parsed.overrides)
    if parsed.model_version is not None:
        parsed.overrides += [f"model.version={json.dumps(parsed.model_version)}"]
    conf = load_from(parsed)
    return conf, replace(reconcile_scores._asked(parsed, conf), overrides=tuple(overrides))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        TIMES,
        ["--by", "as-of", *TIMES[:2]],
        ["--requests", "none", "--log", "/other log", *TIMES[2:]],
        ["--requests", "more_requests", "--bundle", "model dir"],
    ],
)
def test_comparison_can_be_asked_for_again(arguments: list[str]) -> None:
    conf, asked = asked_of(*arguments)
    plan: Any = SimpleNamespace(asked=asked, conf=conf, model=SimpleNamespace(version="3"))
    again = comparison_of(plan)
    assert asked_of(*again)[1] == asked
    assert again[again.index("--model-version") + 1] == "3"


def test_reference_without_a_version_is_named_by_its_directory_alone() -> None:
    conf, asked = asked_of("--bundle", "model dir")
    plan: Any = SimpleNamespace(asked=asked, conf=conf, model=SimpleNamespace(version=""))
    assert comparison_of(plan) == ("--bundle", "model dir")
