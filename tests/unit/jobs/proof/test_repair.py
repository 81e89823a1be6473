"""The plan says what to mend, which days to score again and what becomes of decisions; corrections make rows right."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.proof.aggregate import Totals
from jobs.proof.class_scores import CLASS_SCORES
from jobs.proof.corrections import CORRECTIONS_SCHEMA, corrected, corrections_of
from jobs.proof.corrections_table import read_corrections, write_corrections
from jobs.proof.counting import count_differing
from jobs.proof.repair import Target, plan
from tests.toy.skewed_houses import Answered, SkewedHouses

DAY = 86_400_000_000
UTC = pa.timestamp("us", tz="UTC")
TARGET = Target("flights", "3", views=("plane", "weather"), corrections="corrections")
TYPES = {
    "process": pa.string(),
    "sequence": pa.int64(),
    "row_id": pa.string(),
    "as_of_ts": UTC,
    "served_ts": UTC,
    "model_version": pa.string(),
    "request_in_table": pa.bool_(),
    "cause": pa.string(),
    "where": pa.string(),
    "parts": pa.list_(pa.string()),
    "online_score": pa.float64(),
    "offline_score": pa.float64(),
    "online_label": pa.bool_(),
    "offline_label": pa.bool_(),
    "online_class_label": pa.string(),
    "offline_class_label": pa.string(),
    "online_class_scores": CLASS_SCORES,
    "offline_class_scores": CLASS_SCORES,
    "online_error": pa.string(),
    "offline_error": pa.string(),
    "is_flip": pa.bool_(),
}
DEFAULT = {
    "process": "p",
    "row_id": "r",
    "as_of_ts": 0,
    "served_ts": 0,
    "model_version": "3",
    "request_in_table": True,
    "cause": "EXTRACTED",
    "where": "carrier",
    "parts": [],
    "online_score": 0.25,
    "offline_score": 0.75,
    "online_label": False,
    "offline_label": True,
    "online_class_label": None,
    "offline_class_label": None,
    "online_class_scores": None,
    "offline_class_scores": None,
    "online_error": None,
    "offline_error": None,
}


def totals(*parts: pa.Table) -> Totals:
    """What tasks count of differing rows."""
    made = Totals()
    for part in parts:
        of_task = Totals()
        of_task.counts["differing"] = part.num_rows
        count_differing(of_task, part)
        made.merge(Totals.from_json(json.loads(json.dumps(of_task.to_json()))))
    return made


def differing(*rows: dict[str, Any]) -> pa.Table:
    full = [{**DEFAULT, "sequence": i, **row} for i, row in enumerate(rows)]
    for row in full:
        kind = "label" if row["offline_class_label"] is None else "class_label"
        labels = row[f"online_{kind}"], row[f"offline_{kind}"]
        row["is_flip"] = None not in labels and labels[0] != labels[1]
    arrays = {
        name: pa.array([row[name] for row in full], pa.int64()).cast(UTC)
        if type_ == UTC
        else pa.array([row[name] for row in full], type_)
        for name, type_ in TYPES.items()
    }
    return pa.table(arrays)


def ranges(*days: int) -> list[tuple[str, str]]:
    made = plan(totals(differing(*({"as_of_ts": day * DAY + 5} for day in days))), TARGET)
    return [(one["from"][:10], one["to"][:10]) for one in made["backfill"]]


def test_nothing_differs_and_nothing_is_to_be_done() -> None:
    made = plan(totals(), TARGET)
    assert (made["rows"], made["steps"], made["backfill"], made["commands"]) == (0, [], [], [])


def test_decisions_are_those_that_correcting_changes() -> None:
    rows = [{}, {}, {"online_label": True, "offline_label": False}, {"online_label": True}]
    assert plan(totals(differing(*rows)), TARGET)["decisions"] == {
        "flips": 3,
        "to_positive": 2,
        "to_negative": 1,
        "net": 1,
    }


def test_rows_of_a_cause_are_one_step_with_what_to_do() -> None:
    stale = {"cause": "STALE", "where": "plane, weather"}
    both = {"cause": "INTERACTION", "where": "plane, carrier", "parts": ["STALE", "EXTRACTED"]}
    made = plan(totals(differing(stale, {}), differing(stale, stale, both, {"cause": "UNEXPLAINED"})), TARGET)
    assert [(s["cause"], s["where"], s["rows"]) for s in made["steps"]] == [
        ("STALE", "plane, weather", 3),
        ("EXTRACTED", "carrier", 1),
        ("INTERACTION", "plane, carrier", 1),
        ("UNEXPLAINED", "carrier", 1),
    ]
    assert [s["command"] for s in made["steps"]] == [
        "python -m jobs.materialize_features --model flights --view plane --view weather",
        None,
        "python -m jobs.materialize_features --model flights --view plane",
        None,
    ]
    assert all(s["do"].endswith(".") for s in made["steps"])


def test_another_version_is_pinned_by_number() -> None:
    made = plan(totals(differing({"cause": "MODEL_VERSION", "where": "version 2"})), TARGET)
    assert made["commands"][0] == "python -m jobs.serve_realtime --model flights --set model.version=3"


def test_touched_days_are_merged_into_ranges() -> None:
    assert ranges(0, 1, 1, 3) == [("1970-01-01", "1970-01-03"), ("1970-01-04", "1970-01-05")]
    assert ranges(-1) == [("1969-12-31", "1970-01-01")]


def test_of_too_many_ranges_the_nearest_are_joined_and_every_row_stays_in_one() -> None:
    days = [day * 3 + (50 if day > 30 else 0) for day in range(60)]
    made = plan(totals(differing(*({"as_of_ts": day * DAY} for day in days))), TARGET)["backfill"]
    assert len(made) == 2
    assert sum(one["rows"] for one in made) == 60


def test_only_scores_that_differ_and_the_batch_can_write_are_scored_again() -> None:
    equal_score = {"online_score": 0.75, "online_label": True}
    made = plan(totals(differing({"request_in_table": False}, equal_score)), TARGET)
    assert (made["rows"], made["scores_to_correct"], made["not_in_table"], made["backfill"]) == (2, 1, 1, [])
    zero = {"online_score": 0.0, "offline_score": -0.0, "online_label": True}
    refused = {"online_score": None, "online_label": None, "online_error": "WRONG_TYPE"}
    assert plan(totals(differing(zero, refused)), TARGET)["scores_to_correct"] == 2
    assert plan(totals(differing(refused, refused)), replace(TARGET, has_as_of=False))["backfill"] == []


def test_corrections_are_written_and_then_seen_by_the_comparison_that_was_asked_for() -> None:
    asked = ("--model-version", "3", "--requests", "none", "--by", "as-of", "--from", "2013-06-01T00:00:00Z")
    target = replace(TARGET, comparison=asked, overrides=("score.batch_rows=300", "input.source=a table"))
    begin = "python -m jobs.reconcile_scores --model flights --set score.batch_rows=300 --set 'input.source=a table' "
    command = f"{begin}{shlex.join(asked)} --corrections"
    made = plan(totals(differing({})), target)
    assert made["commands"][-1] == command
    assert made["commands"].count(command) == 1
    assert "--set score.batch_rows=300" in made["backfill"][0]["command"]
    assert made["notes"] == []
    made = plan(totals(differing({})), replace(target, corrections=None))
    assert made["commands"][-2:] == [command, command]
    assert "first run writes the corrections" in made["notes"][0]


def test_reference_that_is_not_registered_is_never_named_by_a_version() -> None:
    target = Target("flights", "", views=("plane",), comparison=("--bundle", "model dir"))
    rows = [{"cause": "MODEL_VERSION", "where": "version 2"}, {}]
    rows.append({"cause": "INTERACTION", "where": "plane", "parts": ["STALE", "MODEL_VERSION"]})
    made = plan(totals(differing(*rows)), target)
    needs = {step["cause"]: "takes a registered version" in step["do"] for step in made["steps"]}
    assert needs == {"MODEL_VERSION": True, "EXTRACTED": False, "INTERACTION": False}
    verify = "python -m jobs.reconcile_scores --model flights --bundle 'model dir' --corrections"
    materialise = "python -m jobs.materialize_features --model flights --view plane"
    assert made["commands"] == [materialise, verify, verify]
    assert [one["command"] for one in made["backfill"]] == [None]
    assert "takes a registered version" in made["notes"][0]


@pytest.mark.parametrize("environment", [None, "staging"])
def test_commands_are_those_that_jobs_take(environment: str | None) -> None:
    rows = [{"cause": "STALE", "where": "plane"}, {"cause": "MODEL_VERSION", "where": "version 2"}]
    target = replace(TARGET, environment=environment, comparison=("--model-version", "3"))
    made = plan(totals(differing(*rows)), target)
    assert len(made["commands"]) == 4
    for command in made["commands"][:-1]:
        python, _, module, *arguments = shlex.split(command)
        assert python == "python"
        said = io.StringIO()
        with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
            importlib.import_module(module).main(["--help"])
        flags = [argument for argument in arguments if argument.startswith("--")]
        assert flags
        assert all(f"{flag} " in said.getvalue() for flag in flags)
    assert made["commands"][-1].endswith("--model-version 3 --corrections")


# Corrections


def rows_of(pairs: Any) -> pa.Table:
    """The differing rows of pairs, as a reconciliation writes them."""
    made = []
    for i in np.flatnonzero(pairs.differing()):
        online, offline = pairs.online, pairs.offline
        made.append(
            {
                "process": pairs.process[i],
                "sequence": int(pairs.sequence[i]),
                "online_score": float(online.score[i]),
                "offline_score": None if offline.error[i] else float(offline.score[i]),
                "online_label": bool(online.label[i]),
                "offline_label": None if offline.error[i] else bool(offline.label[i]),
                "offline_error": offline.error[i],
            }
        )
    return differing(*made)


def larger(houses: SkewedHouses, side: Answered) -> Answered:
    area: Any = side.columns["area_m2"]
    grown = np.where(np.arange(houses.n) % 2 == 0, area * 1.5, area)
    return replace(side, columns={**side.columns, "area_m2": grown})


def test_written_corrections_make_every_differing_row_right_and_no_other(
    houses: SkewedHouses, tmp_path: Path
) -> None:
    pairs = houses.pairs(larger)
    uri = str(tmp_path / "corrections")
    facts = {"model": "houses", "version": "2", "digest": "d", "corrected_ts": 7}
    assert read_corrections(uri, "houses").num_rows == 0
    rows = rows_of(pairs)
    parts = [rows.slice(0, 20), rows.slice(20)]
    assert write_corrections(uri, parts, report_id="one", **facts) == rows.num_rows
    assert write_corrections(uri, parts, report_id="one", **facts) == 0
    table = read_corrections(uri, "houses", ["p", "q"])
    assert table.schema == CORRECTIONS_SCHEMA
    assert corrected(pairs, table).tolist() == pairs.differing().tolist()
    assert read_corrections(uri, "houses", ["q"]).num_rows == 0
    assert read_corrections(uri, "flights").num_rows == 0


def test_correction_that_the_batch_no_longer_agrees_with_counts_for_nothing(houses: SkewedHouses) -> None:
    offline = houses.answered()
    offline.error[0] = "OUT_OF_RANGE"
    pairs = houses.pairs_of(houses.online(larger), offline)
    facts = {"model": "houses", "version": "2", "digest": "d"}
    table = corrections_of(rows_of(pairs), **facts, corrected_ts=7)
    assert corrected(pairs, table)[[0, 2]].tolist() == [True, True]
    offline.error[2] = "OUT_OF_RANGE"
    later = houses.pairs_of(houses.online(larger), offline)
    assert corrected(later, table)[[0, 2, 4]].tolist() == [True, False, True]
    newer = corrections_of(rows_of(later), **facts, corrected_ts=8)
    assert corrected(later, pa.concat_tables([newer, table]))[[0, 2, 4]].tolist() == [True, True, True]
    assert not corrected(later, CORRECTIONS_SCHEMA.empty_table()).any()
