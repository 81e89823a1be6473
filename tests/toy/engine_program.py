"""The engine in a worker, its run replaced by a fake, as a program of its own: its threads end with no test, but with their process.

python -m tests.toy.engine_program DATABASE_URL
"""

from __future__ import annotations

import os
import sys
import threading

from jobs.submissions import worker
from jobs.submissions.database import Database
from jobs.submissions.engine_names import queue_name
from jobs.submissions.takeover import SignsOfLife, pending_of
from jobs.submissions.work import Stopping
from tests.toy.kept import MODEL, Kept
from tests.toy.processes import wait_until

__all__ = ["main"]


QUEUES = (queue_name(MODEL.name, "", is_large=False), queue_name(MODEL.name, "", is_large=True))


class _Running:
    """Stands in the place of Work: notes what it is given, holds what it is told to hold, and can be stopped."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.held: set[str] = set()
        self.holds, self.stopped, self.puts_off, self.left = (threading.Event() for _ in range(4))

    def run(self, id_: str) -> float | None:
        self.seen.append(id_)
        if self.puts_off.is_set() and self.seen.count(id_) < 3:
            return 0.5
        if self.holds.is_set():
            self.held.add(id_)
            self.stopped.wait(30)
            self.held.discard(id_)
            raise Stopping
        return None

    def running(self) -> set[str]:
        if self.stopped.is_set():
            self.left.set()
        return set(self.held)

    def stop(self) -> None:
        self.stopped.set()


class _Notifier:
    """Stands in the place of Notifier: is closed once it is seen that no more work is begun, and that what is under way is waited for."""

    def __init__(self, work: _Running) -> None:
        self._work = work
        self.is_beside = False

    def close(self, seconds: float) -> None:
        self.is_beside = self._work.stopped.is_set() and self._work.left.wait(seconds)


def main(url: str) -> None:
    """Take in, cancel, run, put off, leave; print what came of it."""
    database = Database(url)
    database.prepare()
    kept, work = Kept(database), _Running()
    cancelled = kept.take(1).submission.id
    kept.intake.withdraw(cancelled)
    signs = SignsOfLife(database, "me", 1_000.0, work.running)
    worker._launch(database, "me", QUEUES, 0.02, 1, work.run)
    ids = [kept.take(n).submission.id for n in (1, 2, 11)]
    wait_until(lambda: len(work.seen) >= 3, "all are run", 30)
    client = database.engine_client()
    wait_until(lambda: not pending_of(client, "me"), "all have ended", 10)
    print("run once:", sorted(work.seen) == sorted(ids))
    work.puts_off.set()
    later = {kept.take(1).submission.id for _ in range(30)}
    other = kept.take(1, model=MODEL._replace(name="another")).submission.id
    wait_until(lambda: all(work.seen.count(id_) == 3 for id_ in later), "they are run in the end", 60)
    work.puts_off.clear()
    wait_until(lambda: not pending_of(client, "me"), "all have ended", 10)
    found = client.list_workflows(workflow_ids=sorted(later))
    print("put off and done:", {one.status for one in found}, other in work.seen)
    work.holds.set()
    left = kept.take(1).submission.id
    wait_until(lambda: left in work.held, "it is begun", 10)
    print("at it:", pending_of(client, "me") == {left})
    notifier = _Notifier(work)
    worker._leave(work, notifier, signs, 5)  # type: ignore[arg-type]
    print("closed beside the work:", notifier.is_beside)
    print("left behind:", [one.status for one in client.list_workflows(workflow_ids=[left])])
    print("begun:", work.seen.count(left), work.seen.count(cancelled))


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)
