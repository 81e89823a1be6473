"""What MLflow makes of CSV and Parquet bodies, into rows: exactly, or refused with a reason."""

from __future__ import annotations

import base64
import datetime
import decimal
import io
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_pipelines.columns import Nullable
from feature_pipelines.request_rows import RequestReader
from feature_pipelines.schema import to_wire
from tests.toy.every_type import FEATURES
from udfs.frames import rows_of_frame

FIELDS = FEATURES.sources


def read_csv(text: str) -> pd.DataFrame:
    """Return what MLflow's server makes of CSV under the logged signature: every field a string."""
    return pd.read_csv(io.StringIO(text), dtype=dict.fromkeys((*FIELDS.names, "as_of_ts"), object))


def read_parquet(columns: dict[str, pa.Array]) -> pd.DataFrame:
    """Return what MLflow's server makes of Parquet."""
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return pd.read_parquet(io.BytesIO(sink.getvalue()))


def value(frame: pd.DataFrame, name: str) -> Any:
    """Return the first row's cell as it is sent on; fail if it is refused."""
    rows, errors = rows_of_frame(frame, FEATURES)
    assert errors == []
    return rows[0][name]


def refusal(frame: pd.DataFrame) -> tuple[str, str]:
    _, (error,) = rows_of_frame(frame, FEATURES)
    return str(error.code), error.field


