import datetime as dt
import json
import os
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_pipelines.errors import TableError
from jobs.tables.delta import ParquetSink, commit_files, ensure_table
from jobs.tables.snapshot import InputFile, Snapshot, check_snapshot, pin_snapshot, plan_units, read_unit

SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("name", pa.string())])


def append(uri, ids):
    with ParquetSink(uri, SCHEMA, "part") as sink:
        sink.append(pa.table({"id": ids, "name": ["x"] * len(ids)}, SCHEMA))
        commit_files(uri, [sink.close()], app_id=f"{ids}", schema=SCHEMA)


def rows_of(snapshot, columns=None):
    return [
        row
        for unit in plan_units(snapshot, unit_rows=1000)
        for batch in read_unit(unit, columns or snapshot.schema.names, batch_rows=10, schema=snapshot.schema)
        for row in batch.to_pylist()
    ]


@pytest.fixture
def uri(tmp_path):
    place = str(tmp_path / "t")
    ensure_table(place, SCHEMA)
    append(place, [1, 2])
    append(place, [3])
    return place


def test_pin_snapshot_of_a_delta_table_is_its_newest_version(uri):
    snapshot = pin_snapshot(uri)

    assert (snapshot.format, snapshot.version, len(snapshot.files)) == ("delta", 2, 2)
    assert snapshot.schema == SCHEMA
    assert sorted(row["id"] for row in rows_of(snapshot)) == [1, 2, 3]


def test_pin_snapshot_of_an_older_version_reads_what_was_there(uri):
    assert [row["id"] for row in rows_of(pin_snapshot(uri, version=1))] == [1, 2]
    with pytest.raises(TableError, match="at version 9"):
        pin_snapshot(uri, version=9)


def test_pin_snapshot_does_not_see_later_commits(uri):
    snapshot = pin_snapshot(uri)
    append(uri, [4])

    assert len(rows_of(snapshot)) == 3
    check_snapshot(snapshot)


def test_pin_snapshot_of_an_empty_delta_table_has_a_schema_and_no_units(tmp_path):
    ensure_table(str(tmp_path / "t"), SCHEMA)

    snapshot = pin_snapshot(str(tmp_path / "t"))

    assert snapshot.files == ()
    assert snapshot.schema == SCHEMA
    assert plan_units(snapshot, unit_rows=1) == []
    check_snapshot(snapshot)


def test_pin_snapshot_takes_delta_partition_values_from_the_log_with_their_types(tmp_path):
    day = dt.date(2013, 1, 2)
    values = {
        "p_int": pa.array([7, None], pa.int32()),
        "p_day": pa.array([day, day]),
        "p_text": ["a/b %", ""],
        "p_dec": pa.array([Decimal("1.50"), Decimal("-2.00")], pa.decimal128(10, 2)),
        "p_ts": pa.array(
            [dt.datetime(2013, 1, 2, 3, 4, 5, 678901, dt.UTC)] * 2, pa.timestamp("us", tz="UTC")
        ),
        "p_bool": [True, False],
    }
    table = pa.table({"id": [1, 2], **values})
    write_deltalake(str(tmp_path / "t"), table, partition_by=list(values))

    snapshot = pin_snapshot(str(tmp_path / "t"))

    read = sorted(rows_of(snapshot), key=lambda row: row["id"])
    expected = table.to_pylist()
    expected[1]["p_text"] = None  # Delta cannot tell an empty partition value from null
    assert read == expected
    assert [row["p_int"] for row in rows_of(snapshot, ["p_int"])].count(7) == 1


@pytest.mark.parametrize(("value", "ids"), [(3, [1]), ("3", [1]), ("03", [1]), (None, [3]), (99, [])])
def test_pin_snapshot_chooses_partitions_by_typed_value(tmp_path, value, ids):
    table = pa.table({"id": [1, 2, 3], "month": pa.array([3, 4, None], pa.int32())})
    write_deltalake(str(tmp_path / "t"), table, partition_by=["month"])

    snapshot = pin_snapshot(str(tmp_path / "t"), partitions={"month": value})

    assert [row["id"] for row in rows_of(snapshot)] == ids


