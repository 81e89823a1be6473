"""One thread in the native pools of the process: what BLAS and OpenMP add up in parallel has other last bits.

It knows nothing of models. threadpoolctl is imported at the first call; it comes with scikit-learn, without which there is
no library whose pools could matter.
"""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["find_pools", "hold_one_thread"]


def find_pools() -> None:
    """Look for the native pools anew (3 ms), because a library was loaded since."""
    _pools.cache_clear()
    _pools()


def hold_one_thread() -> None:
    """Set every native pool to one thread, for the process, unless it is there already.

    It stays so: a limit that is put back after each call would be put back while another thread is still scoring. A pool of
    OpenMP is each Python thread's own, therefore this is called by whoever scores, before each call: about 2 us where
    nothing is to do, against 3 ms of `threadpoolctl.threadpool_limits`. BLAS is so set for other code of the process too.
    """
    for pool in _pools():
        if pool.num_threads != 1:
            pool.set_num_threads(1)
            if pool.num_threads != 1 and hasattr(pool, "clear_controlling_thread"):
                # threadpoolctl lets the Python thread that set a pool of BLAS last keep it; here all want the same
                pool.clear_controlling_thread(force=True)
                pool.set_num_threads(1)


@functools.cache
def _pools() -> tuple[Any, ...]:
    """Return what controls each pool."""
    from threadpoolctl import ThreadpoolController

    return tuple(ThreadpoolController().lib_controllers)
