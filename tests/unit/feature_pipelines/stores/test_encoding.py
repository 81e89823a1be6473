"""Keys and values in a store: exact, versioned, and refused rather than misread."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_pipelines.columns import Column, Float64, Int64, Nullable, String, Strings, values_and_valid
from feature_pipelines.errors import ContractError
from feature_pipelines.schema import Field, Schema, to_wire
from feature_pipelines.stores.encoding import decode_rows, encode_rows, key_prefix, key_text, key_texts
from feature_pipelines.views import FeatureView
from tests.toy.stored import EVERY, PLANE, PLANE_V2, ROUTE, columns_of

INT64 = st.integers(-(2**63), 2**63 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["", "é", "e\u0301", "\0"]
)
FLOAT = st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1.7976931348623157e308]) | st.floats(allow_nan=False)
UNSCALED = st.integers(-(10**18) + 1, 10**18 - 1)


def money(unscaled: int) -> str:
    sign, digits = ("-" if unscaled < 0 else ""), f"{abs(unscaled):05d}"
    return f"{sign}{digits[:-4]}.{digits[-4:]}"


def wire(value: float) -> Any:
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def bits(column: Column) -> list[Any]:
    """Return what each row holds, to the bit; null where it is null."""
    values, valid = values_and_valid(column)
    held = values.tolist() if isinstance(values, Strings) else [value.tobytes() for value in values]
    return held if valid is None else [h if ok else None for h, ok in zip(held, valid, strict=True)]


def with_null(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


ROWS = st.tuples(
    with_null(FLOAT.map(wire)),
    with_null(st.floats(width=32, allow_nan=False).map(wire)),
    INT64,
    with_null(INT64),
    INT32,
    with_null(INT32),
    st.booleans(),
    with_null(st.booleans()),
    INT64,
    with_null(INT64),
    UNSCALED.map(money),
    with_null(UNSCALED.map(money)),
    TEXT,
    with_null(TEXT),
)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(ROWS, max_size=6), data=st.data())
def test_every_value_of_every_type_comes_back_with_its_bits(
    rows: list[tuple[Any, ...]], data: st.DataObject
) -> None:
    columns = columns_of(EVERY, rows)
    payloads = encode_rows(EVERY, columns, len(rows))
    decoded = decode_rows(EVERY, payloads)
    for name in EVERY.fields.names:
        assert bits(decoded[name]) == bits(columns[name]), name
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=4)) if rows else []
    assert [encode_rows(EVERY, decode_rows(EVERY, [payloads[i]]), 1)[0] for i in chosen] == [
        payloads[i] for i in chosen
    ]


def test_nothing_and_tombstones_are_null_rows_among_others() -> None:
    columns = columns_of(ROUTE, [(0.5, "x"), (None, None), (-0.0, "")])
    a, b, c = encode_rows(ROUTE, columns, 3)
    decoded = decode_rows(ROUTE, [None, a, b"", b, c, None])
    assert to_wire(ROUTE.fields["late_share"], decoded["late_share"]) == [None, 0.5, None, None, -0.0, None]
    assert to_wire(ROUTE.fields["note"], decoded["note"]) == [None, "x", None, None, "", None]
    for payloads in ([], [None], [None, b""]):
        nulls = decode_rows(ROUTE, payloads)
        assert to_wire(ROUTE.fields["note"], nulls["note"]) == [None] * len(payloads)
        assert not nulls["late_share"].flags.writeable  # type: ignore[union-attr]


def test_what_stands_behind_a_null_and_which_nan_it_is_leave_no_trace() -> None:
    odd_nan = np.array([0x7FF8000000000001], dtype=np.int64).view(np.float64)
    kept = {"age_years": odd_nan, "n_seats": Nullable(np.array([7]), np.array([False]))}
    plain = {"age_years": np.array([np.nan]), "n_seats": Nullable(np.array([0]), np.array([False]))}
    assert encode_rows(PLANE, kept, 1) == encode_rows(PLANE, plain, 1)
    text = {"late_share": np.zeros(1), "note": Nullable(Strings.of(["secret"]), np.array([False]))}
    assert b"secret" not in encode_rows(ROUTE, text, 1)[0]


@pytest.mark.parametrize("n", [1, 3])  # one row is read by views of its bytes, several by a copy
def test_columns_are_read_only_and_aligned(n: int) -> None:
    row = (1.0, 1.0, 1, 1, 1, 1, True, True, 1, 1, "1.0000", "1.0000", "a", "a")
    columns = columns_of(EVERY, [row] * n)
    for column in decode_rows(EVERY, encode_rows(EVERY, columns, n)).values():
        values = column.values if isinstance(column, Nullable) else column
        array = values.codes if isinstance(values, Strings) else values
        assert array.flags.aligned
        assert array.flags.c_contiguous
        assert not array.flags.writeable


def test_a_payload_of_another_schema_is_refused_naming_both() -> None:
    (payload,) = encode_rows(PLANE, columns_of(PLANE, [(1.0, 2)]), 1)
    with pytest.raises(ContractError, match=f"'plane'.*{PLANE.schema_digest()}.*{PLANE_V2.schema_digest()}"):
        decode_rows(PLANE_V2, [None, payload])


def test_a_payload_of_another_version_or_length_is_refused() -> None:
    (payload,) = encode_rows(ROUTE, columns_of(ROUTE, [(1.0, "abc")]), 1)
    with pytest.raises(ContractError, match="'route'.*layout version 9, this code reads 1"):
        decode_rows(ROUTE, [b"\x09" + payload[1:]])
    (plane,) = encode_rows(PLANE, columns_of(PLANE, [(1.0, 2)]), 1)
    for view, broken in (
        (ROUTE, payload[:-1]),
        (ROUTE, payload + b"x"),
        (ROUTE, payload[:12]),
        (PLANE, plane + b"x"),
    ):
        with pytest.raises(ContractError, match=f"'{view.name}'.*not as its schema says"):
            decode_rows(view, [broken])
    with pytest.raises(ContractError, match="not as its schema says"):
        decode_rows(PLANE, [plane, plane + plane])


def test_a_column_of_another_length_is_refused() -> None:
    with pytest.raises(ContractError, match="column 'age_years' has 1 rows, not 2"):
        encode_rows(PLANE, columns_of(PLANE, [(1.0, 2)]), 2)


def test_a_view_that_was_used_can_still_be_sent_to_a_worker() -> None:
    payload = encode_rows(PLANE, columns_of(PLANE, [(1.0, 2)]), 1)
    there = pickle.loads(pickle.dumps(PLANE))
    assert there == PLANE
    assert encode_rows(there, columns_of(PLANE, [(1.0, 2)]), 1) == payload


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6) | st.sampled_from(
    ["1", '"', '",', "[1", "a,b", "a", "\\", "é", "e\u0301", "\0"]
)
PARTS = st.lists(NAMES | st.integers(-3, 3) | INT64 | st.just(""), min_size=1, max_size=3).map(tuple)


def view_of(name: str, parts: int) -> FeatureView:
    return FeatureView(name, {f"k{i}": f"k{i}" for i in range(parts)}, Schema((Field("x", Float64),)))


@settings(max_examples=400, deadline=None)
@given(st.tuples(NAMES, PARTS), st.tuples(NAMES, PARTS))
def test_no_two_keys_of_any_two_views_have_the_same_text(
    one: tuple[str, tuple[str | int, ...]], other: tuple[str, tuple[str | int, ...]]
) -> None:
    (a, key_a), (b, key_b) = one, other
    view_a, view_b = view_of(a, len(key_a)), view_of(b, len(key_b))
    text_a, text_b = key_text(view_a, key_a), key_text(view_b, key_b)
    typed = [(name, [(type(v), v) for v in key]) for name, key in (one, other)]
    assert (text_a == text_b) == (typed[0] == typed[1])
    assert text_a.isascii()
    assert text_a.startswith(key_prefix(view_a))
    assert text_b.startswith(key_prefix(view_a)) == (a == b)


def test_texts_of_keys_are_what_they_have_always_been() -> None:
    """A store that was filled by an earlier version is read by these."""
    assert key_texts(ROUTE, [("JFK", -7), ("é", 2**63 - 1)]) == [
        '[1,"route","JFK",-7]',
        '[1,"route","\\u00e9",9223372036854775807]',
    ]
    view = FeatureView(
        "v",
        {"k": "k"},
        Schema((Field("x", Float64), Field("s", Nullable[String]), Field("n", Int64))),
        missing="reject",
    )
    assert encode_rows(view, columns_of(view, [(1.0, "é", -2)]), 1)[0].hex() == (
        "01" + view.schema_digest() + "000000000000f03f" + "feffffffffffffff" + "02000000" + "01" + "c3a9"
    )
