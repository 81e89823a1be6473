"""A store that is missing, damaged, locked, down or slow: UnavailableError within the deadline, and well again afterwards."""

from __future__ import annotations

import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from feature_pipelines.errors import ConfigurationError, ContractError, UnavailableError
from feature_pipelines.stores.base import OnlineStore
from feature_pipelines.stores.opening import open_store
from feature_pipelines.stores.redis import RedisStore
from tests.toy.processes import free_port
from tests.toy.redis_servers import RedisServer, redis_server
from tests.toy.stored import PLANE, ROUTE, fill, plane_row, stored_rows
from tests.toy.trickle import trickling

DEADLINE_MS = 200
CLUSTER_DEADLINE_MS = 1_500  # its client asks for all nodes and commands first
SLACK = 0.3
KEY = ("N1",)


@contextmanager
def unavailable(match: str = "online store") -> Iterator[None]:
    """Expect the error, in time."""
    begin = time.perf_counter()
    with pytest.raises(UnavailableError, match=match) as caught:
        yield
    assert time.perf_counter() - begin < DEADLINE_MS / 1000 + SLACK
    assert caught.value.retryable


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A SQLite store with one row."""
    path = tmp_path / "online.db"
    with closing(open_store(f"sqlite:///{path}")) as store:
        fill(store, PLANE, [KEY], [plane_row(1)])
    return path


@pytest.fixture
def embedded(file: Path) -> Iterator[OnlineStore]:
    """That store, opened."""
    with closing(open_store(f"sqlite:///{file}", timeout_ms=DEADLINE_MS)) as store:
        yield store


def test_sqlite_file_that_is_missing(tmp_path: Path) -> None:
    with closing(open_store(f"sqlite:///{tmp_path}/none/online.db", timeout_ms=DEADLINE_MS)) as store:
        with unavailable("online.db"):
            store.read([(PLANE, [KEY])])
        assert not (tmp_path / "none").exists()
        fill(store, PLANE, [KEY], [plane_row(1)])
        assert store.read([(PLANE, [KEY])]) == [[plane_row(1)]]


def test_sqlite_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "online.db").write_bytes(b"not a database" * 1000)
    with closing(open_store(f"sqlite:///{tmp_path}/online.db", timeout_ms=DEADLINE_MS)) as store:
        with unavailable("not a database"):
            store.read([(PLANE, [KEY])])
        with unavailable("not a database"):
            store.write(PLANE, [KEY], [plane_row(1)])


def test_sqlite_file_that_was_overwritten_while_open(file: Path, embedded: OnlineStore) -> None:
    assert embedded.read([(PLANE, [KEY])]) == [[plane_row(1)]]
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.write(b"\xff" * size)
    with unavailable(), closing(open_store(f"sqlite:///{file}", timeout_ms=DEADLINE_MS)) as store:
        store.read([(PLANE, [KEY])])


def test_sqlite_writer_waits_for_another_only_as_long_as_the_deadline(
    file: Path, embedded: OnlineStore
) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with unavailable("locked"):
            embedded.write(PLANE, [KEY], [plane_row(2)])
        assert embedded.read([(PLANE, [KEY])]) == [[plane_row(1)]]
        other.execute("ROLLBACK")
    assert embedded.write(PLANE, [KEY], [plane_row(2)]) == 1


def test_sqlite_reader_is_refused_in_time_where_the_whole_file_is_locked(
    file: Path, embedded: OnlineStore
) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("DELETE FROM views WHERE name = 'none'")
        other.execute("COMMIT")
        with unavailable("locked"):
            embedded.read([(PLANE, [KEY])])
    assert embedded.read([(PLANE, [KEY])]) == [[plane_row(1)]]


def test_sqlite_file_that_was_replaced_is_read_anew(
    file: Path, embedded: OnlineStore, tmp_path: Path
) -> None:
    assert embedded.read([(PLANE, [KEY])]) == [[plane_row(1)]]
    other = tmp_path / "other.db"
    with closing(open_store(f"sqlite:///{other}")) as store:
        fill(store, PLANE, [KEY], [plane_row(7)])
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    other.rename(file)
    assert embedded.read([(PLANE, [KEY])]) == [[plane_row(7)]]
    file.unlink()
    with unavailable():
        embedded.read([(PLANE, [KEY])])


def test_sqlite_file_that_was_deleted_is_made_anew_by_the_next_write(
    file: Path, embedded: OnlineStore
) -> None:
    assert embedded.write(PLANE, [KEY], [plane_row(2)]) == 1
    for suffix in ("", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    assert embedded.write(PLANE, [("N2",)], [plane_row(3)]) == 1
    assert isinstance(embedded.read([(PLANE, [KEY])])[0][0], UnavailableError), (
        "what was in it is not what is not there"
    )
    embedded.advance(PLANE, 3)
    assert embedded.read([(PLANE, [KEY, ("N2",)])]) == [[None, plane_row(3)]]


_MAKER = """
import sys
from feature_pipelines.stores.opening import open_store
from feature_pipelines.stores.redis import RedisStore
from tests.toy.stored import PLANE, ROUTE, fill, plane_row, stored_rows
from tests.toy.trickle import trickling
sys.stdin.readline()
for i in range(20):
    open_store(f"{sys.argv[1]}{i}.db", timeout_ms=10_000).write(PLANE, [("N1",)], [plane_row(1)])
