"""The kernel on Arrow batches: which views are looked up, and what becomes of each row."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_pipelines.errors import ContractError
from feature_pipelines.lookup import Status
from feature_pipelines.schema import Reason, RowError
from feature_pipelines.schema_arrow import column_from_arrow
from tests.toy.answers import score_rows
from tests.toy.house_bundle import house_batch, house_columns
from tests.toy.houses import FEATURES as HOUSES
from tests.toy.parcel_scorer import parcel_scorer, wire_parcel, zone_index
from tests.toy.parcel_tables import SCHEMA, parcel
from udfs.kernel import Kernel, views_to_look_up
from udfs.scorer import Scorer

REQUEST = set(HOUSES.request.names)
RATE = {"rate_pct", "rate_pct_floor"}
PARCELS = parcel_scorer()


def parcels(*changes: dict[str, Any]) -> pa.RecordBatch:
    rows = [parcel(i, **changed) for i, changed in enumerate(changes)]
    return pa.RecordBatch.from_pylist(rows, SCHEMA)


# --- views


def test_view_whose_fields_the_input_brings_is_not_looked_up() -> None:
    assert views_to_look_up(HOUSES, REQUEST | RATE, {"rates"}) == []


def test_view_whose_fields_the_input_lacks_is_looked_up() -> None:
    assert views_to_look_up(HOUSES, REQUEST, {"rates"}) == list(HOUSES.views)


def test_view_that_is_brought_in_part_is_refused() -> None:
    with pytest.raises(ContractError, match="view 'rates': the input brings rate_pct but not rate_pct_floor"):
        views_to_look_up(HOUSES, REQUEST | {"rate_pct"}, {"rates"})


def test_view_that_nobody_brings_is_refused_with_the_setting() -> None:
    with pytest.raises(ContractError, match=r"view 'rates': .* no table is given for it; set views\.rates"):
        views_to_look_up(HOUSES, REQUEST, set())


def test_kernel_without_the_views_index_refuses_the_batch(houses: Scorer) -> None:
    with pytest.raises(ContractError, match=r"set views\.rates"):
        Kernel(houses).score(house_batch(2).select(HOUSES.request.names))


# --- columns


def test_required_column_that_is_missing_is_refused_and_named(houses: Scorer) -> None:
    names = [name for name in house_batch(1).schema.names if name != "area_m2"]
    with pytest.raises(ContractError, match="area_m2"):
        Kernel(houses).score(house_batch(2).select(names))


def test_nullable_column_that_is_missing_counts_as_null(houses: Scorer) -> None:
    names = [name for name in house_batch(1).schema.names if name != "rooms"]
    batch = house_batch(20)
    nulls = batch.set_column(batch.schema.names.index("rooms"), "rooms", pa.nulls(20, pa.int64()))
    lacking, with_nulls = Kernel(houses).score(batch.select(names)), Kernel(houses).score(nulls)
    assert lacking.errors == []
    assert lacking.outputs["score"].tobytes() == with_nulls.outputs["score"].tobytes()


def test_columns_that_nobody_declared_and_their_order_change_nothing(houses: Scorer) -> None:
    batch = house_batch(20)
    extra = batch.append_column("remark", pa.array(["x"] * 20)).select(["remark", *batch.schema.names[::-1]])
    expected = Kernel(houses).score(batch).outputs["score"]
    assert Kernel(houses).score(extra).outputs["score"].tobytes() == expected.tobytes()


def test_column_of_another_type_refuses_its_rows(houses: Scorer) -> None:
    batch = house_batch(3)
    wrong = batch.set_column(batch.schema.names.index("area_m2"), "area_m2", pa.array([True, False, True]))
    scored = Kernel(houses).score(wrong)
    assert scored.index.tolist() == []
    assert [(e.row, e.code, e.field) for e in scored.errors] == [
        (i, Reason.WRONG_TYPE, "area_m2") for i in range(3)
    ]


# --- rows


@pytest.mark.parametrize("n", [0, 1, 7, 300])
def test_scores_are_those_of_the_scorer_in_order(houses: Scorer, n: int) -> None:
    scored = Kernel(houses).score(house_batch(n))
    expected = houses.score(house_columns(n), n).outputs["score"]
    assert scored.index.tolist() == list(range(n))
    assert scored.errors == []
    assert scored.outputs["score"].dtype == np.float64
    assert scored.outputs["score"].tobytes() == expected.tobytes()


def test_batch_that_is_a_slice_has_the_bits_of_the_whole(houses: Scorer) -> None:
    kernel, batch = Kernel(houses), house_batch(100)
    whole = kernel.score(batch).outputs["score"]
    for start, length in ((0, 1), (13, 7), (99, 1), (40, 0)):
        part = kernel.score(batch.slice(start, length)).outputs["score"]
        assert part.tobytes() == whole[start : start + length].tobytes()


def test_each_bad_row_gets_its_reason_and_the_others_their_scores() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"weight_kg": None},
        {"n_items": "5"},
        {},
        {"insured_eur": None},
        {"surcharge_eur": 1e308},
        {"zone": "zone-9"},
        {"zone": None},
        {"n_items": "many"},
        {},
    ]
    scored = Kernel(PARCELS, {"zones": zone_index()}).score(parcels(*changes))
    assert [(e.row, str(e.code), e.field) for e in scored.errors] == [
        (1, "NULL_NOT_ALLOWED", "weight_kg"),
        (2, "FEATURE_ERROR", "handling_fee"),
        (4, "MODEL_ERROR", ""),
        (5, "NON_FINITE_SCORE", "score"),
        (6, "STORED_FEATURES_MISSING", "zones"),
        (7, "STORED_FEATURES_MISSING", "zones"),
        (8, "WRONG_TYPE", "n_items"),
    ]
    assert scored.index.tolist() == [0, 3, 9]
    assert scored.statuses["zones"].tolist() == [Status.PRESENT] * 3
    online = score_rows(PARCELS, [wire_parcel(i) for i in (0, 3, 9)])
    assert scored.outputs["score"].tolist() == [answer["score"] for answer in online]


def test_rows_already_known_to_be_bad_are_not_scored_and_keep_their_error(houses: Scorer) -> None:
    known = RowError(1, Reason.BAD_VALUE, "rooms", "found while reading")
    scored = Kernel(houses).score(house_batch(3), [known])
    assert scored.index.tolist() == [0, 2]
    assert scored.errors == [known]
    expected = Kernel(houses).score(house_batch(3)).outputs["score"][[0, 2]]
    assert scored.outputs["score"].tobytes() == expected.tobytes()


def test_batch_of_bad_rows_alone_has_no_scores() -> None:
    scored = Kernel(PARCELS, {"zones": zone_index()}).score(parcels({"weight_kg": -1}, {"zone": "nowhere"}))
    assert scored.index.tolist() == []
    assert scored.outputs["score"].tolist() == []
    assert [str(e.code) for e in scored.errors] == ["OUT_OF_RANGE", "STORED_FEATURES_MISSING"]


def test_bad_batch_leaves_nothing_behind_for_the_next() -> None:
    kernel = Kernel(PARCELS, {"zones": zone_index()})
    before = kernel.score(parcels({}, {}))
    kernel.score(parcels({"n_items": "5"}, {"insured_eur": None}))
    after = kernel.score(parcels({}, {}))
    assert after.errors == []
    assert after.outputs["score"].tobytes() == before.outputs["score"].tobytes()


def test_looked_up_and_brought_fields_give_the_same_bits() -> None:
    looked_up = Kernel(PARCELS, {"zones": zone_index()}).score(parcels({}, {}, {}, {}))
    batch = parcels({}, {}, {}, {}).append_column("zone_rate_eur", pa.array([1.0, 2.0, 3.0, 1.0]))
    brought = Kernel(PARCELS).score(batch)
    assert looked_up.outputs["score"].tobytes() == brought.outputs["score"].tobytes()
    assert brought.statuses == {}


def test_errors_become_json() -> None:
    (error,) = Kernel(PARCELS, {"zones": zone_index()}).score(parcels({"n_items": "5"})).errors
    assert json.loads(json.dumps(error)) == [
        0,
        "FEATURE_ERROR",
        "handling_fee",
        "the feature raised IndexError",
    ]


# --- views that were looked up before


def brought(*changes: dict[str, Any]) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Return parcels without their zone's rate, and the same with it and the status of the look-up beside it."""
    batch = parcels(*changes)
    keys, _ = column_from_arrow(PARCELS.feature_set.request["zone"], batch.column("zone"))
    columns, statuses = zone_index().lookup([keys], np.full(batch.num_rows, 2**60))
    rates = pa.array(columns["zone_rate_eur"], from_pandas=True)
    return batch, batch.append_column("zone_rate_eur", rates).append_column(
        "zones__status", pa.array(statuses)
    )


