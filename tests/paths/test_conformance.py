"""Every path there is, with every row that a path may get wrong: the bits of that row scored alone, or a refusal for a known reason.

The paths are those of `jobs.proof.paths.PATHS`: a new one has this whole suite from the day it stands in that list.
"""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from feature_pipelines.columns import Column, Strings, values_and_valid
from feature_pipelines.schema import build_column
from jobs.proof.path_answers import Answer, ScoringPath
from jobs.proof.path_bench import Bench
from jobs.proof.path_local import EvaluatorPath
from jobs.proof.path_outcome import Outcome, compared
from jobs.proof.paths import PATHS, Entry
from tests.toy.every_type import FEATURES
from tests.toy.nasty_rows import conformance_rows
from tests.toy.verified import verified

ROWS = conformance_rows()
NAMES = list(ROWS)
PANDAS_NULLS = {"", "NaN", "NA", "null", "NULL", "None", "n/a"}
"""Texts of these rows that CSV does not tell from null."""


def value_of(row: dict[str, Any], field: str) -> Any:
    (declared,) = (f for f in FEATURES.sources if f.name == field)
    return build_column(declared, [row.get(field)])[0]


def csv_cannot_say(row: dict[str, Any]) -> bool:
    name, payload = row.get("name"), row.get("payload")
    texts = [text for text in (name, payload) if text is not None]
    return None in (name, payload) or any(text in PANDAS_NULLS or "\0" in text for text in texts)


def parquet_cannot_say(row: dict[str, Any]) -> bool:
    return row.get("big") is not None and abs(int(row["big"])) >= 2**53


