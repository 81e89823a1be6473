"""Nothing was done wrong, and nothing differs: 50,000 requests through store, model and log against the batch, bit by bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import reconcile_scores
from jobs.proof.skew import SkewReport
from jobs.runs.command import run
from tests.proof.traffic import CLEAN, serve
from tests.proof.worlds import SCALED, FlightsWorld

ROWS = 50_000


def test_clean_run_has_no_differing_bit(
    spark: Any, registered_world: FlightsWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONESCORE_HOME", str(registered_world.root))
    registered_world.write_scaled(ROWS)
    served = serve(registered_world, [], tmp_path / "served", source=SCALED)
    assert served.replayed is not None
    assert served.replayed.answered == ROWS
    skew = tmp_path / "skew"
    settings = [f"input.source={SCALED}", f"skew.directory={skew}"]
    arguments = ["--model", "flights", "--log", str(served.log(CLEAN))]
    arguments += [word for setting in settings for word in ("--set", setting)]

    assert run(reconcile_scores.main, arguments) == 0

    (file,) = skew.glob("flights/*/report.json")
    report = SkewReport.from_json(json.loads(file.read_text()))
    assert (report.rows_logged, report.rows_compared, report.rows_equal) == (ROWS, ROWS, ROWS)
    assert (report.rows_differing, report.rows_refused_online, report.requests_not_in_table) == (0, 0, 0)
    assert {one.exact for one in (report.score, *report.features)} == {ROWS}
    assert len(report.features) > 50
    assert (report.causes, report.gaps, report.decisions["flips"]) == ([], [], 0)
