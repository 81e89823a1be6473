"""A worker that is gone or silent is taken for dead, and what it was at is queued again, once."""

from __future__ import annotations

import subprocess
import sys

import pytest
import sqlalchemy as sa

from jobs.submissions.engine_names import APPLICATION_VERSION
from jobs.submissions.tables import WORKERS
from jobs.submissions.takeover import SignsOfLife, machine_id, put_off


@pytest.fixture
def watch(kept):
    """A worker's watch whose own thread never comes to look, and the seconds that it sees."""
    seconds = [0.0]
    found = SignsOfLife(kept.database, "me", 100_000.0, set, lambda: seconds[0])
    found.seconds = seconds
    yield found
    found._ended.set()


def worker(kept, name, machine, pid, beat=1):
    with kept.database.writing() as connection:
        connection.execute(sa.insert(WORKERS).values(executor_id=name, machine=machine, pid=pid, beat=beat))


def taken_by(kept, name):
    """Let a worker take a submission off the queue, and return its id."""
    id_ = kept.take(2).submission.id
    with kept.database.writing() as connection:
        connection.exec_driver_sql(
            "update workflow_status set status = 'PENDING', executor_id = ? where workflow_uuid = ?",
            (name, id_),
        )
    return id_


def status(kept, id_):
    with kept.database.reading() as connection:
        query = "select status from workflow_status where workflow_uuid = ?"
        return connection.exec_driver_sql(query, (id_,)).scalar()


def test_a_process_of_this_machine_that_is_gone_is_dead_at_once(kept, watch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    worker(kept, "gone", machine_id(), gone.pid)
    id_ = taken_by(kept, "gone")
    watch.look()
    assert (status(kept, id_), watch.taken_over) == ("ENQUEUED", 1)
    watch.look()
    assert watch.taken_over == 1


def test_one_of_another_machine_is_dead_when_it_has_been_silent_long_enough(kept, watch):
    worker(kept, "far", "another machine", 1)
    id_ = taken_by(kept, "far")
    watch.look()
    watch.seconds[0] = 99_999
    watch.look()
    assert status(kept, id_) == "PENDING"
    with kept.database.writing() as connection:
        connection.execute(sa.update(WORKERS).where(WORKERS.c.executor_id == "far").values(beat=2))
    watch.seconds[0] = 150_000
    watch.look()
    assert status(kept, id_) == "PENDING"
    watch.seconds[0] = 250_001
    watch.look()
    assert status(kept, id_) == "ENQUEUED"


def test_one_that_lives_keeps_its_work(kept, watch):
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    worker(kept, "alive", machine_id(), alive.pid)
    id_ = taken_by(kept, "alive")
    watch.look()
    alive.communicate(b"\n")
    assert status(kept, id_) == "PENDING"


def test_what_was_taken_here_and_is_not_begun_for_long_is_handed_back(kept, watch):
    id_ = taken_by(kept, "me")
    watch.look()
    watch.seconds[0] = 99_999
    watch.look()
    assert status(kept, id_) == "PENDING"
    watch.seconds[0] = 100_000
    watch.look()
    assert status(kept, id_) == "ENQUEUED"


def test_what_was_begun_meanwhile_is_not(kept, watch):
    id_ = taken_by(kept, "me")
    watch.look()
    watch._running = lambda: {id_}
    watch.seconds[0] = 100_000
    watch.look()
    watch._running = set
    watch.seconds[0] = 150_000
    watch.look()
    assert status(kept, id_) == "PENDING"


def test_who_leaves_hands_back_what_it_was_at_and_is_forgotten(kept, watch):
    id_ = taken_by(kept, "me")
    watch.leave()
    assert status(kept, id_) == "ENQUEUED"
    with kept.database.reading() as connection:
        assert connection.execute(sa.select(WORKERS)).all() == []


def test_what_is_put_off_is_delayed_and_only_by_whom_it_is_at(kept):
    id_, client = taken_by(kept, "me"), kept.database.engine_client()
    assert not put_off(client, "another", id_, 1.0)
    assert status(kept, id_) == "PENDING"
    assert put_off(client, "me", id_, 1.0)
    assert status(kept, id_) == "DELAYED"
    assert not put_off(client, "me", id_, 1.0)
    client.destroy()


def test_what_is_put_off_after_it_ended_a_process_is_taken_after_all_that_did_not(kept):
    client = kept.database.engine_client()
    again, suspect, worse = (taken_by(kept, "me") for _ in range(3))
    for id_ in (suspect, worse, worse):
        kept.ledger.crashed(id_)
    for id_ in (worse, suspect, again):
        assert put_off(client, "me", id_, 0.0)
    healthy = kept.take(2).submission.id
    queue = client.register_queue(kept.ledger.get(healthy).queue)
    client._sys_db.transition_delayed_workflows()
    taken, _ = client._sys_db.start_queued_workflows(queue, "me", APPLICATION_VERSION, None)
    assert taken == [again, healthy, suspect, worse]
    client.destroy()