def test_pin_snapshot_refuses_partitions_that_do_not_exist(tmp_path):
    write_deltalake(str(tmp_path / "t"), pa.table({"id": [1], "month": [3]}), partition_by=["month"])

    with pytest.raises(TableError, match=r"'mouth' is not a partition column\. Did you mean 'month'"):
        pin_snapshot(str(tmp_path / "t"), partitions={"mouth": 3})
    with pytest.raises(
        TableError, match="partition column 'month' is int64, and a value given for it is not"
    ):
        pin_snapshot(str(tmp_path / "t"), partitions={"month": "March"})


def test_pin_snapshot_reads_columns_added_later_as_null(tmp_path):
    uri = str(tmp_path / "t")
    write_deltalake(uri, pa.table({"id": [1]}))
    write_deltalake(uri, pa.table({"id": [2], "new": ["x"]}), mode="append", schema_mode="merge")

    assert sorted(rows_of(pin_snapshot(uri)), key=lambda row: row["id"]) == [
        {"id": 1, "new": None},
        {"id": 2, "new": "x"},
    ]


def hand_made_table(place, features, configuration=None, column=None, **add):
    os.makedirs(place / "_delta_log")
    pq.write_table(pa.table({"a": [1, 2, 3]}), place / "f.parquet")
    size = (place / "f.parquet").stat().st_size
    field = {"name": "a", "type": "long", "nullable": True, "metadata": column or {}}
    entries = [
        {
            "protocol": {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": features,
                "writerFeatures": features,
            }
        },
        {
            "metaData": {
                "id": "11111111-1111-1111-1111-111111111111",
                "format": {"provider": "parquet", "options": {}},
                "schemaString": json.dumps({"type": "struct", "fields": [field]}),
                "partitionColumns": [],
                "configuration": configuration or {},
                "createdTime": 1,
            }
        },
        {
            "add": {
                "path": "f.parquet",
                "partitionValues": {},
                "size": size,
                "modificationTime": 1,
                "dataChange": True,
                **add,
            }
        },
    ]
    (place / "_delta_log" / "00000000000000000000.json").write_text("\n".join(map(json.dumps, entries)))
    return str(place)


def test_pin_snapshot_refuses_deletion_vectors_and_says_what_to_run(tmp_path):
    vector = {
        "storageType": "u",
        "pathOrInlineDv": "vBn[lx{q8@P<9BNH/isA",
        "offset": 1,
        "sizeInBytes": 36,
        "cardinality": 2,
    }
    uri = hand_made_table(tmp_path / "t", ["deletionVectors"], deletionVector=vector)

    with pytest.raises(
        TableError, match=r"deletion vectors hide rows.*REORG TABLE delta.`.*/t` APPLY \(PURGE\)"
    ):
        pin_snapshot(uri)


def test_pin_snapshot_takes_a_table_that_could_have_deletion_vectors_but_has_none(tmp_path):
    uri = hand_made_table(tmp_path / "t", ["deletionVectors"], {"delta.enableDeletionVectors": "true"})

    assert len(rows_of(pin_snapshot(uri))) == 3


def test_pin_snapshot_refuses_column_mapping_and_says_what_to_run(tmp_path):
    uri = hand_made_table(
        tmp_path / "t",
        ["columnMapping"],
        {"delta.columnMapping.mode": "name", "delta.columnMapping.maxColumnId": "1"},
        {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "col-1"},
    )

    with pytest.raises(
        TableError, match=r"column mapping \(name\) gives columns other names.*spark.read.format\('delta'\)"
    ):
        pin_snapshot(uri)


def test_pin_snapshot_lists_everything_it_tried(tmp_path):
    with pytest.raises(TableError) as caught:
        pin_snapshot(str(tmp_path / "none"))
    assert f"a Delta table at {tmp_path}/none; Parquet files at {tmp_path}/none." in str(caught.value)

    with pytest.raises(TableError, match=r"table db.none of the catalog \(no Spark session was given\)"):
        pin_snapshot("db.none")
    with pytest.raises(
        TableError, match=r"no such input. Tried: table none of the catalog \(no Spark session was given\)\.$"
    ):
        pin_snapshot("catalog:none")