def pandas_cannot_say(row: dict[str, Any]) -> bool:
    times = [value_of(row, "asked_ts"), value_of(row, "seen_ts").values]
    return any(abs(int(time[0])) > 2**63 // 1000 - 1 for time in times)


CANNOT_SAY: dict[str, Callable[[dict[str, Any]], bool]] = {
    "stock-csv": csv_cannot_say,
    "stock-parquet": parquet_cannot_say,
    "udf-pandas": pandas_cannot_say,
}
"""What each path refuses, and no other row: said here apart from the code that refuses it."""


@pytest.fixture(scope="module")
def bench(every_type: Any, spark: Any, process_env: dict[str, str]) -> Iterator[Bench]:
    """The model `every_type`; a server is started by the first path that needs it, and ends with the last of these tests."""
    environment = {**process_env, **every_type.workspace.env()}
    flags = ["--model", "every_type"]
    with Bench(lambda more: every_type.conf(*more), flags, environment=environment) as opened:
        yield opened


@pytest.fixture(scope="module")
def alone(bench: Bench) -> dict[str, Answer]:
    """What every path must say of each row: that of the row scored alone, with no other row in its batch."""
    path = EvaluatorPath(bench)
    return {name: path.score([row])[0] for name, row in ROWS.items()}


SLOW = {"async-batch"}
"""Each of its submissions starts a Spark job of its own."""
PARAMS = [pytest.param(one, marks=[pytest.mark.slow] if one.name in SLOW else []) for one in PATHS]


@pytest.fixture(scope="module", params=PARAMS, ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Entry:
    """Each path."""
    found: Entry = request.param
    return found


@pytest.fixture(scope="module")
def path(entry: Entry, bench: Bench) -> ScoringPath:
    """The path, with what it needs started."""
    return entry.make(bench)


@pytest.fixture(scope="module")
def answers(path: ScoringPath) -> Sequence[Answer]:
    """What the path says of all rows, asked at once."""
    return path.score(list(ROWS.values()))


def content(column: Column) -> Any:
    """Return what one row's column holds: its value to the bit, None where it is null."""
    values, valid = values_and_valid(column)
    if valid is not None and not valid[0]:
        return None
    return values.tolist()[0] if isinstance(values, Strings) or values.dtype.hasobject else values.tobytes()


def differences(path: ScoringPath, alone: dict[str, Answer], answers: dict[str, Answer]) -> list[str]:
    outcome: Outcome = compared(
        "", [alone[name] for name in answers], list(answers.values()), cannot_carry=path.cannot_carry
    )
    names = list(answers)
    return [f"{names[i]}: {answers[names[i]]} and not {alone[names[i]]}" for i in outcome.differing]


def test_row_has_the_bits_that_it_has_alone(
    path: ScoringPath, answers: Sequence[Answer], alone: dict[str, Answer]
) -> None:
    assert differences(path, alone, dict(zip(NAMES, answers, strict=True))) == []


def test_path_refuses_what_it_cannot_carry_and_nothing_else(
    entry: Entry, path: ScoringPath, answers: Sequence[Answer], alone: dict[str, Answer]
) -> None:
    refused = {name for name, answer in zip(NAMES, answers, strict=True) if answer.code is not None}
    never = {name for name in NAMES if alone[name].code is not None}
    cannot_say = CANNOT_SAY.get(entry.name, lambda row: False)
    assert refused == never | {name for name, row in ROWS.items() if cannot_say(row)}
    assert (path.cannot_carry == frozenset()) == (entry.name not in CANNOT_SAY)
    assert len(ROWS) - len(refused) > 100


def test_neither_order_nor_company_changes_a_bit(path: ScoringPath, alone: dict[str, Answer]) -> None:
    some = NAMES[::-7]
    found = dict(zip(some, path.score([ROWS[name] for name in some]), strict=True))
    assert differences(path, alone, found) == []
    single = next(name for name in some if found[name].code is None)
    assert differences(path, alone, {single: path.score([ROWS[single]])[0]}) == []


def test_rows_that_differ_have_scores_that_differ(alone: dict[str, Answer]) -> None:
    """Else two values that a path mixes up would go unnoticed."""
    scored = {name: row for name, row in ROWS.items() if alone[name].code is None}
    meant: dict[tuple[Any, ...], set[str]] = {}
    for name, row in scored.items():
        columns, _ = FEATURES.sources.from_rows([row])
        key = tuple(content(columns[f.name]) for f in FEATURES.sources if f.name != "row")
        meant.setdefault(key, set()).add(float(alone[name].score or 0.0).hex())
    assert all(len(scores) == 1 for scores in meant.values())
    assert len({score for scores in meant.values() for score in scores}) == len(meant)
    assert len(meant) > 250
    assert {alone[name].code for name in NAMES} == {None, "NULL_NOT_ALLOWED"}


def test_rows_have_what_the_suite_is_for() -> None:
    payloads = [base64.b64decode(row["payload"]) for row in ROWS.values() if row.get("payload")]
    assert max(map(len, payloads)) > 65_536
    assert {"big=9007199254740993", "wide=-0.0", "wide=missing"} <= set(NAMES)
    texts = [row.get("name") or "" for row in ROWS.values()]
    assert {form for form in ("NFC", "NFD") if any(unicodedata.normalize(form, t) != t for t in texts)} == {
        "NFC",
        "NFD",
    }


def test_stock_server_that_runs_already_is_verified_in_each_of_its_forms(
    bench: Bench, every_type: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in every_type.workspace.env().items():
        monkeypatch.setenv(name, value)
    url = bench.stock().url
    code, lines, said = verified(capsys, "--url", url, model="every_type")
    assert code == 0, said
    assert list(lines) == ["stock-inputs", "stock-csv", "stock-parquet"]
    assert lines["stock-inputs"][1:8] == [url, "64", "64", "0", "0", "-", "0"]
    assert "BAD_VALUE" in lines["stock-csv"]
    assert "PRECISION_LOST" in lines["stock-parquet"]
    assert "could not be said on their path, which refused them" in said


def test_lean_server_that_runs_already_is_known_by_its_answer_and_forms_can_be_chosen(
    bench: Bench, every_type: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in every_type.workspace.env().items():
        monkeypatch.setenv(name, value)
    chosen = "lean-split,lean-inputs"
    code, lines, _ = verified(capsys, "--url", bench.lean().url, "--paths", chosen, model="every_type")
    assert (code, list(lines)) == (0, ["lean-inputs", "lean-split"])