@pytest.mark.parametrize(
    ("name", "text", "sent"),
    [
        ("big", "9007199254740993", "9007199254740993"),
        ("big", "3.0", 3),  # an integer beside nulls, as pandas writes it
        ("wide", "0.1", 0.1),
        ("wide", "1e-7", 1e-7),
        ("wide", "5.0000000000000001", 5.0),
        ("flag", "True", True),
        ("flag", "false", False),
        ("amount", "12.3400", "12.3400"),
        ("asked_ts", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
        ("asked_ts", "1577836800000000", 1_577_836_800_000_000),
        ("as_of_ts", "1577836800000000", 1_577_836_800_000_000),
        ("name", "3.0", "3.0"),
        ("payload", "aGk=", "aGk="),
    ],
)
def test_text_of_csv_becomes_the_value_it_says(name: str, text: str, sent: Any) -> None:
    assert value(read_csv(f"{name}\n{text}\n"), name) == sent


def test_floats_of_csv_keep_every_bit() -> None:
    numbers = np.random.default_rng(0).random(2_000).tolist()
    frame = read_csv("wide\n" + "\n".join(map(repr, numbers)))
    rows, errors = rows_of_frame(frame, FEATURES)
    assert errors == []
    assert [row["wide"] for row in rows] == numbers
    misread = pd.read_csv(io.StringIO("wide\n" + "\n".join(map(repr, numbers))))["wide"].tolist()
    assert misread != numbers  # why the signature names every field a string


@pytest.mark.parametrize("name", ["big", "small", "wide", "narrow", "flag", "amount", "seen_ts"])
def test_empty_cell_is_null_where_it_can_be_nothing_else(name: str) -> None:
    assert value(read_csv(f"row,{name}\n1,\n"), name) is None


def test_empty_cell_of_a_string_or_of_bytes_is_refused_by_csv_and_not_by_parquet() -> None:
    """Of bytes it may be none of them, and "null" is base64 of three."""
    assert refusal(read_csv("row,payload\n1,\n")) == ("BAD_VALUE", "payload")
    assert refusal(read_csv("row,payload\n1,null\n")) == ("BAD_VALUE", "payload")
    frame = read_parquet({"payload": pa.array([None, b"", base64.b64decode("null")])})
    rows, errors = rows_of_frame(frame, FEATURES)
    assert ([row["payload"] for row in rows], errors) == ([None, "", "null"], [])
    assert refusal(read_csv("row,name\n1,\n")) == ("BAD_VALUE", "name")
    assert refusal(read_csv("row,name\n1,NA\n")) == ("BAD_VALUE", "name")
    frame = read_parquet({"name": pa.array([None, "", "NA"])})
    rows, errors = rows_of_frame(frame, FEATURES)
    assert ([row["name"] for row in rows], errors) == ([None, "", "NA"], [])


@pytest.mark.parametrize("big", [2**53, 2**53 + 1, -(2**53), 2**62])
def test_integer_beyond_2_53_beside_nulls_is_refused(big: int) -> None:
    assert refusal(read_parquet({"big": pa.array([big, None])})) == ("PRECISION_LOST", "big")
    assert refusal(read_csv(f"big\n{float(big):f}\n")) == ("PRECISION_LOST", "big")
    assert value(read_parquet({"big": pa.array([big])}), "big") == big
    assert value(read_parquet({"big": pa.array([2**53 - 1, None])}), "big") == 2**53 - 1


@pytest.mark.parametrize(
    ("name", "array", "sent"),
    [
        ("wide", pa.array([math.inf]), "Infinity"),
        ("wide", pa.array([math.nan]), None),
        ("wide", pa.array([None], pa.float64()), None),
        ("narrow", pa.array([0.1], pa.float32()), float(np.float32(0.1))),
        ("flag", pa.array([True, None]), True),
        ("amount", pa.array([decimal.Decimal("12.3400")]), "12.3400"),
        ("payload", pa.array([b"hi"]), "aGk="),
        ("asked_ts", pa.array([7], pa.timestamp("us", "UTC")), 7),
        ("asked_ts", pa.array([7], pa.timestamp("us", "Asia/Kathmandu")), 7),
        ("seen_ts", pa.array([None, 7], pa.timestamp("us", "UTC")), None),
        ("big", pa.array([2**62]), 2**62),
    ],
)
def test_value_of_parquet_becomes_the_wire_form_of_it(name: str, array: pa.Array, sent: Any) -> None:
    assert value(read_parquet({name: array}), name) == sent


def test_time_that_parquet_cannot_place_is_refused() -> None:
    assert refusal(read_parquet({"asked_ts": pa.array([7], pa.timestamp("us"))})) == (
        "BAD_TIMESTAMP",
        "asked_ts",
    )
    nanoseconds = pa.array([7], pa.timestamp("ns", "UTC"))
    assert refusal(read_parquet({"asked_ts": nanoseconds})) == ("BAD_TIMESTAMP", "asked_ts")


def test_every_type_through_parquet_is_the_column_it_was() -> None:
    moment = datetime.datetime(2020, 1, 1, 12, 30, 0, 5, tzinfo=datetime.UTC)
    frame = read_parquet(
        {
            "row": pa.array([1, 2]),
            "asked_ts": pa.array([moment, moment]).cast(pa.timestamp("us", "UTC")),
            "big": pa.array([5, None]),
            "wide": pa.array([0.1, None]),
            "flag": pa.array([None, True]),
            "name": pa.array(["é", None]),
        }
    )
    rows, errors = rows_of_frame(frame, FEATURES)
    read = RequestReader(FEATURES).read(rows)
    assert (errors, read.errors) == ([], [])
    assert to_wire(FIELDS["asked_ts"], read.columns["asked_ts"]) == ["2020-01-01T12:30:00.000005Z"] * 2
    assert to_wire(FIELDS["big"], read.columns["big"]) == [5, None]
    assert to_wire(FIELDS["wide"], read.columns["wide"]) == [0.1, None]
    assert to_wire(FIELDS["flag"], read.columns["flag"]) == [None, True]
    assert to_wire(FIELDS["name"], read.columns["name"]) == ["é", None]
    assert isinstance(read.columns["name"], Nullable)


def test_unknown_column_is_passed_on_to_be_refused_as_unknown() -> None:
    rows, errors = rows_of_frame(read_csv("row,wdie\n1,2\n"), FEATURES)
    assert errors == []
    assert [e.code for e in RequestReader(FEATURES).read(rows).errors if e.field == "wdie"] == [
        "UNKNOWN_FIELD"
    ]


def test_column_that_stands_twice_refuses_every_row_as_json_does() -> None:
    frame = pd.DataFrame([[1, 0.5, 0.5], [2, 0.5, 9.5]], columns=["row", "wide", "wide"])
    rows, errors = rows_of_frame(frame, FEATURES)
    assert [(e.row, e.code, e.field) for e in errors] == [(0, "BAD_VALUE", "wide"), (1, "BAD_VALUE", "wide")]
    assert "more than once" in errors[0].message
    assert [row["row"] for row in rows] == [1, 2]
    many = pd.DataFrame([[1, *[0.5] * 200]] * 3, columns=["row", *["wide"] * 100, *["narrow"] * 100])
    _, errors = rows_of_frame(many, FEATURES)
    assert [(e.row, e.field) for e in errors] == [(0, "wide"), (1, "wide"), (2, "wide")]
    _, errors = rows_of_frame(pd.DataFrame([[1, 2]], columns=[7, "7"]), FEATURES)
    assert [e.field for e in errors] == ["7"]


def test_frame_without_columns_has_its_rows() -> None:
    assert rows_of_frame(pd.DataFrame(index=[0, 1]), FEATURES) == ([{}, {}], [])


def test_frame_without_rows_is_no_rows() -> None:
    assert rows_of_frame(read_csv("row,wide\n"), FEATURES) == ([], [])