def test_pin_snapshot_refuses_a_version_of_parquet_files(tmp_path):
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")

    with pytest.raises(TableError, match="Parquet files have no versions, but version 1 was asked for"):
        pin_snapshot(str(tmp_path), version=1)


def snapshot_of(*files, schema=SCHEMA, version=None):
    return Snapshot("s", "parquet", version, tuple(files), schema)


def test_digest_ignores_listing_order_and_spelling(uri, monkeypatch):
    one, two = InputFile("/a", 1, 5), InputFile("/b", 2, 6)
    monkeypatch.chdir(os.path.dirname(uri))

    assert snapshot_of(one, two) == snapshot_of(two, one)
    assert snapshot_of(one, two).digest() == snapshot_of(two, one).digest()
    assert pin_snapshot("t").digest() == pin_snapshot(f"file://{uri}/").digest()


def test_digest_is_the_same_in_every_process():
    files = (InputFile("/a b", 1, 5, {"day": None}), InputFile("/b", 2, 6, {"day": "1"}))

    digest = Snapshot("s", "delta", 3, files, SCHEMA).digest()

    assert digest == "aec5327efea2c2640996b7a592fae0d8be70e9817bfe188d01da7b33c96517f2"


@pytest.mark.parametrize(
    "changed",
    [
        snapshot_of(InputFile("/a", 2, 5)),
        snapshot_of(InputFile("/a", 1, 6)),
        snapshot_of(InputFile("/c", 1, 5)),
        snapshot_of(InputFile("/a", 1, 5, {"day": "1"})),
        snapshot_of(InputFile("/a", 1, 5), InputFile("/b", 1, 5)),
        snapshot_of(InputFile("/a", 1, 5), schema=pa.schema([SCHEMA.field(0)])),
        snapshot_of(InputFile("/a", 1, 5), version=2),
    ],
)
def test_digest_notices_every_change(changed):
    assert changed.digest() != snapshot_of(InputFile("/a", 1, 5)).digest()


def test_snapshot_survives_json(tmp_path):
    table = pa.table({"id": [1], "ts": pa.array([0], pa.timestamp("us", tz="UTC")), "month": ["é"]})
    write_deltalake(str(tmp_path / "t"), table, partition_by=["month"])
    snapshot = pin_snapshot(str(tmp_path / "t"))

    again = Snapshot.from_json(snapshot.to_json())

    assert again == snapshot
    assert again.digest() == snapshot.digest()
    assert again.schema.equals(snapshot.schema, check_metadata=True)


def test_check_snapshot_names_what_vacuum_took(uri):
    snapshot = pin_snapshot(uri)
    for file in snapshot.files:
        os.remove(file.uri)

    with pytest.raises(
        TableError, match=r"t at version 2 is no longer what was pinned: 2 of 2 files.*\(missing\)"
    ):
        check_snapshot(snapshot)


def test_check_snapshot_notices_another_size_and_a_rewrite(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"n": [1]}), path)
    snapshot = pin_snapshot(str(path))
    check_snapshot(snapshot)

    os.utime(path, ns=(0, 0))
    with pytest.raises(TableError, match=r"a.parquet \(written again\)"):
        check_snapshot(snapshot)

    path.write_bytes(b"x")
    with pytest.raises(TableError, match=r"a.parquet \(1 bytes, \d+ when pinned\)"):
        check_snapshot(snapshot)


def test_pinned_files_survive_what_vacuum_keeps(uri):
    snapshot = pin_snapshot(uri)
    DeltaTable(uri).optimize.compact()
    DeltaTable(uri).vacuum(dry_run=False)

    check_snapshot(snapshot)
    DeltaTable(uri).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    with pytest.raises(TableError, match="2 of 2 files"):
        check_snapshot(snapshot)
