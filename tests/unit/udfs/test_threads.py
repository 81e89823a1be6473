from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from udfs.threads import find_pools, hold_one_thread


def threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info()}


def test_pools_are_held_at_one_thread_until_somebody_changes_them() -> None:
    np.linalg.norm(np.ones(3))
    find_pools()
    with threadpool_limits(2):
        assert 2 in threads()
        hold_one_thread()
        assert threads() == {1}
        with threadpool_limits(2):
            assert 2 in threads()
            hold_one_thread()
            assert threads() == {1}


def test_another_python_thread_holds_its_own_pool_at_one() -> None:
    import sklearn.ensemble  # noqa: F401 - has a pool of OpenMP

    find_pools()

    def held() -> set[int]:
        hold_one_thread()
        return threads()

    with threadpool_limits(2), ThreadPoolExecutor(1) as pool:
        assert pool.submit(held).result() == {1}
