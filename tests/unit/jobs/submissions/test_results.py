"""Pages and downloads cut anywhere hold each answer once, in order."""

from __future__ import annotations

import csv
import io
import json

import pandas as pd
import pytest

from jobs.submissions import results
from jobs.submissions.ledger_chunk import Chunk

N = 7


@pytest.fixture
def done(kept):
    id_ = kept.take(N).submission.id
    kept.ledger.begin(id_)
    for first in (2, 0, 6, 4):
        rows = range(first, min(first + 2, N))
        body = [
            json.dumps(
                {"score": r / 3, "model_version": "3"}
                if r % 2
                else {"error": {"code": "X", "field": "f", "message": 'a "b"'}}
            )
            for r in rows
        ]
        ids = [json.dumps([f"id,{r}"]) for r in rows]
        kept.ledger.store(
            id_, [Chunk.packed(first, len(rows), "\n".join(body).encode(), "\n".join(ids).encode())]
        )
    return kept.ledger.get(id_)


@pytest.mark.parametrize("offset", range(N + 2))
@pytest.mark.parametrize("limit", [1, 2, 3, N, N + 5])
def test_a_page_has_its_rows_and_names_the_next(kept, done, offset, limit):
    page = json.loads(results.page_of(kept.ledger, done, offset, limit))
    rows = list(range(N))[offset : offset + limit]
    assert [answer.get("score") for answer in page["results"]] == [r / 3 if r % 2 else None for r in rows]
    following = offset + limit if rows and offset + limit < N else None
    assert page["next"] == (f"/submissions/{done.id}?offset={following}&limit={limit}" if following else None)


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_downloads_have_each_row_once_however_they_are_read(kept, done, monkeypatch, at_once):
    monkeypatch.setattr(results, "_AT_ONCE", at_once)
    lines = b"".join(results.json_lines(kept.ledger, done)).splitlines()
    assert [json.loads(line).get("score") for line in lines] == [r / 3 if r % 2 else None for r in range(N)]
    text = b"".join(results.csv_lines(kept.ledger, done)).decode()
    table = list(csv.DictReader(io.StringIO(text)))
    assert [row["house_id"] for row in table] == [f"id,{r}" for r in range(N)]
    assert [row["score"] for row in table] == [repr(r / 3) if r % 2 else "" for r in range(N)]
    assert table[0]["error_message"] == 'a "b"'


def test_there_are_no_answers_before_all_are_there(kept):
    id_ = kept.take(N).submission.id
    kept.ledger.begin(id_)
    kept.ledger.store(id_, [Chunk.packed(0, 2, b"{}\n{}", b"[]\n[]")])
    page = json.loads(results.page_of(kept.ledger, kept.ledger.get(id_), 0, 10))
    assert (page["state"], page["rows_done"], page["results"], page["next"]) == ("running", 2, [], None)


NAMES = ["a\rb", "a\r\nb", 'q"uote', "=1+1", "@x", " x ", "", "é\u2028", "\ud800"]


def test_texts_of_a_download_are_read_as_they_came_and_what_is_no_unicode_is_shown(kept):
    id_ = kept.take(len(NAMES)).submission.id
    kept.ledger.begin(id_)
    body = "\n".join(['{"score": 0.5, "model_version": "3"}'] * len(NAMES))
    ids = "\n".join(json.dumps([name]) for name in NAMES)
    kept.ledger.store(id_, [Chunk.packed(0, len(NAMES), body.encode(), ids.encode())])
    text = b"".join(results.csv_lines(kept.ledger, kept.ledger.get(id_)))
    expected = [*NAMES[:-1], "\\ud800"]
    table = list(csv.DictReader(io.StringIO(text.decode(), newline="")))
    assert [row["house_id"] for row in table] == expected
    frame = pd.read_csv(io.BytesIO(text), keep_default_na=False)
    assert frame["house_id"].tolist() == expected
    assert text.endswith(b"\n")
    assert not text.endswith(b"\r\n")
