"""L8: one row, one version, one as-of: the same bits in the batch job and the JSON rows, at any size and in any order.

That every path gives these bits is shown by tests/paths/test_conformance.py, which asks all there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from feature_pipelines.definitions import FeatureSet
from feature_pipelines.lookup_arrow import index_from_arrow
from feature_pipelines.schema import to_wire
from feature_pipelines.schema_arrow import columns_from_arrow
from jobs.runs.batch import score_table
from jobs.runs.views import index_view
from tests.toy import every_type as every_type_set
from tests.toy import houses as houses_set
from tests.toy.answers import score_rows
from tests.toy.bits import bits_by_row, bits_of
from tests.toy.every_type_rows import hard_rows
from tests.toy.workspace import Workspace, house_rows
from udfs.kernel import Kernel
from udfs.scorer import Scorer

N = 240


@dataclass(frozen=True)
class Case:
    """A model, its requests with every stored field as JSON rows, and the bits of the batch job."""

    workspace: Workspace
    model: str
    wire: list[dict[str, Any]]
    batch: dict[int, str]
    scorer: Scorer


def wire_rows(
    feature_set: FeatureSet, requests: pa.Table, views: dict[str, pa.Table]
) -> list[dict[str, Any]]:
    """Return the requests as JSON rows that bring the stored fields as of each row."""
    columns, errors = columns_from_arrow(feature_set.request, requests.combine_chunks().to_batches()[0])
    assert errors == []
    for view in feature_set.views:
        index = index_from_arrow(view, views[view.name])
        found, _ = index.lookup([columns[key] for key in view.keys.values()], columns[feature_set.as_of])
        columns.update(found)
    values = {f.name: to_wire(f, columns[f.name]) for f in feature_set.sources}
    return [{name: column[i] for name, column in values.items()} for i in range(requests.num_rows)]


@pytest.fixture(scope="module", params=["houses", "every_type"])
def case(
    request: pytest.FixtureRequest, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    """Flat trees with a looked-up view, and an estimator of the library over every type."""
    if request.param == "houses":
        trained: Workspace = request.getfixturevalue("trained_workspace")
        workspace = trained.copy_to(tmp_path_factory.mktemp("bits") / "workspace")
        feature_set, requests = houses_set.FEATURES, house_rows(N, seed=4)
        views = {"rates": workspace.rows("rates")}
    else:
        workspace = request.getfixturevalue("every_type").workspace
        feature_set, requests, views = every_type_set.FEATURES, hard_rows(N), {}
    model = request.param
    workspace.write("same_bits", requests, rows_per_file=100)
    conf = workspace.conf("input.source=same_bits", "output.scored=same_bits_scored", model=model)
    summary, plan = score_table(spark, conf)
    assert (summary.rows_scored, summary.rows_quarantined) == (N, 0)
    batch = bits_by_row(workspace.rows("same_bits_scored"))
    return Case(workspace, model, wire_rows(feature_set, requests, views), batch, plan.scorer)


def test_evaluators_are_the_two_there_are(case: Case) -> None:
    expected = {"houses": "trees", "every_type": "library"}
    assert case.scorer.info["certification"]["evaluator"] == expected[case.model]
    assert len(set(case.batch.values())) > N / 2


@pytest.mark.parametrize(("batch_rows", "unit_rows"), [(1, 50), (7, 33), (10_000, 10_000)])
def test_batch_job_at_any_size(spark: SparkSession, case: Case, batch_rows: int, unit_rows: int) -> None:
    table = f"same_bits_{batch_rows}"
    sizes = [
        f"score.batch_rows={batch_rows}",
        f"score.unit_rows={unit_rows}",
        f"score.chunk_rows={unit_rows * 2}",
    ]
    conf = case.workspace.conf("input.source=same_bits", f"output.scored={table}", *sizes, model=case.model)
    score_table(spark, conf)
    assert bits_by_row(case.workspace.rows(table)) == case.batch


def test_ten_thousand_rows_at_once_have_the_bits_of_each_alone_and_of_seven(
    spark: SparkSession, case: Case
) -> None:
    """Large enough for every switch by size: features in the cache, blocks of the library, the compiled trees."""
    many = house_rows(10_000, seed=6) if case.model == "houses" else hard_rows(10_000)
    case.workspace.write("many", many)
    sizes = [
        "score.batch_rows=10000",
        "score.unit_rows=10000",
        "input.source=many",
        "output.scored=many_scored",
    ]
    summary, plan = score_table(spark, case.workspace.conf(*sizes, model=case.model))
    assert (summary.rows_scored, len(plan.units)) == (10_000, 1)
    at_once = bits_by_row(case.workspace.rows("many_scored"))
    kernel = Kernel(plan.scorer, {name: index_view(*view) for name, view in plan.views.items()})
    (batch,) = many.combine_chunks().to_batches()
    for size, rows in ((7, 10_000), (1, 700)):
        parts = [kernel.score(batch.slice(start, size)).outputs["score"] for start in range(0, rows, size)]
        scores = np.concatenate(parts)
        assert {i: bits_of(score) for i, score in enumerate(scores.tolist())} == {
            i: at_once[i] for i in range(rows)
        }


@pytest.mark.parametrize("size", [1, 7, N])
def test_json_rows(case: Case, size: int) -> None:
    answers = [
        answer
        for start in range(0, N, size)
        for answer in score_rows(case.scorer, case.wire[start : start + size])
    ]
    assert numbered(answers) == case.batch


def test_json_rows_in_another_order_beside_bad_rows(case: Case) -> None:
    order = np.random.default_rng(5).permutation(N)
    rows = [row for i in order for row in (case.wire[i], {"no": "row"}, None)]
    answers = score_rows(case.scorer, rows)
    assert {
        int(i): bits_of(answer["score"]) for i, answer in zip(order, answers[::3], strict=True)
    } == case.batch
    codes = {
        answer["error"]["code"] for answers_of in (answers[1::3], answers[2::3]) for answer in answers_of
    }
    assert codes <= {"UNKNOWN_FIELD", "UNREADABLE_ROW", "STORED_FEATURES_MISSING"}


def numbered(answers: Sequence[dict[str, Any]]) -> dict[int, str]:
    return {i: bits_of(answer["score"]) for i, answer in enumerate(answers)}
