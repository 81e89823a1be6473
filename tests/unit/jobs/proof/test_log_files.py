"""Which files a log has, what stands in two of them, and what is said where nothing can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_pipelines.errors import ConfigurationError, ContractError, TableError
from jobs.proof.log_files import LogFile, Served, files_of, in_units, survey
from tests.toy.logged import write_log
from udfs.prediction_files import Gap, gaps
from udfs.prediction_schema import SCHEMA

DAY = 86_400_000_000
A, B = {"house_id": 1}, {"house_id": 2}


def test_files_come_in_order_with_their_rows_versions_and_gaps(tmp_path: Path) -> None:
    write_log(tmp_path, [(0, [A, B]), (DAY, [A])])
    (missing,) = (tmp_path / "houses").glob("date=1970-01-02/part-*.parquet")
    name, process = missing.name, missing.name[5:-34]
    log, served = survey(files_of(tmp_path, "houses"), "houses")
    assert [file.rows for file in log.files] == [2, 1]
    assert served == {Served("1", "d", "f"): 3}
    assert log.gaps == ()
    missing.unlink()
    log = files_of(tmp_path, "houses")
    assert name.startswith(f"part-{process}")
    assert log.gaps == (Gap(process, 3, 3, False),)  # the process has ended: it will not write them
    assert len(log.files) == 1


def test_last_rows_of_a_process_that_may_still_run_may_yet_be_written(tmp_path: Path) -> None:
    log = write_log(tmp_path, [(0, [A, B]), (DAY, [A])], is_closed=False)
    (file,) = (tmp_path / "houses").glob("date=1970-01-02/part-*.parquet")
    file.unlink()
    (gap,) = files_of(tmp_path, "houses").gaps
    assert (gap.first, gap.last, gap.is_tail) == (3, 3, True)
    log.close()
    (gap,) = files_of(tmp_path, "houses").gaps
    assert (gap.first, gap.last, gap.is_tail) == (3, 3, False)


def test_file_that_appears_while_the_log_is_looked_at_is_in_no_file_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is listed and what is counted as written are the same files."""
    write_log(tmp_path, [(0, [A, B]), (DAY, [A])], is_closed=False)
    (file,) = (tmp_path / "houses").glob("date=1970-01-02/part-*.parquet")
    hidden = file.rename(tmp_path / file.name)

    def gaps_later(*arguments: Any) -> list[Gap]:
        hidden.rename(file)
        return gaps(*arguments)

    monkeypatch.setattr("jobs.proof.log_files.gaps", gaps_later)
    log = files_of(tmp_path, "houses")
    assert len(log.files) == 1
    assert [(gap.first, gap.last, gap.is_tail) for gap in log.gaps] == [(3, 3, True)]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((None, None), [(1, 3), (5, 5), (8, 9), (11, 12)]),
        ((None, 2 * DAY), [(1, 3)]),
        ((2 * DAY, 3 * DAY), [(1, 3), (5, 5)]),
        ((3 * DAY, 4 * DAY), [(5, 5)]),
        ((4 * DAY, 5 * DAY), [(5, 5), (8, 9)]),
        ((5 * DAY, 6 * DAY), [(8, 9), (11, 12)]),
        ((5 * DAY, None), [(8, 9), (11, 12)]),
        ((9 * DAY, None), [(11, 12)]),
    ],
)
def test_gaps_out_of_the_range_are_left_out_where_their_neighbours_tell(
    tmp_path: Path, bounds: Any, expected: list[tuple[int, int]]
) -> None:
    place = tmp_path / "houses"
    for day, first, last in ((2, 4, 4), (4, 6, 7), (5, 10, 10)):
        directory = place / f"date=1970-01-0{day + 1}"
        directory.mkdir(parents=True)
        (directory / f"part-1-2-aa-{first:012d}-{last:012d}.parquet").touch()
    for day in (0, 3, 9):  # another process, so that there is a file of every range
        directory = place / f"date=1970-01-{day + 1:02d}"
        directory.mkdir(parents=True)
        (directory / f"part-2-2-bb-{day + 1:012d}-{day + 1:012d}.parquet").touch()
    (place / ".sequence-1-2-aa").write_text("000000000012 0\n")
    found = files_of(tmp_path, "houses", *bounds).gaps
    assert [(gap.first, gap.last) for gap in found if gap.process == "1-2-aa"] == expected


