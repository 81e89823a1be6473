"""The lean server as a client meets it: a real process on the loopback interface, good requests, bad ones, and what befalls a server."""

from __future__ import annotations

import http.client
import json
import os
import resource
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feature_pipelines.stores.opening import open_store
from tests.toy.bits import bits_of
from tests.toy.house_bundle import house_batch, house_wire
from tests.toy.processes import is_listening, wait_until
from tests.toy.serving import Serving, asking, serving, write_store
from tests.toy.workspace import Workspace
from udfs.bundle import load_bundle
from udfs.kernel import Kernel
from udfs.online import OnlineScorer
from udfs.prediction_files import gaps

N = 40
MAX_BODY = 4_000_000
SETTINGS = (
    f"serve.max_body_bytes={MAX_BODY}",
    "serve.body_timeout_seconds=1",
    "serve.max_rows=10000",
    "serve.log_flush_seconds=0.5",
)


@pytest.fixture(scope="module")
def served(
    bundle: Path, process_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """One server with two workers for the tests that leave it as it was."""
    directory = tmp_path_factory.mktemp("served")
    write_store(directory / "online.db")
    with serving(directory, process_env, "--bundle", str(bundle), workers=2, settings=SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The time by which every stored rate is visible."""
    return write_store(tmp_path_factory.mktemp("through") / "online.db")


@pytest.fixture(scope="module")
def alone(served: Serving, bundle: Path) -> Iterator[OnlineScorer]:
    """What answers in the server, here."""
    store = open_store(f"sqlite:///{served.store}", timeout_ms=10_000)
    yield OnlineScorer(load_bundle(bundle), store, clock=lambda: time.time_ns() // 1000)
    store.close()


def test_every_form_has_the_answers_of_the_scorer_and_the_bits_of_the_batch_kernel(
    served: Serving, alone: OnlineScorer, bundle: Path, through: int
) -> None:
    rows = asking(N, through)
    expected = alone.answer(rows)
    assert {answer["views"]["rates"]["status"] for answer in expected} >= {"PRESENT", "NOT_FOUND", "NULL"}
    names = list(rows[0])
    split = {"columns": names, "data": [[row[name] for name in names] for row in rows]}
    for form in ("inputs", "instances", "dataframe_records"):
        assert served.predictions({form: rows}) == expected
    assert served.predictions({"dataframe_split": split}) == expected
    assert [answer for row in rows for answer in served.predictions({"inputs": [row]})] == expected

    scored = Kernel(load_bundle(bundle)).score(house_batch(N))
    sent = served.predictions({"inputs": house_wire(N)})
    assert [bits_of(answer["score"]) for answer in sent] == [
        bits_of(score) for score in scored.outputs["score"].tolist()
    ]


def test_features_come_on_request_by_body_or_query(
    served: Serving, alone: OnlineScorer, through: int
) -> None:
    rows = asking(3, through)
    expected = alone.answer(rows, with_features=True)
    assert "features" in expected[0]
    assert served.predictions({"inputs": rows, "params": {"features": True}}) == expected
    assert served.predictions({"inputs": rows}, "/invocations?features=true") == expected
    assert "features" not in served.predictions({"inputs": rows}, "/invocations?features=false")[0]


def test_bad_rows_get_their_errors_and_good_ones_their_scores(
    served: Serving, alone: OnlineScorer, through: int
) -> None:
    good = asking(2, through)
    bad = [good[0] | {"area_m2": -1.0}, good[0] | {"garage": 1}, None, good[0] | {"as_of_ts": 0}]
    answers = served.predictions({"inputs": [good[0], *bad, good[1]]})
    assert [answers[0], answers[-1]] == alone.answer(good)
    codes = [answer["error"]["code"] for answer in answers[1:-1]]
    assert codes[:3] == ["OUT_OF_RANGE", "UNKNOWN_FIELD", "UNREADABLE_ROW"]
    row = json.dumps(good[0])[1:-1]
    text = f'{{"inputs":[{{{row}}},{{"rooms":1,{row}}},{{{row}}}]}}'.encode()
    first, twice, last = json.loads(served.call("POST", "/invocations", text)[2])["predictions"]
    assert (twice["error"]["code"], twice["error"]["field"]) == ("BAD_VALUE", "rooms")
    assert first == last == answers[0]


GARBAGE: list[tuple[bytes, str, int, str]] = [
    (b"", "application/json", 400, "MALFORMED_JSON"),
    (b"{", "application/json", 400, "MALFORMED_JSON"),
    (b'{"inputs": [{"area_m2": NaN}]}', "application/json", 400, "MALFORMED_JSON"),
    (b'{"inputs": ["\xff\xfe"]}', "application/json", 400, "MALFORMED_JSON"),
    (b'{"inputs":' * 50_000, "application/json", 400, "MALFORMED_JSON"),
    (b'{"inputs":' + b"[" * 90_000 + b"]" * 90_000 + b"}", "application/json", 400, "MALFORMED_JSON"),
    (b'{"inputs": [], "inputs": []}', "application/json", 400, "DUPLICATE_FIELD"),
    (b'{"rows": []}', "application/json", 400, "UNKNOWN_FORM"),
    (b"[]", "application/json", 400, "UNKNOWN_FORM"),
    (b'{"inputs": [' + b"1," * 10_000 + b"1]}", "application/json", 413, "TOO_MANY_ROWS"),
    (b" " * (MAX_BODY + 1), "application/json", 413, "BODY_TOO_LARGE"),
    (b"a,b\n1,2\n", "text/csv", 415, "UNSUPPORTED_MEDIA_TYPE"),
    (b"{}", "application/json; charset=latin-1", 415, "UNSUPPORTED_MEDIA_TYPE"),
    (b"{}", "", 415, "UNSUPPORTED_MEDIA_TYPE"),
]


@pytest.mark.parametrize(("body", "content_type", "status", "code"), GARBAGE)
def test_garbage_is_refused_with_a_code_and_nothing_of_ours(
    served: Serving, body: bytes, content_type: str, status: int, code: str
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    got, sent, text = served.call("POST", "/invocations", body, headers)
    error = json.loads(text)["error"]
    assert (got, error["code"], sent["content-type"]) == (status, code, "application/json")
    assert error.keys() == {"code", "message"}
    assert b"Traceback" not in text
    assert b".py" not in text


def test_number_beyond_float64_is_refused_with_its_row_alone(served: Serving, through: int) -> None:
    row = json.dumps(asking(1, through)[0])
    text = f'{{"inputs":[{row},{{"house_id":1,"asked_ts":0,"area_m2":1e400}}]}}'.encode()
    good, bad = json.loads(served.call("POST", "/invocations", text)[2])["predictions"]
    assert "score" in good
    assert (bad["error"]["code"], bad["error"]["field"]) == ("NOT_FINITE", "area_m2")


def test_wrong_routes_and_methods_are_refused(served: Serving) -> None:
    assert served.call("GET", "/nowhere")[0] == 404
    status, headers, text = served.call("GET", "/invocations")
    assert (status, headers["allow"], json.loads(text)["error"]["code"]) == (
        405,
        "POST",
        "METHOD_NOT_ALLOWED",
    )
    assert served.call("POST", "/ping", b"")[0] == 405
    assert served.call("POST", "/invocations?features=maybe", b'{"inputs":[]}')[0] == 400
    assert [served.call("GET", path)[0] for path in ("/ping", "/health", "/version", "/ready")] == [200] * 4


def test_workers_score_single_rows_by_the_compiled_loop(served: Serving) -> None:
    for worker in served.workers():
        assert "llvmlite" in Path(f"/proc/{worker}/maps").read_text()


def test_body_of_unknown_length_is_bounded_too(served: Serving) -> None:
    chunks = iter([b"x" * 500_000] * 9)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    try:
        connection.request(
            "POST", "/invocations", chunks, {"content-type": "application/json"}, encode_chunked=True
        )
        status = connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # it hung up while we were still sending
    finally:
        connection.close()
    assert status == 413


def test_slow_client_is_given_up_and_holds_up_nobody(served: Serving, through: int) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as slow:
        head = b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n"
        slow.sendall(head + b'{"in')
        assert len(served.predictions({"inputs": asking(2, through)})) == 2
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_ten_thousand_rows_are_answered_while_others_are(
    served: Serving, alone: OnlineScorer, through: int
) -> None:
    rows = asking(10_000, through)
    longest = 0.0
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(served.predictions, {"inputs": rows})
        while not large.done():
            begun = time.monotonic()
            assert served.call("GET", "/health", headers={})[0] == 200
            longest = max(longest, time.monotonic() - begun)
            assert len(served.predictions({"inputs": rows[:1]})) == 1
    assert large.result() == alone.answer(rows)
    assert longest < 2


def test_two_hundred_at_once_each_get_their_own_answer(
    served: Serving, alone: OnlineScorer, through: int
) -> None:
    rows = asking(200, through)
    expected = alone.answer(rows)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda row: served.predictions({"inputs": [row]}), rows))
    assert [answer for (answer,) in answers] == expected
    assert len({answer["score"] for answer in expected}) > 50


def test_metrics_of_all_workers_are_what_was_sent(served: Serving, through: int) -> None:
    rows = [row for row in asking(60, through) if row["town"] is not None]
    before = served.metrics()
    statuses: dict[str, int] = {}
    for _ in range(12):  # connections of their own: both workers answer
        for answer in served.predictions({"inputs": [*rows, rows[0] | {"area_m2": None}]}):
            if "views" in answer:
                status = answer["views"]["rates"]["status"]
                statuses[status] = statuses.get(status, 0) + 1
    served.call("POST", "/invocations", b"{")
    after = served.metrics()
    counted = {name: after[name] - before.get(name, 0) for name in after}
    assert counted["onescore_rows_total"] == 12 * (len(rows) + 1)
    assert counted['onescore_row_errors_total{code="NULL_NOT_ALLOWED"}'] == 12
    assert counted['onescore_requests_total{status="200"}'] == 12
    assert counted['onescore_requests_total{status="400"}'] == 1
    for status, times in statuses.items():
        assert counted[f'onescore_view_status_total{{status="{status}",view="rates"}}'] == times
    for part in ("lookup", "features", "model"):
        assert counted[f'onescore_latency_seconds_count{{part="{part}"}}'] == 12
    assert counted['onescore_latency_seconds_count{part="total"}'] == 13
    assert after['onescore_view_age_seconds{view="rates"}'] == pytest.approx(
        time.time() - through / 1e6, abs=60
    )
    assert after["onescore_store_up"] == 1
    assert sum(value for name, value in after.items() if name.startswith("onescore_model_info")) == 1


def test_store_that_is_gone_is_named_and_used_again_when_it_is_back(served: Serving, through: int) -> None:
    row = next(row for row in asking(9, through) if row["town"] is not None)
    bringing = row | {"rate_pct": 1.0, "rate_pct_floor": 0.5}
    (before,) = served.predictions({"inputs": [row]})
    hidden = served.store.with_suffix(".away")
    moved = [
        (served.store.with_name(served.store.name + s), hidden.with_name(hidden.name + s))
        for s in ("", "-wal", "-shm")
    ]
    moved = [(here, away) for here, away in moved if here.exists()]
    for here, away in moved:
        here.rename(away)
    try:
        down, sent = served.predictions({"inputs": [row, bringing]})
        assert (down["error"]["code"], down["error"]["retryable"]) == ("STORE_UNAVAILABLE", True)
        assert "score" in sent
        wait_until(lambda: not served.ready()["checks"]["store"]["ok"], "/ready to say so", 10)
        both = range(
            12
        )  # each connection may reach either worker, and each worker asks the store in its own time
        wait_until(
            lambda: all(served.call("GET", "/ready")[0] == 503 for _ in both), "all workers to say so", 10
        )
        assert served.call("GET", "/ready")[0] == 503
        assert served.call("GET", "/health")[0] == 200
    finally:
        for here, away in moved:
            away.rename(here)
    assert served.predictions({"inputs": [row]}) == [before]
    wait_until(lambda: served.ready()["ready"], "/ready to say that it is back", 10)


@pytest.fixture(scope="module")
def narrow(
    bundle: Path, process_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """A server in which one request may wait or be scored in the lane for large ones."""
    directory = tmp_path_factory.mktemp("narrow")
    write_store(directory / "online.db")
    settings = (*SETTINGS[:3], "serve.max_waiting=1", "serve.log_flush_seconds=0.2")
    with serving(directory, process_env, "--bundle", str(bundle), settings=settings) as running:
        yield running


def test_request_beyond_those_that_may_wait_is_told_to_come_again(narrow: Serving, through: int) -> None:
    large, small = (json.dumps({"inputs": asking(n, through)}).encode() for n in (10_000, 1))
    refused = []
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(narrow.call, "POST", "/invocations", large)
        time.sleep(0.05)  # until its body is there, or it could be the one that is refused
        while not long.done():
            status, headers, text = narrow.call("POST", "/invocations", small)
            if status != 200:
                refused.append((status, headers["retry-after"], json.loads(text)["error"]["code"]))
        assert long.result()[0] == 200
    assert set(refused) == {(503, "1", "OVERLOADED")}
    assert narrow.call("POST", "/invocations", small)[0] == 200
    assert narrow.metrics()['onescore_requests_total{status="503"}'] == len(refused)


def test_full_disk_raises_metrics_and_fails_no_request(narrow: Serving, through: int) -> None:
    (worker,) = narrow.workers()
    limit = resource.prlimit(worker, resource.RLIMIT_FSIZE)
    failed = "onescore_prediction_log_failed_writes_total"
    wait_until(lambda: narrow.metrics().get(failed) == 0, "the log's metrics", 10)
    resource.prlimit(worker, resource.RLIMIT_FSIZE, (100, limit[1]))  # no file may grow beyond 100 bytes
    try:
        for _ in range(3):
            assert all("score" in a for a in narrow.predictions({"inputs": asking(5, through)}))
        dropped = 'onescore_prediction_log_rows_total{outcome="dropped"}'
        wait_until(lambda: narrow.metrics().get(dropped, 0) >= 15, "the drops to be counted", 20)
        assert narrow.metrics()[failed] >= 5
        assert narrow.ready()["ready"] is True
    finally:
        resource.prlimit(worker, resource.RLIMIT_FSIZE, limit)

    def is_every_gap_counted() -> bool:
        missing = sum(gap.last - gap.first + 1 for gap in gaps(narrow.log / "houses"))
        return missing == narrow.metrics()[dropped]

    wait_until(is_every_gap_counted, "the log to be whole but for the drops", 20)


def test_worker_that_is_killed_is_replaced_and_the_others_answer(served: Serving, through: int) -> None:
    rows = asking(1, through)
    before = served.metrics()["onescore_rows_total"]
    old = served.workers()
    os.kill(old[0], signal.SIGKILL)
    wait_until(
        lambda: len(served.workers()) == 2 and old[0] not in served.workers()
        and sum(e.get("event") == "worker_ready" for e in served.events()) == 3,
        "a new worker", 30, served.output,
    )  # fmt: skip
    assert all(len(served.predictions({"inputs": rows})) == 1 for _ in range(20))
    assert served.metrics()["onescore_rows_total"] == before + 20  # what the dead one counted still counts
    assert served.process.poll() is None


def test_sigterm_in_mid_load_loses_no_request_that_was_taken(
    bundle: Path, process_env: dict[str, str], tmp_path: Path
) -> None:
    through = write_store(tmp_path / "online.db")
    settings = ("serve.max_staleness_seconds=1", "serve.log_flush_seconds=600")
    with serving(tmp_path, process_env, "--bundle", str(bundle), workers=2, settings=settings) as running:
        assert running.ready()["checks"]["features"] == {"ok": False, "stale": ["rates"]}
        rows = asking(30, through)
        body = json.dumps({"inputs": rows}).encode()
        answered, lost = [0] * 8, [0] * 8

        def load(i: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
            connection.connect()
            while True:
                try:
                    connection.request("POST", "/invocations", body, {"content-type": "application/json"})
                    answer = connection.getresponse()
                    assert len(json.loads(answer.read())["predictions"]) == len(rows)
                except (OSError, http.client.HTTPException):
                    lost[i] += 1
                    return
                answered[i] += 1
                if answer.getheader("connection") == "close":
                    return

        clients = [threading.Thread(target=load, args=(i,)) for i in range(8)]
        for client in clients:
            client.start()
        wait_until(lambda: min(answered) >= 2, "some answers", 20)
        running.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join(30)
        assert running.process.wait(20) == 0
        assert sum(lost) == 0
        assert min(answered) >= 2
    files = list((tmp_path / "prediction_log").rglob("*.parquet"))
    logged = [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]
    assert len(logged) == sum(answered) * len(rows)
    assert gaps(tmp_path / "prediction_log" / "houses") == []
    assert {row["error_code"] for row in logged} == {None}
    texts = running.output.read_text()
    assert "town-" not in texts
    assert [e["event"] for e in running.events()].count("worker_ended") == 2


def test_workers_end_in_good_order_when_their_supervisor_is_killed(
    bundle: Path, process_env: dict[str, str], tmp_path: Path
) -> None:
    through = write_store(tmp_path / "online.db")
    settings = ("serve.log_flush_seconds=600",)
    with serving(tmp_path, process_env, "--bundle", str(bundle), settings=settings) as running:
        assert len(running.predictions({"inputs": asking(5, through)})) == 5
        running.process.kill()
        running.process.wait(10)
        wait_until(lambda: not is_listening(running.port), "the worker to end", 15, running.output)
        wait_until(lambda: running.events()[-1]["event"] == "worker_ended", "its last words", 15)
    (file,) = (tmp_path / "prediction_log").rglob("*.parquet")
    assert pq.read_metadata(file).num_rows == 5


def test_model_that_was_changed_is_not_served(
    bundle: Path, process_env: dict[str, str], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "changed"))
    golden = copy / "golden.json"
    golden.write_text(golden.read_text() + " ")
    with (
        pytest.raises(AssertionError, match=r"not those that were logged"),
        serving(tmp_path, process_env, "--bundle", str(copy)),
    ):
        pass


def test_alias_is_resolved_once_and_again_by_sighup_without_a_request_lost(
    workspace: Workspace, process_env: dict[str, str], tmp_path: Path
) -> None:
    through = write_store(tmp_path / "online.db")
    rows = asking(3, through)
    with serving(tmp_path, process_env | workspace.env()) as running:
        (first, *_) = running.predictions({"inputs": rows})
        assert (first["model_version"], first["verified"]) == ("1", "verified")
        facts = json.loads(running.call("GET", "/version")[2])
        assert (facts["model"], facts["alias"], facts["digest"]) == ("houses", "champion", first["digest"])
        second = workspace.train("train.params.max_iter=5")
        workspace.connect().set_registered_model_alias("houses", "champion", second.version.version)
        assert running.predictions({"inputs": rows})[0]["model_version"] == "1"

        running.process.send_signal(signal.SIGHUP)
        seen: set[str] = set()

        def serves_the_second_alone() -> bool:
            versions = {running.predictions({"inputs": rows})[0]["model_version"] for _ in range(5)}
            seen.update(versions)
            return versions == {"2"} and len(running.workers()) == 1

        wait_until(serves_the_second_alone, "the new version", 60, running.output)
        assert seen <= {"1", "2"}
        assert running.predictions({"inputs": rows})[0]["digest"] == second.version.digest
        workspace.connect().delete_registered_model_alias("houses", "champion")
        running.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "reload_failed" in running.output.read_text(), "the refusal", 30, running.output)
        assert running.predictions({"inputs": rows})[0]["model_version"] == "2"
