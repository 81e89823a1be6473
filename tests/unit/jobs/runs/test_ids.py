"""Row ids and their checksum: order does not matter, every loss, doubling and change does."""

from __future__ import annotations

import datetime
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jobs.runs import ids as ids_module
from jobs.runs.ids import IdSum, id_sum, row_ids

unhurried = settings(deadline=None)
IDS = st.lists(st.text(max_size=30), max_size=40)


def summed(values, type_=None):
    return id_sum(pa.array(values, type_ or pa.string()))


@pytest.fixture(params=["compiled", "interpreted"])
def way(request, monkeypatch):
    """The checksum as compiled by numba, and with numpy alone."""
    if request.param == "compiled":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(ids_module, "_compiled", lambda: None)


# --- the checksum


@unhurried
@given(IDS, st.randoms())
def test_order_does_not_matter(values, rng):
    shuffled = list(values)
    rng.shuffle(shuffled)
    assert summed(shuffled) == summed(values)


@unhurried
@given(IDS, st.integers(0, 40))
def test_parts_add_up(values, at):
    assert summed(values[:at]) + summed(values[at:]) == summed(values)


@unhurried
@given(IDS.filter(bool), st.data())
def test_a_lost_row_is_noticed(values, data):
    at = data.draw(st.integers(0, len(values) - 1))
    assert summed(values[:at] + values[at + 1 :]) != summed(values)


@unhurried
@given(IDS.filter(bool), st.data())
def test_one_row_twice_in_place_of_another_is_noticed(values, data):
    lost, doubled = (data.draw(st.integers(0, len(values) - 1)) for _ in range(2))
    assume(values[lost] != values[doubled])
    swapped = [*values[:lost], values[doubled], *values[lost + 1 :]]
    found = summed(swapped)
    assert found.count == len(values)
    assert (found.low, found.high) != (summed(values).low, summed(values).high)


@unhurried
@given(IDS.filter(bool), st.data(), st.text(max_size=30))
def test_a_changed_row_is_noticed_in_both_hashes(values, data, changed):
    at = data.draw(st.integers(0, len(values) - 1))
    assume(values[at] != changed)
    before, after = summed(values), summed([*values[:at], changed, *values[at + 1 :]])
    assert before.low != after.low
    assert before.high != after.high


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "b\0"), ("a", "a\0"), ("", "\0"), ("12345678", "12345678\0"), ("a" * 8, "a" * 16)],
)
def test_padding_and_length_do_not_hide_a_change(way, one, other):
    assert summed([one]).low != summed([other]).low
    assert summed([one]).high != summed([other]).high


def test_no_two_of_many_like_ids_meet():
    sums = [summed([f"2013-01-{i % 31:02d}-UA-{i}"]) for i in range(5_000)]
    assert len({one.low for one in sums}) == len({one.high for one in sums}) == 5_000


@unhurried
@given(IDS)
def test_compiled_and_interpreted_agree(values):
    pytest.importorskip("numba")
    assert ids_module._compiled() is not None
    compiled = summed(values)
    offsets = np.cumsum([0, *(len(v.encode()) for v in values)])
    data = np.frombuffer("".join(values).encode() + bytes(8), np.uint8)
    hashes: list[Any] = []
    assert ids_module._interpreted(data, offsets, hashes) == compiled
    compiled_hashes: list[Any] = []
    id_sum(pa.array(values, pa.string()), compiled_hashes)
    assert [h for part in hashes for h in part] == [h for part in compiled_hashes for h in part]


