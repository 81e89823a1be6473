"""What a stored row is to a request as of a time."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from feature_pipelines.errors import ContractError, UnavailableError
from feature_pipelines.lookup import Status
from feature_pipelines.stores.base import StoredRow, not_served, resolve
from tests.toy.stored import PLANE, plane_row, tombstone

TTL = 30 * 86_400_000_000


@pytest.mark.parametrize(
    ("row", "as_of", "expected"),
    [
        (None, 5, Status.NOT_FOUND),
        (plane_row(5), 5, Status.PRESENT),
        (plane_row(6), 5, Status.FUTURE),
        (plane_row(5, 6), 5, Status.FUTURE),
        (plane_row(5, 6), 6, Status.PRESENT),
        (tombstone(5), 5, Status.NOT_FOUND),
        (tombstone(5), 5 + TTL + 1, Status.NOT_FOUND),
        (tombstone(6), 5, Status.FUTURE),
        (plane_row(5), 5 + TTL, Status.PRESENT),
        (plane_row(5), 5 + TTL + 1, Status.EXPIRED),
        (plane_row(-(2**63)), 2**63 - 1, Status.EXPIRED),
        (plane_row(-(2**63)), -(2**63), Status.PRESENT),
    ],
)
def test_a_row_is_what_the_as_of_rule_says(row: StoredRow | None, as_of: int, expected: Status) -> None:
    assert resolve(PLANE, row, as_of) is expected


def test_without_a_ttl_a_row_of_any_age_is_present() -> None:
    ageless = dataclasses.replace(PLANE, ttl_seconds=None)
    assert resolve(ageless, plane_row(-(2**63)), 2**63 - 1) is Status.PRESENT


def test_the_order_of_rows_is_that_of_times_then_digests() -> None:
    rows = [plane_row(1, 9), plane_row(2, 2), plane_row(2, 3), plane_row(2, 3, age=2.0)]
    assert max(rows, key=lambda row: row.order) == max(rows[2:], key=lambda row: row.digest)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ({"schema": "aa", "through_ts": 5}, None, ""),
        ({"schema": "aa", "through_ts": -(2**63)}, None, ""),
        ({"schema": "aa", "through_ts": None}, UnavailableError, "never materialised"),
        ({"schema": None, "through_ts": None}, UnavailableError, "never materialised"),
        ({"schema": "aa", "through_ts": None, "rebuilding": True}, UnavailableError, "being rebuilt"),
        ({"schema": "bb", "through_ts": 5}, ContractError, "schema bb, declared is aa.*--rebuild"),
        (
            {"schema": "bb", "through_ts": None, "rebuilding": True},
            ContractError,
            "schema bb, declared is aa",
        ),
    ],
)
def test_a_view_is_served_only_when_its_state_says_so(
    state: dict[str, Any], error: type[Exception] | None, message: str
) -> None:
    found = not_served(PLANE, declared="aa", url="redis://host/0", **{"rebuilding": False, **state})
    assert (type(found) if found else None) is error
    if found is not None:
        assert re.search(f"'plane'.*{message}", str(found))
        assert "host" not in str(found)
        assert found.evidence["url"] == "redis://host/0"
