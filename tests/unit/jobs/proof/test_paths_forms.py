"""What is sent in which form: every field exactly, or the row is refused before it is sent."""

from __future__ import annotations

import io
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.proof.path_answers import Answer
from jobs.proof.path_http import LEAN_FORMS, STOCK_FORMS, Form
from jobs.proof.path_rows import ROW, expressed, placed
from tests.toy.every_type import FEATURES

ROWS = [
    {"row": 1, "asked_ts": 5, "big": 2**53 + 1, "name": "a", "payload": "AA=="},
    {"row": 2, "asked_ts": 6, "big": None, "name": None, "wide": "NaN"},
]


@pytest.mark.parametrize("form", LEAN_FORMS, ids=lambda form: form.name)
def test_json_forms_say_every_field_of_every_row(form: Form) -> None:
    body, refused = form.write(FEATURES, ROWS)
    content = json.loads(body)
    assert refused == {}
    assert content.pop("params") == {"features": True}
    (key,) = content
    assert key == {"split": "dataframe_split", "records": "dataframe_records"}.get(form.name, form.name)
    if form.name == "split":
        names, data = content[key]["columns"], content[key]["data"]
        assert [dict(zip(names, values, strict=True))["big"] for values in data] == [2**53 + 1, None]
    else:
        assert content[key] == ROWS


def test_csv_has_empty_cells_for_null_and_sends_no_text_that_readers_change() -> None:
    (form,) = (form for form in STOCK_FORMS if form.name == "csv")
    body, refused = form.write(FEATURES, [*ROWS, {"row": 3, "asked_ts": 7, "name": "a\0b"}])
    frame = pd.read_csv(io.BytesIO(body), dtype=str)
    assert refused == {2: Answer(code="BAD_VALUE", field="name")}
    assert frame["row"].tolist() == ["1", "2"]
    assert frame["big"].tolist()[0] == "9007199254740993"
    assert frame["name"].isna().tolist() == [False, True]


def test_parquet_has_the_declared_types() -> None:
    (form,) = (form for form in STOCK_FORMS if form.name == "parquet")
    table = pq.read_table(io.BytesIO(form.write(FEATURES, ROWS)[0]))
    assert table.schema.names == list(FEATURES.sources.names)
    assert table.column("big").to_pylist() == [2**53 + 1, None]
    assert table.schema.field("asked_ts").type == pa.timestamp("us", tz="UTC")


def test_row_that_no_column_can_hold_is_refused_before_it_is_sent() -> None:
    table, refused = expressed(FEATURES, [*ROWS, {"row": 3, "asked_ts": 7, "big": "many"}])
    assert refused == {2: Answer(code="WRONG_TYPE", field="big")}
    assert table.column(ROW).to_pylist() == [0, 1]
    assert table.column("wide").null_count == 1  # NaN is NaN, and missing is null
    answers = placed(4, refused, {0: Answer(1.0), 1: Answer(2.0)})
    assert [answer.code for answer in answers] == [None, None, "WRONG_TYPE", "NO_ANSWER"]


def test_bounds_are_the_models_to_check_and_not_the_senders() -> None:
    table, refused = expressed(FEATURES, [{"row": 1, "wide": "Infinity"}])
    assert refused == {}
    assert table.column("asked_ts").to_pylist() == [None]
