"""What is sent becomes what is kept: equal content has an equal hash, other content another, and what is kept reads as it was meant."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest

from feature_pipelines.columns import Float64, String
from feature_pipelines.errors import ContractError
from feature_pipelines.reasons import Reason
from jobs.submissions.payload import read_csv, read_images, read_json, read_kept, write_kept
from tests.toy.measured import NUMBERS, PICTURES

MOST = 1_000_000


def length_of(b: String) -> Float64:
    """The length."""
    return np.char.str_len(b).astype(np.float64)


def refused(call, *arguments):
    with pytest.raises(ContractError) as caught:
        call(*arguments)
    return caught.value.evidence["status"], caught.value.evidence["code"]


def test_json_rows_are_kept_as_they_came_and_read_exactly():
    payload, reference, notify = read_json(
        b'{"rows": [{"id": 9007199254740993, "id": 1}, {"id": 36893488147419103232}]}', 5
    )
    assert (payload.n_rows, reference, notify) == (2, None, None)
    kept = read_kept(payload.body)
    assert kept.rows[1] == {"id": 36893488147419103232}
    assert [(error.row, error.code, error.field) for error in kept.refused] == [(0, Reason.BAD_VALUE, "id")]


def test_reference_and_notify_are_told_apart():
    assert read_json(b'{"reference": "t", "notify": {"webhook": "u"}}', 5) == (None, "t", {"webhook": "u"})
    payload, _, notify = read_json(b'{"rows": [1], "notify": {"urls": []}}', 5)
    assert payload.notify == notify == {"urls": []}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"rows": [1, 2]}', (413, "TOO_LARGE")),
        (b'{"rows": []}', (422, "NO_ROWS")),
        (b'{"rows": {}}', (422, "UNKNOWN_FORM")),
        (b'{"reference": 1}', (422, "UNKNOWN_FORM")),
        (b'{"rows": [1], "notify": "x"}', (422, "UNKNOWN_FORM")),
        (b'{"rows": [1], "row": 1}', (422, "UNKNOWN_FORM")),
        (b'{"rows": [1], "reference": "t"}', (422, "UNKNOWN_FORM")),
        (b'{"rows": NaN}', (400, "MALFORMED_JSON")),
    ],
)
def test_json_of_another_form_is_refused(body, expected):
    assert refused(read_json, body, 1) == expected


def test_csv_reads_numbers_as_written_and_tells_null_from_the_empty_text():
    payload = read_csv(b'id,size,name\r\n1,0.1,a\n2,,NA\n3,1e3,\n4,,""\n', NUMBERS, 10, MOST)
    kept = read_kept(payload.body)
    assert [row["name"] for row in kept.rows] == ["a", "NA", None, ""]
    assert kept.rows[0] == {"id": "1", "size": 0.1, "name": "a"}
    assert kept.rows[1]["size"] is None
    assert list(kept.refused) == []


def test_csv_number_beyond_all_doubles_is_no_null():
    body = b'id,size,name\n1,1e999,"a ""Infinity"", \\"\n2,-1e999,\n3,Infinity,1e999\n'
    assert read_kept(read_csv(body, NUMBERS, 10, MOST).body).rows == [
        {"id": "1", "size": math.inf, "name": 'a "Infinity", \\'},
        {"id": "2", "size": -math.inf, "name": None},
        {"id": "3", "size": "Infinity", "name": "1e999"},
    ]


@pytest.mark.parametrize(
    "value", [math.inf, [-math.inf, None, "\\"], {"\ud800": [math.inf]}, 1 << 70, "Infinity"]
)
def test_what_is_written_reads_back_the_same(value):
    assert read_kept(write_kept({"rows": [{"a": value}]})).rows == [{"a": value}]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "MALFORMED_CSV"),
        (b"id\n", "NO_ROWS"),
        (b"id,size\n1\n", "MALFORMED_CSV"),
        (b'id\n"1', "MALFORMED_CSV"),
        (b"id\n\xff", "MALFORMED_CSV"),
        (b"id,id\n1,2", "MALFORMED_CSV"),
    ],
)
def test_csv_without_header_rows_or_cells_is_refused(body, code):
    assert refused(read_csv, body, NUMBERS, 10, MOST) == (422, code)


def test_files_are_rows_by_their_names_and_their_hash_knows_names_content_and_order():
    files = [("a.png", b"\x89PNG"), ("b.png", b"")]
    payload = read_images(files, PICTURES, 10, MOST)
    assert read_kept(payload.body).rows == [
        {"picture_id": "a.png", "picture": base64.b64encode(b"\x89PNG").decode()},
        {"picture_id": "b.png", "picture": ""},
    ]
    others = [files[::-1], [("a.png", b"\x89PN"), ("Gb.png", b"")], [("a.pn", b"g\x89PNG"), files[1]]]
    hashes = {read_images(other, PICTURES, 10, MOST).hash for other in [files, *others]}
    assert len(hashes) == 4
    assert read_images(files, PICTURES, 10, MOST).hash == payload.hash


@pytest.mark.parametrize("files", [[("", b"")], [("a", b""), ("a", b"")]])
def test_files_need_names_of_their_own(files):
    assert refused(read_images, files, PICTURES, 10, MOST) == (422, "FILE_NAMES")


def test_files_are_refused_by_a_model_without_pictures_and_beyond_the_limit():
    assert refused(read_images, [("a", b"")], NUMBERS, 10, MOST) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert refused(read_images, [("a", b""), ("b", b"")], PICTURES, 1, MOST) == (413, "TOO_LARGE")


def test_rows_that_are_written_in_another_way_have_the_same_hash_and_others_another():
    def json_hash(text):
        return read_json(text.encode("utf-8", "surrogatepass"), 5)[0].hash

    same = [
        '{"rows": [{"a": 1, "b": 0.50}]}',
        '{ "rows" :\n[{"b": 5e-1, "a": 1}], "notify": {}}',
        '{"rows":[{"\\u0061":1,"b":0.5}]}',
    ]
    assert len({json_hash(text) for text in same}) == 1
    others = [
        '{"rows": [{"a": 1.0, "b": 0.5}]}',
        '{"rows": [{"a": 1, "b": 0.5}, null]}',
        '{"rows": [{"a": 1, "a": 1, "b": 0.5}]}',
        '{"rows": [{"a": 1, "b": 0.5}, [0, "a"]]}',
        '{"rows": [{"a": 1, "b": null}]}',
        '{"rows": [{"a": 1, "b": 1e999}]}',
        '{"rows": [{"a": 1, "b": 36893488147419103232}]}',
        '{"rows": [{"a": 1, "b": "\\ud800"}]}',
    ]
    assert len({json_hash(text) for text in [same[0], *others]}) == 1 + len(others)

    def csv_hash(body):
        return read_csv(body, NUMBERS, 5, MOST).hash

    assert csv_hash(b"id,name\n1,a\n2,b\n") == csv_hash(b'\xef\xbb\xbf"name",id\r\n\r\na,"1"\r\nb,2')
    assert csv_hash(b"id,name\n1,a\n") != csv_hash(b"id,name\n1,a\n1,a\n")


def test_json_that_is_nested_too_deeply_is_refused():
    deep = b'{"rows": [' + b"[" * 1_000 + b"]" * 1_000 + b"]}"
    assert refused(read_json, deep, 5) == (400, "MALFORMED_JSON")


def test_csv_is_read_in_blocks():
    names = [field.name for field in NUMBERS.request]
    lines = [",".join(names), *(f"{i},{i / 8},{'' if i % 7 == 0 else i}" for i in range(2_500))]
    kept = read_kept(read_csv("\n".join(lines).encode(), NUMBERS, 2_500, MOST).body)
    assert [row["size"] for row in kept.rows] == [i / 8 for i in range(2_500)]
    assert [row["name"] for row in kept.rows] == [None if i % 7 == 0 else str(i) for i in range(2_500)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (",".join(["a"] * 2_000) + "\n" + ("," * 1_999 + "\n") * 9, "names a field twice"),
        ("id,siez\n1,2\n", r"column 'siez' is no field of the model\. Did you mean 'size'"),
        ("id," + "x" * 256 + "\n1,2\n", f"column '{'x' * 80}' is no field"),
        ("id;size\n1;2\n", "column 'id;size' is no field"),
        ("id\n1\n" + "2\n" * 10, "more than 10 rows"),
        ("id,name\n" + ("1," + "x" * 200 + "\n") * 9, "more than 1000 bytes"),
        ('id\n1\n"2"x\n', "row 2: a quote stands where none may"),
        ("id\n\udcff\n", "row 1: the row is not UTF-8"),
    ],
)  # fmt: skip
def test_csv_that_costs_too_much_or_is_none_is_refused_with_its_cause(body, message):
    with pytest.raises(ContractError, match=message):
        read_csv(body.encode("utf-8", "surrogateescape"), NUMBERS, 10, 1_000)


def test_csv_cell_may_be_an_image():
    picture = base64.b64encode(bytes(300_000)).decode()
    payload = read_csv(f"picture_id,picture,size\na,{picture},1\n".encode(), PICTURES, 10, MOST)
    assert read_kept(payload.body).rows == [{"picture_id": "a", "picture": picture, "size": 1.0}]


def test_images_of_which_too_much_would_be_kept_are_refused():
    assert refused(read_images, [("a", bytes(1_000))], PICTURES, 10, 1_000) == (413, "TOO_LARGE")


def test_equal_content_of_another_kind_has_another_hash():
    texts = b'{"rows": [{"id": "1"}]}'
    assert read_json(texts, 5)[0].hash != read_csv(b"id\n1\n", NUMBERS, 5, MOST).hash
    assert read_json(texts, 5)[0].body == texts
