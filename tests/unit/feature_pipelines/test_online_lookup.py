"""Which keys a request wants, and what its columns are once they were read; no store is needed for either."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from feature_pipelines.columns import Float64, Int64, Nullable, String, Timestamp
from feature_pipelines.definitions import FeatureSet, FeatureView
from feature_pipelines.errors import ContractError, UnavailableError
from feature_pipelines.lookup import Status
from feature_pipelines.online_lookup import Assembled, Found, Plan, assemble, plan
from feature_pipelines.request_rows import RequestReader
from feature_pipelines.schema import Field, Schema
from feature_pipelines.stores.base import StoredRow, not_served, unreadable
from tests.toy.stored import columns_of
from tests.toy.stored_rates import stored_rows


def gap(rate: Float64) -> Float64:
    """The rate."""
    return rate


RATES = FeatureView(
    "rates",
    {"town": "town", "street": "street"},
    Schema((Field("rate", Float64), Field("level", Nullable[Int64]))),
    ttl_seconds=1,
)
OTHER = FeatureView(
    "other",
    {"town": "town"},
    Schema((Field("name", Nullable[String]),)),
    missing="reject",
    unavailable="missing",
)
FEATURES = FeatureSet(
    name="towns",
    request=Schema(
        (
            Field("asked_ts", Timestamp),
            Field("town", Nullable[String]),
            Field("street", Nullable[Int64]),
        )
    ),
    views=(RATES, OTHER),
    features=(gap,),
    as_of="asked_ts",
)
NOW = 10_000_000
ROW: dict[str, Any] = {"asked_ts": NOW, "town": "a", "street": 1}
SENT = {"name": "x"}


def planned(*rows: Any, has_store: bool = True) -> Plan:
    return plan(FEATURES, RequestReader(FEATURES).read(rows), has_store=has_store)


def rate(event_ts: int, value: float = 1.5, *, created_ts: int | None = None, **more: Any) -> StoredRow:
    columns = {"rate": np.array([value]), "level": Nullable(np.array([3]), np.array([True]))}
    return stored_rows(RATES, columns, [event_ts], created_ts and [created_ts], **more)[0]


def assembled(found: Found, *rows: Any, as_of: int = NOW) -> Assembled:
    return assemble(planned(*rows), found, [as_of] * len(rows))


# --- plan


def test_each_key_is_wanted_once_in_the_order_of_the_rows() -> None:
    rows = [ROW, ROW | {"street": 2}, ROW, ROW | {"town": "b"}]
    made = planned(*rows)
    assert [(view.name, keys) for view, keys in made.wanted()] == [
        ("rates", [("a", 1), ("a", 2), ("b", 1)]),
        ("other", [("a",), ("b",)]),
    ]
    assert [one.positions for one in made.views] == [[0, 1, 0, 2], [0, 0, 0, 1]]


def test_null_in_a_key_wants_nothing() -> None:
    made = planned(ROW | {"street": None})
    assert [view.name for view, _ in made.wanted()] == ["other"]
    assert made.views[0].statuses == [Status.NULL]


def test_row_that_sends_all_fields_of_a_view_is_not_looked_up_and_one_that_sends_some_is() -> None:
    made = planned(ROW | {"rate": 1, "level": None} | SENT, ROW | {"rate": 1} | SENT)
    assert [(view.name, keys) for view, keys in made.wanted()] == [("rates", [("a", 1)])]
    assert made.views[0].positions == [-1, 0]
    assert made.views[0].statuses == [Status.OVERRIDDEN, Status.PRESENT]


def test_bad_rows_are_not_looked_up() -> None:
    assert planned(ROW | {"street": "one"}, 7, ROW | {"other_field": 1}).wanted() == []


def test_without_a_store_a_row_must_send_all_fields() -> None:
    made = planned(ROW, ROW | {"rate": 1, "level": None} | SENT, ROW | {"rate": 1} | SENT, has_store=False)
    assert made.wanted() == []
    assert [(e.row, e.code, e.field) for e in made.errors] == [
        (0, "STORED_FEATURES_MISSING", "rates"),
        (2, "STORED_FEATURES_MISSING", "rates"),
        (0, "STORED_FEATURES_MISSING", "other"),
    ]
    assert "it lacks rate, level; no store" in made.errors[0].message
    assert "it lacks level; no store" in made.errors[1].message
    assert "ONESCORE_STORE_URL" in made.errors[0].message
    done = assemble(made, [], [NOW] * 3)
    assert done.overrides == [[], ["rate", "level", "name"], ["rate", "name"]]
    assert done.statuses["rates"].tolist() == [Status.PRESENT, Status.OVERRIDDEN, Status.PRESENT]
    level = done.columns["level"]
    assert isinstance(level, Nullable)
    assert level.valid.tolist() == [False] * 3
    assert {e.row for e in done.errors} == {0, 2}


# --- assemble


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (rate(NOW), Status.PRESENT),
        (rate(NOW - 1_000_000), Status.PRESENT),  # the ttl is inclusive
        (rate(NOW - 1_000_001), Status.EXPIRED),
        (rate(NOW + 1), Status.FUTURE),
        (rate(NOW - 1, created_ts=NOW + 1), Status.FUTURE),
        (rate(NOW, is_deleted=True), Status.NOT_FOUND),
        (rate(NOW + 1, is_deleted=True), Status.FUTURE),
        (None, Status.NOT_FOUND),
    ],
)
def test_status_of_one_row_and_its_event_time(row: StoredRow | None, status: Status) -> None:
    for rows in ([ROW | SENT], [ROW | SENT, ROW | SENT | {"street": None}]):
        done = assembled([[row]], *rows)
        assert done.statuses["rates"][0] == status
        assert done.event_ts["rates"][0] == (None if row is None else row.event_ts)
        expected = 1.5 if status == Status.PRESENT else np.nan
        assert np.array_equal(np.asarray(done.columns["rate"])[:1], [expected], equal_nan=True)
        assert [e.code for e in done.errors] == ["AS_OF_BEFORE_STORE"] * (status == Status.FUTURE)


def test_rows_get_the_values_of_their_own_keys() -> None:
    rows = [ROW | SENT | {"street": s} for s in (1, 2, 1, 3)]
    done = assembled([[rate(NOW, 1.0), rate(NOW - 5, 2.0), None]], *rows)
    assert np.array_equal(np.asarray(done.columns["rate"]), [1.0, 2.0, 1.0, np.nan], equal_nan=True)
    assert done.event_ts["rates"] == [NOW, NOW - 5, NOW, None]
    assert done.statuses["rates"].tolist() == [0, 0, 0, 1]


def test_a_sent_value_wins_over_the_stored_one_and_is_named() -> None:
    done = assembled([[rate(NOW, 1.0)]], ROW | SENT, ROW | SENT | {"rate": 9.5}, ROW | SENT | {"rate": None})
    assert np.array_equal(np.asarray(done.columns["rate"]), [1.0, 9.5, np.nan], equal_nan=True)
    assert done.overrides == [["name"], ["rate", "name"], ["rate", "name"]]
    level = done.columns["level"]
    assert isinstance(level, Nullable)
    assert level.values.tolist() == [3, 3, 3]
    assert done.statuses["rates"].tolist() == [0, 0, 0]


def test_a_sent_value_that_breaks_the_contract_refuses_its_row_alone() -> None:
    done = assembled([[rate(NOW)]], ROW | SENT, ROW | SENT | {"rate": "high"})
    assert [(e.row, e.code, e.field) for e in done.errors] == [(1, "WRONG_TYPE", "rate")]


def test_store_that_does_not_answer_is_what_each_view_says() -> None:
    down = UnavailableError("online store redis://host:1/0: refused", url="redis://host:1/0")
    done = assembled(down, ROW, ROW | {"rate": 1.0, "level": 2} | SENT)
    assert (done.failures, done.retryable) == ([down], {0})
    assert not any("host" in error.message for error in done.errors), "where the store is, is for the log"
    assert [(e.row, e.code, e.field) for e in done.errors] == [
        (0, "STORE_UNAVAILABLE", "rates"),
        (0, "STORED_FEATURES_MISSING", "other"),  # unavailable="missing", missing="reject"
    ]
    assert done.statuses["rates"].tolist() == [Status.UNAVAILABLE, Status.OVERRIDDEN]


def test_store_of_another_schema_refuses_the_rows_it_was_to_answer_whatever_the_policy() -> None:
    other = ContractError("view 'other': the store holds it under schema aa, declared is bb")
    done = assembled(other, ROW | {"rate": 1.0, "level": 2}, ROW | {"rate": 1.0, "level": 2} | SENT)
    assert (done.errors[0].row, done.errors[0].code) == (0, "STORE_UNAVAILABLE")
    assert "schema aa" in done.errors[0].message
    assert {e.row for e in done.errors} == {0}


def test_value_that_cannot_be_read_refuses_the_rows_that_wanted_it_and_no_other() -> None:
    torn = rate(NOW)._replace(payload=rate(NOW).payload[:-1])
    (error,) = assembled([[torn]], ROW | SENT).errors
    assert (error.code, error.field) == ("STORED_VALUE_UNREADABLE", "rates")
    rows = [ROW | SENT | {"street": s} for s in (1, 2, 1, 3)]
    done = assembled([[rate(NOW, 1.0), torn, None]], *rows)
    assert [(e.row, e.code, e.field) for e in done.errors] == [(1, "STORED_VALUE_UNREADABLE", "rates")]
    assert "'rates': a stored value is not as its schema says" in done.errors[0].message
    assert np.array_equal(np.asarray(done.columns["rate"]), [1.0, np.nan, 1.0, np.nan], equal_nan=True)
    assert done.statuses["rates"].tolist() == [0, Status.UNAVAILABLE, 0, Status.NOT_FOUND]
    assert not done.retryable, "asking again will not mend it"
    assert [str(failure) for failure in done.failures] == [done.errors[0].message]


def test_value_that_is_not_needed_is_not_read_alone_or_beside_others() -> None:
    """One row's answer does not depend on how many are asked with it."""
    torn = rate(NOW - 1_000_001)._replace(payload=rate(NOW).payload[:-1])
    expired, present = ROW | SENT, ROW | SENT | {"street": 2}
    assert assembled([[torn]], expired).errors == []
    done = assembled([[torn, rate(NOW)]], expired, present)
    assert (done.errors, done.statuses["rates"].tolist()) == ([], [Status.EXPIRED, Status.PRESENT])
    earlier = assemble(planned(ROW | SENT, ROW | SENT), [[torn]], [NOW, NOW - 1])
    assert [(e.row, e.code) for e in earlier.errors] == [(1, "STORED_VALUE_UNREADABLE")]
    assert earlier.statuses["rates"].tolist() == [Status.EXPIRED, Status.UNAVAILABLE]


