"""What every online store promises, whichever it is."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from feature_pipelines.errors import ContractError, RunConflictError, UnavailableError
from feature_pipelines.stores.base import Answer, Key, OnlineStore, StoredRow
from feature_pipelines.stores.opening import open_store
from feature_pipelines.views import FeatureView
from tests.toy.stored import (
    DAY,
    EVERY,
    PLANE,
    PLANE_V2,
    ROUTE,
    fill,
    plane_row,
    stored_rows,
    tombstone,
)

PATIENT_MS = 10_000


def one(store: OnlineStore, key: Key, view: FeatureView = PLANE) -> Answer:
    ((row,),) = store.read([(view, [key])])
    return row


def said(store: OnlineStore, key: Key, kind: type[Exception], match: str, view: FeatureView = PLANE) -> Any:
    """Return the error that stands for a key."""
    answer = one(store, key, view)
    assert isinstance(answer, kind), answer
    assert re.search(match, str(answer)), answer
    return answer


# Reading


def test_read_answers_in_the_shape_and_order_asked(store: OnlineStore) -> None:
    first, second = plane_row(1), plane_row(2)
    (route,) = stored_rows(ROUTE, [(0.5, "é")], [(3, 4)])
    fill(store, PLANE, [("N1",), ("N2",)], [first, second])
    fill(store, ROUTE, [("JFK", -7)], [route])
    wanted = [
        (PLANE, [("N2",), ("N9",), ("N1",), ("N2",)]),
        (ROUTE, [("JFK", -7), ("JFK", 7)]),
        (PLANE, [("N1",)]),
    ]
    assert store.read(wanted) == [[second, None, first, second], [route, None], [first]]
    assert store.read([(PLANE, []), (ROUTE, [])]) == [[], []]
    assert store.read([]) == []


def test_read_of_more_keys_than_one_query_takes(store: OnlineStore) -> None:
    keys: list[Key] = [(f"N{i}",) for i in range(700)]
    rows = [plane_row(i) for i in range(700)]
    assert fill(store, PLANE, keys, rows) == 700
    assert store.read([(PLANE, keys)]) == [rows]


def test_keys_that_look_alike_are_different_entities(store: OnlineStore) -> None:
    keys: list[Key] = [("1",), (1,), ('1"',), ("1 ",), ("é",), ("e\u0301",), ("",), ("*",), ("}{",), ("\\",)]
    fill(store, PLANE, keys, [plane_row(i) for i in range(len(keys))])
    (found,) = store.read([(PLANE, keys)])
    assert [row.event_ts for row in found if row] == list(range(len(keys)))


def test_a_row_of_every_type_comes_back_with_its_very_bytes(store: OnlineStore) -> None:
    values = (
        "-Infinity",
        1e-45,
        -(2**63),
        None,
        1,
        None,
        True,
        None,
        2**63 - 1,
        None,
        "-0.0001",
        None,
        "",
        None,
    )
    written = stored_rows(EVERY, [values], [(-(2**63), 2**63 - 1)])
    fill(store, EVERY, [(2**63 - 1,)], written)
    assert one(store, (2**63 - 1,), EVERY) == written[0]


NEVER = "'{}': it was never materialised.*run jobs.materialize_features"


def test_a_view_without_w_is_not_one_without_rows(store: OnlineStore) -> None:
    """Nothing was ever written; the view is known; a first materialise is at work: no key of it is NOT_FOUND."""
    fill(store, ROUTE, [("a", 1)], stored_rows(ROUTE, [(1.0, None)], [(1, 1)]))
    said(store, ("N1",), UnavailableError, NEVER.format("plane"))
    store.register(PLANE)
    said(store, ("N1",), UnavailableError, NEVER.format("plane"))
    store.write(PLANE, [("N1",)], [plane_row(1)])
    missing, route = store.read([(PLANE, [("N1",), ("N2",)]), (ROUTE, [("a", 1)])])
    assert all(isinstance(answer, UnavailableError) for answer in missing)
    assert isinstance(route[0], StoredRow), "another view is answered as ever"
    assert store.through([PLANE]) == {"plane": None}
    store.advance(PLANE, 1)
    assert store.read([(PLANE, [("N1",), ("N2",)])]) == [[plane_row(1), None]]


def test_what_was_begun_is_remembered_until_w_is_set(store: OnlineStore) -> None:
    assert store.register(PLANE).source == ""
    first = store.register(PLANE, source="t@1")
    assert (first.source, first.through_ts) == ("t@1", None)
    assert store.register(PLANE, source="t@2") == store.register(PLANE) == first
    assert store.register(ROUTE, source="r@1").source == "r@1"
    store.advance(PLANE, 5, source="t@3", epoch=first.epoch)
    assert store.register(PLANE, source="t@4").source == "t@3"
    assert store.reset(PLANE).source == ""
    assert store.register(PLANE, source="t@5")[2::2] == ("t@5", True), "and it is still being rebuilt"


# The order (L1)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (plane_row(1, 9), plane_row(2, 2)),
        (plane_row(-1), plane_row(0)),
        (plane_row(2, 2), plane_row(2, 3)),
        (plane_row(127), plane_row(128)),
        (plane_row(2**53), plane_row(2**53 + 1)),
        (plane_row(-(2**63)), plane_row(2**63 - 1)),
        tuple(sorted([plane_row(1, age=1.0), plane_row(1, age=2.0)], key=lambda row: row.digest)),
        (plane_row(1), tombstone(2)),
        (tombstone(1), plane_row(1, 2)),
    ],
    ids=["event", "sign", "created", "byte", "beyond-doubles", "extremes", "digest", "tombstone", "revival"],
)
def test_the_newer_row_stays_in_either_order_of_writing(
    store: OnlineStore, older: StoredRow, newer: StoredRow
) -> None:
    assert fill(store, PLANE, [("up",)], [older]) + fill(store, PLANE, [("up",)], [newer]) == 2
    assert fill(store, PLANE, [("down",)], [newer]) == 1
    assert fill(store, PLANE, [("down",)], [older]) == 0
    assert store.read([(PLANE, [("up",), ("down",)])]) == [[newer, newer]]


def test_a_row_written_again_changes_nothing(store: OnlineStore) -> None:
    rows = [plane_row(1), plane_row(1), plane_row(3), plane_row(2)]
    assert fill(store, PLANE, [("N1",)] * 4, rows) == 2
    assert fill(store, PLANE, [("N1",)] * 4, rows) == 0
    assert one(store, ("N1",)) == rows[2]


def test_a_tombstone_stays_so_that_an_older_row_cannot_come_back(store: OnlineStore) -> None:
    fill(store, PLANE, [("N1",)], [tombstone(5)])
    assert fill(store, PLANE, [("N1",)], [plane_row(4)]) == 0
    assert one(store, ("N1",)) == tombstone(5)


# W


def test_through_never_goes_back(store: OnlineStore) -> None:
    assert store.advance(PLANE, 10, source="t@1") == 10
    assert store.advance(PLANE, 7, source="t@2") == 10
    assert store.states([PLANE])["plane"].source == "t@1"  # type: ignore[union-attr]
    assert store.advance(PLANE, 10, source="t@3") == 10
    assert store.advance(PLANE, 2**53 + 1) == 2**53 + 1
    assert store.advance(PLANE, 2**53) == 2**53 + 1
    assert store.through([PLANE, ROUTE]) == {"plane": 2**53 + 1, "route": None}


def test_through_may_lie_before_1970(store: OnlineStore) -> None:
    assert store.advance(PLANE, -(2**63)) == -(2**63)
    assert store.advance(PLANE, -5) == -5
    assert store.advance(PLANE, -6) == -5


# Removal


def test_purge_removes_what_is_older_and_nothing_else(store: OnlineStore) -> None:
    keys: list[Key] = [(f"N{i:05d}",) for i in range(6_000)]
    fill(store, PLANE, keys, [plane_row(i - 3_000) for i in range(6_000)])
    other = stored_rows(ROUTE, [(1.0, None)], [(-9_999, 0)])
    fill(store, ROUTE, [("a", 1)], other)
    store.advance(PLANE, 4)
    assert store.purge(PLANE, 0) == 3_000
    assert store.purge(PLANE, 0) == 0
    assert store.read([(PLANE, [keys[2_999], keys[3_000]])])[0] == [None, plane_row(0)]
    assert one(store, ("a", 1), ROUTE) == other[0]
    assert store.through([PLANE]) == {"plane": 4}


def test_purge_touches_no_view_whose_name_begins_alike(store: OnlineStore) -> None:
    longer = FeatureView('plane":{[x*', PLANE.keys, PLANE.fields)
    star = FeatureView("pl*", PLANE.keys, PLANE.fields)
    for view in (PLANE, longer, star):
        fill(store, view, [("N1",)], [plane_row(1)])
    assert store.purge(star, 9) == 1
    assert store.purge(longer, 9) == 1
    assert one(store, ("N1",)) == plane_row(1)


def test_delete_forgets_entities_and_their_tombstones(store: OnlineStore) -> None:
    fill(store, PLANE, [("N1",), ("N2",), ("N3",)], [plane_row(1), tombstone(1), plane_row(1)])
    assert store.delete(PLANE, [("N1",), ("N2",), ("N9",)]) == 2
    assert store.read([(PLANE, [("N1",), ("N2",), ("N3",)])]) == [[None, None, plane_row(1)]]


# Schemas


def test_another_schema_is_named_by_read_and_write_and_never_served(store: OnlineStore) -> None:
    fill(store, PLANE, [("N1",)], [plane_row(1)])
    fill(store, ROUTE, [("a", 1)], stored_rows(ROUTE, [(1.0, None)], [(1, 1)]))
    names = f"'plane'.*{PLANE.schema_digest()}.*{PLANE_V2.schema_digest()}"
    new = stored_rows(PLANE_V2, [(1, 1.0)], [(2, 2)])
    error = said(store, ("N1",), ContractError, names, PLANE_V2)
    assert error.evidence["held"] == PLANE.schema_digest()
    said(store, ("never written",), ContractError, names, PLANE_V2)
    assert isinstance(store.read([(PLANE_V2, [("N1",)]), (ROUTE, [("a", 1)])])[1][0], StoredRow)
    with pytest.raises(ContractError, match=names):
        store.write(PLANE_V2, [("N1",)], new)
    with pytest.raises(ContractError, match=names):
        store.advance(PLANE_V2, 1)
    with pytest.raises(ContractError, match=names):
        store.through([PLANE_V2])
    assert one(store, ("N1",)) == plane_row(1)


def test_two_versions_of_a_view_cannot_share_a_store_but_two_names_can(store: OnlineStore) -> None:
    """Of a champion and a challenger whose schemas differ, one is refused by name, and neither is served the other's columns."""
    renamed = FeatureView("plane_v2", PLANE_V2.keys, PLANE_V2.fields)
    old, new = plane_row(1), stored_rows(PLANE_V2, [(1, 1.0)], [(2, 2)])[0]
    fill(store, PLANE, [("N1",)], [old])
    fill(store, renamed, [("N1",)], stored_rows(renamed, [(1, 1.0)], [(2, 2)]))
    assert [type(found[0]) for found in store.read([(PLANE, [("N1",)]), (renamed, [("N1",)])])] == [
        StoredRow
    ] * 2
    store.reset(PLANE_V2)
    fill(store, PLANE_V2, [("N1",)], [new])
    assert one(store, ("N1",), PLANE_V2) == new
    said(store, ("N1",), ContractError, "'plane'.*--rebuild", PLANE)
    with pytest.raises(ContractError, match="'plane'.*--rebuild"):
        store.write(PLANE, [("N1",)], [old])


