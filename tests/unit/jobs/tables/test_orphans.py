import os
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from jobs.tables.delta import ParquetSink, commit_files, delete_orphans, ensure_table, orphans, replace_files

SCHEMA = pa.schema([pa.field("id", pa.int64())])


def write(uri, name):
    with ParquetSink(uri, SCHEMA, name) as sink:
        sink.append(pa.table({"id": [1]}))
        return sink.close()


@pytest.fixture
def uri(tmp_path):
    place = str(tmp_path / "t")
    ensure_table(place, SCHEMA, properties={"delta.checkpointInterval": "3"})
    return place


def test_orphans_are_the_files_that_no_log_entry_mentions(uri):
    lost = write(uri, "run-1")
    kept = write(uri, "run-1")
    write(uri, "run-2")
    commit_files(uri, [kept], app_id="a", schema=SCHEMA)

    assert orphans(uri, "run-1-") == [lost.path]


def test_orphans_spares_files_of_older_versions(uri):
    replace_files(uri, [write(uri, "run-1")], digest="1", schema=SCHEMA)
    replace_files(uri, [write(uri, "run-1")], digest="2", schema=SCHEMA)

    assert orphans(uri, "run-1-") == []


def test_orphans_spares_files_of_which_the_log_still_knows_the_removal(tmp_path):
    uri = str(tmp_path / "t")
    ensure_table(uri, SCHEMA)
    replace_files(uri, [write(uri, "run-1")], digest="1", schema=SCHEMA)
    replace_files(uri, [write(uri, "run-1")], digest="2", schema=SCHEMA)
    os.remove(f"{uri}/_delta_log/00000000000000000001.json")

    assert orphans(uri, "run-1-") == []


def test_orphans_spares_files_that_only_a_checkpoint_mentions(uri):
    for i in range(7):
        commit_files(uri, [write(uri, "run-1")], app_id=f"a{i}", schema=SCHEMA)
    log = f"{uri}/_delta_log"
    checkpoint = max(name for name in os.listdir(log) if name.endswith(".checkpoint.parquet"))
    for name in os.listdir(log):
        if name.endswith(".json") and name < checkpoint:
            os.remove(f"{log}/{name}")

    assert DeltaTable(uri).count() == 7
    assert orphans(uri, "run-1-") == []


def test_orphans_knows_percent_encoded_paths(tmp_path):
    uri = str(tmp_path / "t")
    DeltaTable.create(uri, pa.schema([*SCHEMA, pa.field("day", pa.string())]), partition_by=["day"])
    from deltalake import write_deltalake

    write_deltalake(uri, pa.table({"id": [1], "day": ["1 May"]}), mode="append")

    assert orphans(uri, "part-") == []


def test_orphans_modified_before_spares_young_files(uri):
    write(uri, "run-1")
    now = datetime.now(UTC)

    assert orphans(uri, "run-1-", modified_before=now - timedelta(hours=1)) == []
    assert len(orphans(uri, "run-1-", modified_before=now + timedelta(hours=1))) == 1


def test_delete_orphans_deletes_them_and_nothing_else(uri):
    lost = write(uri, "run-1")
    kept = write(uri, "run-1")
    commit_files(uri, [kept], app_id="a", schema=SCHEMA)

    assert delete_orphans(uri, "run-1-") == [lost.path]

    assert sorted(name for name in os.listdir(uri) if name.endswith(".parquet")) == [kept.path]
    assert delete_orphans(uri, "run-1-") == []
