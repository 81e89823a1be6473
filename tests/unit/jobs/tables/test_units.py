import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_pipelines.errors import TableError
from jobs.tables.files import filesystem_of
from jobs.tables.snapshot import Unit, pin_snapshot, plan_units, read_unit

UTC_US = pa.timestamp("us", tz="UTC")


def write(path, table, group_rows):
    pq.write_table(table, path, row_group_size=group_rows)
    return str(path)


def numbers(n, start=0):
    return pa.table({"n": pa.array(range(start, start + n), pa.int64())})


def rows_of(units, snapshot, columns, batch_rows=1000):
    return [
        row
        for unit in units
        for batch in read_unit(unit, columns, batch_rows=batch_rows, schema=snapshot.schema)
        for row in batch.to_pylist()
    ]


def test_plan_units_joins_adjacent_row_groups_up_to_the_limit(tmp_path):
    uri = write(tmp_path / "a.parquet", numbers(11), 3)

    units = plan_units(pin_snapshot(uri), unit_rows=6)

    assert units == [Unit(uri, (0, 1), 0, 6), Unit(uri, (2, 3), 6, 5)]


def test_plan_units_keeps_a_large_row_group_whole(tmp_path):
    uri = write(tmp_path / "a.parquet", numbers(10), 4)

    assert [(u.row_groups, u.first_ordinal, u.rows) for u in plan_units(pin_snapshot(uri), unit_rows=3)] == [
        ((0,), 0, 4),
        ((1,), 4, 4),
        ((2,), 8, 2),
    ]


def test_plan_units_orders_by_file_and_skips_empty_files(tmp_path):
    for name, n in (("b", 2), ("a", 3), ("c", 0)):
        write(tmp_path / f"{name}.parquet", numbers(n), 10)

    units = plan_units(pin_snapshot(str(tmp_path)), unit_rows=100)

    assert [(unit.file_uri[-9:], unit.rows) for unit in units] == [("a.parquet", 3), ("b.parquet", 2)]


def test_plan_units_refuses_nonsense(tmp_path):
    snapshot = pin_snapshot(write(tmp_path / "a.parquet", numbers(1), 1))

    with pytest.raises(ValueError, match="unit_rows: expected at least 1, got 0"):
        plan_units(snapshot, unit_rows=0)
    with pytest.raises(TableError, match=r"has no column 'm'\. .*Available: n"):
        plan_units(snapshot, unit_rows=1, time_column="m")


def times(values, type_=UTC_US):
    return pa.table({"t": pa.array(values, pa.int64()).cast(type_)})


@pytest.mark.parametrize(
    ("from_us", "to_us", "kept"),
    [
        (None, None, [0, 1, 2]),
        (20, None, [1, 2]),
        (19, None, [0, 1, 2]),
        (None, 20, [0]),
        (None, 21, [0, 1]),
        (25, 26, [1]),
        (0, 10, []),
        (40, 50, []),
    ],
)
def test_plan_units_leaves_out_row_groups_outside_the_time_range(tmp_path, from_us, to_us, kept):
    snapshot = pin_snapshot(write(tmp_path / "a.parquet", times([10, 19, 20, 29, 30, 39]), 2))

    units = plan_units(snapshot, unit_rows=2, time_column="t", time_from_us=from_us, time_to_us=to_us)

    assert [unit.row_groups[0] for unit in units] == kept
    assert [unit.first_ordinal for unit in units] == [2 * group for group in kept]


def test_plan_units_does_not_join_across_a_gap(tmp_path):
    snapshot = pin_snapshot(write(tmp_path / "a.parquet", times([10, 10, 90, 90, 11, 11]), 2))

    units = plan_units(snapshot, unit_rows=100, time_column="t", time_to_us=50)

    assert [(unit.row_groups, unit.first_ordinal, unit.rows) for unit in units] == [
        ((0,), 0, 2),
        ((2,), 4, 2),
    ]


