"""What goes back into a queue: what a dead worker was at, what is to be tried later, what an earlier version queued.

Every worker gives signs of life, and watches those of the others.

A worker on this very machine is dead when its process is gone; one elsewhere when its sign has not changed for a while by this worker's
own clock. Nothing breaks if it lives after all: its work is done twice and stored once. This is the one module that knows the engine's
inner calls: what a dead worker was at it hands back by the engine's own recovery.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import sqlalchemy as sa
from dbos import DBOSClient

from jobs.submissions.database import Database
from jobs.submissions.engine_names import APPLICATION_VERSION, LARGE_QUEUE, QUEUE
from jobs.submissions.tables import SUBMISSIONS, WORKERS

__all__ = ["SignsOfLife", "adopt", "hand_back", "machine_id", "pending_of", "put_off"]

_LOGGER = logging.getLogger("onescore.async")
_FORGET_AFTER = 50
_W = WORKERS.c


def pending_of(client: DBOSClient, executor_id: str) -> set[str]:
    """Return the ids of what a worker took off the queue and has not ended."""
    engine = client._sys_db  # the client has no call of its own for this
    return {one.workflow_id for one in engine.get_pending_workflows(executor_id, APPLICATION_VERSION)}


def hand_back(client: DBOSClient, executor_id: str, ids: Iterable[str]) -> int:
    """Put what a worker was at back into its queue; return how much that was. Doing so twice does nothing more."""
    engine = client._sys_db  # as above
    return sum(engine.reenqueue_for_recovery(id_, [executor_id], QUEUE) for id_ in ids)


def put_off(client: DBOSClient, executor_id: str, id_: str, seconds: float) -> bool:
    """Put what a worker is at back into its queue, from which nobody takes it before some time has passed.

    What ended processes comes after all that did not, the more often the later: whatever waits is taken by how many it ended, then by age.
    What runs it must end without an outcome then. Returns False if it is not that worker's any more.
    """
    engine = client._sys_db  # as above
    status = engine.tables.workflow_status.c
    crashes = sa.select(SUBMISSIONS.c.crashes).where(SUBMISSIONS.c.id == id_).scalar_subquery()
    change = (
        sa.update(engine.tables.workflow_status)
        .where(status.workflow_uuid == id_, status.status == "PENDING", status.executor_id == executor_id)
        .values(
            status="DELAYED",
            owner_xid=None,
            started_at_epoch_ms=None,
            delay_until_epoch_ms=round((time.time() + seconds) * 1000),
            priority=sa.func.coalesce(crashes, status.priority),
        )
    )
    with engine.engine.begin() as connection:
        return bool(connection.execute(change).rowcount)


def adopt(
    database: Database, client: DBOSClient, model: str, small: str, large: str, *, is_moved: bool = False
) -> int:
    """Take what waits in the one queue of all models, where an earlier version put it, into a model's own; return how much that was.

    What it was to be asked of which store was not noted then: whoever adopts it first scores it, as before.

    Args:
        database: of the submissions.
        client: of its engine.
        model: its name.
        small, large: the queues of its submissions.
        is_moved: whether what waits in the model's queues of other stores is taken too: somebody says that this is its store now.
    """
    engine = client._sys_db.tables.workflow_status  # as above
    schemas = client._sys_db.engine.get_execution_options()["schema_translate_map"]
    n = 0
    with database.writing() as connection:
        connection.execution_options(schema_translate_map=schemas)
        for old, queue in ((QUEUE, small), (LARGE_QUEUE, large)):
            elsewhere: sa.ColumnElement[bool] = engine.c.queue_name == old
            is_other: sa.ColumnElement[bool] = SUBMISSIONS.c.queue.is_(None)
            if is_moved:
                elsewhere = engine.c.queue_name.startswith(old) & (engine.c.queue_name != queue)
                is_other |= SUBMISSIONS.c.queue != queue
            mine = sa.select(SUBMISSIONS.c.id).where(SUBMISSIONS.c.model == model, is_other)
            waiting = engine.c.status.in_(("ENQUEUED", "DELAYED"))
            moved = sa.update(engine).where(elsewhere, waiting, engine.c.workflow_uuid.in_(mine))
            n += connection.execute(moved.values(queue_name=queue)).rowcount
            here = sa.select(engine.c.workflow_uuid).where(engine.c.queue_name == queue)
            change = sa.update(SUBMISSIONS).where(is_other, SUBMISSIONS.c.id.in_(here))
            connection.execute(change.values(queue=queue))
    return n


def machine_id() -> str:
    """Return what names this machine, and among containers this one: process ids mean something only within it."""
    parts = [os.uname().nodename]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(path) if path.endswith("pid") else Path(path).read_text().strip())
        except OSError:
            parts.append("?")
    return " ".join(parts)


class SignsOfLife:
    """One worker's signs of life, and its watch over the others.

    Args:
        database: that all workers share.
        executor_id: this worker's.
        dead_after_seconds: how long a sign may stay the same.
        running: returns the ids of what this worker is at; what it took and is not at for as long is handed back too.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        database: Database,
        executor_id: str,
        dead_after_seconds: float,
        running: Callable[[], set[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._me, self._after, self._clock = database, executor_id, dead_after_seconds, clock
        self._machine, self._running = machine_id(), running
        self._lost: dict[str, float] = {}
        self._client = database.engine_client()
        self._seen: dict[str, tuple[int, float]] = {}
        self._ended = threading.Event()
        self._beat = 0
        self.taken_over = 0
        self.give()  # before any work is taken, so that it can be told whose it is
        self._thread = threading.Thread(target=self._run, name="signs-of-life", daemon=True)
        self._thread.start()

    def give(self) -> None:
        """Give one sign of life."""
        self._beat += 1
        mine = {"machine": self._machine, "pid": os.getpid(), "beat": self._beat}
        with self._database.writing() as connection:
            changed = connection.execute(sa.update(WORKERS).where(_W.executor_id == self._me).values(mine))
            if changed.rowcount == 0:
                connection.execute(sa.insert(WORKERS).values(executor_id=self._me, **mine))

    def look(self) -> None:
        """See who else lives, and hand back what the dead were at, and what was taken here and never begun."""
        now = self._clock()
        lost = pending_of(self._client, self._me) - self._running()
        self._lost = {id_: self._lost.get(id_, now) for id_ in lost}
        hand_back(self._client, self._me, {id_ for id_, at in self._lost.items() if now - at >= self._after})
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(WORKERS).where(_W.executor_id != self._me)).all()
        for executor_id, machine, pid, beat in rows:
            known = self._seen.get(executor_id)
            if known is None or known[0] != beat:
                known = self._seen[executor_id] = (beat, now)
            silent = now - known[1]
            if silent < self._after and not (machine == self._machine and _is_gone(pid)):
                continue
            n = hand_back(self._client, executor_id, pending_of(self._client, executor_id))
            self.taken_over += n
            if n:
                _LOGGER.warning("worker %s is dead; %d submissions of it are queued again", executor_id, n)
            elif silent > _FORGET_AFTER * self._after:
                self._forget(executor_id, beat)

    def leave(self) -> None:
        """Give no more signs, and hand back what this worker was at: it takes no more work by now."""
        self._ended.set()
        self._thread.join()
        hand_back(self._client, self._me, pending_of(self._client, self._me))
        self._forget(self._me, self._beat)

    def _forget(self, executor_id: str, beat: int) -> None:
        with self._database.writing() as connection:
            connection.execute(sa.delete(WORKERS).where(_W.executor_id == executor_id, _W.beat == beat))
        self._seen.pop(executor_id, None)

    def _run(self) -> None:
        while not self._ended.wait(self._after / 5):
            try:
                self.give()
                self.look()
            except Exception as exc:  # noqa: BLE001 - a database that is away comes back
                _LOGGER.error("no sign of life could be given: %s", type(exc).__name__)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False
