"""Windowed history is what its docstring says: compared, by bits, with a loop over all rows that says it word for word."""

from __future__ import annotations

import itertools
import math
import struct
from decimal import localcontext
from fractions import Fraction
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

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
    decimal,
    take,
    values_and_valid,
)
from feature_pipelines.errors import ContractError, DefinitionError
from feature_pipelines.history import HistoryRows, windowed_history
from feature_pipelines.packed import row_digests
from feature_pipelines.schema import Field, Schema, to_wire
from feature_pipelines.views import FeatureView, History, window_seconds

Money = Annotated[NDArray[np.int64], decimal(18, 2)]
HOUR = 3_600_000_000
EXACT = ("count", "sum", "mean", "min", "max", "std", "last")
SOURCE = Schema(
    (
        Field("n", Nullable[Int64]),
        Field("small", Int32),
        Field("flag", Nullable[Bool]),
        Field("money", Nullable[Money]),
        Field("x", Float64, infinite=True),
        Field("narrow", Float32),
        Field("seen_ts", Nullable[Timestamp]),
        Field("name", Nullable[String]),
    )
)
WINDOWS = ("3h", "1h", "1d")
VIEW = FeatureView(
    name="all",
    keys={"who": "who", "number": "number"},
    source=SOURCE,
    history=(
        History("n", EXACT, WINDOWS),
        History("small", EXACT, ("1h",)),
        History("flag", (*EXACT, "share"), ("3h",)),
        History("money", EXACT, ("1d", "1h")),
        History("x", EXACT, WINDOWS),
        History("narrow", EXACT, ("3h",)),
        History("seen_ts", ("count", "min", "max", "last"), ("3h",)),
        History("name", ("count", "last"), ("1h", "1d")),
    ),
)
FIRST = -2
Row = dict[str, Any]


# --- the loop


def naive(rows: list[Row], view: FeatureView = VIEW) -> list[Row]:
    """For each key, event time and version: look at every row, and say for each op what it means."""
    longest = view.longest_window_seconds * 1_000_000
    keyed = [row for row in rows if all(row[key] is not None for key in view.keys)]
    found = []
    for who in sorted({tuple(row[key] for key in view.keys) for row in keyed}):
        own = [row for row in keyed if tuple(row[key] for key in view.keys) == who]
        for t in sorted({row["event_ts"] for row in own}):
            first = min(row["created_ts"] for row in own if row["event_ts"] == t)
            touching = {row["created_ts"] for row in own if t - longest < row["event_ts"] <= t}
            for c in sorted(version for version in touching if version >= first):
                out = {**dict(zip(view.keys, who, strict=True)), "event_ts": t, "created_ts": c}
                for one in view.history:
                    for window in one.windows:
                        width = window_seconds(window) * 1_000_000
                        within = [
                            row for row in own if t - width < row["event_ts"] <= t and row["created_ts"] <= c
                        ]
                        for op in one.ops:
                            out[f"{one.column}_{op}_{window}"] = said(op, view.source[one.column], within)
                found.append(out)
    return found


def said(op: str, declared: Field, rows: list[Row]) -> Any:
    kind = declared.dtype.kind
    kept = [row for row in rows if not is_null(row[declared.name])]
    values = [row[declared.name] for row in kept]
    if op == "count":
        return len(values)
    if not values:
        return None
    if op == "last":
        return max(kept, key=lambda row: (row["event_ts"], row["created_ts"], row["digest"]))[declared.name]
    if op in ("min", "max"):
        best = {"min": min, "max": max}[op]
        if not kind.startswith("float"):
            return best(values)
        return best(values, key=lambda x: (x, math.copysign(1.0, x)))
    if kind.startswith("float"):
        return of_floats(op, values)
    exact = [Fraction(value, 10**declared.dtype.scale) for value in values]
    if op == "share":
        return rounded(Fraction(sum(values), len(values)))
    if op == "mean":
        return rounded(sum(exact) / len(exact))
    if op == "std":
        if len(values) < 2:
            return None
        n = len(exact)
        variance = (n * sum(x * x for x in exact) - sum(exact) ** 2) / (n * (n - 1))
        return math.sqrt(rounded(variance))
    return sum(map(int, values))


