"""What is sent becomes what is kept: equal content has an equal hash, other content another, and what is kept reads as it was meant."""

from __future__ import annotations

import base64
import json

import pytest

from feature_pipelines.columns import Binary, Float64, Int64, String
from feature_pipelines.definitions import FeatureSet
from feature_pipelines.errors import ContractError
from feature_pipelines.reasons import Reason
from feature_pipelines.schema import Field, Schema
from jobs.submissions.payload import read_csv, read_images, read_json, read_kept


def size_of(size: Float64) -> Float64:
    """The size."""
    return size


PICTURES = FeatureSet(
    name="pictures",
    request=Schema((Field("picture_id", String, "names it"), Field("picture", Binary, "it"), Field("size", Float64, "bytes"))),
    features=(size_of,),
    row_id=("picture_id",),
)  # fmt: skip
NUMBERS = FeatureSet(
    name="numbers",
    request=Schema((Field("id", Int64, "identifies it"), Field("size", Float64, "metres"), Field("name", String, "of it"))),
    features=(size_of,),
    row_id=("id",),
)  # fmt: skip


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
    payload = read_csv(b'id,size,name\r\n1,0.1,a\n2,,NA\n3,1e3,\n4,,""\n', NUMBERS, 10)
    kept = read_kept(payload.body)
    assert [row["name"] for row in kept.rows] == ["a", "NA", None, ""]
    assert kept.rows[0] == {"id": "1", "size": 0.1, "name": "a"}
    assert kept.rows[1]["size"] is None
    assert list(kept.refused) == []


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
    assert refused(read_csv, body, NUMBERS, 10) == (422, code)


def test_files_are_rows_by_their_names_and_their_hash_knows_names_content_and_order():
    files = [("a.png", b"\x89PNG"), ("b.png", b"")]
    payload = read_images(files, PICTURES, 10)
    assert read_kept(payload.body).rows == [
        {"picture_id": "a.png", "picture": base64.b64encode(b"\x89PNG").decode()},
        {"picture_id": "b.png", "picture": ""},
    ]
    others = [files[::-1], [("a.png", b"\x89PN"), ("Gb.png", b"")], [("a.pn", b"g\x89PNG"), files[1]]]
    hashes = {read_images(other, PICTURES, 10).hash for other in [files, *others]}
    assert len(hashes) == 4
    assert read_images(files, PICTURES, 10).hash == payload.hash


@pytest.mark.parametrize("files", [[("", b"")], [("a", b""), ("a", b"")]])
def test_files_need_names_of_their_own(files):
    assert refused(read_images, files, PICTURES, 10) == (422, "FILE_NAMES")


def test_files_are_refused_by_a_model_without_pictures_and_beyond_the_limit():
    assert refused(read_images, [("a", b"")], NUMBERS, 10) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert refused(read_images, [("a", b""), ("b", b"")], PICTURES, 1) == (413, "TOO_LARGE")


def test_equal_content_of_another_kind_has_another_hash():
    body = b'{"rows": [1]}'
    hashes = {
        read_json(body, 5)[0].hash,
        read_json(body + b" ", 5)[0].hash,
        read_csv(b"id\n1\n", NUMBERS, 5).hash,
    }
    assert len(hashes) == 3
    assert json.loads(read_json(body, 5)[0].body) == {"rows": [1]}