def test_value_that_the_store_itself_cannot_read_is_no_default_whatever_the_policy() -> None:
    broken = unreadable(OTHER, "is not of layout version 1", "redis://host:1/0")
    row = ROW | {"rate": 1.0, "level": 2}
    done = assembled([[broken]], row, row | SENT)
    assert [(e.row, e.code, e.field) for e in done.errors] == [(0, "STORED_VALUE_UNREADABLE", "other")]
    assert "host" not in done.errors[0].message
    assert done.failures == [broken]


def test_view_that_cannot_be_served_is_what_it_says_and_the_views_beside_it_are_looked_up() -> None:
    never = not_served(RATES, None, "aa", None, rebuilding=False, url="redis://host:1/0")
    assert isinstance(never, UnavailableError)
    (name,) = stored_rows(OTHER, columns_of(OTHER, [("x",)]), [NOW])
    done = assembled([[never, never], [name]], ROW, ROW | {"street": 2})
    assert [(e.row, e.code, e.field) for e in done.errors] == [
        (0, "STORE_UNAVAILABLE", "rates"),
        (1, "STORE_UNAVAILABLE", "rates"),
    ]
    assert "'rates': it was never materialised" in done.errors[0].message
    assert "host" not in done.errors[0].message
    assert done.statuses["other"].tolist() == [0, 0]
    assert (done.failures, done.retryable) == ([never], {0, 1})


