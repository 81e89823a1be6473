"""The log of a function: lines that are there before the answer leaves, with the columns of the servers' log and no personal data."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from feature_pipelines.parity import differing_bits
from jobs.online.protocol import Asked
from jobs.serverless.log_lines import LineLog
from tests.toy.answers import NOW
from tests.toy.functions import PLENTY, opened
from tests.toy.house_bundle import house_wire
from udfs.prediction_rows import PiiPolicy
from udfs.prediction_schema import SCHEMA


def logged(package: Path, rows: list[Any], share: float = 1.0) -> tuple[list[dict[str, Any]], list[Any]]:
    function = opened(package)
    stream = io.StringIO()
    log: Any = LineLog(stream, lambda: NOW, share, PiiPolicy())
    function.online.log = log
    answers = function.answer(Asked(rows, (), False), PLENTY)
    return [json.loads(line) for line in stream.getvalue().splitlines()], answers


def test_line_has_the_columns_of_the_log_and_the_bits_of_the_answer(package: Path) -> None:
    lines, answers = logged(package, [*house_wire(3), {"house_id": "x"}])
    assert [set(line) for line in lines] == [{"log", *SCHEMA.names}] * 4
    assert [line["sequence"] for line in lines] == [0, 1, 2, 3]
    assert {line["process"] for line in lines} == {lines[0]["process"]}
    for line, answer in zip(lines[:3], answers[:3], strict=True):
        assert not differing_bits(_array(line["score"]), _array(answer["score"])).any()
        assert (line["served_ts"], line["model_version"]) == ("2020-09-13T12:26:40Z", "3")
        assert set(line["features"]) >= {"area_squared"}
    assert (lines[3]["error_code"], lines[3]["score"]) == ("WRONG_TYPE", None)
    assert "features" not in answers[0]


def test_share_of_the_rows_is_logged_always_the_same_rows(package: Path) -> None:
    rows = house_wire(200)
    first, again = logged(package, rows, 0.25)[0], logged(package, rows[::-1], 0.25)[0]
    ids = {json.loads(line["request"]["house_id"]) for line in first}
    assert ids == {json.loads(line["request"]["house_id"]) for line in again}
    assert 25 < len(ids) < 75


def test_long_field_is_logged_by_its_digest(package: Path) -> None:
    rows = [{**house_wire(1)[0], "town": "x" * 5_000}]
    (line,), _ = logged(package, rows)
    assert line["request"]["town"].startswith("sha256:")
    assert line["request"]["town"].endswith(" of 5002 characters")


def test_log_that_cannot_be_written_costs_no_answer(package: Path) -> None:
    function = opened(package)
    stream = io.StringIO()
    stream.close()
    log: Any = LineLog(stream, lambda: NOW, 1.0, PiiPolicy())
    function.online.log = log
    (answer,) = function.answer(Asked(house_wire(1), (), False), PLENTY)
    assert answer["verified"] == "verified"


def _array(value: float) -> Any:
    import numpy as np

    return np.array([value])