def test_reset_takes_the_new_schema_and_is_read_only_when_complete(store: OnlineStore) -> None:
    new = stored_rows(PLANE_V2, [(1, 1.0)], [(2, 2)])
    fill(store, PLANE, [("N1",), ("N2",)], [plane_row(9), plane_row(9)])
    fill(store, ROUTE, [("a", 1)], stored_rows(ROUTE, [(1.0, None)], [(1, 1)]))
    store.advance(PLANE, 9)
    assert store.reset(PLANE_V2).through_ts is None
    assert store.write(PLANE_V2, [("N1",)], new) == 1
    said(store, ("N1",), UnavailableError, "'plane'.*being rebuilt", PLANE_V2)
    with pytest.raises(ContractError, match="schema"):
        store.write(PLANE, [("N1",)], [plane_row(9)])
    store.advance(PLANE_V2, 5)
    assert store.read([(PLANE_V2, [("N1",), ("N2",)])]) == [[new[0], None]]
    assert one(store, ("a", 1), ROUTE) is not None


def test_a_writer_that_began_before_a_reset_cannot_set_w(store: OnlineStore) -> None:
    epoch = store.register(PLANE).epoch
    assert store.advance(PLANE, 3, epoch=epoch) == 3
    store.reset(PLANE)
    with pytest.raises(RunConflictError, match="'plane'.*reset"):
        store.advance(PLANE, 4, epoch=epoch)
    assert store.states([PLANE])["plane"].through_ts is None  # type: ignore[union-attr]


