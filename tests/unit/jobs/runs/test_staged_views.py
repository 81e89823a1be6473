"""Staged rows are taken in step with the input, whatever the batches; what is lost is found."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from feature_pipelines.columns import Int64
from feature_pipelines.errors import VerificationError
from feature_pipelines.lookup import Status
from feature_pipelines.schema import Field, Schema
from feature_pipelines.views import FeatureView
from jobs.runs.staged_views import FOUND, STATUS, StagedRows, StagedView, staged_columns, staged_schema
from jobs.tables.sink import ParquetSink

VIEW = FeatureView("v", {"k": "k"}, Schema((Field("n", Int64, minimum=5),)), missing="reject")


@pytest.fixture
def staged(tmp_path):
    """Two units of ten and of one row."""
    schema = staged_schema(VIEW)
    files = []
    for rows in (10, 1):
        with ParquetSink(str(tmp_path), schema, "unit", row_group_rows=3) as sink:
            sink.append(
                pa.table(
                    {"n": range(rows), STATUS: pa.array([0] * rows, pa.int8()), FOUND: range(rows)}, schema
                )
            )
            files.append(sink.close())
    return StagedView(str(tmp_path), tuple(files))


@pytest.mark.parametrize("sizes", [(10,), (1, 2, 3, 4), (4, 0, 6), (9, 1)])
def test_rows_come_in_the_pieces_that_are_asked_for(staged, sizes):
    rows = StagedRows(staged, 0)
    pieces = [rows.next(size).column("n").to_pylist() for size in sizes]
    assert [len(piece) for piece in pieces] == list(sizes)
    assert [n for piece in pieces for n in piece] == list(range(10))


def test_a_unit_with_fewer_staged_rows_is_found(staged):
    with pytest.raises(VerificationError, match=r"unit-\S+ has fewer rows than its unit"):
        StagedRows(staged, 1).next(2)


def test_a_unit_without_rows_has_no_file(staged):
    other = StagedView(staged.uri, (None, *staged.files))
    assert StagedView.from_json(other.to_json()) == other
    assert other.is_there()
    assert [StagedRows(other, unit).rows for unit in range(3)] == [0, 10, 1]
    with pytest.raises(VerificationError, match="fewer rows"):
        StagedRows(other, 0).next(1)


def test_a_file_that_is_gone_or_changed_is_noticed(staged, tmp_path):
    assert staged.is_there()
    assert StagedView.from_json(staged.to_json()) == staged
    path = tmp_path / staged.files[1].path
    path.write_bytes(path.read_bytes() + b"x")
    assert not staged.is_there()
    assert staged.of_units(0, 1).is_there()
    path.unlink()
    assert not staged.of_units(1, 2).is_there()


def test_null_where_nothing_was_found_is_the_null_value_and_no_fault():
    rows = pa.RecordBatch.from_pydict({"n": pa.array([None, 7]), STATUS: pa.array([1, 0], pa.int8())})
    columns, statuses = staged_columns(VIEW, rows)
    assert np.asarray(columns["n"]).tolist() == [0, 7]
    assert statuses.tolist() == [Status.NOT_FOUND, Status.PRESENT]
