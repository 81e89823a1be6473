"""Whether the ids of a run are distinct: a checksum cannot tell a row that came twice from a key that two rows share.

Tasks hand back a 64-bit hash of each id that stands in the files they wrote. Hashes are kept beside the records of the run, 8 bytes a
row, and looked through in ranges, so that memory does not grow with the run. Hashes that meet are only a suspicion: the ids
themselves decide, read back from the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.runs.ids import id_sum
from jobs.runs.manifest import whole_file

__all__ = ["ids_that_repeat", "repeated_hashes", "save_hashes"]

_AT_ONCE = 4_000_000
_SPACE = 2**64


def save_hashes(path: Path, parts: Sequence[bytes]) -> NDArray[np.uint64]:
    """Write the hashes of a chunk, sorted, as an .npy file that appears whole, and return them."""
    hashes = np.sort(np.frombuffer(b"".join(parts), dtype="<u8"))
    with whole_file(path) as file:
        np.save(file, hashes, allow_pickle=False)
    return hashes


def repeated_hashes(files: Sequence[Path], at_once: int = _AT_ONCE) -> NDArray[np.uint64]:
    """Return the hashes that occur more than once, sorted.

    Files are mapped anew for each range, since pages once read count as this process's memory for as long as the mapping lives.

    Args:
        files: of `save_hashes`.
        at_once: about how many hashes are in memory at a time.
    """
    n_ranges = -(-sum(len(_mapped(file)) for file in files) // at_once)
    edges = np.array([_SPACE * i // n_ranges for i in range(1, n_ranges)], dtype=np.uint64)
    cuts = [[0, *np.searchsorted(_mapped(file), edges).tolist(), None] for file in files]
    found = [np.empty(0, np.uint64)]
    for i in range(n_ranges):
        together = np.concatenate(
            [_mapped(file)[cut[i] : cut[i + 1]] for file, cut in zip(files, cuts, strict=True)]
        )
        together.sort()
        found.append(np.unique(together[1:][together[1:] == together[:-1]]))
    return np.concatenate(found)


def _mapped(file: Path) -> NDArray[np.uint64]:
    hashes: NDArray[np.uint64] = np.load(file, mmap_mode="r", allow_pickle=False)
    return hashes


def ids_that_repeat(suspects: NDArray[np.uint64], batches: Iterable[pa.Array]) -> Counter[str]:
    """Return the ids that occur more than once among those whose hash is suspected, and how often."""
    counts: Counter[str] = Counter()
    for ids in batches:
        hashes: list[NDArray[np.uint64]] = []
        id_sum(ids, hashes)
        if hashes:
            counts.update(ids.filter(pa.array(np.isin(np.concatenate(hashes), suspects))).to_pylist())
    return Counter({one: count for one, count in counts.items() if count > 1})
