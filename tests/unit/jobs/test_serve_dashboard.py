"""The job that starts the dashboard: what it plans, and where it does not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs import serve_dashboard
from jobs.runs.command import run

pytestmark = pytest.mark.usefixtures("home")


def test_dry_run_says_where_and_starts_nothing(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert run(serve_dashboard.main, ["--dry-run", "--port", "0", "--log", "logs"]) == 0
    said = capsys.readouterr().out
    assert "plan (nothing was started)" in said
    assert "logs" in said
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "set dashboard.key to a reference, env:NAME or file:PATH"),
        (
            ["--host", "0.0.0.0", "--set", "dashboard.key=env:NONE"],
            "secret env:NONE: the variable is not set",
        ),
        (["--set", "dashboard.key=literal"], "dashboard.key"),
        (["--set", "serve.log_directory=null"], "expected --log or serve.log_directory"),
        (["--set", "dashboard.alerts.x=much"], "dashboard.alerts"),
    ],
)
def test_what_it_cannot_serve_ends_it_with_exit_code_2_and_says_why(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(serve_dashboard.main, arguments) == 2
    assert message in capsys.readouterr().err
