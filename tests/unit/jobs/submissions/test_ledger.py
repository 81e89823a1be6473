"""The ledger's states: a final one is never left, a chunk is stored once, and who comes second is told so."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa

from feature_pipelines.errors import ContractError, UnavailableError
from jobs.submissions.database import Database
from jobs.submissions.engine_names import LARGE_QUEUE, QUEUE, queue_name
from jobs.submissions.intake import Intake
from jobs.submissions.ledger_chunk import Chunk
from jobs.submissions.results import described
from jobs.submissions.tables import RESULTS, SUBMISSIONS
from jobs.submissions.takeover import adopt
from jobs.submissions.work import missing_chunks
from tests.toy.kept import MODEL, Kept


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def kept(request, tmp_path):
    """An empty database of each kind."""
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/kept.db" if is_sqlite else request.getfixturevalue("postgres_url")
    database = Database(url)
    database.prepare()
    found = Kept(database)
    yield found
    found.close()


def chunk(first, n=2, text=b"{}", n_refused=0):
    return Chunk.packed(first, n, b"\n".join([text] * n), b"\n".join([b"[1]"] * n), n_refused)


def test_a_submission_is_scored_chunk_by_chunk_and_ends_with_the_last(kept):
    id_ = kept.take(5).submission.id
    begun = kept.ledger.begin(id_)
    assert (begun.state, begun.attempts, begun.started_ts is not None) == ("running", 1, True)
    assert list(missing_chunks(begun, kept.ledger.stored(id_))) == [(0, 2), (2, 2), (4, 1)]
    assert kept.ledger.store(id_, [chunk(2)])
    assert kept.ledger.get(id_).rows_done == 2
    assert list(missing_chunks(begun, kept.ledger.stored(id_))) == [(0, 2), (4, 1)]
    assert kept.ledger.store(id_, [chunk(0), chunk(4, 1)])
    done = kept.ledger.get(id_)
    assert (done.state, done.rows_done, kept.ledger.payload(id_)) == ("succeeded", 5, None)
    assert [c.first_row for c in kept.ledger.chunks(id_, 1, 2)] == [0, 2]


def test_a_chunk_that_is_stored_stays_as_it_is(kept):
    id_ = kept.take(5).submission.id
    kept.ledger.begin(id_)
    kept.ledger.store(id_, [chunk(0, text=b'"first"')])
    kept.ledger.store(id_, [chunk(0, text=b'"second"')])
    assert [c.body for c in kept.ledger.chunks(id_, 0, 2)] == [b'"first"\n"first"']
    assert kept.ledger.get(id_).rows_done == 2


def test_refused_rows_are_counted_once_with_the_chunk_that_is_stored(kept):
    id_ = kept.take(5).submission.id
    kept.ledger.begin(id_)
    for n_refused in (2, 1):  # the second comes too late, and says something else
        kept.ledger.store(id_, [chunk(0, n_refused=n_refused)])
        assert kept.ledger.get(id_).rows_refused == 2
    kept.ledger.store(id_, [chunk(2), chunk(4, 1, n_refused=1)])
    found = kept.ledger.get(id_)
    assert (found.state, found.rows_refused) == ("succeeded", 3)


def test_where_an_earlier_version_stored_a_chunk_nobody_knows_how_many_rows_were_refused(kept):
    id_ = kept.take(5).submission.id
    kept.ledger.begin(id_)
    kept.ledger.store(id_, [chunk(0, n_refused=1)])
    with kept.database.writing() as connection:
        connection.execute(sa.update(RESULTS).values(n_refused=None))
    kept.ledger.store(id_, [chunk(2, n_refused=1)])
    assert described(kept.ledger.get(id_))["rows_refused"] is None


def test_a_final_state_is_never_left(kept):
    id_ = kept.take(2).submission.id
    assert kept.ledger.end(id_, "cancelled")
    assert not kept.ledger.end(id_, "failed", "X")
    assert kept.ledger.begin(id_) is None
    assert not kept.ledger.store(id_, [chunk(0)])
    assert (kept.ledger.get(id_).state, kept.ledger.stored(id_)) == ("cancelled", [])


def test_answers_of_what_failed_are_thrown_away_and_crashes_are_counted(kept):
    id_ = kept.take(5).submission.id
    kept.ledger.begin(id_)
    kept.ledger.store(id_, [chunk(0)])
    assert [kept.ledger.crashed(id_) for _ in range(2)] == [1, 2]
    assert kept.ledger.end(id_, "failed", "SCORER_CRASHED", "why")
    found = kept.ledger.get(id_)
    assert (found.reason, found.message, kept.ledger.stored(id_)) == ("SCORER_CRASHED", "why", [])


def test_one_sees_ones_own_alone(kept):
    mine, other = kept.take(who="me").submission, kept.take(who="other").submission
    assert kept.ledger.get(other.id, "me") is None
    assert [one.id for one in kept.ledger.listed("me", state=None, limit=9, after=None)] == [mine.id]
    assert kept.take(key="k", who="me").submission.id != kept.take(key="k", who="other").submission.id


def test_the_same_key_gives_the_first_and_another_payload_is_refused(kept):
    first = kept.take(3, key="k")
    again = kept.take(3, key="k")
    assert (first.is_new, again.is_new, again.submission.id) == (True, False, first.submission.id)
    with pytest.raises(ContractError, match="another payload") as caught:
        kept.take(4, key="k")
    assert caught.value.evidence["status"] == 409


def test_too_many_and_too_large_are_refused_until_some_have_ended(kept):
    kept.max_queued = 2
    first = kept.take().submission
    kept.take(key="k")
    with pytest.raises(ContractError, match="too many") as caught:
        kept.take()
    assert (caught.value.evidence["status"], caught.value.evidence["retry_after"]) == (429, 5)
    assert not kept.take(key="k").is_new
    kept.ledger.end(first.id, "cancelled")
    assert kept.take().is_new


def test_bytes_that_wait_are_bounded_too(kept):
    kept.max_queued_bytes = 100
    kept.take(1)
    with pytest.raises(ContractError, match="too many"):
        kept.take(500, content='"hard to compress, as there is no repetition in 0123456789ABCDEF"')


def test_what_has_ended_long_ago_expires_and_nothing_else(kept):
    ended, other = kept.take(2).submission.id, kept.take(2).submission.id
    kept.ledger.begin(ended)
    kept.ledger.store(ended, [chunk(0)])
    assert kept.ledger.expired(kept.now - 1_000) == []
    assert kept.ledger.expired(kept.now + 1_000) == [ended]
    kept.ledger.delete([ended])
    assert kept.ledger.get(ended) is None
    assert kept.ledger.get(other) is not None
    assert kept.ledger.chunks(ended, 0, 9) == []


def test_a_database_that_cannot_be_had_is_named_and_shows_no_password(tmp_path):
    with pytest.raises(
        UnavailableError, match=r"submissions.database_url: the database cannot be reached"
    ) as caught:
        Database("postgresql://me:secret@127.0.0.1:1/nix").prepare()
    assert "secret" not in str(caught.value)


def test_who_waits_is_told_when_the_database_does_not_take_it(kept):
    with kept.database.writing() as connection:
        connection.exec_driver_sql("drop table onescore_payloads")
    with pytest.raises(UnavailableError, match="does not take the submission"):
        kept.take()
    assert isinstance(kept.intake, Intake)
    assert kept.ledger.counts()["queued"] == 0


def test_an_end_is_logged_once_with_its_reason_and_no_data(kept, caplog):
    caplog.set_level(logging.INFO, "onescore.serve")
    done, failed = kept.take(2, who="anna").submission.id, kept.take(2).submission.id
    kept.ledger.begin(done)
    kept.ledger.store(done, [chunk(0)])
    kept.ledger.end(done, "failed", "X")
    kept.ledger.end(failed, "failed", "SCORER_CRASHED", "a message")
    facts = [record.facts for record in caplog.records if record.msg == "submission_ended"]
    assert facts == [
        {"id": id_, "key": key, "state": state, "reason": why, "attempts": n, "crashes": 0, "rows": 2}
        for id_, key, state, why, n in (
            (done, "anna", "succeeded", None, 1),
            (failed, "me", "failed", "SCORER_CRASHED", 0),
        )
    ]


def test_what_is_kept_is_counted_by_state_and_reason_with_the_age_of_the_oldest(kept):
    assert kept.ledger.overview().oldest_queued_ts is None
    first, second, failed = (kept.take().submission for _ in range(3))
    kept.ledger.begin(first.id)
    kept.ledger.end(failed.id, "failed", "SCORER_CRASHED")
    found = kept.ledger.overview()
    assert (found.states["queued"], found.states["running"], found.reasons) == (1, 1, {"SCORER_CRASHED": 1})
    assert (found.oldest_queued_ts, found.notifications) == (second.created_ts, {})


def test_a_database_of_an_earlier_version_gets_the_columns_it_lacks_and_keeps_its_rows(kept):
    id_, done = kept.take(2).submission.id, kept.take(2).submission.id
    kept.ledger.begin(done)
    kept.ledger.store(done, [chunk(0, n_refused=1)])
    with kept.database.writing() as connection:
        for table, column in (
            ("submissions", "queue"),
            ("submissions", "rows_refused"),
            ("results", "n_refused"),
        ):
            connection.exec_driver_sql(f"ALTER TABLE onescore_{table} DROP COLUMN {column}")
    for _ in range(2):
        kept.database.prepare()
    assert (kept.ledger.get(id_).queue, kept.ledger.get(id_).state) == (None, "queued")
    assert kept.take(2).submission.queue is not None
    assert [described(kept.ledger.get(one))["rows_refused"] for one in (id_, done)] == [0, None]
    kept.ledger.begin(id_)
    kept.ledger.store(id_, [chunk(0, n_refused=2)])
    assert kept.ledger.get(id_).rows_refused == 2


@pytest.mark.parametrize("n_rows", [2, 11])
def test_what_an_earlier_version_queued_is_adopted_by_its_own_model_alone(kept, n_rows):
    id_, names = kept.take(n_rows).submission.id, [queue_name("houses", "", is_large=n) for n in (0, 1)]
    with kept.database.writing() as connection:
        connection.execute(sa.update(SUBMISSIONS).values(queue=None))
    client = kept.database.engine_client()
    status, engine = client._sys_db.tables.workflow_status, client._sys_db.engine
    with engine.begin() as connection:
        connection.execute(sa.update(status).values(queue_name=LARGE_QUEUE if n_rows > 10 else QUEUE))
    assert adopt(kept.database, client, "another", *names) == 0
    assert [adopt(kept.database, client, "houses", *names) for _ in range(2)] == [1, 0]
    with engine.begin() as connection:
        assert connection.scalar(sa.select(status.c.queue_name)) == names[n_rows > 10]
    client.destroy()
    assert kept.ledger.get(id_).is_large == (n_rows > 10)


@pytest.mark.parametrize("n_rows", [2, 11])
def test_what_waits_for_another_store_is_adopted_when_somebody_says_so(kept, n_rows):
    id_, names = kept.take(n_rows).submission.id, [queue_name("houses", "moved", is_large=n) for n in (0, 1)]
    other = kept.take(n_rows, model=MODEL._replace(name="another")).submission
    at_it = kept.take(n_rows).submission
    client = kept.database.engine_client()
    status, engine = client._sys_db.tables.workflow_status, client._sys_db.engine
    with engine.begin() as connection:
        running = sa.update(status).where(status.c.workflow_uuid == at_it.id)
        connection.execute(running.values(status="PENDING"))
    assert adopt(kept.database, client, "houses", *names) == 0
    assert [adopt(kept.database, client, "houses", *names, is_moved=True) for _ in range(2)] == [1, 0]
    with engine.begin() as connection:
        queues = dict(connection.execute(sa.select(status.c.workflow_uuid, status.c.queue_name)).all())
    client.destroy()
    assert queues == {id_: names[n_rows > 10], other.id: other.queue, at_it.id: at_it.queue}
    assert {one: kept.ledger.get(one).queue for one in queues} == queues


def test_what_waits_for_another_store_is_counted(kept):
    queue = kept.take().submission.queue
    assert kept.ledger.queued_elsewhere("houses", [queue]) == 0
    assert kept.ledger.queued_elsewhere("houses", ["other"]) == 1
    assert kept.ledger.queued_elsewhere("another", ["other"]) == 0
