"""What becomes of submissions when things go wrong, or somebody changes his mind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
import urllib.request

import pytest

from tests.toy.poison import DEADLY, HANGING, SLOW, write_poison_bundle
from tests.toy.processes import descendants, wait_until
from tests.toy.submitting import open_async

pytestmark = pytest.mark.e2e
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def poison(tmp_path_factory):
    directory = tmp_path_factory.mktemp("poison") / "bundle"
    write_poison_bundle(directory)
    return directory


@pytest.fixture(scope="module")
def place(poison, process_env, tmp_path_factory):
    directory = tmp_path_factory.mktemp("lifecycle")
    settings = (
        "submissions.chunk_rows=2",
        "submissions.scorers=2",
        "submissions.dead_after_seconds=3",
        "submissions.chunk_timeout_seconds=3",
    )
    with open_async(directory, process_env, poison, *settings, name="poison") as opened:
        yield opened


@pytest.fixture(scope="module")
def gateway(place):
    return place.gateway()


@pytest.fixture(scope="module")
def worker(place, gateway):
    return place.worker()


def doses(*values):
    return {"rows": [{"id": i, "dose": value} for i, value in enumerate(values)]}


def test_poison_fails_with_a_reason_and_costs_no_other_submission_anything(place, gateway, worker):
    bad = gateway.submit(doses(1.0, 2.0, 3.0, DEADLY))
    good = [gateway.submit(doses(float(i))) for i in range(20)]
    found = gateway.finished(bad)
    assert (found["state"], found["reason"]["code"], found["results"]) == ("failed", "SCORER_CRASHED", [])
    assert {gateway.finished(id_)["state"] for id_ in good} == {"succeeded"}
    assert worker.process.poll() is None
    with place.ledger() as ledger:
        assert ledger.get(bad).crashes == 3
        assert ledger.payload(bad) is None


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(("dose", "seconds"), [(DEADLY, 600), (HANGING, 75)], ids=["deadly", "hanging"])
def test_poison_in_a_large_submission_fails_with_a_reason_and_the_next_large_one_is_scored(
    poison, process_env, tmp_path, dose, seconds
):
    settings = (
        "submissions.chunk_rows=2",
        "submissions.batch_rows=4",
        f"submissions.large_timeout_seconds={seconds}",
        "submissions.max_crashes=1",
        "spark.master=local[2]",
    )
    with open_async(tmp_path / "large", process_env, poison, *settings, name="poison") as alone:
        gateway = alone.gateway()
        bad = gateway.submit(doses(1.0, 2.0, 3.0, 4.0, dose))
        worker = alone.worker()
        found = gateway.finished(bad, 240)
        assert found["state"] == "failed", worker.output.read_text()[-3000:]
        assert found["reason"]["code"] == "SCORER_CRASHED", worker.output.read_text()[-3000:]
        with alone.ledger() as ledger:
            assert (ledger.get(bad).crashes, ledger.get(bad).attempts) == (1, 1)
        good = gateway.submit(doses(1.0, 2.0, 3.0, 4.0, 5.0))
        found = gateway.finished(good, 120)
        assert found["state"] == "succeeded", (found["reason"], worker.output.read_text()[-3000:])


def test_a_running_submission_is_cancelled_and_what_was_scored_of_it_thrown_away(place, gateway, worker):
    id_ = gateway.submit(doses(*[SLOW] * 40))
    wait_until(lambda: gateway.get(f"/submissions/{id_}")["rows_done"] > 0, "it is running", 20)
    status, _, text = gateway.call("DELETE", f"/submissions/{id_}")
    assert (status, json.loads(text)["state"]) == (200, "cancelled")
    assert gateway.error("DELETE", f"/submissions/{id_}") == (409, "FINISHED")
    assert gateway.error("GET", f"/submissions/{id_}/results.ndjson") == (409, "NO_RESULTS")
    assert gateway.finished(gateway.submit(doses(1.0)))["state"] == "succeeded"
    time.sleep(1.2)  # the chunk that was under way has ended by now, and was not stored
    with place.ledger() as ledger:
        assert (ledger.get(id_).state, ledger.stored(id_)) == ("cancelled", [])


def test_who_scores_what_was_cancelled_is_free_for_the_next(place, poison, process_env, tmp_path):
    settings = ("submissions.scorers=1", "submissions.chunk_timeout_seconds=3600")
    with open_async(tmp_path / "freed", process_env, poison, *settings, name="poison") as alone:
        gateway, worker = alone.gateway(), alone.worker()
        hanging = gateway.submit(doses(HANGING))
        wait_until(lambda: gateway.get(f"/submissions/{hanging}")["state"] == "running", "it is begun", 20)
        assert gateway.call("DELETE", f"/submissions/{hanging}")[0] == 200
        assert gateway.finished(gateway.submit(doses(1.0)))["state"] == "succeeded"
        said = [json.loads(line) for line in worker.output.read_text().splitlines()]
        ended = [line for line in said if line.get("event") == "submission_ended"]
        assert [(line["state"], line["key"], line["rows"]) for line in ended] == [
            ("succeeded", "loopback", 1)
        ]
        assert '"state": "cancelled"' in gateway.output.read_text()


def test_what_only_another_model_or_store_can_score_keeps_nobody_waiting_and_is_not_tried(
    poison, bundle, process_env, tmp_path
):
    with open_async(tmp_path / "shared", process_env, poison, name="poison") as alone:
        houses = dataclasses.replace(alone, flags=("--model", "houses", "--bundle", str(bundle)))
        elsewhere = f"store.url=sqlite:///{tmp_path}/former.db"
        gateway, other = alone.gateway(), houses.gateway("model.name=houses", elsewhere)
        foreign = [other.submit({"rows": [{"house_id": i}]}) for i in range(9)]
        worker = houses.worker("model.name=houses", "submissions.worker_port=0")
        mine = [gateway.submit(doses(1.0)) for _ in range(9)]
        said = worker.output.read_text().splitlines()
        port = json.loads(next(line for line in said if '"worker_ready"' in line))["metrics"]

        def ready():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=10) as answer:
                return json.loads(answer.read())["checks"]

        wait_until(lambda: ready()["database"]["not_taken_here"] == 9, "it says what it does not take", 20)
        assert ready()["model"]["ok"]
        alone.worker(elsewhere)  # a model without stored views is scored whatever the store
        assert {gateway.finished(id_)["state"] for id_ in mine} == {"succeeded"}
        with alone.ledger() as ledger:
            assert {(ledger.get(id_).state, ledger.get(id_).attempts) for id_ in foreign} == {("queued", 0)}
        adopting = houses.start("work_async", "model.name=houses", "--adopt")
        assert (adopting.process.wait(60), adopting.output.read_text()) == (0, "adopted: 9\n")
        assert {other.finished(id_)["state"] for id_ in foreign} == {"succeeded"}


def test_many_whose_model_version_is_gone_keep_nobody_waiting(poison, process_env, tmp_path):
    settings = ("submissions.scorers=1", "submissions.retry_seconds=60")
    with open_async(tmp_path / "gone", process_env, poison, *settings, name="poison") as alone:
        gateway = alone.gateway()
        gone = [gateway.submit(doses(1.0)) for _ in range(9)]
        with alone.ledger() as ledger, ledger.database.writing() as connection:
            connection.exec_driver_sql("UPDATE onescore_submissions SET model_digest = 'gone'")
        worker = alone.worker()
        assert gateway.finished(gateway.submit(doses(1.0)))["state"] == "succeeded"
        with alone.ledger() as ledger:
            wait_until(
                lambda: all(ledger.get(id_).attempts for id_ in gone), "all were tried", 20, worker.output
            )
            assert {ledger.get(id_).state for id_ in gone} == {"running"}


def test_too_many_that_wait_are_refused_with_a_time_to_come_back_and_known_ones_are_not(
    place, poison, process_env, tmp_path
):
    with open_async(tmp_path / "full", process_env, poison, name="poison") as alone:
        gateway = alone.gateway("submissions.max_queued=2", "submissions.retry_after_seconds=7")
        first = gateway.submit(doses(1.0), idempotency_key="first")
        second = gateway.submit(doses(2.0))
        status, headers, text = gateway.call("POST", "/submissions", json.dumps(doses(3.0)).encode())
        assert (status, headers["retry-after"], json.loads(text)["error"]["code"]) == (429, "7", "QUEUE_FULL")
        assert gateway.submit(doses(1.0), idempotency_key="first") == first
        gateway.call("DELETE", f"/submissions/{second}")
        third = gateway.submit(doses(3.0))
        # now a worker that keeps what has ended for a second and a half
        alone.worker("submissions.retention_hours=0.0004")
        assert gateway.finished(third)["state"] == "succeeded"
        wait_until(lambda: gateway.call("GET", f"/submissions/{first}")[0] == 404, "it expires", 20)
        wait_until(lambda: not gateway.get("/submissions")["submissions"], "all expire", 20)
        with alone.ledger() as ledger, ledger.database.reading() as connection:
            for table in ("onescore_results", "onescore_payloads", "workflow_status"):
                assert connection.exec_driver_sql(f"select count(*) from {table}").scalar() == 0, table


def test_a_worker_that_is_told_to_end_stores_its_chunk_and_gives_back_the_rest(place, gateway, worker):
    other = place.worker()
    ids = [gateway.submit(doses(*[SLOW] * 6)) for _ in range(4)]
    wait_until(
        lambda: all(gateway.get(f"/submissions/{id_}")["state"] != "queued" for id_ in ids), "all begun", 20
    )
    other.process.send_signal(signal.SIGTERM)
    assert other.process.wait(20) == 0
    found = [gateway.finished(id_) for id_ in ids]
    assert {one["state"] for one in found} == {"succeeded"}
    with place.ledger() as ledger:
        assert all(ledger.get(one["id"]).crashes == 0 for one in found)


def test_a_frozen_worker_is_taken_for_dead_and_does_no_harm_when_it_comes_back(place, gateway, worker):
    frozen = place.worker()
    ids = [gateway.submit(doses(*[SLOW] * 4)) for _ in range(6)]
    wait_until(
        lambda: all(gateway.get(f"/submissions/{id_}")["state"] != "queued" for id_ in ids), "all begun", 20
    )
    os.kill(frozen.process.pid, signal.SIGSTOP)
    try:
        found = [gateway.finished(id_, 180) for id_ in ids]
    finally:
        os.kill(frozen.process.pid, signal.SIGCONT)
    assert {one["state"] for one in found} == {"succeeded"}
    again = [gateway.finished(id_) for id_ in ids]
    assert again == found
    assert gateway.finished(gateway.submit(doses(1.0)))["state"] == "succeeded"


@pytest.mark.slow
@pytest.mark.cluster
def test_a_large_submission_cancelled_while_spark_scores_it_ends_the_job_and_stores_nothing(
    poison, process_env, tmp_path
):
    settings = ("submissions.chunk_rows=2", "submissions.batch_rows=4", "spark.master=local[2]")
    with open_async(tmp_path / "large", process_env, poison, *settings, name="poison") as alone:
        gateway, file = alone.gateway(), tmp_path / "pause"
        pause = {"ONESCORE_PAUSE_AT": "async_batch.before_store", "ONESCORE_PAUSE_FILE": str(file)}
        worker = alone.worker(env=pause)
        id_ = gateway.submit(doses(1.0, 2.0, 3.0, 4.0, 5.0))
        wait_until(lambda: file.exists() and file.read_text(), "it is scored", 180, worker.output)
        job = json.loads(file.read_text())["pid"]
        assert job in descendants(worker.process.pid)
        assert gateway.call("DELETE", f"/submissions/{id_}")[0] == 200
        wait_until(lambda: job not in descendants(worker.process.pid), "the job has ended", 60, worker.output)
        with alone.ledger() as ledger:
            assert (ledger.get(id_).state, ledger.get(id_).crashes, ledger.stored(id_)) == (
                "cancelled",
                0,
                [],
            )
        good = gateway.finished(gateway.submit(doses(1.0, 2.0, 3.0, 4.0, 5.0)), 180)
        assert (good["state"], worker.process.poll()) == ("succeeded", None)


@pytest.mark.slow
def test_a_process_that_hangs_is_ended_as_if_it_had_crashed(place, gateway, worker):
    hanging = gateway.submit(doses(1.0, HANGING))
    found = gateway.finished(hanging)
    assert (found["state"], found["reason"]["code"]) == ("failed", "SCORER_CRASHED")
    assert gateway.finished(gateway.submit(doses(1.0)))["state"] == "succeeded"
