"""A request that comes again: the first submission is told from another by what was sent, and nothing of no row is ever taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from feature_pipelines.errors import ContractError
from jobs.submissions.intake import Taken
from jobs.submissions.payload import Payload, read_json
from jobs.submissions.reference import hash_of_reference
from tests.toy.kept import MODEL, Kept


def take(kept: Kept, payload: Payload) -> Taken:
    return kept.intake.take(payload, "me", MODEL, "once").result(30)


def rows(text: bytes, notify: Mapping[str, Any] | None) -> Payload:
    payload = read_json(text, 10)[0]
    assert payload is not None
    return dataclasses.replace(payload, notify=notify)


def test_request_that_is_written_in_another_way_is_the_same(kept: Kept) -> None:
    first = take(kept, rows(b'{"rows": [{"a": 1, "b": 2}]}', {"webhook": "u", "targets": ["x"]}))
    again = take(kept, rows(b'{"rows":[{"b":2,"a":1}]}', {"targets": ["x"], "webhook": "u"}))
    assert (again.is_new, again.submission.id) == (False, first.submission.id)
    for other in (
        rows(b'{"rows": [{"a": 1, "b": 3}]}', {"webhook": "u", "targets": ["x"]}),
        rows(b'{"rows": [{"a": 1, "b": 2}]}', {"webhook": "u"}),
        rows(b'{"rows": [{"a": 1, "b": 2}]}', None),
    ):
        with pytest.raises(ContractError, match="another payload") as caught:
            take(kept, other)
        assert caught.value.evidence["status"] == 409


def test_reference_without_its_table_is_not_taken_when_its_first_submission_was_deleted(kept: Kept) -> None:
    reference = Payload("reference", b"{}", 5, hash_of_reference("t"))
    gone = dataclasses.replace(reference, body=b"", n_rows=0)
    first = take(kept, reference)
    assert take(kept, gone).submission.id == first.submission.id
    kept.ledger.end(first.submission.id, "succeeded")
    kept.ledger.delete([first.submission.id])
    with pytest.raises(ContractError, match="the table is not there") as caught:
        take(kept, gone)
    assert (caught.value.evidence["status"], caught.value.evidence["code"]) == (422, "UNKNOWN_REFERENCE")
    assert kept.ledger.counts()["queued"] == 0
    assert take(kept, reference).is_new