def of_floats(op: str, values: list[float]) -> float | None:
    if any(math.isinf(value) for value in values):
        return None
    total = rounded(sum(map(Fraction, values)))
    if op == "sum" or total is None:
        return total
    mean = total / len(values)
    if op == "mean":
        return mean
    squares = [(value - mean) ** 2 if abs(value - mean) < 1e154 else math.inf for value in values]
    if len(values) < 2 or math.inf in squares:
        return None
    spread = rounded(sum(map(Fraction, squares)))
    return None if spread is None else math.sqrt(spread / (len(values) - 1))


def rounded(exact: Fraction | int) -> float | None:
    """The nearest float64, ties to even, by decimal expansion: not by the division that is tested."""
    exact = Fraction(exact)
    try:
        near = float(exact)
    except OverflowError:
        return None
    candidates = [near, math.nextafter(near, math.inf), math.nextafter(near, -math.inf)]
    with localcontext() as context:
        context.prec = 900
        distances = [abs(Fraction(c) - exact) if math.isfinite(c) else None for c in candidates]
    best = min(d for d in distances if d is not None)
    nearest = [c for c, d in zip(candidates, distances, strict=True) if d == best]
    return min(nearest, key=lambda c: struct.unpack("<q", struct.pack("<d", c))[0] & 1) + 0.0


def is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


# --- both sides in one form


def bits(value: Any, declared: Field) -> Any:
    if is_null(value):
        return None
    return struct.pack(">d", value) if declared.dtype.is_float else value


def as_columns(rows: list[Row]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for f in (*SOURCE, Field("who", Nullable[String]), Field("number", Nullable[Int64])):
        values = [row[f.name] for row in rows]
        valid = np.array([not is_null(v) for v in values], dtype=np.bool_)
        if f.dtype.kind == "string":
            columns[f.name] = Nullable(Strings.of(["" if v is None else v for v in values]), valid)
            continue
        null = np.nan if f.dtype.is_float else 0
        array = np.array([null if is_null(v) else v for v in values], dtype=f.dtype.numpy)
        columns[f.name] = Nullable(array, valid) if f.nullable else array
    for name in ("event_ts", "created_ts"):
        columns[name] = np.array([row[name] for row in rows], dtype=np.int64)
    return columns


def computed(rows: list[Row], view: FeatureView = VIEW, **cut: int | None) -> HistoryRows:
    columns = as_columns(rows)
    keys = [columns[name] for name in view.keys]
    fields = {f.name: columns[f.name] for f in view.source or ()}
    return windowed_history(view, keys, columns["event_ts"], columns["created_ts"], fields, **cut)


def in_words(found: HistoryRows, view: FeatureView = VIEW) -> list[Row]:
    """The rows as Python values; floats as their 8 bytes, and a null float must be the one canonical NaN."""
    out: dict[str, list[Any]] = {
        name: values_and_valid(key)[0].tolist() for name, key in zip(view.keys, found.keys, strict=True)
    }
    out |= {"event_ts": found.event_ts.tolist(), "created_ts": found.created_ts.tolist()}
    for f in view.fields:
        values, valid = values_and_valid(found.fields[f.name])
        if f.dtype.is_float:
            nan = np.isnan(values)
            assert (values.view(np.uint64)[nan] == np.float64(np.nan).view(np.uint64)).all(), f.name
        assert (valid is not None) == f.nullable, f.name
        assert isinstance(values, Strings) or values.dtype == f.dtype.numpy, f.name
        words = values.tolist()
        out[f.name] = [
            bits(v if valid is None or ok else None, f)
            for v, ok in zip(words, [True] * len(words) if valid is None else valid.tolist(), strict=True)
        ]
    return [dict(zip(out, row, strict=True)) for row in zip(*out.values(), strict=True)]


def expected(rows: list[Row], view: FeatureView = VIEW) -> list[Row]:
    fields = {f.name: f for f in view.fields}
    return [
        {name: bits(v, fields[name]) if name in fields else v for name, v in row.items()}
        for row in naive(rows, view)
    ]


# --- rows


def finished(rows: list[Row]) -> list[Row]:
    columns = as_columns(rows)
    digests = row_digests(SOURCE, {f.name: columns[f.name] for f in SOURCE}) if rows else []
    return [{**row, "digest": digest} for row, digest in zip(rows, digests, strict=True)]


FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.5, -1.5, 1e308, -1e308, 1.7e308, math.inf, -math.inf, 5e-324, 0.1, 1 / 3]),
    st.floats(allow_nan=True, width=64),
)
TIMES = st.integers(-30, 30).map(lambda quarter: quarter * HOUR // 4)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "who": st.sampled_from(["a", "b", "a\0", None]),
            "number": st.sampled_from([1, 1, -7, None]),
            "event_ts": TIMES,
            "late": st.sampled_from([0, 0, 0, -HOUR, 1, HOUR, HOUR, 5 * HOUR]),
            "n": st.one_of(st.none(), st.integers(-5, 5), st.integers(-(2**57), 2**57)),
            "small": st.one_of(st.integers(-3, 3), st.integers(-(2**31), 2**31 - 1)),
            "flag": st.sampled_from([True, False, None]),
            "money": st.one_of(st.none(), st.integers(-500, 500), st.integers(-(10**15), 10**15)),
            "x": FLOATS,
            "narrow": st.one_of(
                st.just(math.nan), st.floats(width=32, allow_infinity=False, allow_nan=False)
            ),
            "seen_ts": st.one_of(st.none(), st.integers(-5, 5)),
            "name": st.sampled_from(["", "x", "y", None]),
        }
    ).map(lambda row: {**row, "created_ts": row["event_ts"] + row.pop("late")}),
    max_size=14,
).map(finished)


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_history_is_what_the_docstring_says(rows: list[Row]) -> None:
    assert in_words(computed(rows)) == expected(rows)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.lists(TIMES, max_size=3), st.integers(-1, 1))
