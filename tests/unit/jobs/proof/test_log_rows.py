"""JSON texts become the columns that the wire form gives, whichever way they are read; maps come apart as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from feature_pipelines.columns import (
    Binary,
    Bool,
    Float32,
    Float64,
    Int32,
    Int64,
    Nullable,
    String,
    Timestamp,
    decimal,
    values_and_valid,
)
from feature_pipelines.errors import ContractError
from feature_pipelines.schema import Field, build_column
from jobs.proof.log_files import files_of
from jobs.proof.log_rows import read_rows
from jobs.proof.log_texts import column_from_texts
from jobs.proof.map_columns import MapColumn
from tests.toy.logged import write_log

TYPES: dict[str, Any] = {
    "float64": Float64,
    "float32": Float32,
    "int64": Int64,
    "int32": Nullable[Int32],
    "bool": Nullable[Bool],
    "timestamp": Timestamp,
    "decimal": Annotated[NDArray[np.int64], decimal(12, 2)],
    "string": Nullable[String],
    "binary": Binary,
}
PLAIN: dict[str, list[Any]] = {
    "float64": [0.1, -0.0, 1e300, 5e-324, 3, 2**70, None],
    "float32": [0.1, 1, 1e-46, 3.4028236e38],
    "int64": [0, -1, 2**63 - 1, -(2**63)],
    "int32": [5, None, 2**31 - 1],
    "bool": [True, False, None],
    "timestamp": ["2013-01-01T10:15:00Z", "2013-11-03T01:30:00.25Z", "1969-12-31T23:59:59.999999Z"],
    "decimal": ["12.34", "-0.01"],
    "string": ["a", "", "N1", None],
    "binary": ["YWJj", ""],
}
NASTY: dict[str, list[Any]] = {
    "float64": ["NaN", "Infinity", float("nan"), True, "1.5", 10**400, None, 1.5],
    "float32": ["NaN", None, "x"],
    "int64": [str(2**60), 1.0, 2**63, True, 1e3, "12", None],
    "int32": [2**31, "7", -5, None],
    "bool": [0, "true", None, True],
    "timestamp": [
        1_356_998_400_000_000,
        "2013-01-01T10:15:00+05:45",
        "2013-02-30T00:00:00Z",
        "2013-01-01T10:15:00",
        "2013-01-01T10:15:00.1234567Z",
        "2013-01-01T24:00:00Z",
        "2013-01-01t10:15:60Z",
    ],
    "decimal": ["1.234", 5, None, "12.3"],
    "string": ["caf\u00e9", "cafe\u0301", 'say "x"', "\\", "\ud83d\ude00", 5, None],
    "binary": ["no base64!", "YWJj"],
}


def said(column: Any, errors: list[Any]) -> tuple[Any, ...]:
    values, valid = values_and_valid(column)
    listed: Any = values.tolist()
    if getattr(values, "dtype", None) is not None and values.dtype.kind == "f":
        listed = values.view(f"u{values.dtype.itemsize}").tolist()
    return listed, None if valid is None else valid.tolist(), [(e.row, e.code) for e in errors]


def check(kind: str, values: list[Any]) -> None:
    declared = Field("x", TYPES[kind])
    texts = pa.array([json.dumps(value) for value in values], pa.string())
    column, errors = column_from_texts(declared, texts)
    again = [json.loads(text) for text in texts.to_pylist()]
    assert said(column, errors) == said(*build_column(declared, again))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("values", [PLAIN, NASTY], ids=["plain", "nasty"])
def test_texts_are_read_as_the_wire_form_reads_them(kind: str, values: dict[str, list[Any]]) -> None:
    check(kind, values[kind])
    for value in values[kind]:
        check(kind, [value])


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_every_number_is_read_to_the_bit(values: list[float]) -> None:
    check("float64", values)
    check("float32", values)


@given(st.lists(st.integers(-(2**64), 2**64), min_size=1, max_size=20))
def test_every_integer_is_read_exactly_or_refused(values: list[int]) -> None:
    check("int64", values)
    check("timestamp", values)


def test_absent_texts_are_null_and_what_is_no_json_is_refused() -> None:
    column, errors = column_from_texts(Field("x", Float64), pa.array([None, "1.5"], pa.string()))
    assert np.isnan(column[0])  # type: ignore[index]
    assert errors == []
    assert [e.row for e in column_from_texts(Field("x", Float64), pa.array(["1", "{"]))[1]] == [1]


@pytest.mark.parametrize(
    "rows",
    [
        [[("a", 1.0), ("b", 2.0)], [("a", 3.0), ("b", 4.0)]],
        [[("b", 2.0), ("a", 1.0)], [("a", 3.0)], [], None, [("c", 5.0)]],
        [None, None],
    ],
    ids=["alike", "of different keys", "null"],
)
def test_maps_come_apart_by_key(rows: list[Any]) -> None:
    array = pa.array(rows, pa.map_(pa.string(), pa.float64()))
    plain = [dict(row or []) for row in rows]
    whole = MapColumn.of(array)
    order = np.arange(len(rows))[::-1]
    cases = [
        (whole, plain),
        (MapColumn.of(array.slice(1)), plain[1:]),
        (whole.take(order), plain[::-1]),
        (MapColumn.concat([whole, MapColumn.of(array.slice(1)), whole]), plain + plain[1:] + plain),
    ]
    for column, expected in cases:
        for name in ("a", "b", "c", "z"):
            assert column.values(name).to_pylist() == [row.get(name) for row in expected]
        matrix, lacking = column.matrix(("b", "z"))
        assert [None if np.isnan(v) else v for v in matrix[0]] == [row.get("b") for row in expected]
        assert lacking["z"].all()
        assert lacking.get("b", np.zeros(len(expected))).tolist() == ["b" not in row for row in expected]


def test_rows_of_many_files_come_together_and_none_twice(tmp_path: Path) -> None:
    write_log(tmp_path, [(0, [{"house_id": i} for i in range(k, k + 3)]) for k in range(0, 9, 3)])
    log = files_of(tmp_path, "houses")
    names = ["process", "sequence", "served_ts", "request"]
    (batch,) = read_rows(log.files, names, 100, ("served_ts", None, None))
    rows, repeated = batch
    assert rows.maps["request"].values("house_id").to_pylist() == [str(i) for i in range(9)]
    assert repeated == 0
    parts = [rows for rows, _ in read_rows(log.files, names, 4, ("served_ts", None, None))]
    assert [len(part) for part in parts] == [3, 3, 3]


def test_number_that_stands_in_two_files_counts_once(tmp_path: Path) -> None:
    write_log(tmp_path, [(0, [{"house_id": i} for i in range(4)])])
    (file,) = (tmp_path / "houses").glob("date=*/part-*.parquet")
    beside = file.with_name(file.name.replace("000000000004.parquet", "000000000003.parquet"))
    pq.write_table(pq.read_table(file, partitioning=None).slice(0, 3), beside)
    log = files_of(tmp_path, "houses")
    found = list(read_rows(log.files, ["sequence", "served_ts"], 100, ("served_ts", None, None)))
    assert [number for rows, _ in found for number in rows.flat.column("sequence").to_pylist()] == [
        1,
        2,
        3,
        4,
    ]
    assert sum(repeated for _, repeated in found) == 3


@pytest.mark.parametrize("how", ["removed", "damaged"])
def test_file_that_cannot_be_read_any_more_is_named(tmp_path: Path, how: str) -> None:
    write_log(tmp_path, [(0, [{"house_id": i} for i in range(100)])])
    log = files_of(tmp_path, "houses")
    path = Path(log.files[0].path)
    if how == "removed":
        path.unlink()
    else:
        whole = path.read_bytes()
        path.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    with pytest.raises(ContractError, match=r"date=1970-01-01/part-.* cannot be read any more"):
        list(read_rows(log.files, ["sequence", "served_ts", "request"], 100, ("served_ts", None, None)))


def test_maps_that_are_read_later_are_those_of_the_rows(tmp_path: Path) -> None:
    write_log(tmp_path, [(0, [{"house_id": i} for i in range(k, k + 5)]) for k in (0, 5)])
    log = files_of(tmp_path, "houses")
    names = ["sequence", "served_ts", "request", "stored", "features"]
    ((rows, _),) = read_rows(log.files, names, 100, ("served_ts", None, None))
    assert rows.take(np.array([9, 0, 4])).maps["request"].values("house_id").to_pylist() == ["9", "0", "4"]
    parts = [part for part, _ in read_rows(log.files, names, 3, ("served_ts", None, None))]
    found = [text for part in parts for text in part.maps["request"].values("house_id").to_pylist()]
    assert found == [str(i) for i in range(10)]
    assert len(parts[0].maps["stored"]) == len(parts[0])
