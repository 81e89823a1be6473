from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pytest

from feature_pipelines.errors import TableError
from feature_pipelines.views import History
from jobs.tables.delta import ParquetSink, commit_when, ensure_table, open_table
from jobs.tables.view_state import ViewState, definition_number
from tests.toy.depots import VIEW

SCHEMA = pa.schema([pa.field("x", pa.int64(), nullable=False)])
STATE = ViewState(2**62 + 1, 7, (2**63 - 1, 0), definition_number(VIEW), None)


@pytest.fixture
def uri(tmp_path):
    place = str(tmp_path / "t")
    ensure_table(place, SCHEMA)
    return place


def written(uri, *values):
    with ParquetSink(uri, SCHEMA, "part") as sink:
        sink.append(pa.table({"x": pa.array(values, pa.int64())}))
        return [sink.close()]


def commit(uri, decide, state=STATE, **options):
    return commit_when(uri, decide, schema=SCHEMA, what="test", transactions=state.transactions(), **options)


def test_a_state_is_part_of_the_snapshot_with_the_rows(uri):
    assert ViewState.of(open_table(uri)) is None
    assert commit(uri, lambda table: written(uri, 1))
    assert ViewState.of(open_table(uri)) == STATE
    later = replace(STATE, through=-5, corrected_at=3)
    assert commit(uri, lambda table: [], later)
    assert ViewState.of(open_table(uri)) == later
    open_table(uri).create_checkpoint()
    assert ViewState.of(open_table(uri)) == later


def test_nothing_is_committed_where_that_is_decided(uri):
    assert not commit(uri, lambda table: None)
    assert open_table(uri).version() == 0


def test_a_commit_that_lost_a_race_is_decided_again_on_the_new_snapshot(uri):
    seen = []

    def decide(table):
        seen.append(ViewState.of(table))
        if len(seen) == 1:
            assert commit(uri, lambda _: written(uri, 1))
            return written(uri, 2)
        return None

    assert not commit(uri, decide, replace(STATE, through=1))
    assert seen == [None, STATE]
    assert open_table(uri).to_pyarrow_table()["x"].to_pylist() == [1]


def test_a_replacing_commit_leaves_its_own_rows_alone(uri):
    commit(uri, lambda table: written(uri, 1))
    commit(uri, lambda table: written(uri, 2, 3), replace=True)
    assert open_table(uri).to_pyarrow_table()["x"].to_pylist() == [2, 3]


def test_files_that_are_not_there_are_not_committed(uri):
    (gone,) = written(uri, 1)
    with pytest.raises(TableError, match="1 of 1 files to commit are missing"):
        commit(uri, lambda table: [replace(gone, path="elsewhere.parquet")])


def test_a_definition_is_what_decides_the_rows_and_nothing_else():
    number = definition_number(VIEW)
    assert number == definition_number(replace(VIEW, fields=type(VIEW.fields)(()), ttl_seconds=1))
    assert number == definition_number(
        replace(VIEW, fields=type(VIEW.fields)(()), keys={"depot": "d", "lane": "l"})
    )
    other = replace(VIEW, fields=type(VIEW.fields)(()), history=(History("weight_kg", ("sum",), ("3h",)),))
    assert number != definition_number(other)
    assert 0 <= number < 2**60
