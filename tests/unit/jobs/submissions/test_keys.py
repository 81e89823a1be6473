from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from feature_pipelines.errors import ConfigurationError, ContractError
from jobs.submissions.database import Database
from jobs.submissions.keys import KeyStore, KnownKeys

HERE = {"host": "127.0.0.1:8090"}


@pytest.fixture
def store(database: Database) -> KeyStore:
    return KeyStore(database)


@pytest.fixture
def known(store: KeyStore) -> Iterator[Callable[[], KnownKeys]]:
    opened: list[KnownKeys] = []

    def make() -> KnownKeys:
        opened.append(KnownKeys(store))
        return opened[-1]

    yield make
    for keys in opened:
        keys.close()


def test_key_says_who_asks_by_either_header(store: KeyStore, known: Callable[[], KnownKeys]) -> None:
    key = store.add("nightly", 1)
    keys = known()
    assert keys.authenticate({"authorization": f"Bearer {key}"}, "10.0.0.9").key_id == "nightly"
    assert keys.authenticate({"authorization": f"bearer  {key}", "x-api-key": key}, None).key_id == "nightly"
    assert keys.authenticate({"x-api-key": key}, "10.0.0.9").key_id == "nightly"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"x-api-key": "osk_wrong"},
        {"x-api-key": "\udcff"},
        {"authorization": "Basic bmlnaHRseTo="},
        {"authorization": "Bearer"},
    ],
)
def test_with_a_key_made_nothing_else_is_let_in(
    store: KeyStore, known: Callable[[], KnownKeys], headers: dict[str, str]
) -> None:
    key = store.add("nightly", 1)
    keys = known()
    with pytest.raises(ContractError, match="send a valid key") as refused:
        keys.authenticate({**HERE, **headers}, "127.0.0.1")
    assert refused.value.evidence["status"] == 401
    assert key not in str(refused.value)


def test_two_keys_that_differ_are_none(store: KeyStore, known: Callable[[], KnownKeys]) -> None:
    one, other = store.add("one", 1), store.add("other", 1)
    with pytest.raises(ContractError):
        known().authenticate({"authorization": f"Bearer {one}", "x-api-key": other}, "127.0.0.1")


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8090", "[::1]:8090"])
def test_without_keys_this_machine_is_served(known: Callable[[], KnownKeys], peer: str, host: str) -> None:
    assert known().authenticate({"host": host}, peer).key_id == "loopback"


@pytest.mark.parametrize(
    ("headers", "peer"),
    [
        (HERE, "10.0.0.9"),
        (HERE, None),
        (HERE, "testclient"),
        ({"host": "rebound.example.org"}, "127.0.0.1"),
        ({"host": "127.0.0.1.example.org"}, "127.0.0.1"),
        ({"host": "[::1"}, "127.0.0.1"),
        ({}, "127.0.0.1"),
        ({**HERE, "x-forwarded-for": "8.8.8.8"}, "127.0.0.1"),
        ({**HERE, "x-api-key": "osk_guessed"}, "127.0.0.1"),
    ],
)
def test_without_keys_nobody_else_is(
    known: Callable[[], KnownKeys], headers: dict[str, str], peer: str | None
) -> None:
    with pytest.raises(ContractError, match="no key was made here"):
        known().authenticate(headers, peer)


def test_revoked_key_is_refused_soon_and_opens_nothing(
    store: KeyStore, known: Callable[[], KnownKeys]
) -> None:
    key = store.add("nightly", 1)
    keys = known()
    store.revoke("nightly", 2)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            keys.authenticate({"x-api-key": key}, "127.0.0.1")
        except ContractError:
            break
        time.sleep(0.05)
    for headers in ({**HERE, "x-api-key": key}, HERE):
        with pytest.raises(ContractError, match="send a valid key"):
            keys.authenticate(headers, "127.0.0.1")
    assert store.listed()[0].revoked_ts == 2


def test_names_are_used_once_and_keys_are_kept_as_hashes(store: KeyStore, database: Database) -> None:
    key = store.add("nightly", 1)
    store.revoke("nightly", 2)
    with pytest.raises(ConfigurationError, match="there is a key named 'nightly'"):
        store.add("nightly", 3)
    with pytest.raises(ConfigurationError, match="could be revoked"):
        store.revoke("nightly", 3)
    with pytest.raises(ConfigurationError, match="expected up to 64 letters"):
        store.add("loopback", 1)
    with closing(database.engine.raw_connection()) as raw:
        kept = str(raw.cursor().execute("select * from onescore_keys").fetchall())
    assert key not in kept
    assert key.removeprefix("osk_") not in kept
