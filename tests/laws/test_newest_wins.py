"""L1: one total order on stored rows in every backend; re-runs, backfills and races never move a value backwards.

What every backend must do in sequence is drawn by hypothesis; what they must do at once is raced by real processes.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_pipelines.stores.base import Key, OnlineStore, StoredRow
from feature_pipelines.stores.opening import open_store
from tests.toy.redis_servers import RedisServer
from tests.toy.stored import PLANE, fill, plane_row, tombstone

PATIENT_MS = 20_000
SETTINGS = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/online.db"
    running: RedisServer = request.getfixturevalue("redis_server")
    running.flush()
    return running.url


@pytest.fixture
def store(store_url: str) -> Iterator[OnlineStore]:
    """An empty store."""
    opened = open_store(store_url, timeout_ms=PATIENT_MS)
    yield opened
    opened.close()


TIMES = st.one_of(
    st.integers(-3, 3), st.sampled_from([-(2**63), 2**63 - 1, 2**53, 2**53 + 1, 255, 256, -256])
)
ROWS = st.one_of(
    st.builds(plane_row, TIMES, TIMES, st.sampled_from([None, 0.0, -0.0, 1.0])),
    st.builds(tombstone, TIMES, TIMES),
)
WRITES = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), ROWS), max_size=12)


def newest(writes: list[tuple[str, StoredRow]]) -> dict[str, StoredRow]:
    """The law, by one loop."""
    held: dict[str, StoredRow] = {}
    for name, row in writes:
        if name not in held or row.order > held[name].order:
            held[name] = row
    return held


@SETTINGS
@given(writes=WRITES, data=st.data())
def test_any_order_of_writes_any_cut_and_repetition_gives_the_newest(
    store: OnlineStore, writes: list[tuple[str, StoredRow]], data: st.DataObject
) -> None:
    keys: list[Key] = [("a",), ("b",), ("c",)]
    store.delete(PLANE, keys)
    again = data.draw(st.permutations(writes + writes[: len(writes) // 2]))
    cut = data.draw(st.integers(0, len(again)))
    changed = 0
    for part in (again[:cut], again[cut:]):
        changed += fill(store, PLANE, [(name,) for name, _ in part], [row for _, row in part])
    expected = newest(writes)
    assert store.read([(PLANE, keys)]) == [[expected.get(name) for name in "abc"]]
    assert len(expected) <= changed <= len(writes)


@SETTINGS
@given(marks=st.lists(TIMES, min_size=1, max_size=8))
def test_w_is_the_greatest_ever_set(store: OnlineStore, marks: list[int]) -> None:
    store.reset(PLANE)
    for at, mark in enumerate(marks):
        assert store.advance(PLANE, mark) == max(marks[: at + 1])
    assert store.through([PLANE]) == {"plane": max(marks)}


_WRITER = """
import random, sys
from feature_pipelines.stores.opening import open_store
from tests.toy.stored import PLANE, plane_row, tombstone

url, seed, n, mode = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
store = open_store(url, timeout_ms=20_000)
print("ready", flush=True)
sys.stdin.readline()
work = [(f"k{i % 20}", i) for i in range(n)]
random.Random(seed).shuffle(work)
for at in range(0, n, 100):
    part = work[at : at + 100]
    rows = [tombstone(i) if i % 7 == 0 else plane_row(i, age=float(i)) for _, i in part]
    store.write(PLANE, [(name,) for name, _ in part], rows)
    if mode == "w":
        for _, i in part[::10]:
            assert store.advance(PLANE, i) >= i
if mode == "w":
    store.advance(PLANE, n - 1)
print("done", flush=True)
"""
N = 2_000


def start_writer(
    url: str, seed: int, env: dict[str, str], mode: str = "-", n: int = N
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, url, str(seed), str(n), mode],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def go(writers: list[subprocess.Popen[str]]) -> None:
    """Let writers begin at once, when all are ready."""
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()


def finish(writers: list[subprocess.Popen[str]]) -> None:
    for writer in writers:
        out, _ = writer.communicate(timeout=60)
        assert (writer.returncode, out) == (0, "done\n")


def expected_rows(n: int = N) -> list[StoredRow]:
    last = [max(i for i in range(n) if i % 20 == k) for k in range(20)]
    return [tombstone(i) if i % 7 == 0 else plane_row(i, age=float(i)) for i in last]


KEYS: list[Key] = [(f"k{i}",) for i in range(20)]


def test_processes_that_race_leave_the_newest_row_of_every_key_and_the_greatest_w(
    store_url: str, store: OnlineStore, process_env: dict[str, str]
) -> None:
    """Readers meanwhile see each key only ever move forwards, and W too."""
    store.advance(PLANE, -(2**63))
    writers = [start_writer(store_url, seed, process_env, "w") for seed in (1, 2, 3)]
    go(writers)
    seen: dict[Key, tuple[int, int, bytes]] = {}
    w = -(2**63)
    while any(writer.poll() is None for writer in writers):
        (rows,) = store.read([(PLANE, KEYS)])
        for key, row in zip(KEYS, rows, strict=True):
            if row is not None:
                assert isinstance(row, StoredRow)
                assert row.order >= seen.get(key, row.order)
                seen[key] = row.order
        now = store.through([PLANE])["plane"]
        assert now is None or now >= w
        w = w if now is None else now
        time.sleep(0.002)
    finish(writers)
    assert store.read([(PLANE, KEYS)]) == [expected_rows()]
    assert store.through([PLANE]) == {"plane": N - 1}


def test_a_writer_that_is_killed_leaves_the_store_readable_and_another_completes_it(
    store_url: str, store: OnlineStore, process_env: dict[str, str]
) -> None:
    store.advance(PLANE, -(2**63))
    n = 20_000
    for seed in (1, 2):
        writer = start_writer(store_url, seed, process_env, n=n)
        go([writer])
        time.sleep(0.05 + random.Random(seed).random() / 10)
        writer.send_signal(signal.SIGKILL)
        assert writer.wait(10) == -signal.SIGKILL, "it had finished before it was killed"
        assert writer.stdout is not None
        assert writer.stdin is not None
        writer.stdout.close()
        writer.stdin.close()
        (rows,) = store.read([(PLANE, KEYS)])
        for i, row in enumerate(rows):
            assert row is None or (isinstance(row, StoredRow) and row.event_ts % 20 == i)
    last = start_writer(store_url, 3, process_env, n=n)
    go([last])
    finish([last])
    assert store.read([(PLANE, KEYS)]) == [expected_rows(n)]
