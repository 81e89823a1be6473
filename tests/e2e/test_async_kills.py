"""What was acknowledged is scored to the end and its answers are stored once, whatever is killed by kill -9, and whenever.

The client keeps what was acknowledged in a file of its own. Killed are gateways and workers with all that they started: at each named
place, and (slow) twenty times at random, on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import csv
import http.client
import io
import json
import random
import threading
import time

import pyarrow.parquet as pq
import pytest

from tests.toy.processes import children, parent, wait_until
from tests.toy.serving import asking, write_store
from tests.toy.submitting import JSON, open_async, said_of
from udfs.serving import ServingSettings, open_scorer

pytestmark = pytest.mark.e2e
SETTINGS = ("submissions.chunk_rows=10", "submissions.scorers=1", "submissions.dead_after_seconds=2")


class Client:
    """Submits JSON and CSV in turn, with a key of its own each until it is acknowledged, and writes down what it was told.

    Every third it then submits again, until it is told the same once more.
    """

    def __init__(self, place, through, rows=25):
        self.file = place.directory / "acknowledged.txt"
        self.rows = asking(rows, through)
        self._lock, self._n = threading.Lock(), 0

    def submit(self, gateways, seconds=90):
        with self._lock:
            self._n += 1
            n = self._n
        id_ = self._acknowledged(gateways, n, seconds)
        with self._lock, self.file.open("a") as file:
            file.write(f"{id_} {n}\n")
        if n % 3 == 0:
            assert self._acknowledged(gateways, n, seconds) == id_

    def rows_of(self, n):
        """Return what is submitted as the n-th; CSV has no null among texts."""
        rows = [row | {"house_id": n * 1_000 + i} for i, row in enumerate(self.rows)]
        return [row | {"town": row["town"] or "elsewhere"} for row in rows] if n % 2 else rows

    def _acknowledged(self, gateways, n, seconds):
        rows, headers = self.rows_of(n), {"idempotency-key": f"key-{n}"}
        if n % 2:
            text = io.StringIO()
            writer = csv.DictWriter(text, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
            body, kind = text.getvalue().encode(), {"content-type": "text/csv"}
        else:
            body, kind = json.dumps({"rows": rows}).encode(), JSON
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                status, _, text = random.choice(gateways).call(
                    "POST", "/submissions", body, kind | headers, seconds=20
                )
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
                continue
            if status in (200, 202):
                return json.loads(text)["id"]
            time.sleep(0.05)
        raise AssertionError(f"submission {n} was never acknowledged")

    def acknowledged(self):
        lines = [line.split() for line in self.file.read_text().splitlines()]
        return {id_: self.rows_of(int(n)) for id_, n in lines}


@pytest.fixture
def place(request, bundle, process_env, tmp_path):
    settings, env = SETTINGS, dict(process_env)
    if getattr(request, "param", "sqlite") == "postgres":
        settings = (*settings, "submissions.database_url=env:SUBMISSIONS")
        env["SUBMISSIONS"] = request.getfixturevalue("postgres_url")
    with open_async(tmp_path / "async", env, bundle, *settings) as opened:
        opened.through = write_store(opened.directory / "online.db")
        yield opened


def check(place, bundle, acknowledged):
    """See that what is kept is what was acknowledged, each scored once, with the real-time server's bits."""
    settings = ServingSettings(store_url=f"sqlite:///{place.directory}/online.db", store_timeout_ms=10_000)
    online = open_scorer(bundle, settings, lambda: 0)
    with place.ledger() as ledger:
        kept = ledger.listed("loopback", state=None, limit=10_000, after=None)
        assert {one.id for one in kept} == set(acknowledged)
        assert {(one.state, one.reason) for one in kept} == {("succeeded", None)}
        for id_, rows in acknowledged.items():
            chunks = ledger.chunks(id_, 0, len(rows))
            assert [(c.first_row, c.n_rows) for c in chunks] == [(0, 10), (10, 10), (20, 5)]
            answers = [json.loads(line) for chunk in chunks for line in chunk.body.split(b"\n")]
            assert said_of(answers) == said_of(online.answer(rows))
            ids = [json.loads(line) for chunk in chunks for line in chunk.ids.split(b"\n")]
            assert [int(id_) for [id_] in ids] == [row["house_id"] for row in rows]
    online.close()