def test_plan_units_keeps_row_groups_that_prove_nothing(tmp_path):
    with_null = times([10, None, 10, 10])
    naive = times([10, 10], pa.timestamp("us"))
    for name, table in (("null", with_null), ("naive", naive)):
        snapshot = pin_snapshot(write(tmp_path / f"{name}.parquet", table, 2))
        units = plan_units(snapshot, unit_rows=2, time_column="t", time_from_us=50)
        assert [unit.row_groups for unit in units] == [(0,)], name
    pq.write_table(times([10]), tmp_path / "bare.parquet", write_statistics=False)

    assert plan_units(
        pin_snapshot(str(tmp_path / "bare.parquet")), unit_rows=2, time_column="t", time_from_us=50
    )


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_plan_units_compares_times_of_any_unit(tmp_path, unit):
    table = pa.table({"t": pa.array([dt.datetime(2013, 1, 1, tzinfo=dt.UTC)], pa.timestamp(unit, tz="UTC"))})
    snapshot = pin_snapshot(write(tmp_path / "a.parquet", table, 1))
    instant = 1_356_998_400_000_000

    def planned(**bounds):
        return len(plan_units(snapshot, unit_rows=1, time_column="t", **bounds))

    assert planned(time_from_us=instant, time_to_us=instant + 1) == 1
    assert planned(time_from_us=instant + 1) == 0
    assert planned(time_to_us=instant) == 0


def test_pruned_units_hold_every_row_of_the_range(tmp_path):
    values = [(i * 7919) % 1000 for i in range(500)]
    snapshot = pin_snapshot(write(tmp_path / "a.parquet", times(sorted(values)), 16))

    units = plan_units(snapshot, unit_rows=64, time_column="t", time_from_us=300, time_to_us=700)
    read = rows_of(units, snapshot, ["t"])
    micros = [row["t"].microsecond for row in read]

    assert sorted(v for v in micros if 300 <= v < 700) == sorted(v for v in values if 300 <= v < 700)
    assert len(micros) < 500


def test_read_unit_gives_only_its_rows_in_order_and_in_small_batches(tmp_path):
    snapshot = pin_snapshot(write(tmp_path / "a.parquet", numbers(20), 5))
    units = plan_units(snapshot, unit_rows=10)

    batches = list(read_unit(units[1], ["n"], batch_rows=4, schema=snapshot.schema))

    assert [n for batch in batches for n in batch.column("n").to_pylist()] == list(range(10, 20))
    assert all(0 < batch.num_rows <= 4 for batch in batches)


def test_read_unit_gives_columns_in_the_order_asked_for(tmp_path):
    table = pa.table({"a": [1, 2], "b": ["x", None], "c": [0.5, 1.5]})
    snapshot = pin_snapshot(write(tmp_path / "a.parquet", table, 2))

    batch = next(
        read_unit(plan_units(snapshot, unit_rows=9)[0], ["c", "a"], batch_rows=9, schema=snapshot.schema)
    )

    assert batch.schema.names == ["c", "a"]
    assert batch.to_pylist() == [{"c": 0.5, "a": 1}, {"c": 1.5, "a": 2}]


