"""Every test of the contract runs once per backend: a file, a real Redis server, and a real cluster (of one node)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from feature_pipelines.stores.base import OnlineStore
from feature_pipelines.stores.opening import open_store
from tests.toy.processes import free_port, wait_until
from tests.toy.redis_servers import RedisServer, redis_server

PATIENT_MS = 10_000


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A cluster whose one node has all slots."""
    # left alone, the nodes' own port is 10,000 above the clients', which may be beyond the last port there is
    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with redis_server(tmp_path_factory.mktemp("cluster"), *cluster) as running:
        with Redis(port=running.port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_until(lambda: b"cluster_state:ok" in _info(client), "the cluster has its slots", seconds=10)
        yield running


def _info(client: Redis) -> bytes:
    info = client.execute_command("CLUSTER", "INFO")
    return info if isinstance(info, bytes) else repr(info).replace("': '", ":").encode()


@pytest.fixture(params=["sqlite", "redis", "redis-cluster"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/online.db"
    running: RedisServer = request.getfixturevalue(
        "redis_server" if request.param == "redis" else "redis_cluster"
    )
    running.flush()
    return running.url if request.param == "redis" else f"redis://127.0.0.1:{running.port}?cluster=true"


@pytest.fixture
def store(store_url: str) -> Iterator[OnlineStore]:
    """An empty store."""
    opened = open_store(store_url, timeout_ms=PATIENT_MS)
    yield opened
    opened.close()
