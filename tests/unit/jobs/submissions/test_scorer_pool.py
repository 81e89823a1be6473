"""Processes that score, really: what one has answered of others is logged, also where it is ended at what nobody wants or what hangs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.submissions.scorer_pool import Crashed, ScorerPool, Unwanted
from jobs.submissions.scoring import Model
from tests.toy.poison import HANGING, STUCK, write_poison_bundle
from udfs.bundle import bundle_digest
from udfs.serving import ServingSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    directory = tmp_path_factory.mktemp("poison") / "bundle"
    write_poison_bundle(directory)
    return Model(str(directory), "1", bundle_digest(directory))


def scored(pool: ScorerPool, model: Model, dose: float, is_wanted: Callable[[], bool] = lambda: True) -> None:
    """Have three rows of one submission scored, and taken."""
    payload = json.dumps({"rows": [{"id": i, "dose": dose} for i in range(3)]}).encode()
    with pool.lent() as scorer:
        scorer.score(model, 1, payload, (0, 3), is_last=False, is_wanted=is_wanted)
        scorer.settle(True)


@pytest.mark.parametrize(
    ("seconds", "is_wanted", "raised"), [(3_600.0, False, Unwanted), (2.0, True, Crashed)]
)
def test_who_is_ended_at_one_submission_has_logged_what_it_answered_of_others(
    model: Model, tmp_path: Path, seconds: float, is_wanted: bool, raised: type[Exception]
) -> None:
    log = tmp_path / "log"
    pool = ScorerPool(1, ServingSettings(log_directory=str(log), log_flush_seconds=3_600.0), 2, seconds)
    try:
        for _ in range(2):
            scored(pool, model, 1.0)
        with pytest.raises(raised):
            scored(pool, model, HANGING, lambda: is_wanted)
        assert sum(pq.read_metadata(file).num_rows for file in log.rglob("part-*.parquet")) == 6
        scored(pool, model, 1.0)
    finally:
        pool.close()
    assert sum(pq.read_metadata(file).num_rows for file in log.rglob("part-*.parquet")) == 9


def test_who_never_lets_go_of_the_interpreter_is_ended_nonetheless(model: Model) -> None:
    pool = ScorerPool(1, ServingSettings(), 2, 3_600.0)
    try:
        with pytest.raises(Unwanted):
            scored(pool, model, STUCK, lambda: False)
        scored(pool, model, 1.0)
    finally:
        pool.close()
