"""An uploaded file as rows, by what its name ends in."""

from __future__ import annotations

import base64

import pytest

from feature_pipelines.columns import Binary, Float64, Nullable, String
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError
from feature_pipelines.schema import Field, Schema
from jobs.serverless.files import rows_of_file
from tests.toy.houses import FEATURES


def n_bytes(picture: Binary) -> Float64:
    """Length of the picture, bytes. Never null."""
    return picture.astype(str)  # type: ignore[return-value]


PICTURES = FeatureSet(
    name="pictures",
    request=Schema((Field("name", String), Field("picture", Binary), Field("note", Nullable[String]))),
    features=(n_bytes,),
    row_id=("name",),
)


def test_json_in_every_form_and_as_a_bare_list() -> None:
    for content in (b'{"inputs": [{"town": "a"}]}', b'{"instances": [{"town": "a"}]}', b' [{"town": "a"}]'):
        assert rows_of_file("x/rows.JSON", content, FEATURES, max_rows=5).rows == [{"town": "a"}]


def test_json_lines_are_a_row_each_and_a_field_that_stands_twice_is_found() -> None:
    asked = rows_of_file("a.ndjson", b'{"town": "a"}\r\n\n{"town": "b", "town": "c"}\n', FEATURES, max_rows=5)
    assert len(asked.rows) == 2
    assert [(error.row, error.field) for error in asked.refused] == [(1, "town")]
    for broken in (b'{"town": 1}, {"town": 2}\n', b'{"town":\n1}\n'):
        with pytest.raises(ContractError, match="no line is one JSON value") as refused:
            rows_of_file("a.jsonl", broken, FEATURES, max_rows=5)
        assert refused.value.evidence["code"] == "MALFORMED_JSON"


def test_json_line_that_is_no_value_costs_its_row_alone() -> None:
    content = b'{"town": "a"}\n{"town": "b"\n{"town": "c", "town": "d"}\n1}, {"a": 2\n\xff\n{"town": 1}, {"town": 2}\n7\n'
    asked = rows_of_file("a.ndjson", content, FEATURES, max_rows=7)
    assert [row and dict(row) for row in asked.rows[:2]] == [{"town": "a"}, None]
    assert [row is None for row in asked.rows] == [False, True, False, True, True, True, False]
    assert [(error.row, str(error.code)) for error in asked.refused] == [
        (1, "UNREADABLE_ROW"),
        (2, "BAD_VALUE"),
        (3, "UNREADABLE_ROW"),
        (4, "UNREADABLE_ROW"),
        (5, "UNREADABLE_ROW"),
    ]
    with pytest.raises(ContractError, match="7 rows; at most 6"):
        rows_of_file("a.ndjson", content, FEATURES, max_rows=6)


def test_csv_is_read_by_the_declared_types() -> None:
    assert rows_of_file("a.csv", b"area_m2\n1.5\n", FEATURES, max_rows=5).rows == [{"area_m2": 1.5}]


def test_image_is_one_row_named_as_the_file() -> None:
    asked = rows_of_file("in/2024/seven.png", b"\x89PNG", PICTURES, max_rows=5)
    assert asked.rows == [{"name": "seven.png", "picture": base64.b64encode(b"\x89PNG").decode()}]


def test_file_that_no_field_takes_is_refused_with_what_is_taken() -> None:
    with pytest.raises(ContractError, match=r"end in \.json, .*its request has 0 binary fields") as refused:
        rows_of_file("seven.png", b"\x89PNG", FEATURES, max_rows=5)
    assert (refused.value.evidence["status"], refused.value.evidence["code"]) == (415, "UNSUPPORTED_FILE")


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(ContractError, match="at most 1 are taken"):
        rows_of_file("a.json", b"[{}, {}]", FEATURES, max_rows=1)
