"""History goes when its time has come, from the engine too; what the engine lost is ended with a reason, and nothing else is."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from jobs.submissions import ledger
from jobs.submissions.housekeeping import expire, settle
from jobs.submissions.ledger_chunk import Chunk


@pytest.fixture
def client(kept):
    found = kept.database.engine_client()
    yield found
    found.destroy()


def rows(kept, table):
    with kept.database.reading() as connection:
        return connection.exec_driver_sql(f"select count(*) from {table}").scalar()


def test_what_ended_long_ago_is_deleted_everywhere(kept, client):
    ended, other = kept.take(2).submission.id, kept.take(2).submission.id
    kept.ledger.end(ended, "cancelled")
    assert expire(kept.ledger, client, kept.now - 100) == 0
    assert expire(kept.ledger, client, kept.now + 100) == 1
    assert (kept.ledger.get(ended), kept.ledger.get(other).state) == (None, "queued")
    for table in ("workflow_status", "workflow_input", "onescore_submissions", "onescore_payloads"):
        assert rows(kept, table) == 1, table


def test_interrupted_between_engine_and_ledger_it_is_found_again(kept, client, monkeypatch):
    kept.ledger.end(kept.take(2).submission.id, "cancelled")
    delete = kept.ledger.delete
    monkeypatch.setattr(kept.ledger, "delete", lambda ids: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        expire(kept.ledger, client, kept.now + 100)
    monkeypatch.setattr(kept.ledger, "delete", delete)
    assert expire(kept.ledger, client, kept.now + 100) == 1
    assert rows(kept, "onescore_submissions") == 0


@pytest.mark.parametrize(
    ("status", "is_lost"), [("ERROR", True), ("CANCELLED", True), ("PENDING", False), ("ENQUEUED", False)]
)
def test_what_the_engine_gave_up_is_ended_and_what_it_has_is_not(kept, client, status, is_lost):
    id_ = kept.take(2).submission.id
    with kept.database.writing() as connection:
        connection.exec_driver_sql("update workflow_status set status = ?", (status,))
    assert settle(kept.ledger, client, kept.now - 100) == 0
    assert settle(kept.ledger, client, kept.now + 100) == int(is_lost)
    found = kept.ledger.get(id_)
    assert (found.state, found.reason) == (("failed", "LOST_BY_ENGINE") if is_lost else ("queued", None))


def test_what_the_engine_does_not_know_at_all_is_ended(kept, client):
    id_ = kept.take(2).submission.id
    client.delete_workflows([id_])
    assert settle(kept.ledger, client, kept.now + 100) == 1
    assert kept.ledger.get(id_).state == "failed"


def test_many_answers_are_deleted_in_small_transactions(kept, monkeypatch):
    monkeypatch.setattr(ledger, "_DELETED_CHUNKS", 3)
    chunks = [Chunk.packed(first, 2, b"{}\n{}", b"[1]\n[2]") for first in range(0, 10, 2)]
    ids = [kept.take(10).submission.id for _ in range(2)]
    for id_ in ids:
        kept.ledger.begin(id_)
        kept.ledger.store(id_, chunks)
    other = kept.take(10).submission.id
    kept.ledger.begin(other)
    kept.ledger.store(other, chunks[:4])
    deleted = []
    before = kept.database.writing

    @contextmanager
    def counted():
        was = rows(kept, "onescore_results")
        with before() as connection:
            yield connection
        deleted.append(was - rows(kept, "onescore_results"))

    monkeypatch.setattr(kept.database, "writing", counted)
    kept.ledger.delete(ids)
    assert deleted == [3, 3, 3, 1, 0]
    assert (rows(kept, "onescore_results"), rows(kept, "onescore_submissions")) == (4, 1)
    assert kept.ledger.get(other).rows_done == 8


def test_answers_are_deleted_in_either_database(database, submitted, monkeypatch):
    monkeypatch.setattr(ledger, "_DELETED_CHUNKS", 2)
    found = ledger.Ledger(database, lambda: 1)
    ids = [submitted(n, n_rows=8) for n in range(3)]
    for id_ in ids:
        found.store(id_, [Chunk.packed(first, 2, b"{}\n{}", b"[1]\n[2]") for first in (0, 2, 4)])
    found.delete(ids[:2])
    assert [len(found.stored(id_)) for id_ in ids] == [0, 0, 3]
    assert [found.get(id_) is None for id_ in ids] == [True, True, False]