@pytest.mark.parametrize("key", [("N1", "N2"), (), (1.0,), (True,), (None,)])
def test_a_key_of_another_form_is_refused(store: OnlineStore, key: Key) -> None:
    with pytest.raises(ContractError, match="'plane'.*key"):
        store.read([(PLANE, [key])])


# Threads and processes


def test_one_store_serves_many_threads(store: OnlineStore) -> None:
    keys: list[Key] = [(f"N{i}",) for i in range(50)]
    fill(store, PLANE, keys, [plane_row(i) for i in range(50)])
    wrong: list[object] = []

    def ask(start: int) -> None:
        for i in range(100):
            at = (start + i) % 50
            try:
                row = one(store, keys[at])
            except Exception as exc:  # noqa: BLE001 - whatever it is, the test shows it
                wrong.append(exc)
                return
            if row is None or row.event_ts != at:
                wrong.append(row)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_store_opened_before_a_fork_serves_parent_and_child(store: OnlineStore) -> None:
    fill(store, PLANE, [("N1",)], [plane_row(1)])
    assert one(store, ("N1",)) == plane_row(1)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            fill(store, PLANE, [("N2",)], [plane_row(2)])
            code = 0 if all(one(store, ("N1",)) == plane_row(1) for _ in range(50)) else 2
        finally:
            os._exit(code)
    assert all(one(store, ("N1",)) == plane_row(1) for _ in range(50))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert one(store, ("N2",)) == plane_row(2)


def test_what_one_store_wrote_another_reads(store_url: str, tmp_path: Path) -> None:
    writer, reader = (open_store(store_url, timeout_ms=PATIENT_MS) for _ in range(2))
    for at in (DAY, 2 * DAY):
        fill(writer, PLANE, [("N1",)], [plane_row(at)])
        assert one(reader, ("N1",)) == plane_row(at)
    writer.close()
    assert one(reader, ("N1",)) == plane_row(2 * DAY)
    reader.close()