def test_sum_is_the_same_without_numba():
    pytest.importorskip("numba")
    values = ["", "a", "ä" * 20, "2013-01-01-UA-1545-EWR-0515"]
    code = (
        "import sys; import pyarrow as pa; from jobs.runs.ids import id_sum\n"
        f"print(id_sum(pa.array({values!r}))); print('numba' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == [str(summed(values)), "False"]


@unhurried
@given(IDS, st.sampled_from([pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]))
def test_arrow_form_does_not_matter(values, type_):
    assert summed(values, type_) == summed(values)


@unhurried
@given(IDS, st.integers(0, 10), st.integers(0, 10))
def test_slices_and_chunks_count_what_they_show(values, start, length):
    array = pa.array(values, pa.string())
    part = array.slice(start, length)
    assert id_sum(part) == summed(values[start : start + length])
    assert id_sum(pa.chunked_array([part, array])) == id_sum(part) + summed(values)


def test_many_blocks_add_up(way):
    values = [str(i) * (i % 5) for i in range(40_000)]
    assert summed(values) == summed(values[:17]) + summed(values[17:])
    assert summed(values).count == 40_000


def test_sums_wrap_and_survive_json():
    most = IdSum(1, 2**64 - 1, 2**64 - 2)
    total = most + IdSum(2, 3, 3)
    assert total == IdSum(3, 2, 1)
    assert IdSum.from_json(total.to_json()) == total
    assert most.to_json() == [1, "ffffffffffffffff", "fffffffffffffffe"]
    assert str(total) == "3 ids, checksum 00000000000000010000000000000002"


# --- row ids


def batch(**columns):
    return pa.RecordBatch.from_pydict({name: pa.array(*args) for name, args in columns.items()})


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ((["a", "b", "c"],), ["a", "b", "c"]),
        ((["a", "b", "a"], pa.dictionary(pa.int8(), pa.string())), ["a", "b", "a"]),
        ((["a", "b", "c"], pa.string_view()), ["a", "b", "c"]),
        (([1, -(2**63), 2**63 - 1], pa.int64()), ["1", "-9223372036854775808", "9223372036854775807"]),
        (([0, 1, 2**64 - 1], pa.uint64()), ["0", "1", "18446744073709551615"]),
        (([True, False, True],), ["[true]", "[false]", "[true]"]),
        (
            ([datetime.date(2013, 1, 1)] * 3,),
            ['["2013-01-01"]'] * 3,
        ),
    ],
)
def test_key_of_one_field_is_its_text(column, expected):
    rows = batch(key=column)
    assert row_ids(rows, ("key",), "f.parquet", 0).to_pylist() == expected


def test_key_of_several_fields_is_a_json_array_that_no_separator_can_confuse():
    rows = batch(a=(["x,y", "x", 'q"'],), b=(["z", "y,z", "é"],), n=([1, 2, 3],))
    found = row_ids(rows, ("a", "b", "n"), "f.parquet", 0).to_pylist()
    assert found == ['["x,y", "z", 1]', '["x", "y,z", 2]', '["q\\"", "é", 3]']


@pytest.mark.parametrize("key", [("a",), ("a", "b")])
def test_row_with_a_null_in_its_key_is_named_by_its_place(key):
    rows = batch(a=(["x", None, "z"],), b=(["1", "2", "3"],))
    found = row_ids(rows, key, "day=1/f.parquet", 100).to_pylist()
    assert found[1] == "day=1/f.parquet#101"
    assert found[0] != "day=1/f.parquet#100"


def test_null_inside_a_dictionary_is_a_null_too():
    values = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["x", None]))
    rows = pa.RecordBatch.from_arrays([values], names=["a"])
    assert row_ids(rows, ("a",), "f", 0).to_pylist() == ["x", "f#1"]


def test_without_a_key_the_place_is_the_id():
    assert row_ids(batch(a=([1, 1],)), (), "f.parquet", 7).to_pylist() == ["f.parquet#7", "f.parquet#8"]


def test_ids_do_not_depend_on_how_a_file_is_cut_into_batches():
    rows = batch(a=([None, "x", None, "y", None],))
    whole = row_ids(rows, ("a",), "f", 0).to_pylist()
    parts = [row_ids(rows.slice(i, 2), ("a",), "f", i).to_pylist() for i in (0, 2, 4)]
    assert [one for part in parts for one in part] == whole
