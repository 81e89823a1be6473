"""What a table is given can be read back: each Arrow type is held exactly, or refused by name."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_pipelines.errors import ContractError
from jobs.tables.delta_types import as_stored, stored_type

NOON = datetime.datetime(2013, 6, 1, 12, tzinfo=datetime.UTC)
HELD = [
    (pa.timestamp("ns", tz="UTC"), NOON, NOON),
    (pa.timestamp("s", tz="America/New_York"), NOON, NOON),
    (pa.timestamp("ns"), NOON.replace(tzinfo=None), NOON.replace(tzinfo=None)),
    (pa.uint8(), 255, 255),
    (pa.uint16(), 65_535, 65_535),
    (pa.uint32(), 4_000_000_000, 4_000_000_000),
    (pa.uint64(), 2**64 - 1, Decimal(2**64 - 1)),
    (pa.float16(), 1.5, 1.5),
    (pa.float32(), 0.1, 0.10000000149011612),
    (pa.date64(), NOON.date(), NOON.date()),
    (pa.large_string(), "x", "x"),
    (pa.string_view(), "x", "x"),
    (pa.large_binary(), b"x", b"x"),
    (pa.binary(1), b"x", b"x"),
    (pa.decimal128(38, 9), Decimal("1.5"), Decimal("1.500000000")),
    (pa.null(), None, None),
    (pa.bool_(), True, True),
    (pa.list_(pa.int64()), [1, 2], [1, 2]),
    (pa.dictionary(pa.int32(), pa.uint32()), 7, 7),
]


@pytest.mark.parametrize(("type_", "value", "held"), HELD, ids=[str(case[0]) for case in HELD])
def test_what_a_table_is_given_can_be_read_back(
    tmp_path: Path, type_: pa.DataType, value: Any, held: Any
) -> None:
    column = as_stored("x", pa.array([value, None], type_))
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    assert column.type == stored_type(type_)
    write_deltalake(tmp_path, pa.table({"x": column}))
    assert DeltaTable(tmp_path).to_pyarrow_table().column("x").to_pylist() == [held, None]


@pytest.mark.parametrize(
    "type_",
    [
        pa.time64("us"),
        pa.duration("us"),
        pa.decimal256(50, 2),
        pa.list_(pa.uint8()),
        pa.month_day_nano_interval(),
    ],
    ids=str,
)
def test_types_that_no_table_holds_are_named(type_: pa.DataType) -> None:
    assert stored_type(type_) is None


def test_a_time_finer_than_a_microsecond_is_refused_by_column() -> None:
    column = pa.array([1_001], pa.timestamp("ns", tz="UTC"))
    with pytest.raises(
        ContractError, match="column 'sent_ts' has values that timestamp.us, tz=UTC. cannot hold"
    ):
        as_stored("sent_ts", column)
