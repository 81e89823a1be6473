"""Large submissions, rows or a table, are scored by a Spark job: the caller sees the bits and the shape of a small one."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_pipelines.wire import parse_timestamp
from jobs.submissions.answer_task import wire_rows
from tests.toy.processes import wait_until
from tests.toy.serving import asking, write_store
from tests.toy.submitting import open_async, said_of
from tests.toy.workspace import house_rows
from udfs.serving import ServingSettings, open_scorer

pytestmark = [pytest.mark.e2e, pytest.mark.cluster]
N = 500


@contextlib.contextmanager
def opened(directory, bundle, process_env):
    (directory / "shared").mkdir(parents=True)
    settings = (
        "submissions.chunk_rows=60",
        "submissions.batch_rows=200",
        "submissions.scorers=1",
        "submissions.dead_after_seconds=2",
        f"submissions.reference_root={directory}/shared",
        "spark.master=local[2]",
    )
    with open_async(directory, process_env, bundle, *settings) as found:
        found.through = write_store(directory / "online.db")
        yield found


@pytest.fixture(scope="module")
def place(bundle, process_env, tmp_path_factory):
    with opened(tmp_path_factory.mktemp("async-batch") / "place", bundle, process_env) as found:
        yield found


@pytest.fixture
def alone(bundle, process_env, tmp_path):
    """A place where no worker runs yet."""
    with opened(tmp_path / "alone", bundle, process_env) as found:
        yield found


@pytest.fixture(scope="module")
def gateway(place):
    return place.gateway()


@pytest.fixture(scope="module")
def worker(place, gateway):
    return place.worker()


@pytest.fixture(scope="module")
def realtime(place, bundle):
    now = [0]
    settings = ServingSettings(store_url=f"sqlite:///{place.directory}/online.db", store_timeout_ms=10_000)
    online = open_scorer(bundle, settings, lambda: now[0])

    def answer(rows, as_of):
        now[0] = as_of
        return online.answer(rows)

    yield answer
    online.close()


def table(n=N):
    """Return requests with a time each, bad ones, a column that the model does not know, and floats that text would spoil."""
    rows = house_rows(n, bad=[7, 130]).append_column("note", pa.array(["x"] * n))
    return rows.set_column(
        2, "area_m2", pa.array(np.random.default_rng(5).uniform(20, 300, n), mask=np.arange(n) % 97 == 0)
    )


def expected(rows, realtime, as_of):
    known = rows.drop_columns(["note"])
    wire = [row for batch in known.to_batches() for row in wire_rows(batch)]
    return said_of(realtime(wire, as_of))


def test_a_table_of_several_files_is_answered_row_by_row_in_its_order(place, gateway, worker, realtime):
    rows = table()
    where = place.directory / "shared" / "delta"
    for start in range(0, N, 170):
        write_deltalake(str(where), rows.slice(start, 170), mode="append")
    id_ = gateway.submit({"reference": "delta"})
    write_deltalake(str(where), rows.slice(0, 10), mode="append")  # what comes later is not asked about
    done = gateway.finished(id_, 180)
    assert (done["state"], done["rows"], done["rows_done"]) == ("succeeded", N, N), worker.output.read_text()[
        -3000:
    ]
    files = sorted(DeltaTable(str(where), version=2).file_uris())
    in_order = pa.concat_tables([pq.read_table(file) for file in files])
    in_order = in_order.cast(rows.schema)
    assert said_of(done["results"]) == expected(in_order, realtime, parse_timestamp(done["created_ts"]))
    n_refused = sum("error" in one for one in done["results"])
    assert n_refused > 2
    assert done["rows_refused"] == n_refused
    assert len(gateway.call("GET", f"/submissions/{id_}/results.csv")[2].splitlines()) == N + 1


@pytest.mark.slow
def test_many_rows_have_the_answers_of_few(place, gateway, worker, realtime):
    rows = asking(N, place.through)
    rows[3] = rows[3] | {"rooms": 2**70}
    text = json.dumps({"rows": rows}).replace('"town"', '"town": null, "town"', 1)
    done = gateway.finished(gateway.submit(text.encode()), 180)
    few = [gateway.finished(gateway.submit({"rows": rows[at : at + 100]})) for at in range(0, N, 100)]
    together = [answer for one in few for answer in one["results"]]
    assert said_of(done["results"][1:]) == said_of(together[1:]) == said_of(realtime(rows, 0)[1:])
    assert done["results"][0]["error"]["field"] == "town"


@pytest.mark.slow
@pytest.mark.parametrize("point", ["async_task.before_score", "async_batch.before_store"])
def test_killed_with_its_worker_it_goes_on_elsewhere(alone, realtime, point):
    rows = asking(N, alone.through)
    rows[3] = rows[3] | {"area_m2": None}
    file, gateway = alone.directory / f"pause-{point}", alone.gateway()
    victim = alone.worker(env={"ONESCORE_PAUSE_AT": point, "ONESCORE_PAUSE_FILE": str(file)})
    id_ = gateway.submit({"rows": rows})
    wait_until(lambda: file.exists() and file.read_text(), point, 90, victim.output)
    victim.kill()
    alone.worker()
    done = gateway.finished(id_, 180)
    assert said_of(done["results"]) == said_of(realtime(rows, 0))
    assert done["rows_refused"] == 1
    with alone.ledger() as ledger:
        assert sum(n for _, n in ledger.stored(id_)) == N


@pytest.mark.slow
def test_a_table_that_was_changed_is_not_scored_in_place_of_what_was_meant(alone):
    where, gateway = alone.directory / "shared" / "plain.parquet", alone.gateway()
    pq.write_table(table(300), where)
    id_ = gateway.submit({"reference": "plain.parquet"})
    pq.write_table(table(310), where)
    alone.worker()
    found = gateway.finished(id_, 120)
    assert (found["state"], found["reason"]["code"]) == ("failed", "REFERENCE_CHANGED")


@pytest.mark.parametrize(
    "reference",
    ["../online.db", "/etc/passwd", "nix", "", ".", "a/../../b", "link", "linked", "file:///etc", "~"],
)
def test_a_reference_leads_nowhere_but_below_the_root(place, gateway, reference):
    shared, outside = place.directory / "shared", place.directory / "outside"
    outside.mkdir(exist_ok=True)
    pq.write_table(table(5), outside / "secret.parquet")
    (shared / "linked").mkdir(exist_ok=True)
    for link, target in (
        (shared / "link", outside),
        (shared / "linked" / "a.parquet", outside / "secret.parquet"),
    ):
        if not link.is_symlink():
            link.symlink_to(target)
    body = json.dumps({"reference": reference}).encode()
    assert gateway.error("POST", "/submissions", body) == (422, "UNKNOWN_REFERENCE")
