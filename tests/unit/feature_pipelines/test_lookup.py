"""The as-of index: what it finds, what it answers when there is nothing, how it is kept on disk. (Its law: laws/test_as_of.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_pipelines import lookup as lookup_module
from feature_pipelines.columns import (
    Bool,
    Float32,
    Float64,
    Int32,
    Int64,
    Nullable,
    String,
    Strings,
    Timestamp,
)
from feature_pipelines.definitions import FeatureView
from feature_pipelines.errors import ContractError
from feature_pipelines.lookup import AsOfIndex, Status
from feature_pipelines.schema import Field, Schema

S = 1_000_000
VIEW = FeatureView("plane", {"tailnum": "tailnum"}, Schema((Field("year", Float64),)), ttl_seconds=10)
PRESENT, NOT_FOUND, EXPIRED, NULL = (int(status) for status in list(Status)[:4])


def build(
    rows: list[tuple[str | None, int, int, float]], view: FeatureView = VIEW, scale: int = S
) -> AsOfIndex:
    """Rows of (key, event_ts, created_ts, year), times in seconds."""
    names = [row[0] for row in rows]
    key = Nullable(
        Strings.of(name or "" for name in names),
        np.array([name is not None for name in names], dtype=np.bool_),
    )
    times = np.array([row[1:3] for row in rows], dtype=np.int64).reshape(-1, 2) * scale
    return AsOfIndex.build(
        view, [key], times[:, 0], times[:, 1], {"year": np.array([row[3] for row in rows])}
    )


def ask(index: AsOfIndex, *requests: tuple[str, float]) -> list[tuple[float | None, int]]:
    columns, statuses = index.lookup(
        [Strings.of(key for key, _ in requests)], np.array([int(t * S) for _, t in requests], dtype=np.int64)
    )
    years: Any = columns["year"]
    return [(None if np.isnan(y) else float(y), int(s)) for y, s in zip(years, statuses, strict=True)]


def test_a_row_is_visible_from_the_later_of_event_and_creation() -> None:
    index = build([("N1", 5, 7, 2001.0)])
    assert ask(index, ("N1", 6.999999), ("N1", 7), ("N1", 5)) == [
        (None, NOT_FOUND),
        (2001.0, PRESENT),
        (None, NOT_FOUND),
    ]
    early = build([("N1", 7, 5, 2001.0)])
    assert ask(early, ("N1", 6.999999), ("N1", 7)) == [(None, NOT_FOUND), (2001.0, PRESENT)]


def test_timed_lookup_says_when_the_row_happened_also_of_one_that_is_too_old() -> None:
    index = build([("N1", 5, 7, 2001.0), ("N2", 1, 1, 2002.0)])
    asked = [Strings.of(["N1", "N1", "N1", "N3"])], np.array([6 * S, 7 * S, 16 * S, 7 * S])
    never = np.iinfo(np.int64).min
    columns, statuses, times = index.lookup_timed(*asked)
    assert times.tolist() == [never, 5 * S, 5 * S, never]
    assert statuses.tolist() == [NOT_FOUND, PRESENT, EXPIRED, NOT_FOUND] == index.lookup(*asked)[1].tolist()
    assert np.array_equal(columns["year"], index.lookup(*asked)[0]["year"], equal_nan=True)
    assert build([]).lookup_timed(*asked)[2].tolist() == [never] * 4


def test_ttl_is_inclusive_and_counts_from_the_event() -> None:
    index = build([("N1", 5, 7, 2001.0)])
    assert ask(index, ("N1", 15), ("N1", 15.000001)) == [(2001.0, PRESENT), (None, EXPIRED)]


def test_the_newest_visible_row_decides_even_if_it_is_too_old() -> None:
    index = build([("N1", 0, 0, 2000.0), ("N1", 1, 20, 2001.0)])
    assert ask(index, ("N1", 10), ("N1", 20)) == [(2000.0, PRESENT), (None, EXPIRED)]


def test_a_late_older_row_does_not_replace_a_newer_one() -> None:
    index = build([("N1", 5, 5, 2005.0), ("N1", 3, 8, 2003.0)])
    assert ask(index, ("N1", 8)) == [(2005.0, PRESENT)]


def test_a_correction_wins_once_it_is_created() -> None:
    index = build([("N1", 5, 5, 2005.0), ("N1", 5, 8, 2006.0)])
    assert ask(index, ("N1", 7), ("N1", 8)) == [(2005.0, PRESENT), (2006.0, PRESENT)]


def test_full_ties_are_broken_by_content_and_not_by_order() -> None:
    rows: list[tuple[str | None, int, int, float]] = [("N1", 5, 5, year) for year in (1.0, 2.0, 3.0, 4.0)]
    answers = {ask(build(order), ("N1", 5))[0] for order in (rows, rows[::-1], rows[2:] + rows[:2])}
    assert len(answers) == 1


def test_a_null_key_is_never_found_nor_stored() -> None:
    index = build([(None, 1, 1, 2001.0), ("", 1, 1, 2002.0)])
    assert len(index) == 1
    keys = Nullable(Strings.of(["", ""]), np.array([True, False]))
    columns, statuses = index.lookup([keys], np.array([2 * S, 2 * S]))
    assert statuses.tolist() == [PRESENT, NULL]
    assert str(np.asarray(columns["year"]).tolist()) == "[2002.0, nan]"


def test_unknown_keys_and_nothing_at_all() -> None:
    assert ask(build([("N1", 1, 1, 2001.0)]), ("N2", 5), ("", 5), ("N1", 5)) == [
        (None, NOT_FOUND),
        (None, NOT_FOUND),
        (2001.0, PRESENT),
    ]
    empty = build([])
    assert len(empty) == 0
    assert ask(empty, ("N1", 5)) == [(None, NOT_FOUND)]
    assert ask(empty) == []
    assert ask(build([("N1", 1, 1, 2001.0)])) == []


def test_a_combination_of_known_key_parts_that_has_no_row_is_not_found() -> None:
    view = FeatureView("v", {"a": "a", "b": "b"}, Schema((Field("year", Float64),)))
    index = AsOfIndex.build(
        view,
        [Strings.of(["x", "x", "y"]), np.array([1, 2, 1])],
        np.zeros(3, dtype=np.int64),
        np.zeros(3, dtype=np.int64),
        {"year": np.array([11.0, 12.0, 21.0])},
    )
    columns, statuses = index.lookup(
        [Strings.of(["y", "y", "x", "z"]), np.array([2, 1, 2, 1])], np.zeros(4, dtype=np.int64)
    )
    assert statuses.tolist() == [NOT_FOUND, PRESENT, PRESENT, NOT_FOUND]
    assert np.asarray(columns["year"]).tolist()[1:3] == [21.0, 12.0]


def test_integer_keys_of_another_width_match() -> None:
    view = FeatureView("v", {"k": "k"}, Schema((Field("year", Float64),)))
    zeros = np.zeros(2, dtype=np.int64)
    index = AsOfIndex.build(view, [np.array([2**40, -7])], zeros, zeros, {"year": np.array([1.0, 2.0])})
    _, statuses = index.lookup([np.array([-7, 0], dtype=np.int32)], zeros)
    assert statuses.tolist() == [PRESENT, NOT_FOUND]


def test_every_type_of_field_comes_back_or_is_null() -> None:
    fields = Schema(
        (
            Field("f", Float64),
            Field("g", Float32),
            Field("i", Nullable[Int32]),
            Field("b", Nullable[Bool]),
            Field("t", Nullable[Timestamp]),
            Field("s", Nullable[String]),
        )
    )
    view = FeatureView("v", {"k": "k"}, fields)
    valid = np.array([True, False])
    stored: dict[str, Any] = {
        "f": np.array([1.5, np.nan]),
        "g": np.array([0.1, np.nan], dtype=np.float32),
        "i": Nullable(np.array([7, 0], dtype=np.int32), valid),
        "b": Nullable(np.array([True, False]), valid),
        "t": Nullable(np.array([-1, 0]), valid),
        "s": Nullable(Strings.of(["x", ""]), valid),
    }
    zeros = np.zeros(2, dtype=np.int64)
    index = AsOfIndex.build(view, [Strings.of(["a", "b"])], zeros, zeros, stored)
    columns, statuses = index.lookup([Strings.of(["a", "b", "c"])], np.zeros(3, dtype=np.int64))
    assert statuses.tolist() == [PRESENT, PRESENT, NOT_FOUND]
    for name, column in columns.items():
        values: Any = column.values if isinstance(column, Nullable) else column
        original = stored[name].values if isinstance(column, Nullable) else stored[name]
        if isinstance(column, Nullable):
            assert column.valid.tolist() == [True, False, False]
        if isinstance(values, Strings):
            assert values.tolist() == ["x", "", ""]
        else:
            assert values.dtype == original.dtype
            assert values.tobytes() == original.tobytes() + original[1:].tobytes()
            assert not values.flags.writeable


def test_a_demanded_field_that_is_never_null_has_its_null_value_where_nothing_is() -> None:
    view = FeatureView("v", {"k": "k"}, Schema((Field("n", Int64), Field("s", String))), missing="reject")
    zeros = np.zeros(1, dtype=np.int64)
    index = AsOfIndex.build(
        view, [Strings.of(["a"])], zeros, zeros, {"n": np.array([5]), "s": Strings.of(["x"])}
    )
    columns, statuses = index.lookup([Strings.of(["a", "b"])], np.zeros(2, dtype=np.int64))
    assert statuses.tolist() == [PRESENT, NOT_FOUND]
    assert np.asarray(columns["n"]).tolist() == [5, 0]
    names: Any = columns["s"]
    assert names.tolist() == ["x", ""]


def test_keys_that_cannot_be_keys_are_refused() -> None:
    zeros = np.zeros(1, dtype=np.int64)
    with pytest.raises(
        ContractError, match="view 'plane': a key column must be String or an integer, not float64"
    ):
        AsOfIndex.build(VIEW, [np.zeros(1)], zeros, zeros, {"year": np.zeros(1)})
    index = build([("N1", 1, 1, 2001.0)])
    with pytest.raises(
        ContractError, match="view 'plane': key 'tailnum' is a string in one of table and request only"
    ):
        index.lookup([zeros], zeros)


def test_more_possible_keys_than_can_be_numbered_are_refused() -> None:
    n = 1_700
    view = FeatureView("v", {f"k{i}": "k" for i in range(6)}, Schema((Field("year", Float64),)))
    keys = [np.arange(n, dtype=np.int64)] * 6
    zeros = np.zeros(n, dtype=np.int64)
    with pytest.raises(
        ContractError, match="view 'v': too many combinations of its 6 key columns to number them"
    ):
        AsOfIndex.build(view, keys, zeros, zeros, {"year": np.zeros(n)})


def test_a_saved_index_answers_as_before_and_is_mapped_not_read(tmp_path: Path) -> None:
    index = build([("N1", 5, 7, 2001.0), ("N2", 1, 1, 2002.0), ("N1", 6, 8, 2003.0)])
    index.save(tmp_path / "plane")
    loaded = AsOfIndex.load(VIEW, tmp_path / "plane")
    requests = [("N1", 7.0), ("N1", 8.0), ("N2", 4.0), ("N2", 99.0), ("N3", 1.0)]
    assert ask(loaded, *requests) == ask(index, *requests)
    assert isinstance(loaded.newest, np.memmap)
    with pytest.raises(FileExistsError):
        index.save(tmp_path / "plane")


def test_an_empty_index_can_be_saved(tmp_path: Path) -> None:
    build([]).save(tmp_path / "plane")
    assert ask(AsOfIndex.load(VIEW, tmp_path / "plane"), ("N1", 5)) == [(None, NOT_FOUND)]


@pytest.mark.parametrize(
    "other",
    [
        FeatureView("plane", VIEW.keys, VIEW.fields, ttl_seconds=11),
        FeatureView("plain", VIEW.keys, VIEW.fields, ttl_seconds=10),
        FeatureView("plane", VIEW.keys, Schema((Field("year", Float32),)), ttl_seconds=10),
    ],
)
def test_an_index_is_not_loaded_for_another_view(tmp_path: Path, other: FeatureView) -> None:
    build([("N1", 5, 7, 2001.0)]).save(tmp_path / "saved")
    with pytest.raises(
        ContractError, match=f"the index in 'saved' was not built for view '{other.name}' as it is declared"
    ):
        AsOfIndex.load(other, tmp_path / "saved")


@pytest.mark.parametrize(("cells", "many"), [(0, 1 << 62), (0, 0), (1 << 22, 0)])
def test_tables_and_binary_search_in_any_order_answer_alike(
    cells: int, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup_module, "_TABLE_CELLS", cells)
    for name in ("_MANY", "_LARGE"):
        monkeypatch.setattr(lookup_module, name, many)
    index = build([("N1", 5, 7, 2001.0), ("N2", 1, 1, 2002.0), ("N1", 6, 8, 2003.0)])
    assert (index._table is None, index._grid is None) == (cells == 0, cells == 0)
    requests = [(key, float(t)) for key in ("N1", "N2", "N3") for t in range(20)]
    expected = {
        "N1": {7: 2001.0} | dict.fromkeys(range(8, 17), 2003.0),
        "N2": dict.fromkeys(range(1, 12), 2002.0),
        "N3": {},
    }
    assert [year for year, _ in ask(index, *requests)] == [expected[key].get(int(t)) for key, t in requests]
