"""Ids that repeat are found, whatever the order, the chunks and the memory; ids that only share a hash are not blamed."""

from __future__ import annotations

import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.runs.distinct import ids_that_repeat, repeated_hashes, save_hashes
from jobs.runs.ids import id_sum


@given(
    st.lists(st.lists(st.sampled_from([0, 1, 2**63, 2**64 - 1, *range(50, 60)]), max_size=8), max_size=4),
    st.integers(1, 9),
)
def test_hashes_that_occur_twice_are_found_in_ranges_of_any_size(
    parts: list[list[int]], at_once: int
) -> None:
    counts = Counter(value for part in parts for value in part)
    with TemporaryDirectory() as directory:
        files = [Path(directory, f"{i}.npy") for i in range(len(parts))]
        for file, part in zip(files, parts, strict=True):
            save_hashes(file, [np.array(part, dtype="<u8").tobytes()])
        found = repeated_hashes(files, at_once)
    assert found.tolist() == sorted(value for value, count in counts.items() if count > 1)


def test_hashes_are_kept_sorted_and_read_back(tmp_path: Path) -> None:
    parts = [np.array(values, dtype="<u8").tobytes() for values in ([3, 1], [], [2**64 - 1])]
    assert save_hashes(tmp_path / "hashes.npy", parts).tolist() == [1, 3, 2**64 - 1]
    assert np.load(tmp_path / "hashes.npy").tolist() == [1, 3, 2**64 - 1]
    assert [path.name for path in tmp_path.iterdir()] == ["hashes.npy"]


def test_two_drivers_may_write_the_hashes_of_one_chunk_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may not see each other's lock; with one name for both halves the second rename would find nothing."""
    both = threading.Barrier(2, timeout=20)
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (both.wait(), replace(*paths)))
    part = np.array([3, 1], dtype="<u8").tobytes()
    with ThreadPoolExecutor(2) as pool:
        written = [pool.submit(save_hashes, tmp_path / "hashes.npy", [part]) for _ in range(2)]
        assert [one.result().tolist() for one in written] == [[1, 3], [1, 3]]
    assert np.load(tmp_path / "hashes.npy").tolist() == [1, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["hashes.npy"]


@pytest.mark.parametrize("size", [1, 2, 7])
def test_ids_decide_and_not_their_hashes(size: int) -> None:
    ids = ["a", "b", "a", "", "c" * 40, "", "a"]
    hashes: list[np.ndarray] = []
    id_sum(pa.array(ids), hashes)
    suspects = np.unique(np.concatenate(hashes))  # as if every hash had met another
    batches = [pa.array(ids[start : start + size]) for start in range(0, len(ids), size)]
    assert ids_that_repeat(suspects, batches) == {"a": 3, "": 2}
    assert ids_that_repeat(suspects[:0], batches) == {}