def test_versions_computed_step_by_step_are_those_computed_at_once(
    rows: list[Row], cuts: list[int], off: int
) -> None:
    whole = in_words(computed(rows))
    steps: list[Row] = []
    bounds = [None, *sorted({cut + off for cut in cuts}), None]
    for after, through in itertools.pairwise(bounds):
        known = [row for row in rows if through is None or row["created_ts"] <= through]
        steps += in_words(computed(known, created_after=after, created_through=through))
        assert (
            in_words(computed(rows, created_after=after, created_through=through))
            == steps[len(steps) - len(computed(known, created_after=after, created_through=through)) :]
        )
    assert sorted(steps, key=repr) == sorted(whole, key=repr)


@settings(max_examples=60, deadline=None)
@given(ROWS, TIMES)
def test_rows_near_new_ones_are_enough(rows: list[Row], after: int) -> None:
    """An incremental call needs, of each key, the rows that lie less than the longest window from a new one."""
    longest = VIEW.longest_window_seconds * 1_000_000
    new = [row for row in rows if row["created_ts"] > after]
    needed = [
        row
        for row in rows
        if any(
            (one["who"], one["number"]) == (row["who"], row["number"])
            and abs(one["event_ts"] - row["event_ts"]) < longest
            for one in new
        )
    ]
    assert in_words(computed(needed, created_after=after)) == in_words(computed(rows, created_after=after))


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_the_source_rows_does_not_matter(rows: list[Row], rng: Any) -> None:
    shuffled = list(rows)
    rng.shuffle(shuffled)
    assert in_words(computed(shuffled)) == in_words(computed(rows))


# --- by hand


def event(ts: int, created: int | None = None, **values: Any) -> Row:
    row = dict.fromkeys(SOURCE.names) | {"small": 0, "who": "a", "number": 1, "event_ts": ts}
    return row | {"created_ts": ts if created is None else created} | values


def column_of(rows: list[Row], name: str) -> list[Any]:
    found = computed(finished(rows))
    return to_wire(VIEW.fields[name], found.fields[name])


def test_a_window_leaves_out_its_far_end_and_has_its_near_end() -> None:
    rows = [event(0, n=1), event(HOUR, n=2), event(HOUR + 1, n=4), event(2 * HOUR, n=8)]
    assert column_of(rows, "n_sum_1h") == [1, 2, 6, 12]
    assert column_of(rows, "n_sum_3h") == [1, 3, 7, 15]