def outcome(batch: pa.RecordBatch, kernel: Kernel) -> tuple[Any, ...]:
    rows = kernel.score(batch)
    return rows.index.tolist(), rows.outputs["score"].tobytes(), rows.errors, rows.statuses["zones"].tolist()


def test_view_that_is_brought_with_its_status_is_treated_as_if_looked_up_here() -> None:
    plain, joined = brought({}, {"zone": None}, {"zone": "zone-9"}, {"weight_kg": -1.0}, {})
    looked_up = outcome(plain, Kernel(PARCELS, {"zones": zone_index()}))
    assert looked_up[0] == [0, 4]
    assert [error.code for error in looked_up[2]] == [
        Reason.STORED_FEATURES_MISSING,
        Reason.STORED_FEATURES_MISSING,
        Reason.OUT_OF_RANGE,
    ]
    assert outcome(joined, Kernel(PARCELS)) == looked_up


def test_found_fields_and_statuses_are_used_instead_of_an_index() -> None:
    plain, _ = brought({}, {"weight_kg": -1.0}, {"zone": None}, {})
    index = zone_index()
    keys, _ = column_from_arrow(PARCELS.feature_set.request["zone"], plain.column("zone"))
    found = {"zones": index.lookup([keys], np.full(4, 2**60))}
    by_index = Kernel(PARCELS, {"zones": index}).score(plain)
    by_found = Kernel(PARCELS).score(plain, found=found)
    assert by_found.errors == by_index.errors
    assert by_found.outputs["score"].tobytes() == by_index.outputs["score"].tobytes()
    assert by_found.statuses["zones"].tolist() == by_index.statuses["zones"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("status", "code"),
    [(None, Reason.NULL_NOT_ALLOWED), (99, Reason.OUT_OF_RANGE), (-1, Reason.OUT_OF_RANGE)],
)
def test_status_that_is_none_is_the_rows_fault(status: int | None, code: Reason) -> None:
    _, joined = brought({}, {})
    position = joined.schema.names.index("zones__status")
    wrong = joined.set_column(position, "zones__status", pa.array([status, 0], pa.int32()))
    rows = Kernel(PARCELS).score(wrong)
    assert [(error.row, error.code, error.field) for error in rows.errors] == [(0, code, "zones__status")]
    assert rows.index.tolist() == [1]


def test_null_where_a_row_is_said_to_be_present_is_the_rows_fault() -> None:
    _, joined = brought({}, {})
    position = joined.schema.names.index("zone_rate_eur")
    rows = Kernel(PARCELS).score(joined.set_column(position, "zone_rate_eur", pa.array([None, 1.0])))
    assert [(e.row, e.code, e.field) for e in rows.errors] == [(0, Reason.NULL_NOT_ALLOWED, "zone_rate_eur")]