def test_read_unit_encodes_repeating_strings_and_leaves_distinct_ones(tmp_path):
    n = 1000
    table = pa.table(
        {"id": [f"row-{i:06d}" for i in range(n)], "carrier": ["UA", None, "AA", "B6"] * (n // 4)}
    )
    snapshot = pin_snapshot(write(tmp_path / "a.parquet", table, n))

    batch = next(
        read_unit(
            plan_units(snapshot, unit_rows=n)[0], ["id", "carrier"], batch_rows=n, schema=snapshot.schema
        )
    )

    assert batch.column("id").type == pa.string()
    assert batch.column("carrier").type == pa.dictionary(pa.int32(), pa.string())
    assert pa.Table.from_batches([batch]).cast(table.schema).equals(table)


def test_read_unit_gives_the_declared_types(tmp_path):
    narrow = pa.table({"n": pa.array([1], pa.int32()), "s": pa.array(["x"], pa.large_string())})
    snapshot = pin_snapshot(write(tmp_path / "a.parquet", narrow, 1))
    wide = pa.schema([pa.field("n", pa.int64()), pa.field("s", pa.string()), pa.field("new", pa.float64())])

    batch = next(read_unit(plan_units(snapshot, unit_rows=1)[0], wide.names, batch_rows=1, schema=wide))

    assert batch.schema.types == wide.types
    assert batch.to_pylist() == [{"n": 1, "s": "x", "new": None}]


def test_read_unit_finds_a_column_whose_capitals_a_metastore_lost(tmp_path):
    snapshot = pin_snapshot(write(tmp_path / "a.parquet", pa.table({"FlightId": [1]}), 1))
    unit = plan_units(snapshot, unit_rows=1)[0]

    batch = next(
        read_unit(unit, ["flightid"], batch_rows=1, schema=pa.schema([pa.field("flightid", pa.int64())]))
    )

    assert batch.to_pylist() == [{"flightid": 1}]


def test_read_unit_names_what_does_not_fit(tmp_path):
    snapshot = pin_snapshot(write(tmp_path / "a.parquet", pa.table({"n": [2**40]}), 1))
    unit = plan_units(snapshot, unit_rows=1)[0]
    narrow = pa.schema([pa.field("n", pa.int32()), pa.field("must", pa.int64(), nullable=False)])

    with pytest.raises(
        TableError, match="column 'n' is int64 in the file and does not fit the declared int32"
    ):
        next(read_unit(unit, ["n"], batch_rows=1, schema=narrow))
    with pytest.raises(TableError, match="lacks column 'must', which is not nullable"):
        next(read_unit(unit, ["must"], batch_rows=1, schema=narrow))
    with pytest.raises(TableError, match=r"no column 'x'.*Available: n"):
        next(read_unit(unit, ["x"], batch_rows=1, schema=snapshot.schema))
    with pytest.raises(TableError, match="at least one column"):
        next(read_unit(unit, [], batch_rows=1, schema=snapshot.schema))


def test_read_unit_of_a_vacuumed_file_says_so(tmp_path):
    snapshot = pin_snapshot(write(tmp_path / "a.parquet", numbers(1), 1))
    unit = plan_units(snapshot, unit_rows=1)[0]
    (tmp_path / "a.parquet").unlink()

    with pytest.raises(TableError, match=r"a.parquet: missing; it was deleted or vacuumed"):
        next(read_unit(unit, ["n"], batch_rows=1, schema=snapshot.schema))


def test_read_unit_reads_spark_int96_times_as_instants(tmp_path):
    instant = dt.datetime(1969, 7, 20, 20, 17, 40, 123456, dt.UTC)
    table = pa.table({"t": pa.array([instant], UTC_US)})
    pq.write_table(table, tmp_path / "a.parquet", use_deprecated_int96_timestamps=True)
    snapshot = pin_snapshot(str(tmp_path / "a.parquet"))

    assert snapshot.schema.field("t").type == UTC_US
    assert rows_of(plan_units(snapshot, unit_rows=1, time_column="t", time_from_us=0), snapshot, ["t"]) == [
        {"t": instant}
    ]


def test_read_unit_works_through_a_file_system_that_is_not_local():
    filesystem, path = filesystem_of("mock:///units/month=3/a b.parquet")
    filesystem.create_dir("units/month=3")
    with filesystem.open_output_stream(path) as stream:
        pq.write_table(pa.table({"n": [1, 2], "s": ["x", "x"]}), stream)

    snapshot = pin_snapshot("mock:///units")

    assert snapshot.files[0].uri == "mock:///units/month=3/a%20b.parquet"
    assert rows_of(plan_units(snapshot, unit_rows=5), snapshot, ["month", "n"]) == [
        {"month": "3", "n": 1},
        {"month": "3", "n": 2},
    ]


def test_unit_survives_json():
    unit = Unit("/a b.parquet", (0, 1), 7, 9, {"month": "3", "day": None})

    assert Unit.from_json(unit.to_json()) == unit