def test_a_late_row_gives_new_versions_of_each_window_that_it_touches_and_changes_none() -> None:
    rows = [event(0, n=1), event(HOUR // 2, n=2), event(4 * HOUR, n=4), event(100 * HOUR, n=16)]
    before = in_words(computed(finished(rows)))
    after = in_words(computed(finished([*rows, event(1, 5 * HOUR, n=8)])))
    assert all(row in after for row in before)
    versions = [(row["event_ts"], row["created_ts"], row["n_sum_1h"], row["n_sum_1d"]) for row in after]
    assert versions == [
        (0, 0, 1, 1),
        (1, 5 * HOUR, 9, 9),
        (HOUR // 2, HOUR // 2, 3, 3),
        (HOUR // 2, 5 * HOUR, 11, 11),
        (4 * HOUR, 4 * HOUR, 4, 7),
        (4 * HOUR, 5 * HOUR, 4, 15),
        (100 * HOUR, 100 * HOUR, 16, 16),
    ]


def test_a_row_known_before_it_happens_is_taken_as_it_is() -> None:
    found = in_words(computed(finished([event(HOUR, 0, n=1), event(2 * HOUR, n=2)])))
    assert [(row["created_ts"], row["n_count_3h"]) for row in found] == [(0, 1), (2 * HOUR, 2)]


def test_integers_beyond_int64_on_the_way_are_exact() -> None:
    big = 2**63 - 1
    assert column_of([event(0, n=big), event(1, n=-big), event(2, n=3)], "n_sum_1h") == [str(big), 0, 3]
    view = FeatureView("v", {"who": "who"}, source=SOURCE, history=(History("n", ("mean", "std"), ("3h",)),))
    found = computed(finished([event(0, n=big), event(1, n=big - 2), event(9 * HOUR, n=-(2**63))]), view)
    assert found.fields["n_mean_3h"].tolist() == [float(big), float(big - 1), -float(2**63)]
    assert found.fields["n_std_3h"].tolist()[1] == math.sqrt(2.0)


def test_a_sum_that_its_type_cannot_hold_is_refused() -> None:
    with pytest.raises(ContractError, match="view 'all' field 'n_sum_3h': 1 sum.s. of 'n' are beyond int64"):
        computed(finished([event(0, n=2**63 - 1), event(1, n=1)]))
    with pytest.raises(ContractError, match="are beyond decimal"):
        computed(finished([event(0, money=10**18 - 1), event(1, money=1)]))


def test_an_intermediate_overflow_depends_on_no_order() -> None:
    rows = [event(i, x=x) for i, x in enumerate([1e308, 1e308, -1e308, -1e308])]
    assert column_of(rows, "x_sum_1h") == [1e308, None, 1e308, 0.0]


def test_windows_at_the_ends_of_time_do_not_wrap_around() -> None:
    ends = [-(2**63), -(2**63) + 1, 2**63 - 1]
    assert column_of([event(ts, n=1) for ts in ends], "n_sum_1d") == [1, 2, 1]


def test_fields_may_have_a_prefix_which_is_part_of_the_declaration() -> None:
    plain = FeatureView("v", {"who": "who"}, source=SOURCE, history=(History("n", ("sum",), ("1h",)),))
    named = FeatureView("v", {"who": "who"}, source=SOURCE, history=(History("n", ("sum",), ("1h",), "my_"),))
    assert named.fields.names == ("my_n_sum_1h",)
    assert named.describe() != plain.describe()
    assert plain.describe()["history"] == [["n", ["sum"], ["1h"]]]
    found = computed(finished([event(0, n=5)]), named)
    assert found.fields["my_n_sum_1h"].values.tolist() == [5]


def test_a_view_that_is_given_has_no_history_to_compute() -> None:
    given_view = FeatureView("v", {"who": "who"}, fields=Schema((Field("x", Float64),)))
    with pytest.raises(DefinitionError, match="view 'v' declares no history"):
        computed([], given_view)


@pytest.mark.parametrize("n_late", [0, 3_000])
def test_three_hundred_thousand_rows_take_seconds(n_late: int) -> None:
    import time

    rng = np.random.default_rng(1)
    n = 300_000
    event_ts = rng.integers(0, 365 * 24 * 60, n) * 60_000_000
    created = event_ts.copy()
    created[:n_late] += 50 * 86_400_000_000
    view = FeatureView(
        "v",
        {"who": "who"},
        source=Schema((Field("n", Int64), Field("flag", Bool))),
        history=(
            History("n", ("count", "mean", "std"), ("7d", "28d")),
            History("flag", ("share",), ("28d",)),
        ),
    )
    who = Strings(rng.integers(0, 220, n).astype(np.int32), tuple(f"route-{i}" for i in range(220)))
    fields = {"n": rng.integers(-60, 900, n), "flag": rng.random(n) < 0.2}
    started = time.perf_counter()
    found = windowed_history(view, [who], event_ts, created, fields)
    assert time.perf_counter() - started < 15
    assert len(found) > 295_000
    assert take(found.fields["flag_share_28d"], np.arange(3)).dtype == np.float64
