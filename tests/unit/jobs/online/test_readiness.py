"""When a server says that it is ready: what it asks the store, and what becomes of each answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from feature_pipelines.errors import UnavailableError
from jobs.online import readiness as module
from jobs.online.readiness import Readiness
from tests.toy.houses import FEATURES

NOW = 100_000_000


class Store:
    """Says W, or raises."""

    def __init__(self) -> None:
        self.answer: Callable[[], dict[str, int | None]] = lambda: {"rates": NOW}

    def through(self, views: Any) -> dict[str, int | None]:
        """Return what the test says."""
        return self.answer()


@pytest.fixture
def store() -> Store:
    """A store that is at now."""
    return Store()


@pytest.fixture
def ready(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Readiness]:
    """A server's readiness, which asks the store each time."""
    monkeypatch.setattr(module, "_CACHED_SECONDS", 0.0)
    online: Any = SimpleNamespace(
        scorer=SimpleNamespace(verified="verified", feature_set=FEATURES), store=store
    )
    made = Readiness(online, lambda: NOW, max_staleness_seconds=10, timeout_seconds=0.2)
    yield made
    made.close()


def checks(ready: Readiness, times: int = 1) -> list[dict[str, Any]]:
    """Return what it says when asked so many times, one after the other."""

    async def ask() -> list[dict[str, Any]]:
        return [await ready.check() for _ in range(times)]

    return asyncio.run(ask())


def test_ready_is_a_server_whose_store_has_all_views(ready: Readiness) -> None:
    (found,) = checks(ready)
    assert found["ready"]
    assert found["checks"]["views"] == {"ok": True, "never_materialised": []}


def test_not_ready_is_one_whose_store_was_never_filled_or_lost_a_view(ready: Readiness, store: Store) -> None:
    store.answer = lambda: {"rates": None}
    (found,) = checks(ready)
    assert not found["ready"]
    assert found["checks"]["store"] == {"ok": True}
    assert found["checks"]["views"] == {"ok": False, "never_materialised": ["rates"]}


def test_not_ready_is_one_whose_store_is_down(ready: Readiness, store: Store) -> None:
    def down() -> dict[str, int | None]:
        raise UnavailableError("down")

    store.answer = down
    (found,) = checks(ready)
    assert (found["ready"], found["checks"]["store"]) == (False, {"ok": False})


def test_a_defect_of_ours_is_not_ready_once_and_forgotten_when_it_is_gone(
    ready: Readiness, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Exception | None] = [RuntimeError("secret"), None]

    def first_fails() -> dict[str, int | None]:
        if (failure := answers.pop(0)) is not None:
            raise failure
        return {"rates": NOW}

    store.answer = first_fails
    broken, mended = checks(ready, 2)
    assert (broken["ready"], broken["checks"]["store"]) == (False, {"ok": False})
    assert mended["ready"]
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text


def test_a_store_that_hangs_is_not_asked_again_before_it_has_answered(ready: Readiness, store: Store) -> None:
    go, asked = threading.Event(), []

    def hang() -> dict[str, int | None]:
        asked.append(1)
        go.wait(5)
        return {"rates": NOW}

    store.answer = hang

    async def ask() -> list[bool]:
        hung = [(await ready.check())["ready"] for _ in range(2)]
        go.set()
        return [*hung, (await ready.check())["ready"]]

    assert asyncio.run(ask()) == [False, False, True]
    assert len(asked) == 1
