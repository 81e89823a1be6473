"""Bodies into rows: four forms that say the same, every number exact, nothing that stands twice overlooked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feature_pipelines.errors import ContractError
from jobs.online.protocol import FORMS, Asked, read_body, write_body

MAX_ROWS = 100
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from(['":', ' "a" :1', "{", '\\":', "2020-01-01T00:00:00Z"]),
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (" ,", " :"), ("\n,", "\t:")])


def read(body: Any, max_rows: int = MAX_ROWS) -> Asked:
    return read_body(body if isinstance(body, bytes) else json.dumps(body).encode(), max_rows=max_rows)


def refusal(body: Any, max_rows: int = MAX_ROWS) -> tuple[int, str]:
    with pytest.raises(ContractError) as refused:
        read(body, max_rows)
    return refused.value.evidence["status"], refused.value.evidence["code"]


@given(
    st.lists(NAMES, unique=True, max_size=4).flatmap(
        lambda names: st.tuples(st.just(names), st.lists(st.tuples(*[VALUES] * len(names)), max_size=4))
    ),
    SEPARATORS,
    st.booleans(),
)
def test_four_forms_give_the_same_rows_exactly(
    drawn: tuple[list[str], list[tuple[Any, ...]]], separators: tuple[str, str], ascii_only: bool
) -> None:
    names, values = drawn
    rows = [dict(zip(names, row, strict=True)) for row in values]
    split = {"columns": names, "data": [list(row) for row in values]}
    for form in FORMS:
        body = {form: split if form == "dataframe_split" else rows}
        text = json.dumps(body, separators=separators, ensure_ascii=ascii_only)
        asked = read(text.encode())
        assert repr([dict(row) for row in asked.rows]) == repr(rows)  # repr: 1 is not 1.0, -0.0 not 0.0
        assert not asked.refused
        assert not asked.with_features


MEMBERS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", 'c"', "\\u0061", "d:"]), st.sampled_from([":", " :", "\t: "]), VALUES
    ),
    max_size=6,
)


@given(MEMBERS)
@example([("a", ":", 1), ("a", ":", 2), ("b", " :", 3)])
@example([("a", ":", 1), ("\\u0061", ":", 2), ("b", ":", ":")])
def test_field_that_stands_twice_is_never_overlooked(members: list[tuple[str, str, Any]]) -> None:
    written = [
        ('"\\u0061"' if name == "\\u0061" else json.dumps(name)) + colon + json.dumps(value)
        for name, colon, value in members
    ]
    asked = read(("""{"inputs":[{},{""" + ",".join(written) + "}]}").encode())
    names = ["a" if name == "\\u0061" else name for name, _, _ in members]
    assert [error.row for error in asked.refused] == ([1] if len(set(names)) < len(names) else [])
    for error in asked.refused:
        assert names.count(error.field) > 1


@pytest.mark.parametrize(
    "number", ["9223372036854775808", "-9223372036854775809", "18446744073709551616", "1" * 40]
)
def test_integer_beyond_64_bit_stays_an_integer(number: str) -> None:
    (row,) = read(f'{{"inputs":[{{"a":{number}}}]}}'.encode()).rows
    assert row["a"] == int(number)
    assert isinstance(row["a"], int)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b'{"inputs": [',
        b'{"inputs": [{"a": NaN}]}',
        b'{"inputs": [{"a": -Infinity}]}',
        b'{"inputs": [{"a": "\xff"}]}',
        b'\xef\xbb\xbf{"inputs": []}',
        '{"inputs": []}'.encode("utf-16"),
        b'{"inputs": ' + b"[" * 100_000,
        b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"inputs": [{"a": ' + b"1" * 5_000 + b"}]}",
        b'{"inputs": [{"a": 01}]}',
        b"{'inputs': []}",
    ],
)
def test_what_is_not_json_is_refused_as_malformed(body: bytes) -> None:
    assert refusal(body) == (400, "MALFORMED_JSON")


@pytest.mark.parametrize(
    "body",
    [
        [],
        1,
        None,
        {},
        {"rows": []},
        {"inputs": [], "instances": []},
        {"inputs": [], "signature": 1},
        {"dataframe_split": []},
        {"dataframe_split": {"data": []}},
        {"dataframe_split": {"columns": [1], "data": []}},
        {"dataframe_split": {"columns": ["a"]}},
        {"dataframe_split": {"columns": ["a"], "data": [], "dtype": 1}},
    ],
)
def test_json_of_no_known_form_is_refused(body: Any) -> None:
    assert refusal(body) == (400, "UNKNOWN_FORM")


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs":[],"inputs":[{}]}',
        b'{"dataframe_split":{"columns":["a"],"columns":["b"],"data":[[1]]}}',
        b'{"dataframe_split":{"columns":["a","a"],"data":[[1,2]]}}',
        b'{"inputs":[],"params":{"features":true,"features":false}}',
    ],
)
def test_key_of_the_envelope_that_stands_twice_is_refused(body: bytes) -> None:
    assert refusal(body) == (400, "DUPLICATE_FIELD")


@pytest.mark.parametrize("params", [1, [], {"feature": True}, {"features": 1}, {"features": "true"}])
def test_unknown_parameter_is_refused(params: Any) -> None:
    assert refusal({"inputs": [], "params": params}) == (400, "BAD_PARAMS")


@pytest.mark.parametrize(("params", "wanted"), [(None, False), ({}, False), ({"features": True}, True)])
def test_features_are_asked_for_by_params(params: Any, wanted: bool) -> None:
    assert read({"inputs": [{}], "params": params}).with_features is wanted


def test_row_of_another_length_is_refused_alone() -> None:
    asked = read({"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [1], "ab", [3, 4]]}})
    assert asked.rows == [{"a": 1, "b": 2}, None, None, {"a": 3, "b": 4}]
    assert [(error.row, error.code) for error in asked.refused] == [
        (1, "UNREADABLE_ROW"),
        (2, "UNREADABLE_ROW"),
    ]


def test_rows_beyond_the_limit_are_refused() -> None:
    assert len(read({"inputs": [{}] * 3}, max_rows=3).rows) == 3
    assert refusal({"inputs": [{}] * 4}, max_rows=3) == (413, "TOO_MANY_ROWS")


def test_what_is_no_list_is_one_row_that_is_no_object() -> None:
    assert read({"inputs": {"a": 1}}).rows == [None]


def test_number_beyond_float64_is_infinite_for_the_contract_to_refuse() -> None:
    assert read(b'{"inputs": [{"a": 1e400}]}').rows == [{"a": float("inf")}]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_answer_is_read_back_with_the_same_bits(score: float) -> None:
    (answer,) = json.loads(write_body([{"score": score}]))["predictions"]
    assert answer["score"].hex() == score.hex()


def test_answer_that_repeats_a_field_name_of_the_client_is_written_whatever_it_is() -> None:
    assert (
        json.loads(write_body([{"error": {"field": "\ud800"}}]))["predictions"][0]["error"]["field"]
        == "\ud800"
    )


@pytest.mark.parametrize(
    ("body", "known"),
    [
        ({"inputs": [], "ssn 123-45-6789": 1}, "beside inputs there may be params alone"),
        ({"inputs": [], "params": {"ssn 123-45-6789": 1}}, "there may be features alone"),
    ],
)
def test_unknown_key_is_not_named_for_it_may_be_data(body: Any, known: str) -> None:
    with pytest.raises(ContractError, match=known) as refused:
        read(body)
    assert "ssn" not in str(refused.value)
