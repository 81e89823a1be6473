"""Rows taken out of a Delta table: whole, once, beside other writers, told nowhere in the log, and counted until vacuum is run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from feature_pipelines.errors import TableError
from jobs.tables import removal
from jobs.tables.delta import ParquetSink, commit_files, ensure_table
from jobs.tables.removal import RowTest, count_rows, owed, remove_rows, vacuum_command

SCHEMA = pa.schema(
    [
        pa.field("who", pa.string(), nullable=False),
        pa.field("n", pa.int64()),
        pa.field("seen_ts", pa.timestamp("us", tz="UTC")),
    ]
)
NOW = datetime.now(UTC)
OF_ADA = RowTest(("who",), lambda batch: pc.equal(batch.column("who"), "ada").to_numpy(zero_copy_only=False))


def add(uri: str, names: list[str], app_id: str) -> None:
    ensure_table(uri, SCHEMA)
    times = pa.array(range(len(names)), SCHEMA.field("seen_ts").type)
    with ParquetSink(uri, SCHEMA, "part") as sink:
        sink.append(pa.table({"who": names, "n": range(len(names)), "seen_ts": times}))
        file = sink.close()
    assert file is not None
    assert commit_files(uri, [file], app_id=app_id, schema=SCHEMA)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """Three files: one with ada among others, one without, one of ada alone."""
    place = str(tmp_path / "t")
    for i, names in enumerate((["ada", "bob", "ada", "cy"], ["bob", "dee"], ["ada"])):
        add(place, names, f"run/{i}")
    return place


def rows(uri: str) -> list[tuple[Any, ...]]:
    table = DeltaTable(uri).to_pyarrow_table()
    return sorted(zip(*(table.column(name).to_pylist() for name in ("who", "n")), strict=True))


def parquet_files(uri: str) -> int:
    return len(list(Path(uri).glob("*.parquet")))


def test_rows_leave_the_newest_version_in_one_transaction_and_nothing_else_changes(uri: str) -> None:
    assert count_rows(uri, OF_ADA) == 3
    version = DeltaTable(uri).version()
    untouched = DeltaTable(uri, version=2).file_uris()
    assert remove_rows(uri, OF_ADA, NOW) == 3
    table = DeltaTable(uri)
    assert table.version() == version + 1
    assert rows(uri) == [("bob", 0), ("bob", 1), ("cy", 3), ("dee", 1)]
    assert len(set(untouched) & set(table.file_uris())) == 1
    assert len(table.file_uris()) == 2
    assert table.transaction_version("run/1") == 1
    assert count_rows(uri, OF_ADA) == 0


def test_second_time_nothing_is_found_and_nothing_committed(uri: str) -> None:
    remove_rows(uri, OF_ADA, NOW)
    version = DeltaTable(uri).version()
    assert remove_rows(uri, OF_ADA, NOW) == 0
    assert DeltaTable(uri).version() == version


def test_commit_does_not_say_whose_rows_went(uri: str) -> None:
    remove_rows(uri, OF_ADA, NOW)
    newest = sorted(Path(uri, "_delta_log").glob("*.json"))[-1].read_text()
    assert re.search(r"\bada\b", newest) is None
    removed = [json.loads(line)["remove"] for line in newest.splitlines() if "remove" in json.loads(line)]
    assert {entry["deletionTimestamp"] for entry in removed} == {int(NOW.timestamp() * 1000)}


def test_vacuum_owes_the_files_that_hold_them_until_its_command_is_run(uri: str) -> None:
    assert owed(uri, OF_ADA).files == 0
    held = [path for path in Path(uri).glob("*.parquet") if b"dee" not in path.read_bytes()]
    remove_rows(uri, OF_ADA, NOW)
    rest = owed(uri, OF_ADA)
    assert (rest.files, rest.bytes) == (2, sum(path.stat().st_size for path in held))
    assert (rest.unreadable, rest.retention) == (0, "interval 1 week")
    command = vacuum_command(uri).replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, env={**os.environ})
    assert owed(uri, OF_ADA) == rest  # the retention has not passed
    at_once = command.replace("dry_run", "retention_hours=0, enforce_retention_duration=False, dry_run")
    subprocess.run(at_once, shell=True, check=True, env={**os.environ})
    assert owed(uri, OF_ADA).files == 0
    assert not any(path.exists() for path in held)
    assert rows(uri) == [("bob", 0), ("bob", 1), ("cy", 3), ("dee", 1)]


def test_retention_is_the_tables_own(tmp_path: Path) -> None:
    place = str(tmp_path / "t")
    ensure_table(place, SCHEMA, properties={"delta.deletedFileRetentionDuration": "interval 30 days"})
    assert owed(place, OF_ADA).retention == "interval 30 days"


def test_file_that_is_being_written_is_counted_as_unreadable(uri: str) -> None:
    Path(uri, "run-x.parquet").write_bytes(b"PAR1")
    assert owed(uri, OF_ADA).unreadable == 1


def test_rows_that_arrive_while_it_works_are_kept_and_its_first_attempt_leaves_no_file(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = [["eve", "ada"]]
    count = removal._count

    def counting(*arguments: Any) -> int:
        if late:
            add(uri, late.pop(), "run/late")
        return count(*arguments)

    monkeypatch.setattr(removal, "_count", counting)
    before = parquet_files(uri)
    assert remove_rows(uri, OF_ADA, NOW) == 4
    assert ("eve", 0) in rows(uri)
    assert len(rows(uri)) == 5
    assert parquet_files(uri) == before + 1 + 2  # the late one, and two that were written again, once


def test_two_at_once_bring_nothing_back(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_bob = RowTest(
        ("who",), lambda batch: pc.equal(batch.column("who"), "bob").to_numpy(zero_copy_only=False)
    )
    rewritten, other = removal._rewritten, [of_bob]

    def rewriting(*arguments: Any) -> Any:
        if other:
            assert remove_rows(uri, other.pop(), NOW) == 2
        return rewritten(*arguments)

    monkeypatch.setattr(removal, "_rewritten", rewriting)
    assert remove_rows(uri, OF_ADA, NOW) == 3
    assert rows(uri) == [("cy", 3), ("dee", 1)]


def test_attempt_that_died_before_its_commit_changes_nothing_and_is_completed(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("jobs.tables.delta._write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            remove_rows(uri, OF_ADA, NOW)
    assert count_rows(uri, OF_ADA) == 3
    (left,) = Path(uri).glob("without-*")
    os.utime(left, (0, 0))
    assert remove_rows(uri, OF_ADA, NOW) == 3
    assert not left.exists()


def test_files_without_the_column_hold_none(uri: str) -> None:
    other = RowTest(("nobody",), lambda batch: np.ones(batch.num_rows, np.bool_))
    assert count_rows(uri, other) == 0


def test_partitioned_tables_are_refused(tmp_path: Path) -> None:
    place = str(tmp_path / "p")
    write_deltalake(place, pa.table({"who": ["ada"], "day": ["x"]}), partition_by=["day"])
    with pytest.raises(TableError, match="partitioned by day"):
        remove_rows(place, OF_ADA, NOW)