def all_ended(place):
    with place.ledger() as ledger:
        counts = ledger.counts()
    return not counts["queued"] and not counts["running"]


def n_logged(log):
    return sum(pq.read_metadata(file).num_rows for file in log.rglob("part-*.parquet"))


def paused(place, point):
    file = place.directory / f"pause-{point}"
    return file, {"ONESCORE_PAUSE_AT": point, "ONESCORE_PAUSE_FILE": str(file)}


def test_killed_at_each_named_place_nothing_is_lost_and_nothing_done_twice(place, bundle):
    survivor = place.gateway()
    client = Client(place, place.through)
    for point in ("async_intake.before_commit", "async_intake.after_commit"):
        file, env = paused(place, point)
        victim = place.gateway(env=env)
        first, gateways = threading.Event(), [victim]
        sending = threading.Thread(target=lambda g=gateways, f=first: (f.set(), client.submit(g)))
        sending.start()
        wait_until(lambda f=file: f.exists() and f.read_text(), point, 30)
        victim.kill()
        gateways[:] = [survivor]
        sending.join(60)
        assert not sending.is_alive()
    for point in ("async_work.before_store", "async_work.after_store", "async_worker.before_outcome"):
        file, env = paused(place, point)
        client.submit([survivor])
        victim = place.worker(env=env)
        wait_until(lambda f=file: f.exists() and f.read_text(), point, 30, victim.output)
        victim.kill()
    place.worker()
    wait_until(lambda: all_ended(place), "all have ended", 60)
    acknowledged = client.acknowledged()
    assert len(acknowledged) == 5
    check(place, bundle, acknowledged)


@pytest.mark.parametrize("point", ["async_work.before_store", "async_work.after_store"])
def test_of_a_worker_that_is_killed_each_row_is_in_the_prediction_log_once(place, point):
    gateway, client = place.gateway(), Client(place, place.through)
    client.submit([gateway])
    file, env = paused(place, point)
    victim = place.worker(env=env)
    wait_until(lambda: file.exists() and file.read_text(), point, 30, victim.output)
    scorers = children(victim.process.pid)
    victim.process.kill()  # alone: what scores for it ends by itself, and writes its log before
    victim.process.wait()
    wait_until(lambda: not any(map(parent, scorers)), "who scored for it ends", 30)
    place.worker()
    wait_until(lambda: all_ended(place), "it has ended", 60)
    log = place.directory / "prediction_log"
    wait_until(lambda: n_logged(log) >= 25, "it is logged", 20)
    place.close()  # what would be logged twice is written by now
    assert n_logged(log) == 25


@pytest.mark.slow
@pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)
def test_twenty_kills_at_random_lose_nothing_and_do_nothing_twice(place, bundle):
    rng = random.Random(20)
    running = [place.gateway(), place.gateway(), place.worker(), place.worker()]
    client, ended = Client(place, place.through), threading.Event()
    gateways = running[:2]  # replaced in place when one is killed

    def submitting():
        while not ended.is_set():
            client.submit(gateways)
            time.sleep(0.05)

    threads = [threading.Thread(target=submitting) for _ in range(2)]
    for thread in threads:
        thread.start()
    kills = 0
    while kills < 20:
        time.sleep(rng.uniform(0.2, 1.5))
        i = rng.randrange(4)
        if running[i].process.poll() is not None:
            raise AssertionError(running[i].output.read_text()[-3000:])
        running[i].kill()
        kills += 1
        running[i] = place.gateway() if i < 2 else place.start("work_async")
        gateways[:] = running[:2]
    ended.set()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    wait_until(lambda: all_ended(place), "all have ended", 180, running[3].output)
    acknowledged = client.acknowledged()
    assert len(acknowledged) > 20
    check(place, bundle, acknowledged)