def test_view_of_another_schema_refuses_its_rows_and_not_those_that_send_its_fields() -> None:
    other = not_served(RATES, "aa", "bb", 5, rebuilding=False, url="redis://host:1/0")
    done = assembled([[other]], ROW | SENT, ROW | SENT | {"rate": 1, "level": 1})
    assert [(e.row, e.code, e.field) for e in done.errors] == [(0, "STORE_UNAVAILABLE", "rates")]
    assert "schema aa, declared is bb" in done.errors[0].message
    assert not done.retryable


# --- reading rows


def test_as_of_is_read_by_the_wire_form_and_may_be_missing() -> None:
    read = RequestReader(FEATURES).read(
        [ROW, ROW | {"as_of_ts": "1970-01-01T00:00:01Z"}, ROW | {"as_of_ts": 5}]
    )
    assert list(read.as_of) == [None, 1_000_000, 5]
    assert read.errors == []
    (error,) = RequestReader(FEATURES).read([ROW | {"as_of_ts": "now"}]).errors
    assert (error.code, error.field) == ("BAD_TIMESTAMP", "as_of_ts")


def test_as_of_field_that_the_request_declares_is_its_own() -> None:
    declared = FeatureSet(
        name="own",
        request=Schema((Field("as_of_ts", Timestamp), Field("rate", Float64))),
        features=(gap,),
    )
    read = RequestReader(declared).read([{"as_of_ts": 7, "rate": 1.0}])
    assert list(read.as_of) == [7]
    assert set(read.columns) == {"as_of_ts", "rate"}


def test_unknown_field_is_refused_with_close_matches_and_a_stored_field_is_known() -> None:
    (error,) = RequestReader(FEATURES).read([ROW | {"rat": 1}, ROW | {"rate": 1}]).errors
    assert (error.row, error.code, error.field) == (0, "UNKNOWN_FIELD", "rat")
    assert "Did you mean 'rate'?" in error.message
