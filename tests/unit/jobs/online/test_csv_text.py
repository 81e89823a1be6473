"""CSV, exactly: null and the empty text apart, numbers from their digits, a bad line's fault its own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_pipelines.errors import ContractError
from jobs.online.csv_text import rows_of_csv
from jobs.online.protocol import Asked
from tests.toy.every_type import FEATURES as EVERY_TYPE
from tests.toy.houses import FEATURES


def read(text: str | bytes, feature_set: Any = FEATURES, max_rows: int = 100) -> Asked:
    return rows_of_csv(text if isinstance(text, bytes) else text.encode(), feature_set, max_rows=max_rows)


def test_cells_are_what_their_fields_declare() -> None:
    asked = read(
        "\ufeffhouse_id,asked_ts,area_m2,rooms,town,as_of_ts\r\n"
        '9007199254740993,2020-01-01T00:00:00Z,0.1000000000000000055511151231257827,3,"a, ""b""\n",1577836800000000\r\n'
        '7,1577836800000000,NaN,,"",\n'
        "\n"
        "8,yesterday,large,1.0,,"
    )
    assert asked.rows == [
        {
            "house_id": "9007199254740993",
            "asked_ts": "2020-01-01T00:00:00Z",
            "area_m2": 0.1,
            "rooms": "3",
            "town": 'a, "b"\n',
            "as_of_ts": 1577836800000000,
        },
        {
            "house_id": "7",
            "asked_ts": 1577836800000000,
            "area_m2": "NaN",
            "rooms": None,
            "town": "",
            "as_of_ts": None,
        },
        {
            "house_id": "8",
            "asked_ts": "yesterday",
            "area_m2": "large",
            "rooms": "1.0",
            "town": None,
            "as_of_ts": None,
        },
    ]
    assert list(asked.refused) == []


def test_truth_and_unknown_columns_are_passed_on() -> None:
    asked = read("flag,what\ntrue,1\nFALSE,2\nyes,\n", EVERY_TYPE)
    assert asked.rows == [
        {"flag": True, "what": "1"},
        {"flag": False, "what": "2"},
        {"flag": "yes", "what": None},
    ]


def test_line_of_another_length_costs_its_row_alone() -> None:
    asked = read("house_id,town\n1,a\n2\n3,c,d\n4,d\n")
    assert [row and row["house_id"] for row in asked.rows] == ["1", None, None, "4"]
    assert [(error.row, str(error.code)) for error in asked.refused] == [
        (1, "UNREADABLE_ROW"),
        (2, "UNREADABLE_ROW"),
    ]
    assert asked.refused[1].message == "it has 3 values, and the header has 2"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "MALFORMED_CSV"),
        (b"\n\n", 400, "MALFORMED_CSV"),
        (b"town\n\xff\n", 400, "MALFORMED_CSV"),
        (b'town\n"a"b\n', 400, "MALFORMED_CSV"),
        (b'town\n"a\n', 400, "MALFORMED_CSV"),
        (b"town,town\n", 400, "DUPLICATE_FIELD"),
        (b"town\n" + b"a\n" * 101, 413, "TOO_MANY_ROWS"),
    ],
)
def test_what_is_no_csv_is_refused_as_a_whole(content: bytes, status: int, code: str) -> None:
    with pytest.raises(ContractError) as refused:
        read(content)
    assert (refused.value.evidence["status"], refused.value.evidence["code"]) == (status, code)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.none() | st.text(max_size=8), min_size=2, max_size=2), max_size=6))
def test_every_text_and_every_null_comes_back(rows: list[list[str | None]]) -> None:
    def cell(text: str | None) -> str:
        return "" if text is None else '"' + text.replace('"', '""') + '"'

    lines = ["house_id,town", *(",".join(map(cell, row)) for row in rows)]
    written = "\n".join(lines).encode("utf-8", "replace")
    expected = [[None if t is None else t.encode("utf-8", "replace").decode() for t in row] for row in rows]
    assert [[row["house_id"], row["town"]] for row in read(written).rows] == expected
