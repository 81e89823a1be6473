"""Rows that leave the prediction log: those of an entity, and whole days; numbers, other rows and running servers are not disturbed."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import prometheus_client
import pyarrow.parquet as pq
import pytest

from feature_pipelines.errors import RunConflictError
from jobs.online.entity import parse_entity
from jobs.online.log_rewriting import forget_in_log, remove_days
from tests.toy.houses import REQUEST
from tests.toy.logged import logged_requests, write_log
from udfs.prediction_files import Gap, gaps
from udfs.prediction_rows import PiiPolicy
from udfs.prediction_schema import SCHEMA

DAY = 86_400_000_000
A, B = {"house_id": 1, "town": "a"}, {"house_id": 2, "town": "b"}
OF_A = parse_entity(REQUEST, ["town=a"])


def files_of(log: Path) -> dict[str, bytes]:
    return {str(path.relative_to(log)): path.read_bytes() for path in log.rglob("*.parquet")}


def test_rows_of_an_entity_are_removed_and_only_their_files_are_written_again(tmp_path: Path) -> None:
    write_log(tmp_path, [(0, [A, B, {"house_id": "3", "town": "a"}]), (DAY, [B, {}]), (DAY, [A])])
    before = files_of(tmp_path)
    done = forget_in_log(tmp_path / "houses", OF_A, None, dry_run=False)
    assert (done.rows, done.files, done.unreadable) == (3, 2, [])
    assert logged_requests(tmp_path) == [{"house_id": "2", "town": '"b"'}] * 2 + [{}]
    after = files_of(tmp_path)
    assert after.keys() == before.keys()
    assert [name[:20] for name in after if after[name] == before[name]] == ["houses/date=1970-01-02"[:20]]
    for path in tmp_path.rglob("*.parquet"):
        assert pq.read_schema(path) == SCHEMA
    assert gaps(tmp_path / "houses") == []
    again = forget_in_log(tmp_path / "houses", OF_A, None, dry_run=False)
    assert (again.rows, again.files) == (0, 0)


def test_dry_run_counts_and_changes_nothing(tmp_path: Path) -> None:
    write_log(tmp_path, [(0, [A, B])])
    before = files_of(tmp_path)
    assert forget_in_log(tmp_path / "houses", OF_A, None, dry_run=True).rows == 1
    assert files_of(tmp_path) == before
    assert not list(tmp_path.rglob("*.lock"))


def test_all_values_must_be_a_rows_own(tmp_path: Path) -> None:
    write_log(tmp_path, [(0, [A, {"house_id": 1, "town": "b"}, {"house_id": 2, "town": "a"}])])
    both = parse_entity(REQUEST, ["house_id=1", "town=a"])
    assert forget_in_log(tmp_path / "houses", both, None, dry_run=False).rows == 1
    assert len(logged_requests(tmp_path)) == 2


@pytest.mark.parametrize(("key", "n"), [(b"k", 2), (b"another", 0), (None, 0)])
def test_hashed_values_are_found_by_the_key_they_were_hashed_with(
    tmp_path: Path, key: bytes | None, n: int
) -> None:
    write_log(tmp_path, [(0, [A, B, A])], pii=PiiPolicy("hash", b"k"), pii_fields=frozenset({"town"}))
    assert forget_in_log(tmp_path / "houses", OF_A, key, dry_run=False).rows == n
    assert len(logged_requests(tmp_path)) == 3 - n


def test_what_is_written_meanwhile_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_log(tmp_path, [(0, [A])], is_closed=False)
    later: list[list[Any]] = [[A, B]]

    def read(path: Path, *arguments: Any, **options: Any) -> Any:
        if later:
            write_log(tmp_path, [(DAY, later.pop())])
        return pq_read(path, *arguments, **options)

    pq_read = pq.read_table
    monkeypatch.setattr("jobs.online.log_rewriting.pq.read_table", read)
    assert forget_in_log(tmp_path / "houses", OF_A, None, dry_run=False).rows == 2
    log.close()


def test_file_that_cannot_be_read_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    write_log(tmp_path, [(0, [A]), (DAY, [A])])
    first = sorted(tmp_path.rglob("*.parquet"))[0]
    first.write_bytes(b"torn")
    done = forget_in_log(tmp_path / "houses", OF_A, None, dry_run=False)
    assert (done.rows, done.unreadable) == (1, [str(first)])


def test_leftover_of_a_dead_rewriting_goes_and_a_servers_file_stays(tmp_path: Path) -> None:
    write_log(tmp_path, [(0, [B])])
    (path,) = tmp_path.rglob("*.parquet")
    left, being_written = (
        path.with_name(f".{path.name}.tmp"),
        path.with_name(".part-9-1-f-000000000001-000000000002.parquet.tmp"),
    )
    left.write_bytes(b"rows of others")
    being_written.write_bytes(b"")
    forget_in_log(tmp_path / "houses", OF_A, None, dry_run=False)
    assert not left.exists()
    assert being_written.exists()


def test_two_do_not_rewrite_at_once(tmp_path: Path) -> None:
    write_log(tmp_path, [(0, [A])])
    with (tmp_path / "houses" / ".rewriting.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunConflictError, match="another process is removing rows"):
            forget_in_log(tmp_path / "houses", OF_A, None, dry_run=False)
        with pytest.raises(RunConflictError, match="another process is removing rows"):
            remove_days(tmp_path / "houses", DAY, dry_run=False)
    assert len(logged_requests(tmp_path)) == 1


def test_log_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert forget_in_log(tmp_path / "houses", OF_A, None, dry_run=False).rows == 0
    assert remove_days(tmp_path / "houses", DAY, dry_run=False).files == 0
    assert list(tmp_path.iterdir()) == []


def test_watcher_counts_a_rewritten_file_once(tmp_path: Path) -> None:
    from jobs.online.log_tail import LogTail
    from jobs.online.metrics import ServingMetrics

    tail = LogTail(tmp_path, ServingMetrics(prometheus_client.CollectorRegistry()))
    write_log(tmp_path, [(0, [A, B])])
    assert tail.poll() == 2
    forget_in_log(tmp_path / "houses", OF_A, None, dry_run=False)
    assert tail.poll() == 0


# Days


def test_days_that_ended_are_removed_and_gaps_stay_those_of_lost_rows(tmp_path: Path) -> None:
    log = write_log(tmp_path, [(0, [A, B]), (DAY, [A]), (2 * DAY, [B])], is_closed=False)
    (process,) = {path.name[10:] for path in (tmp_path / "houses").glob(".sequence-*")}
    lost = next((tmp_path / "houses" / "date=1970-01-02").iterdir())
    lost.unlink()
    before = gaps(tmp_path / "houses")
    assert before == [Gap(process, 3, 3, False)]
    planned = remove_days(tmp_path / "houses", 2 * DAY + 5, dry_run=True)
    assert gaps(tmp_path / "houses") == before
    assert len(logged_requests(tmp_path)) == 3
    removed = remove_days(tmp_path / "houses", 2 * DAY + 5, dry_run=False)
    assert removed == planned
    assert (removed.dates, removed.files) == (("1970-01-01", "1970-01-02"), 1)
    assert removed.bytes > 0
    assert [path.name for path in sorted((tmp_path / "houses").glob("date=*"))] == ["date=1970-01-03"]
    assert gaps(tmp_path / "houses") == before
    assert remove_days(tmp_path / "houses", 2 * DAY + 5, dry_run=False).files == 0
    assert remove_days(tmp_path / "houses", 3 * DAY, dry_run=False).files == 1
    assert gaps(tmp_path / "houses") == before
    log.close()


def test_day_before_the_time_is_kept_while_a_moment_of_it_is_not(tmp_path: Path) -> None:
    write_log(tmp_path, [(0, [A])])
    assert remove_days(tmp_path / "houses", DAY - 1, dry_run=False).files == 0
    assert remove_days(tmp_path / "houses", DAY, dry_run=False).files == 1


def test_server_goes_on_writing_into_a_day_that_is_being_removed(tmp_path: Path) -> None:
    log = write_log(tmp_path, [(0, [A])], is_closed=False)
    day = tmp_path / "houses" / "date=1970-01-01"
    (day / ".part-9-1-f-000000000001-000000000002.parquet.tmp").write_bytes(b"")
    (day / "notes.txt").write_text("not ours")
    assert remove_days(tmp_path / "houses", DAY, dry_run=False).files == 1
    assert [path.name for path in day.iterdir()] == ["notes.txt"]
    write_log(tmp_path, [(1, [B])])
    assert logged_requests(tmp_path) == [{"house_id": "2", "town": '"b"'}]
    log.close()
