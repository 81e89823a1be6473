import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from feature_pipelines.errors import TableError
from jobs.tables.snapshot import pin_snapshot, plan_units, read_unit


def write(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def rows_of(snapshot):
    return [
        row
        for unit in plan_units(snapshot, unit_rows=1000)
        for batch in read_unit(unit, snapshot.schema.names, batch_rows=10, schema=snapshot.schema)
        for row in batch.to_pylist()
    ]


def test_a_single_file_is_an_input(tmp_path):
    write(tmp_path / "a.parquet", pa.table({"n": [1, 2]}))

    assert rows_of(pin_snapshot(str(tmp_path / "a.parquet"))) == [{"n": 1}, {"n": 2}]


def test_hidden_files_are_no_data(tmp_path):
    write(tmp_path / "a.parquet", pa.table({"n": [1]}))
    for name in ("_SUCCESS", ".a.parquet.crc", "_temporary/0/part.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    assert len(pin_snapshot(str(tmp_path)).files) == 1


def test_hive_directories_become_string_columns(tmp_path):
    write(tmp_path / "month=03" / "day=a%2Fb" / "x.parquet", pa.table({"n": [1]}))
    write(tmp_path / "month=4" / "day=__HIVE_DEFAULT_PARTITION__" / "x.parquet", pa.table({"n": [2]}))

    snapshot = pin_snapshot(str(tmp_path))

    assert snapshot.schema == pa.schema(
        [pa.field("n", pa.int64()), pa.field("month", pa.string()), pa.field("day", pa.string())]
    )
    assert rows_of(snapshot) == [{"n": 1, "month": "03", "day": "a/b"}, {"n": 2, "month": "4", "day": None}]
    assert rows_of(pin_snapshot(str(tmp_path), partitions={"month": 4})) == [
        {"n": 2, "month": "4", "day": None}
    ]


def test_the_directory_wins_over_a_column_of_that_name(tmp_path):
    write(tmp_path / "month=4" / "x.parquet", pa.table({"n": [1], "month": [9]}))

    assert rows_of(pin_snapshot(str(tmp_path))) == [{"n": 1, "month": "4"}]


def test_a_column_that_some_files_lack_is_null_there(tmp_path):
    required = pa.schema([pa.field("n", pa.int64(), nullable=False)])
    write(tmp_path / "a.parquet", pa.table({"n": [1]}, required))
    write(tmp_path / "b.parquet", pa.table({"n": [2], "s": ["x"]}))
    write(tmp_path / "c.parquet", pa.table({"n": [3], "s": pa.nulls(1)}))

    snapshot = pin_snapshot(str(tmp_path))

    assert snapshot.schema == pa.schema([pa.field("n", pa.int64()), pa.field("s", pa.string())])
    assert [row["s"] for row in rows_of(snapshot)] == [None, "x", None]


def test_encodings_of_a_writer_are_not_types(tmp_path):
    write(
        tmp_path / "a.parquet",
        pa.table({"d": pa.array(["x"]).dictionary_encode(), "l": pa.array(["y"], pa.large_string())}),
    )

    assert pin_snapshot(str(tmp_path)).schema.types == [pa.string(), pa.string()]


def test_files_that_disagree_on_a_type_are_refused(tmp_path):
    write(tmp_path / "a.parquet", pa.table({"n": [1]}))
    write(tmp_path / "b.parquet", pa.table({"n": ["x"]}))

    with pytest.raises(TableError, match=r"n is int64 in .*/a.parquet and string in .*/b.parquet"):
        pin_snapshot(str(tmp_path))


def test_files_that_disagree_on_partition_columns_are_refused(tmp_path):
    write(tmp_path / "month=4" / "x.parquet", pa.table({"n": [1]}))
    write(tmp_path / "x.parquet", pa.table({"n": [1]}))

    with pytest.raises(
        TableError, match=r"do not agree on the partition columns: .* has none; .* has \['month'\]"
    ):
        pin_snapshot(str(tmp_path))


def test_a_directory_without_data_is_refused(tmp_path):
    (tmp_path / "_SUCCESS").write_bytes(b"")

    with pytest.raises(TableError, match="no Parquet files there, so nothing says what columns"):
        pin_snapshot(str(tmp_path))


def test_a_file_that_is_no_parquet_is_named(tmp_path):
    (tmp_path / "readme.txt").write_text("hello, this is not parquet")

    with pytest.raises(TableError, match=r"readme.txt: not a readable Parquet file"):
        pin_snapshot(str(tmp_path))


def test_a_part_of_a_delta_table_is_refused(tmp_path):
    write_deltalake(str(tmp_path / "t"), pa.table({"n": [1], "month": [4]}), partition_by=["month"])

    with pytest.raises(
        TableError, match=r"month=4: part of the Delta table .*/t\. Name the table, with partitions"
    ):
        pin_snapshot(str(tmp_path / "t" / "month=4"))


@pytest.mark.parametrize(
    ("marker", "name"), [(".hoodie/hoodie.properties", "Hudi"), ("metadata/v1.metadata.json", "Iceberg")]
)
def test_tables_of_other_formats_are_refused(tmp_path, marker, name):
    write(tmp_path / "data" / "a.parquet", pa.table({"n": [1]}))
    (tmp_path / marker).parent.mkdir()
    (tmp_path / marker).write_text("{}")

    with pytest.raises(TableError, match=f"a table of format {name}"):
        pin_snapshot(str(tmp_path))