def test_days_out_of_the_range_are_left_out(tmp_path: Path) -> None:
    write_log(tmp_path, [(day * DAY, [A]) for day in range(4)])
    for bounds, n in (
        ((DAY, 2 * DAY), 1),
        ((DAY, 2 * DAY + 1), 2),
        ((None, DAY), 1),
        ((3 * DAY + 5, None), 1),
    ):
        assert len(files_of(tmp_path, "houses", *bounds).files) == n
    with pytest.raises(TableError, match="no file of the days asked for"):
        files_of(tmp_path, "houses", 9 * DAY, None)


@pytest.mark.parametrize(
    ("ranges", "skips"),
    [
        ([(1, 5), (1, 8)], [(), ((1, 5),)]),
        ([(1, 8), (1, 5)], [(), ((1, 5),)]),
        ([(1, 3), (5, 10), (8, 9)], [(), (), ((8, 9),)]),
        ([(1, 3), (2, 9), (9, 12)], [(), ((2, 3),), ((9, 9),)]),
        ([(1, 3), (4, 6)], [(), ()]),
    ],
)
def test_number_that_two_files_hold_is_the_first_ones(
    tmp_path: Path, ranges: list[tuple[int, int]], skips: list[Any]
) -> None:
    day = tmp_path / "houses" / "date=1970-01-01"
    day.mkdir(parents=True)
    for first, last in ranges:
        (day / f"part-1-2-aa-{first:012d}-{last:012d}.parquet").touch()
    found = files_of(tmp_path, "houses").files
    assert [file.skip for file in found] == skips


def test_units_are_whole_files_of_about_so_many_rows() -> None:
    files = [LogFile(str(i), rows=rows) for i, rows in enumerate([5, 5, 30, 1, 1])]
    assert [[file.rows for file in unit] for unit in in_units(files, 10)] == [[5, 5], [30], [1, 1]]
    assert in_units([], 10) == ()


def test_log_that_is_not_there_or_not_this_models_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no such directory.*--log"):
        files_of(tmp_path / "nowhere", "houses")
    write_log(tmp_path, [(0, [A])])
    with pytest.raises(TableError, match=r"no row of model 'hoses'.*Did you mean 'houses'"):
        files_of(tmp_path, "hoses")
    for file in (tmp_path / "houses").glob("date=*/*"):
        file.unlink()
    with pytest.raises(TableError, match="it has no file; nothing can be compared"):
        files_of(tmp_path, "houses")


def altered(table: pa.Table, how: str) -> pa.Table | bytes:
    if how == "no parquet":
        return b"no parquet"
    if how == "lacks a column":
        return table.drop_columns(["score"])
    if how == "another type":
        return table.set_column(
            table.schema.get_field_index("score"), "score", pa.array(["x"] * table.num_rows)
        )
    return table.set_column(
        table.schema.get_field_index("model"), "model", pa.array(["flats"] * table.num_rows)
    )


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no parquet", "cannot be read"),
        ("lacks a column", "lacks, or has of another type, score"),
        ("another type", "lacks, or has of another type, score"),
        ("another model", "has rows of model 'flats'"),
    ],
)
def test_file_that_cannot_be_compared_is_named(tmp_path: Path, how: str, said: str) -> None:
    write_log(tmp_path, [(0, [A]), (DAY, [B])])
    file = files_of(tmp_path, "houses").files[1]
    made = altered(pq.read_table(file.path, partitioning=None), how)
    if isinstance(made, bytes):
        Path(file.path).write_bytes(made)
    else:
        pq.write_table(made, file.path)
    with pytest.raises(
        ContractError, match=f"1 of 2 files cannot be compared: date=1970-01-02/part-.*{said}"
    ):
        survey(files_of(tmp_path, "houses"), "houses")


def test_log_of_an_older_version_lacks_stored_values_and_is_read(tmp_path: Path) -> None:
    write_log(tmp_path, [(0, [A])])
    (file,) = files_of(tmp_path, "houses").files
    pq.write_table(pq.read_table(file.path, partitioning=None).drop_columns(["stored"]), file.path)
    assert "stored" in SCHEMA.names
    log, _ = survey(files_of(tmp_path, "houses"), "houses")
    assert log.files[0].rows == 1
