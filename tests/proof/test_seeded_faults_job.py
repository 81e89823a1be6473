"""The same faults through the whole job: several faulty processes and a good one wrote one log, and the job tells their rows apart."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import reconcile_scores
from jobs.proof.skew import SkewReport
from jobs.runs.command import run
from tests.proof.judged import is_right
from tests.proof.paired import logged_rows
from tests.proof.passes import ELSEWHERE, Passes, serve_all
from tests.proof.traffic import CLEAN
from tests.proof.worlds import FlightsWorld
from tests.toy.processors import dispatched_features

REQUESTS = 400
LEAST_RIGHT = 0.99
VARIANTS = (
    ("late_hour", "null_fill_store"),
    ("stale_store", "older_version"),
    ("missing_key", "naive_local_time"),
    ("float32_request", "patched_function"),
    ("int_through_float", "new_fingerprint"),
    ("float32_store",),
    *([(ELSEWHERE,)] if dispatched_features() else []),
)


@pytest.fixture(scope="module")
def passes(
    registered_world: FlightsWorld, tmp_path_factory: pytest.TempPathFactory, process_env: dict[str, str]
) -> Passes:
    return serve_all(registered_world, VARIANTS, tmp_path_factory.mktemp("served"), process_env, REQUESTS)


def one_log(logs: Iterable[Path], into: Path) -> Path:
    """Put the files of several processes' logs into one."""
    for log in logs:
        for file in filter(Path.is_file, log.rglob("*")):
            target = into / file.relative_to(log)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    return into


def test_job_finds_every_faulty_row_and_its_causes(
    spark: Any,
    registered_world: FlightsWorld,
    passes: Passes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ONESCORE_HOME", str(registered_world.root))
    log = one_log([passes.log(name) for name in (CLEAN, *passes.truth)], tmp_path / "log")
    skew = tmp_path / "skew"

    code = run(
        reconcile_scores.main, ["--model", "flights", "--log", str(log), "--set", f"skew.directory={skew}"]
    )

    assert code == 1  # the budget is zero
    (directory,) = skew.glob("flights/*")
    report = SkewReport.from_json(json.loads((directory / "report.json").read_text()))
    variant_of = {
        row["process"]: variant
        for variant in passes.truth
        for row in logged_rows(passes.log(variant)).values()
    }
    differing = pq.read_table(directory / "differing.parquet").to_pylist()
    found = Counter((variant_of[row["process"]], row["row_id"]) for row in differing)
    expected = {(v, row.row_id) for v, of in passes.truth.items() for row in of.values() if row.differs}
    assert found == Counter(expected)
    assert report.rows_differing == len(expected) > 500
    assert report.rows_compared == REQUESTS + sum(map(len, passes.truth.values()))
    wrong = Counter()
    for row in differing:
        truth = passes.truth[variant_of[row["process"]]][row["row_id"]]
        said = frozenset(row["parts"] or [row["cause"]])
        if not is_right(truth, row["cause"], said):
            wrong[truth.variant, "+".join(sorted(said))] += 1
    assert wrong.total() <= (1 - LEAST_RIGHT) * len(differing), wrong
    assert {name for name, _ in found} == {*passes.truth}
