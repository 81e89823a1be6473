"""Materialising as processes: two at once, one of them killed, and one that completes what it left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from feature_pipelines.stores.opening import open_store
from tests.toy.houses import RATES
from tests.toy.processes import descendants, finished
from tests.toy.redis_servers import RedisServer
from tests.toy.stored import n_stored
from tests.toy.workspace import Workspace

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

THROUGH_TS = 3_000
FILES, ROWS = 12, 2_000
COMMAND = [sys.executable, "-m", "jobs.materialize_features", "--model", "houses"]
COMMAND += [
    "--through",
    "1970-01-01T00:00:00.003Z",
    "--set",
    "score.chunk_rows=2000",
    "--set",
    "spark.master=local[1]",
]


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A table of many towns in many files; some rows become visible after THROUGH_TS."""
    made = Workspace(tmp_path)
    rng = np.random.default_rng(11)
    for _ in range(FILES):
        event = rng.integers(0, 4_000, ROWS)
        table = pa.table(
            {
                "town": [f"town-{i}" for i in rng.integers(0, 900, ROWS)],
                "event_ts": pa.array(event).cast(pa.timestamp("us", tz="UTC")),
                "created_ts": pa.array(event + rng.integers(0, 50, ROWS)).cast(pa.timestamp("us", tz="UTC")),
                "rate_pct": rng.uniform(1, 5, ROWS),
                "rate_pct_floor": rng.uniform(0, 1, ROWS),
            }
        )
        write_deltalake(made.table("rates"), table, mode="append")
    return made


def newest(place: Workspace) -> dict[str, tuple[int, int]]:
    """Return each town's newest visible times, by one loop."""
    best: dict[str, tuple[int, int]] = {}
    rows = place.rows("rates")
    for town, event, created in zip(
        rows.column("town").to_pylist(),
        rows.column("event_ts").cast(pa.int64()).to_pylist(),
        rows.column("created_ts").cast(pa.int64()).to_pylist(),
        strict=True,
    ):
        if max(event, created) <= THROUGH_TS:
            best[town] = max(best.get(town, (-1, -1)), (event, created))
    return best


@pytest.mark.parametrize(("backend", "n_killed"), [("sqlite", 1), ("redis", 2)])
def test_of_two_at_once_some_are_killed_and_a_third_completes(
    place: Workspace,
    backend: str,
    n_killed: int,
    request: pytest.FixtureRequest,
    process_env: dict[str, str],
) -> None:
    url = f"sqlite:///{place.root}/online.db"
    if backend == "redis":
        running: RedisServer = request.getfixturevalue("redis_server")
        running.flush()
        url = running.url
    env = {**process_env, **place.env(), "ONESCORE_STORE_URL": url}
    command = [*COMMAND, "--set", "store.url=env:ONESCORE_STORE_URL"]
    towns = newest(place)
    keys = [(town,) for town in towns]
    with closing(open_store(url, timeout_ms=20_000)) as store:
        store.register(RATES)
        two = [
            subprocess.Popen(
                command, env=env, cwd=place.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,
            )
            for _ in range(2)
        ]  # fmt: skip
        give_up = time.monotonic() + 240
        while not n_stored(url):
            assert time.monotonic() < give_up
            time.sleep(0.02)
        for process in two[:n_killed]:
            for pid in (process.pid, *descendants(process.pid)):
                os.kill(pid, signal.SIGKILL)
        said = [process.communicate(timeout=240)[0] for process in two]
        assert [process.returncode for process in two[n_killed:]] == [0] * (2 - n_killed), said[-1]
        assert store.through([RATES]) == {"rates": THROUGH_TS if n_killed == 1 else None}
        third = finished(command, env=env, cwd=place.root, seconds=240)
        assert third.returncode == 0, third.stderr
        assert ("nothing to do" in third.stderr) == (n_killed == 1)
        assert store.through([RATES]) == {"rates": THROUGH_TS}
        ((*rows,),) = store.read([(RATES, keys)])
    assert {town: row and row[:2] for (town,), row in zip(keys, rows, strict=True)} == towns
