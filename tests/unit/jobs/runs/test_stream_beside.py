"""Rows of another query of the model in a new one's tables are found, whoever wrote what besides; and nothing else is taken for them."""

from __future__ import annotations

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_pipelines.errors import RunConflictError
from jobs.runs.stream_beside import queries_in, require_alone
from jobs.tables.delta import delete_rows

FIRST, SECOND = "stream-20260101T000000Z-aaaaaaaa", "stream-20260102T000000Z-bbbbbbbb"
BATCH = "20260103T000000Z-cccccccc"


def rows(run_id, model="houses"):
    return pa.table({"row_id": ["1", "2"], "model_name": [model] * 2, "run_id": [run_id] * 2})


@pytest.fixture
def table(tmp_path):
    return str(tmp_path / "scored")


def test_table_that_is_not_there_or_has_other_columns_has_no_query(table):
    assert queries_in(table, "houses") == []
    write_deltalake(table, pa.table({"x": [1]}))
    assert queries_in(table, "houses") == []


def test_queries_of_the_model_are_found_among_other_runs(table):
    for run_id, model in [
        (BATCH, "houses"),
        (SECOND, "houses"),
        (FIRST, "houses"),
        (FIRST[:-1], "bands"),
        ("t", "houses"),
    ]:
        write_deltalake(table, rows(run_id, model), mode="append")
    assert queries_in(table, "houses") == [FIRST, SECOND]
    DeltaTable(table).optimize.compact()
    assert queries_in(table, "houses") == [FIRST, SECOND]
    assert queries_in(table, "bands") == [FIRST[:-1]]


def test_files_of_other_runs_are_not_opened(table, tmp_path):
    write_deltalake(table, rows(BATCH))
    for file in (tmp_path / "scored").glob("*.parquet"):
        file.unlink()
    write_deltalake(table, rows(FIRST), mode="append")
    assert queries_in(table, "houses") == [FIRST]


def test_rows_that_were_taken_back_are_no_reason(table):
    write_deltalake(table, rows(FIRST))
    delete_rows(table, "run_id", FIRST)
    assert queries_in(table, "houses") == []


@pytest.mark.parametrize("output", ["scored", "quarantine"])
def test_refusal_names_the_query_and_every_way_on(trained_workspace, table, output):
    write_deltalake(table, rows(FIRST))
    conf = trained_workspace.conf(f"output.{output}={table}")
    with pytest.raises(RunConflictError) as refused:
        require_alone(conf, "/c")
    message = str(refused.value)
    ways = (
        "its own checkpoint",
        "output.scored, output.quarantine",
        f"delete_rows('{table}', 'run_id', '{FIRST}')",
        "--beside",
    )
    for said in (
        "/c has no batch yet",
        table,
        f"by query {FIRST}. ",
        *ways,
        "stream.options.startingVersion",
    ):
        assert said in message
    assert refused.value.evidence["queries"] == {table: [FIRST]}
    require_alone(trained_workspace.conf(f"output.{output}={table}_of_its_own"), "/c")


def test_of_many_queries_five_are_named(trained_workspace, table):
    for i in range(7):
        write_deltalake(table, rows(f"stream-{i}"), mode="append")
    with pytest.raises(
        RunConflictError, match="query stream-0, stream-1, stream-2, stream-3, stream-4 and 2 more"
    ):
        require_alone(trained_workspace.conf(f"output.scored={table}"), "/c")