"""


def test_sqlite_file_that_several_processes_make_at_once(tmp_path: Path, process_env: dict[str, str]) -> None:
    command = [sys.executable, "-c", _MAKER, f"sqlite:///{tmp_path}/online"]
    makers = [
        subprocess.Popen(command, env=process_env, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    time.sleep(1)
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    said = [(maker.communicate(timeout=30)[1], maker.returncode) for maker in makers]
    assert said == [("", 0)] * 3


@pytest.fixture
def shared(redis_server: RedisServer) -> Iterator[OnlineStore]:
    """A Redis store with one row, and the deadline."""
    redis_server.flush()
    with closing(open_store(redis_server.url, timeout_ms=DEADLINE_MS)) as store:
        fill(store, PLANE, [KEY], [plane_row(1)])
        yield store


def test_redis_that_hangs_is_given_up_in_time_and_used_again(
    redis_server: RedisServer, shared: OnlineStore
) -> None:
    assert shared.read([(PLANE, [KEY])]) == [[plane_row(1)]]
    with redis_server.stopped():
        with unavailable("Timeout"):
            shared.read([(PLANE, [KEY])])
        with unavailable("Timeout"):  # on a new connection
            shared.read([(PLANE, [KEY])])
        with unavailable("Timeout"):
            shared.write(PLANE, [KEY], [plane_row(2)])
    assert shared.read([(PLANE, [KEY])])[0][0] in (plane_row(1), plane_row(2))


def test_redis_that_is_down() -> None:
    with (
        closing(open_store(f"redis://127.0.0.1:{free_port()}/0", timeout_ms=DEADLINE_MS)) as store,
        unavailable("refused"),
    ):
        store.read([(PLANE, [KEY])])
    cluster = open_store(f"redis://127.0.0.1:{free_port()}/0?cluster=true", timeout_ms=DEADLINE_MS)
    with closing(cluster), unavailable("cluster|Cluster"):
        cluster.read([(PLANE, [KEY])])


def test_redis_is_asked_once_for_all_views_and_keys_of_a_request(redis_server: RedisServer) -> None:
    redis_server.flush()
    wanted = [(PLANE, [("N1",), ("N2",), ("N9",)]), (ROUTE, [("JFK", -7), ("LGA", 1)])]
    with closing(open_store(redis_server.url, timeout_ms=10_000)) as store:
        fill(store, PLANE, [("N1",), ("N2",)], [plane_row(1), plane_row(2)])
        fill(store, ROUTE, [("JFK", -7)], stored_rows(ROUTE, [(0.5, None)], [(3, 4)]))
        store.read(wanted)
        with Redis(port=redis_server.port) as client:
            client.config_resetstat()
            for _ in range(5):
                store.read(wanted)
            asked = {name: stats["calls"] for name, stats in client.info("commandstats").items()}
    ours = {name: n for name, n in asked.items() if not name.startswith(("cmdstat_config", "cmdstat_info"))}
    assert ours == {"cmdstat_mget": 5}


def test_redis_that_was_restarted_takes_scripts_again(redis_server: RedisServer, shared: OnlineStore) -> None:
    with Redis(port=redis_server.port) as client:
        client.script_flush()
        assert shared.write(PLANE, [KEY], [plane_row(2)]) == 1
        client.client_kill_filter(_type="normal", skipme=True)
    assert shared.read([(PLANE, [KEY])]) == [[plane_row(2)]]


def test_redis_password_comes_from_url_or_environment_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_server(tmp_path, "--requirepass", "s3cr/t") as running:
        where = f"127.0.0.1:{running.port}/0"
        for wrong in (f"redis://{where}", f"redis://:wr0ng@{where}"):
            with closing(open_store(wrong, timeout_ms=DEADLINE_MS)) as store:
                with pytest.raises(UnavailableError, match="AUTH|WRONGPASS|Authentication") as caught:
                    store.read([(PLANE, [KEY])])
                assert "wr0ng" not in f"{caught.value} {caught.value.evidence}"
        monkeypatch.setenv("ONESCORE_STORE_PASSWORD", "s3cr/t")
        for right in (f"redis://{where}", f"redis://:s3cr%2Ft@{where}"):
            with closing(open_store(right, timeout_ms=DEADLINE_MS)) as store:
                fill(store, PLANE, [KEY], [plane_row(1)])
                assert store.read([(PLANE, [KEY])]) == [[plane_row(1)]]


def test_redis_over_tls_is_checked_against_the_authority(tmp_path: Path) -> None:
    key, certificate, port = tmp_path / "key.pem", tmp_path / "cert.pem", free_port()
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [*command.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
    )
    tls = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"]
    files = [
        "--tls-cert-file",
        str(certificate),
        "--tls-key-file",
        str(key),
        "--tls-ca-cert-file",
        str(certificate),
    ]
    with redis_server(tmp_path, *tls, *files):
        url = f"rediss://127.0.0.1:{port}/0"
        with closing(open_store(f"{url}?ssl_ca_certs={certificate}", timeout_ms=5_000)) as store:
            fill(store, PLANE, [KEY], [plane_row(1)])
            assert store.read([(PLANE, [KEY])]) == [[plane_row(1)]]
        with (
            closing(open_store(url, timeout_ms=5_000)) as store,
            pytest.raises(UnavailableError, match="certificate|CERTIFICATE"),
        ):
            store.read([(PLANE, [KEY])])


def test_redis_values_that_another_program_wrote_are_named_and_disturb_no_other(
    redis_server: RedisServer, shared: OnlineStore
) -> None:
    fill(shared, PLANE, [("N2",)], [plane_row(2)])
    head = b"\x01" + bytes(16) + bytes(32) + b"\x00"
    with Redis(port=redis_server.port) as client:
        name = 'onescore:row:"plane":{["N1"]}'
        assert client.exists(name)
        for value, problem in [
            (b"\x02" + bytes(60), "layout version 1"),
            (b"\x01short", "layout version 1"),
            (b"", "layout version 1"),
            (head, "cut or overwritten"),
            (head + b"\x09", "layout version 9, this code reads 1"),
            (head + b"\x01" + bytes(8), "of schema 0000000000000000, declared is"),
        ]:
            client.set(name, value)
            ((broken, good),) = shared.read([(PLANE, [KEY, ("N2",)])])
            assert isinstance(broken, ContractError)
            assert re.search(f"'plane'.*{problem}", str(broken))
            assert broken.evidence["concerns_row"]
            assert good == plane_row(2)
        client.set(name, b"\x02" + bytes(60))
        with pytest.raises(ContractError, match="'plane'.*layout version 1"):
            shared.write(PLANE, [KEY], [plane_row(5)])
        client.delete(name)
        client.hset(name, "a", "b")
        with unavailable("WRONGTYPE"):
            shared.write(PLANE, [KEY], [plane_row(5)])


def test_redis_state_that_another_program_wrote_is_of_the_whole_view(
    redis_server: RedisServer, shared: OnlineStore
) -> None:
    with Redis(port=redis_server.port) as client:
        client.set('onescore:view:{"plane"}', b"\x02" + bytes(40))
        for answer in shared.read([(PLANE, [KEY, ("N2",)])])[0]:
            assert isinstance(answer, ContractError)
            assert not answer.evidence["concerns_row"]


def test_sqlite_value_that_was_cut_is_named_and_disturbs_no_other(file: Path, embedded: OnlineStore) -> None:
    fill(embedded, PLANE, [("N2",)], [plane_row(2)])
    with closing(sqlite3.connect(file)) as other, other:
        other.execute("UPDATE rows SET payload = x'' WHERE key LIKE '%N1%'")
    ((broken, good),) = embedded.read([(PLANE, [KEY, ("N2",)])])
    assert "cut or overwritten" in str(broken)
    assert good == plane_row(2)


@pytest.mark.parametrize("lost", ["all", "state", "other number"])
def test_redis_that_lost_what_it_held_does_not_say_that_there_are_no_rows(
    redis_server: RedisServer, shared: OnlineStore, lost: str
) -> None:
    """Restarted without persistence or flushed; the view's state was evicted; or the URL's database is another."""
    assert shared.read([(PLANE, [KEY])]) == [[plane_row(1)]]
    store = shared
    with Redis(port=redis_server.port) as client:
        if lost == "all":
            client.flushall()
        elif lost == "state":
            client.delete('onescore:view:{"plane"}')
        else:
            store = open_store(redis_server.url.replace("/0", "/5"), timeout_ms=DEADLINE_MS)
    ((answer,),) = store.read([(PLANE, [KEY])])
    assert isinstance(answer, UnavailableError)
    assert "'plane': it was never materialised" in str(answer)
    assert str(redis_server.port) not in str(answer), "it reaches clients"
    assert store.through([PLANE]) == {"plane": None}


# A server that trickles: each step is quick, all of them together are not


@pytest.mark.parametrize("when", ["the answer", "the handshake"])
def test_redis_that_trickles_is_given_up_at_the_deadline(
    redis_server: RedisServer, shared: OnlineStore, when: str
) -> None:
    with trickling(redis_server.port, seconds_per_byte=0) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/1"
        with closing(open_store(url, timeout_ms=DEADLINE_MS)) as store:
            if when == "the answer":
                fill(store, PLANE, [KEY], [plane_row(1)])
                assert store.read([(PLANE, [KEY])]) == [[plane_row(1)]]
            proxy.seconds_per_byte = 0.05  # the answer has more than 100 bytes
            with unavailable("Timeout"):
                store.read([(PLANE, [KEY])])
            with unavailable("Timeout"):
                store.states([PLANE])
            with unavailable("Timeout"):
                store.write(PLANE, [KEY], [plane_row(2)])
            proxy.seconds_per_byte = 0
            fill(store, PLANE, [KEY], [plane_row(3)])
            assert store.read([(PLANE, [KEY])]) == [[plane_row(3)]]


def test_a_name_service_that_hangs_is_given_up_at_the_deadline(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, may_answer, look_up = threading.Event(), threading.Event(), socket.getaddrinfo

    def hangs(host: Any, *rest: Any) -> Any:
        asked.set()
        may_answer.wait(30)
        return look_up("127.0.0.1", *rest)

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    with closing(open_store(f"redis://store.test:{redis_server.port}/3", timeout_ms=DEADLINE_MS)) as store:
        with unavailable("Timeout"):
            store.read([(PLANE, [KEY])])
        assert asked.is_set()
        assert not may_answer.is_set(), "the read waited for the name service"
        may_answer.set()
        fill(store, PLANE, [KEY], [plane_row(1)])
        assert store.read([(PLANE, [KEY])]) == [[plane_row(1)]]


def test_a_host_without_an_address_is_said_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> Any:
        raise socket.gaierror("no such host")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with (
        closing(open_store("redis://store.test:6379/0", timeout_ms=DEADLINE_MS)) as store,
        unavailable("no such host"),
    ):
        store.read([(PLANE, [KEY])])


def test_redis_that_trickles_within_the_deadline_is_waited_for(redis_server: RedisServer) -> None:
    with trickling(redis_server.port, seconds_per_byte=0.001) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/2"
        with closing(open_store(url, timeout_ms=5_000)) as store:
            fill(store, PLANE, [KEY], [plane_row(1)])
            assert store.read([(PLANE, [KEY])]) == [[plane_row(1)]]


def test_cluster_that_hangs_is_given_up_in_time_by_all_who_ask(redis_cluster: RedisServer) -> None:
    redis_cluster.flush()
    url = f"redis://127.0.0.1:{redis_cluster.port}?cluster=true"
    took: list[float] = []

    def ask(store: OnlineStore) -> None:
        begin = time.perf_counter()
        with pytest.raises(UnavailableError):
            store.read([(PLANE, [KEY])])
        took.append(time.perf_counter() - begin)

    with closing(open_store(url, timeout_ms=CLUSTER_DEADLINE_MS)) as known:
        fill(known, PLANE, [KEY], [plane_row(1)])
        assert known.read([(PLANE, [KEY])]) == [[plane_row(1)]]
        with redis_cluster.stopped(), closing(open_store(url, timeout_ms=CLUSTER_DEADLINE_MS)) as new:
            threads = [threading.Thread(target=ask, args=(store,)) for store in (known, new, new, new, new)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(took) == 5
        assert max(took) < CLUSTER_DEADLINE_MS / 1000 + SLACK
        assert known.read([(PLANE, [KEY])]) == [[plane_row(1)]]


@pytest.mark.parametrize("is_complete", [False, True])
def test_cluster_whose_view_is_emptied_between_its_state_and_its_rows_is_not_one_without_rows(
    redis_cluster: RedisServer, monkeypatch: pytest.MonkeyPatch, is_complete: bool
) -> None:
    """Of several nodes one may answer with the state of before and another with the rows of after."""
    redis_cluster.flush()
    url = f"redis://127.0.0.1:{redis_cluster.port}?cluster=true"
    with (
        closing(RedisStore(url, timeout_ms=10_000)) as store,
        closing(open_store(url, timeout_ms=10_000)) as other,
    ):
        fill(store, PLANE, [KEY], [plane_row(1)])
        values = store._values

        def torn(names: list[str]) -> list[bytes | None]:
            states = values(names[:1])
            monkeypatch.setattr(store, "_values", values)
            other.reset(PLANE)
            missing = values(names[1:])
            if is_complete:
                fill(other, PLANE, [KEY], [plane_row(1)])
            return [*states, *missing]

        monkeypatch.setattr(store, "_values", torn)
        ((answer,),) = store.read([(PLANE, [KEY])])
        assert isinstance(answer, UnavailableError)
        assert "being rebuilt" in str(answer)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgres://u:pw@h/d", "expected sqlite:///path"),
        ("sqlite://x.db", "expected sqlite:///path"),
        ("sqlite:///", "expected sqlite:///path"),
        ("redis://:pw@h/0?socket_timeout=9", "socket_timeout in the URL"),
        ("redis://:pw@h:x/0", "store redis"),
        ("nothing", "expected sqlite:///path"),
    ],
)
def test_a_url_that_names_no_store_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        open_store(url)
    assert "pw" not in str(caught.value)


def test_a_deadline_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="0 ms"):
        open_store(f"sqlite:///{tmp_path}/x.db", timeout_ms=0)
