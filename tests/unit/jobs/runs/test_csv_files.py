"""One CSV file has one meaning: as an upload of a function, as a submission, and as a file of a stream."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_pipelines.columns import values_and_valid
from feature_pipelines.schema import Schema
from feature_pipelines.schema_arrow import columns_from_arrow
from jobs.runs.csv_files import CsvFiles
from jobs.runs.stream_task import FILE, ORDINAL, PROBLEM, REFUSED, VALUE
from jobs.runs.wire_rows import cells_as_batch
from jobs.serverless.files import rows_of_file
from jobs.submissions.payload import read_csv, read_kept
from tests.toy.every_type import FEATURES

HEADER = "row,asked_ts,seen_ts,big,small,wide,narrow,flag,name,amount,payload"
NASTY = [
    '1,2020-01-01T00:00:00Z,1577836800000000,9007199254740993,-5,0.1000000000000000055511151231257827,NaN,true,"say ""hi""",1.0001,AA==',
    '2,"2020-01-01T00:00:00+05:45",,,,,,,"",,""',
    '3,2020-01-01T00:00:00Z,+5,1.0,1e3,1e400,-Infinity,TRUE,"ends with \\",,',
    '4,1577836800000000,,,,.5,5.,False,"x ""y"", z\nnext\r\nline",-0.0001,AAAA',
    f"5,{'9' * 5_000},,{'9' * 5_000},,{'9' * 400},,yes,café 😀\u0301,1.00001,not base64!",
    "6,2020-01-01T00:00:00Z,,,,nan, 1,, spaces ,,",
    '"7","2020-01-01T00:00:00Z",-5,"12","3","1.5","2.5","true",null,"3","AA=="',
    "8,2020-01-01T00:00:00Z,,,,,,,NA,,",
    "9,2020-01-01T00:00:00Z,,,,1e999,-1e999,,,,",
]
CONTENT = ("\ufeff" + "\r\n".join([HEADER, *NASTY, "", ""])).encode()


def rows_of_stream(content: bytes, names: Any = FEATURES.sources.names) -> pa.Table:
    """What the stream makes of one file, as text."""
    files = pa.record_batch({VALUE: pa.array([content], pa.binary()), FILE: ["f.csv"]})
    return pa.Table.from_batches(CsvFiles(names)(iter([files])))


def judged(columns: Any, errors: Any, n: int) -> list[Any]:
    """Of each row its values to the bit, and its error."""
    refused = {error.row: (str(error.code), error.field) for error in reversed(errors)}
    rows = []
    for i in range(n):
        values = {}
        for name, column in columns.items():
            data, valid = values_and_valid(column)
            items = data.tolist()
            item = None if valid is not None and not valid[i] else items[i]
            values[name] = np.float64(item).tobytes() if isinstance(item, float) else item
        rows.append(refused.get(i, values))
    return rows


def test_every_reader_of_the_project_reads_the_same_from_one_file() -> None:
    schema: Schema = FEATURES.sources
    uploaded = rows_of_file("a.csv", CONTENT, FEATURES, max_rows=100)
    submitted = read_kept(read_csv(CONTENT, FEATURES, 100, 1 << 20).body)
    n = len(NASTY)
    columns, errors = schema.from_rows(uploaded.rows)
    expected = judged(columns, errors, n)

    assert len(uploaded.rows) == len(submitted.rows) == n
    assert judged(*schema.from_rows(submitted.rows), n) == expected

    streamed = rows_of_stream(CONTENT).combine_chunks().to_batches()[0]
    assert streamed.column(PROBLEM).null_count == n
    typed, found = cells_as_batch(streamed.select(schema.names), schema)
    columns, more = columns_from_arrow(schema, typed)
    first = {error.row: error for error in reversed([*found, *more])}
    assert judged(columns, list(first.values()), n) == expected

    assert [uploaded.rows[i]["name"] for i in (0, 1, 2, 3)] == [
        'say "hi"',
        "",
        "ends with \\",
        'x "y", z\nnext\r\nline',
    ]
    assert uploaded.rows[0]["wide"] == 0.1
    assert math.isinf(uploaded.rows[2]["wide"])
    codes = {i: said for i, said in enumerate(expected) if isinstance(said, tuple)}
    assert codes == {
        2: ("BAD_TIMESTAMP", "seen_ts"),
        4: ("BAD_TIMESTAMP", "asked_ts"),
        5: ("WRONG_TYPE", "wide"),
    }


def test_columns_are_known_by_the_header_whatever_their_order() -> None:
    rows = rows_of_stream(b"name,row\na,1\n", ("row", "name", "flag")).to_pylist()
    assert [(row["row"], row["name"], row["flag"], row[PROBLEM]) for row in rows] == [("1", "a", None, None)]


def test_row_that_cannot_be_read_costs_itself_and_is_kept_to_the_byte() -> None:
    table = rows_of_stream(b"row,name\n1,a\n2,caf\xe9\n3,b,c\n\n4,d\n", ("row", "name"))
    assert table.column("row").to_pylist() == ["1", None, None, "4"]
    assert table.column(REFUSED).cast(pa.binary()).to_pylist() == [None, b"2,caf\xe9", b"3,b,c", None]
    assert table.column(PROBLEM).to_pylist()[1:3] == [
        '["UNREADABLE_ROW", "", "the row is not UTF-8"]',
        '["UNREADABLE_ROW", "", "it has 3 values, and the header has 2"]',
    ]
    assert table.column(ORDINAL).to_pylist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("content", "n", "said"),
    [
        (b'row,name\n1,a\n2,"b\n3,c\n\n4,d\n', 3, "a quote stands where none may"),
        (b'row,name\n1,a\n2,b"c\n3,c\n', 2, "a quote stands where none may"),
        (b"row,row\n1,a\n2,b\n", 2, "names a field twice"),
        (b",\n1,a\n", 1, "names no field"),
        (b"row,na\xffme\n1,a\n", 1, "not UTF-8"),
        (b"row,name,shop\n1,a,b\n", 1, "unknown field"),
    ],
)
def test_lines_of_which_nobody_can_say_what_they_mean_are_all_refused(
    content: bytes, n: int, said: str
) -> None:
    rows = rows_of_stream(content, ("row", "name")).to_pylist()
    refused = [row for row in rows if row[PROBLEM] is not None]
    lines = [line for line in content.decode("latin-1").splitlines() if line]
    assert [row[REFUSED] for row in refused] == lines[-n:]
    assert all(said in row[PROBLEM] for row in refused)
    assert len(rows) == len(lines) - 1


def test_file_without_rows_has_none() -> None:
    contents = [b"", b"\n\n", b"row\n", b"row"]
    files = pa.record_batch({VALUE: pa.array(contents, pa.binary()), FILE: list("abcd")})
    assert list(CsvFiles(("row",))(iter([files]))) == []
