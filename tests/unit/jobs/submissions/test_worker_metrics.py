"""A worker is ready where its database answers and its model is loaded or can be; what it says holds what it does not take."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.submissions.ledger import Ledger
from jobs.submissions.scorer_pool import ScorerPool
from jobs.submissions.scoring import Model
from jobs.submissions.worker_metrics import Readiness, WorkerMetrics
from tests.toy.kept import Kept
from udfs.bundle import bundle_digest
from udfs.serving import ServingSettings


@pytest.fixture(scope="module")
def pool() -> Iterator[ScorerPool]:
    """One process that scores, without a store."""
    found = ScorerPool(1, ServingSettings(), 2, 60.0)
    yield found
    found.close()


class Idle:
    """Stands in the place of what else is asked for metrics."""

    taken_over = 0

    def running(self) -> set[str]:
        return set()


def asked(ledger: Any, pool: ScorerPool, model: Model) -> tuple[int, Any]:
    """Return status and body of a worker's /ready."""
    readiness = Readiness(ledger, pool, model, "houses", ("mine", "mine too"))
    idle: Any = Idle()
    with WorkerMetrics(0, idle, pool, idle, readiness) as metrics:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/ready", timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.loads(refused.read())


def test_it_is_ready_where_the_model_can_be_loaded_also_after_a_crash(
    kept: Kept, pool: ScorerPool, bundle: Path
) -> None:
    model = Model(str(bundle), "7", bundle_digest(bundle))
    kept.take()
    for _ in range(2):
        status, said = asked(kept.ledger, pool, model)
        assert (status, said["ready"], said["checks"]["model"]["ok"]) == (200, True, True)
        assert said["checks"]["database"] == {"ok": True, "not_taken_here": 1}
        for scorer in pool._all:
            scorer.process.kill()
            scorer.process.wait()


def test_it_is_not_where_the_model_is_not_what_it_was(kept: Kept, pool: ScorerPool, bundle: Path) -> None:
    status, said = asked(kept.ledger, pool, Model(str(bundle), "7", "0" * 64))
    assert (status, said["ready"]) == (503, False)
    assert said["checks"]["model"] == {"ok": False, "model": "houses", "version": "7", "why": "Unscored"}


def test_it_is_not_where_the_database_does_not_answer(pool: ScorerPool, bundle: Path) -> None:
    class Away:
        def queued_elsewhere(self, *_: Any) -> int:
            raise ConnectionError

    ledger: Ledger = Away()  # type: ignore[assignment]
    status, said = asked(ledger, pool, Model(str(bundle), "7", bundle_digest(bundle)))
    assert (status, said["checks"]["database"]) == (503, {"ok": False, "raised": "ConnectionError"})
