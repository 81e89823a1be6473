from __future__ import annotations

import pytest
from deltalake import DeltaTable

from jobs.build_features import main
from jobs.runs.command import run
from tests.toy.depots import event_rows
from tests.toy.workspace import CONF_DIR, Workspace

ARGS = ["--model", "depots"]


@pytest.fixture
def depots(home, monkeypatch):
    monkeypatch.setenv("ONESCORE_CONF_DIR", str(CONF_DIR))
    workspace = Workspace(home)
    workspace.write("depot_events", event_rows(120))
    return workspace


def test_build_features_shows_the_plan_then_builds_then_has_nothing_to_do(depots, spark, capsys):
    assert main([*ARGS, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "plan (nothing was written)" in said
    assert "new source rows          120" in said
    assert not (depots.root / ".onescore" / "tables" / "depot_history").exists()

    assert main([*ARGS, "--view", "depot_history", "--through", "2020-01-05T00:00:00Z"]) == 0
    assert main(ARGS) == 0
    said = capsys.readouterr()
    assert "rows added" in said.out
    assert "new source rows, through 2020-01-1" in said.err
    before = DeltaTable(depots.table("depot_history")).version()

    assert main([*ARGS, "--dry-run"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(ARGS) == 0
    assert "nothing new, built through 2020-01-1" in capsys.readouterr().err
    assert DeltaTable(depots.table("depot_history")).version() == before


def test_build_features_ends_with_3_if_too_many_rows_are_bad(depots, spark, capsys):
    depots.write("depot_events", event_rows(120, bad=range(20)))
    assert run(main, ARGS) == 3
    assert "more than 1 of 120 new rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--view", "depot_histroy"], "no such view with history. Did you mean 'depot_history'?"),
        (["--through", "2020-01-05"], "expected RFC 3339 with an offset"),
        (
            ["--rebuild", "--corrected-at", "2020-01-05T00:00:00Z"],
            "--corrected-at goes neither with --rebuild",
        ),
    ],
)
def test_build_features_says_what_is_wrong_with_its_arguments(depots, capsys, arguments, message):
    assert run(main, [*ARGS, *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_build_features_of_a_model_without_history_has_nothing_to_do(depots, capsys):
    assert run(main, ["--model", "houses"]) == 0
    assert "has no view with history" in capsys.readouterr().out
