"""Bounds of the log's keys leave out requests that have no row there, and no other, whatever footers say or do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.proof.key_bounds import KeyBounds, _ends, _serialised, has_order

TIME = pa.timestamp("us", tz="UTC")


def bounds(*units: dict[str, pa.Array]) -> KeyBounds:
    """What the driver makes of the keys of some units' rows."""
    return KeyBounds.of(_serialised(pa.table({n: _ends(a) for n, a in unit.items()})) for unit in units)


def batch(**columns: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict(columns)


def test_bounds_are_those_of_all_units_and_of_every_field() -> None:
    found = bounds(
        {"id": pa.array(["m", "é"]), "n": pa.array([5, 3])}, {"id": pa.array(["b"]), "n": pa.array([-1])}
    )
    assert found.fields == (("id", "b", "é"), ("n", -1, 5))
    rows = batch(id=["b", "a", "é", "z", None, "c"], n=[0, 0, 6, 5, 1, -2])
    assert found.mask(rows).tolist() == [True, False, False, True, False, False]
    coded = batch(id=pa.array(["a", "b"]).dictionary_encode(), n=[0, 0])
    assert found.mask(coded).tolist() == [False, True]


def test_log_without_a_key_has_no_request() -> None:
    nothing = KeyBounds.of([])
    assert nothing.is_empty
    assert nothing.mask(batch(id=["a", None])).tolist() == [False, False]


def test_only_types_with_an_order_are_bounded() -> None:
    assert all(has_order(one) for one in (pa.int32(), pa.string(), TIME))
    assert not any(has_order(one) for one in (pa.float64(), pa.binary(), pa.decimal128(9, 2), pa.bool_()))


def row_groups(path: Path, table: pa.Table, **options: Any) -> pq.ParquetFile:
    pq.write_table(table, path, row_group_size=2, **options)
    return pq.ParquetFile(path)


def test_row_groups_that_lie_outside_by_their_footer_are_left_out(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b", "c", "d", None, None, "d", "f"], "n": [1, 2, 3, 4, 5, 6, 7, 8]})
    found = bounds({"id": pa.array(["c", "d"]), "n": pa.array([0, 4])})
    with row_groups(tmp_path / "a.parquet", table) as file:
        assert [found.may_hold(file, group) for group in range(4)] == [False, True, False, False]
        assert not any(KeyBounds.of([]).may_hold(file, group) for group in range(4))
    with row_groups(tmp_path / "b.parquet", table, write_statistics=False) as file:
        assert all(found.may_hold(file, group) for group in range(4))
    with row_groups(tmp_path / "c.parquet", table.rename_columns(["ID", "m"])) as file:
        assert all(found.may_hold(file, group) for group in range(4))


@pytest.mark.parametrize("type_", [TIME, pa.timestamp("ns", tz="UTC"), pa.timestamp("us")], ids=str)
def test_times_are_bounded_too(tmp_path: Path, type_: pa.DataType) -> None:
    times = pa.array([1_000 * i for i in range(6)], pa.int64()).cast(type_)
    found = bounds({"t": times[2:4]})
    assert found.mask(batch(t=times)).tolist() == [False, False, True, True, False, False]
    with row_groups(tmp_path / "t.parquet", pa.table({"t": times})) as file:
        assert [found.may_hold(file, group) for group in range(3)] == [False, True, False]
    other = pa.timestamp("us") if type_.tz else TIME
    with row_groups(tmp_path / "u.parquet", pa.table({"t": times.cast(other)})) as file:
        assert all(found.may_hold(file, group) for group in range(3))


@given(st.lists(st.text(max_size=3), min_size=1), st.lists(st.text(max_size=3), min_size=1))
def test_no_request_of_the_log_is_ever_left_out(
    tmp_path_factory: Any, logged: list[str], asked: list[str]
) -> None:
    found = bounds({"id": pa.array(logged, pa.string())})
    path = tmp_path_factory.mktemp("groups") / "x.parquet"
    with row_groups(path, pa.table({"id": pa.array(asked, pa.string())})) as file:
        kept = [found.may_hold(file, group) for group in range(file.num_row_groups)]
    for at, text in enumerate(asked):
        if text in logged:
            assert kept[at // 2]
            assert found.mask(batch(id=[text])).tolist() == [True]
