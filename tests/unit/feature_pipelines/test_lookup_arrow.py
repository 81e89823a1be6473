"""A view's table becomes an index by the same contract as requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_pipelines.columns import Float64, Nullable, String, Strings
from feature_pipelines.definitions import FeatureView
from feature_pipelines.errors import ContractError
from feature_pipelines.lookup import Status
from feature_pipelines.lookup_arrow import index_from_arrow, view_columns
from feature_pipelines.schema import Field, Schema

FIELDS = Schema((Field("year", Float64, minimum=1903), Field("maker", Nullable[String])))
VIEW = FeatureView("plane", {"tailnum": "tailnum"}, FIELDS)
US = pa.timestamp("us", "UTC")


def table(**changes: pa.Array) -> pa.Table:
    columns = {
        "maker": pa.array(["BOEING", None, "AIRBUS"]),
        "tailnum": pa.array(["N1", "N2", None]),
        "year": pa.array([2001, None, 2003], pa.int32()),
        "event_ts": pa.array([5, 6, 7], US),
        "created_ts": pa.array([5, 6, 7], US),
        "other": pa.array([1, 2, 3]),
        **changes,
    }
    return pa.table({name: column for name, column in columns.items() if column is not None})


def found(view: FeatureView, given: pa.Table) -> list[Any]:
    columns, statuses = index_from_arrow(view, given).lookup([Strings.of(["N1", "N2", "N3"])], np.full(3, 10))
    maker: Any = columns["maker"]
    return [
        statuses.tolist(),
        np.asarray(columns["year"]).tolist()[0],
        maker.values.tolist(),
        maker.valid.tolist(),
    ]


def test_view_columns_are_keys_times_and_fields() -> None:
    assert view_columns(VIEW) == ["tailnum", "event_ts", "created_ts", "year", "maker"]


@pytest.mark.parametrize("how", ["whole", "chunked", "dictionary", "milliseconds"])
def test_index_does_not_depend_on_how_the_table_is_stored(how: str) -> None:
    given = table()
    if how == "chunked":
        given = pa.concat_tables([given.slice(0, 1), given.slice(1)])
    if how == "dictionary":
        given = table(
            tailnum=pa.array(["N1", "N2", None]).dictionary_encode(), maker=given["maker"].dictionary_encode()
        )
    if how == "milliseconds":
        given = table(event_ts=pa.array([0, 0, 0], pa.timestamp("ms", "UTC")))
    present, absent = int(Status.PRESENT), int(Status.NOT_FOUND)
    assert found(VIEW, given) == [
        [present, present, absent],
        2001.0,
        ["BOEING", "", ""],
        [True, False, False],
    ]


def test_an_empty_table_finds_nothing() -> None:
    assert found(VIEW, table().slice(0, 0))[0] == [int(Status.NOT_FOUND)] * 3
    assert found(VIEW, pa.Table.from_batches([], schema=table().schema))[0] == [int(Status.NOT_FOUND)] * 3


def test_integer_keys_are_integers() -> None:
    view = FeatureView("plane", {"number": "n"}, FIELDS)
    index = index_from_arrow(view, table(number=pa.array([1, None, 3], pa.int16())))
    _, statuses = index.lookup([np.array([1, 0, 3])], np.full(3, 10))
    assert statuses.tolist() == [Status.PRESENT, Status.NOT_FOUND, Status.PRESENT]


def test_missing_columns_are_named_with_what_there_is() -> None:
    message = r"view 'plane': its table lacks created_ts, tailnum. It has: maker, year, event_ts, other"
    with pytest.raises(ContractError, match=message) as caught:
        index_from_arrow(VIEW, table(tailnum=None, created_ts=None))
    assert caught.value.evidence == {"missing": ["created_ts", "tailnum"]}


def test_rows_that_break_the_declaration_are_counted_with_their_reasons() -> None:
    broken = table(year=pa.array([1.0, np.inf, 2003.0]), event_ts=pa.array([None, 6, 7], US))
    with pytest.raises(
        ContractError, match=r"view 'plane': 2 row\(s\) of its table break its declaration: "
    ) as caught:
        index_from_arrow(VIEW, broken)
    assert caught.value.evidence["reasons"] == [
        "NOT_FINITE in year (an infinity is not allowed here)",
        "NULL_NOT_ALLOWED in event_ts (null where a value is required)",
        "OUT_OF_RANGE in year (below the minimum 1903)",
    ]


def test_a_tombstone_hides_its_key_and_its_values_break_nothing() -> None:
    deleted = pa.array([True, None, False])
    given = table(is_deleted=deleted, year=pa.array([1.0, None, 2003.0]))
    assert found(VIEW, given)[0] == [Status.NOT_FOUND, Status.PRESENT, Status.NOT_FOUND]
    with pytest.raises(ContractError, match=r"1 row\(s\) .*: OUT_OF_RANGE in year"):
        index_from_arrow(VIEW, given.drop_columns(["is_deleted"]))


def test_a_tombstone_needs_its_times_like_any_row() -> None:
    given = table(is_deleted=pa.array([True, None, False]), created_ts=pa.array([None, 6, 7], US))
    with pytest.raises(ContractError, match=r"1 row\(s\) .*: NULL_NOT_ALLOWED in created_ts"):
        index_from_arrow(VIEW, given)


def test_is_deleted_must_be_a_bool() -> None:
    with pytest.raises(ContractError, match=r"WRONG_TYPE in is_deleted"):
        index_from_arrow(VIEW, table(is_deleted=pa.array([1, 0, 0])))
