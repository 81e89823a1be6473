from __future__ import annotations

import pytest

from feature_pipelines.errors import ContractError
from jobs.submissions.keys import LOOPBACK
from jobs.submissions.room import Room, Wanted
from tests.toy.kept import Kept


def code(room: Room, taken: dict[str, Wanted], key: str, n_bytes: int = 1) -> str | None:
    why = room.take(taken, key, n_bytes)
    return None if why is None else why.code


def test_one_key_has_its_share_and_no_more_and_all_have_the_whole() -> None:
    room, taken = Room(4, 100, 0.5), dict[str, Wanted]()
    assert [code(room, taken, "a") for _ in range(3)] == [None, None, "QUEUE_SHARE"]
    assert [code(room, taken, "b") for _ in range(3)] == [None, None, "QUEUE_FULL"]
    assert taken == {"a": Wanted(2, 2), "b": Wanted(2, 2)}


def test_bytes_are_shared_as_well() -> None:
    room, taken = Room(100, 100, 0.5), dict[str, Wanted]()
    assert [code(room, taken, "a", 50), code(room, taken, "a", 1), code(room, {}, "b", 51)] == [
        None,
        "QUEUE_SHARE",
        "QUEUE_SHARE",
    ]
    assert [code(room, taken, "b", 50), code(room, taken, "c", 1)] == [None, "QUEUE_FULL"]


def test_a_share_is_one_at_least_and_who_needs_no_key_has_all() -> None:
    room, taken = Room(3, 100, 0.01), dict[str, Wanted]()
    assert [code(Room(3, 10_000, 0.01), taken, "a") for _ in range(2)] == [None, "QUEUE_SHARE"]
    assert [code(room, taken, LOOPBACK) for _ in range(3)] == [None, None, "QUEUE_FULL"]


def test_key_that_fills_its_share_is_refused_and_another_is_not(kept: Kept) -> None:
    kept.max_queued, kept.max_queued_share = 4, 0.5
    first = kept.take(who="a", key="k").submission
    kept.take(who="a")
    with pytest.raises(ContractError, match="of this key") as caught:
        kept.take(who="a")
    assert caught.value.evidence["status"] == 429
    assert (caught.value.evidence["code"], caught.value.evidence["retry_after"]) == ("QUEUE_SHARE", 5)
    assert not kept.take(who="a", key="k").is_new
    assert kept.take(who="b").is_new
    kept.ledger.end(first.id, "cancelled")
    assert kept.take(who="a").is_new
